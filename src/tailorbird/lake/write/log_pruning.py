"""Prune logs whose writer has ended: those of imports, and of serve processes that are gone.

Running writers prune their own logs. Of the others the lake role becomes the writer under their
lock, for a second at most; an import that starts meanwhile waits that long (`stream.importer`).
"""

import logging
import os
import time
from pathlib import Path

from tailorbird.errors import LockedError, TailorbirdError
from tailorbird.events.clock import MINUTE, Clock
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import open_reader, open_writer, raw_logs, read_released, response_logs

IDLE_US = 5 * MINUTE  # without a write, so that a server that restarts finds its log unchanged
HOLD_S = 1.0
log = logging.getLogger(__name__)


def prune_idle(
    stream: Path, lake: StoragePath, clock: Clock, *, idle_us: int = IDLE_US, hold_s: float = HOLD_S
) -> dict[str, int]:
    """Prune each log in `stream` without a write for `idle_us`, up to what `lake` has released.

    Returns:
        The number of blocks deleted, by log.
    """
    released = read_released(lake)
    logs = [
        (path, producer, released.raw_position(producer))
        for producer, path in raw_logs(stream).items()
    ]
    logs += [
        (path, producer, released.responses_position(producer))
        for producer, path in response_logs(stream).items()
    ]
    pruned: dict[str, int] = {}
    for path, producer, before in logs:
        try:
            if clock.now() - _written_at(path) >= idle_us and _begins_before(path, before):
                pruned[path.stem] = _prune(path, producer, before, hold_s)
        except LockedError:
            continue  # Its writer is running and prunes it.
        except TailorbirdError as error:
            log.warning("not pruned: %s", error)
    return pruned


def _written_at(path: Path) -> int:
    times = [os.stat(name).st_mtime for name in (path, Path(f"{path}-wal")) if name.exists()]
    return int(max(times, default=0) * 1e6)


def _begins_before(path: Path, before: int) -> bool:
    if before == 0:
        return False
    with open_reader(path) as reader:
        return reader.start() < before


def _prune(path: Path, producer: str, before: int, hold_s: float) -> int:
    until = time.monotonic() + hold_s
    # A corrupt end of the log is for its own writer to handle.
    with open_writer(path, partition=producer, damaged_tail="stop") as writer:
        count = 0
        while (pruned := writer.prune_batch(before)) and time.monotonic() < until:
            count += pruned
        if not pruned:
            writer.shrink()
        return count + pruned
