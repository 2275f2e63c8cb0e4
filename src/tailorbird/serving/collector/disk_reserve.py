"""Disk space that events leave to the other roles, which could not even delete files on a full
disk.

    free < min(reserve, a twentieth of the disk)  → the collector refuses events with Retry-After
"""

import os
import time
from pathlib import Path

RESERVE_BYTES = 256 << 20
RESERVE_DIVISOR = 20  # at most this fraction of a small disk
CHECK_INTERVAL_S = 0.2


class DiskReserve:
    """Watches the disk under a folder; cheap enough to check before every body. Thread-safe."""

    def __init__(self, folder: Path, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._folder, self._reserve_bytes = folder, reserve_bytes
        self._checked_at = -CHECK_INTERVAL_S
        self._is_low = False

    def is_low(self) -> bool:
        """Return whether less is free than has to stay free."""
        now = time.monotonic()
        if self._reserve_bytes and now - self._checked_at >= CHECK_INTERVAL_S:
            self._checked_at = now
            disk = os.statvfs(self._folder)
            self._is_low = disk.f_bavail * disk.f_frsize < min(
                self._reserve_bytes, disk.f_blocks * disk.f_frsize // RESERVE_DIVISOR
            )
        return self._is_low
