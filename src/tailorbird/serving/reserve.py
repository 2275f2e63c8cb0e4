"""Room on the disk that events leave to the others: with a disk full to the last byte no role could
even delete what it no longer needs.

free < min(reserve, a twentieth of the disk)   → the door refuses events before it takes them, and says when to come back
"""

import os
import time
from pathlib import Path

RESERVE_BYTES = 256 << 20
SHARE_MAX = 20  # of a small disk, at most one part in so many
LOOK_EVERY_S = 0.2


class Reserve:
    """Watches the disk under a folder; cheap enough to ask before every body. Safe to ask from any
    thread.
    """

    def __init__(self, folder: Path, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._folder, self._reserve_bytes = folder, reserve_bytes
        self._looked = -LOOK_EVERY_S
        self._short = False

    def short(self) -> bool:
        """Whether less is free than has to stay free."""
        now = time.monotonic()
        if self._reserve_bytes and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            disk = os.statvfs(self._folder)
            self._short = disk.f_bavail * disk.f_frsize < min(
                self._reserve_bytes, disk.f_blocks * disk.f_frsize // SHARE_MAX
            )
        return self._short
