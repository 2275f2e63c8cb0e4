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
from tailorbird.stream import (
    open_reader,
    open_writer,
    raw_logs,
    read_released_positions,
    response_logs,
)

IDLE_US = 5 * MINUTE  # without a write, so that a server that restarts finds its log unchanged
LOCK_HOLD_S = 1.0
log = logging.getLogger(__name__)


def prune_idle(
    stream: Path,
    lake: StoragePath,
    clock: Clock,
    *,
    idle_us: int = IDLE_US,
    lock_hold_s: float = LOCK_HOLD_S,
) -> dict[str, int]:
    """Prune each log in `stream` without a write for `idle_us`, up to what `lake` has released.

    Returns:
        The number of blocks deleted, by log.
    """
    released_positions = read_released_positions(lake)
    logs = [
        (path, producer, released_positions.raw_position(producer))
        for producer, path in raw_logs(stream).items()
    ]
    logs += [
        (path, producer, released_positions.responses_position(producer))
        for producer, path in response_logs(stream).items()
    ]
    pruned_blocks: dict[str, int] = {}
    for path, producer, released_end in logs:
        try:
            if clock.now() - _written_at(path) >= idle_us and _begins_before(path, released_end):
                pruned_blocks[path.stem] = _prune_log(path, producer, released_end, lock_hold_s)
        except LockedError:
            continue  # Its writer is running and prunes it.
        except TailorbirdError as error:
            log.warning("not pruned: %s", error)
    return pruned_blocks


def _written_at(path: Path) -> int:
    times = [os.stat(file).st_mtime for file in (path, Path(f"{path}-wal")) if file.exists()]
    return int(max(times, default=0) * 1e6)


def _begins_before(path: Path, position: int) -> bool:
    if position == 0:
        return False
    with open_reader(path) as reader:
        return reader.start() < position


def _prune_log(path: Path, producer: str, released_end: int, lock_hold_s: float) -> int:
    deadline = time.monotonic() + lock_hold_s
    # A corrupt end of the log is for its own writer to handle.
    with open_writer(path, partition=producer, on_damaged_tail="stop") as writer:
        pruned_count = 0
        while (batch_count := writer.prune_batch(released_end)) and time.monotonic() < deadline:
            pruned_count += batch_count
        if not batch_count:
            writer.shrink()
        return pruned_count + batch_count
