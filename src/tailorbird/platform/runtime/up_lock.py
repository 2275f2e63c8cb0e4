"""The lock by which a project has one `up` on a machine, and how another one takes its place."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tailorbird.errors import LockedError
from tailorbird.file_lock import FileLock
from tailorbird.platform.runtime.processes import state_of

END_TIMEOUT_S = 120.0  # For the roles of the other `up` to end.
KILL_TIMEOUT_S = 10.0  # For the kernel to release the lock of a killed one.
_POLL_S = 0.05


class UpLock:
    """The lock in the run folder."""

    def __init__(self, run_folder: Path, project_folder: Path) -> None:
        self._path = run_folder / "up"
        self._project_folder = project_folder
        self._lock: FileLock | None = None

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    def acquire(self) -> bool:
        """Take the lock; return whether it is held now."""
        with suppress(LockedError):
            self._lock = FileLock(self._path)
        return self.is_held

    def error(self) -> LockedError:
        """Return the error for a second `up`."""
        return LockedError(
            "these roles are running already",
            where=str(self._project_folder),
            fix="stop the other `tailorbird up`, or take its place: tailorbird up --replace",
        )

    async def take_over(self) -> str:
        """End the `up` that holds the lock, which drains its servers, and take the lock.

        One that is stopped, or does not end in time, is killed.

        Returns: what had to be done to it, or "".
        Raises:
            LockedError: it cannot be ended.
        """
        pid = int(self._path.with_name("up.lock").read_text().strip() or 0)
        _send_signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + END_TIMEOUT_S
        notice = ""
        while not self.acquire():
            is_late = time.monotonic() > deadline
            if notice and is_late:
                raise self.error()
            if not notice and (is_late or state_of(pid) == "T"):
                notice = f"the earlier one (process {pid}) hung and was killed"
                _send_signal(pid, signal.SIGKILL)
                deadline = time.monotonic() + KILL_TIMEOUT_S
            await asyncio.sleep(_POLL_S)
        return notice

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _send_signal(pid: int, signal_number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal_number)
