"""Letting go of what the lake has: this process's logs are deleted up to where the lake no longer needs them.

The lake says so in `positions.json`, after it has synced its commits and read them back. Raw rows go once they are
archived and what the router made of them is in the tables; answers once they are in theirs. Without the file, or with
one that cannot be read, nothing is deleted.
"""

import logging
import threading
from pathlib import Path

import msgspec

from tailorbird.serving.door import Door

EVERY_S = 30.0
log = logging.getLogger(__name__)


class _Positions(msgspec.Struct):
    """The part of the lake's file that concerns us: rows below `safe`, by log, and below `routed`, by producer."""

    safe: dict[str, int] = {}
    routed: dict[str, int] = {}


class Pruner:
    """Prunes a door's logs every half minute, in a thread."""

    def __init__(self, door: Door, lake: Path, *, every_s: float = EVERY_S) -> None:
        self._door, self._file, self._every_s = door, lake / "positions.json", every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pruner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Prune once, by what the file says now."""
        try:
            positions = msgspec.json.decode(self._file.read_bytes(), type=_Positions)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("nothing is pruned, %s cannot be read: %s", self._file, error)
            return
        producer = self._door.producer
        raw = min(positions.safe.get(f"raw-{producer}", 0), positions.routed.get(producer, 0))
        answers = positions.safe.get(f"answers-{producer}", 0)
        if raw or answers:
            self._door.prune(raw, answers)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()
