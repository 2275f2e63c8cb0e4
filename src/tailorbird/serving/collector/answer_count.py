"""Count of the answers that a crash may have lost, in a file that outlives the process.

    answers-<producer>.count    given i64 | settled i64 (little endian)

A mapped page survives the death of the process, but not of the machine. Writing it takes about a
nanosecond, while a synced count would cost what group commit saves.
"""

import mmap
import struct
from pathlib import Path


class ResponseCount:
    """Counts answers given, and how many of them were settled: synced, or given up and counted. For
    one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size != 16:
            path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)
        self.given_total = self._settled_total = 0

    def settle(self) -> int:
        """Return an upper bound of the answers that the last run left unsettled, and restart the
        count.
        """
        given_total, settled_total = struct.unpack("<qq", self._map[:])
        self._map[:] = bytes(16)
        return max(0, given_total - settled_total)

    def record_given(self) -> None:
        self.given_total += 1
        struct.pack_into("<q", self._map, 0, self.given_total)

    def record_settled(self, count: int) -> None:
        self._settled_total += count
        struct.pack_into("<q", self._map, 8, self._settled_total)

    def close(self) -> None:
        self._map.close()
