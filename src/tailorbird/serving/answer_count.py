"""How many answers a crash may have lost: counted without a sync, in a file that outlives the
process.

    answers-<producer>.count    given i64 | settled i64 (little endian)

A mapped page survives the death of the process, not of the machine. It is written in a nanosecond
or so, while a synced count would cost what group commit saves.
"""

import mmap
import struct
from pathlib import Path


class AnswerCount:
    """Answers given, and how many of them were settled: synced, or given up and counted. One thread
    at a time.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size != 16:
            path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)
        self.total = self._settled_total = 0

    def settle(self) -> int:
        """How many the last run left unsettled, at most; starts counting anew."""
        given_total, settled_total = struct.unpack("<qq", self._map[:])
        self._map[:] = bytes(16)
        return max(0, given_total - settled_total)

    def record_given(self) -> None:
        self.total += 1
        struct.pack_into("<q", self._map, 0, self.total)

    def record_settled(self, count: int) -> None:
        self._settled_total += count
        struct.pack_into("<q", self._map, 8, self._settled_total)

    def close(self) -> None:
        self._map.close()
