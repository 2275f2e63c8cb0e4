"""One process a file: an advisory lock (flock) beside the file, held as long as its writer is open.

The kernel lets go of it when the process dies, however it dies. The lock file stays, with the last
holder's process id.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from tailorbird.errors import LockedError, StorageError


class FileLock:
    """Holds `PATH.lock`. Raises LockedError at once if another writer, of this process or another,
    has it.

    With `shared`, others that share it may hold it too, and one that does not share may not.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        def in_use(holder: str) -> LockedError:
            fix = f"stop process {holder}, or start this one under another name"
            return LockedError(
                f"process {holder} is writing this file; it can have one writer",
                where=str(path),
                fix=fix,
            )

        self.path = path.with_name(path.name + ".lock")
        self._file = acquire(self.path, in_use, shared=shared)

    def release(self) -> None:
        """Let the next writer in; harmless when already released."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def acquire(file: Path, busy: Callable[[str], LockedError], *, shared: bool = False) -> int:
    """The descriptor of a lock file that is made and stays, held until it is closed.

    Args:
        busy: what to say where another has it, whose process id it is told.
    Raises:
        LockedError: what `busy` says.
        StorageError: the file cannot be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            f"cannot make the lock file: {error.strerror}",
            where=str(file),
            fix="make the folder writable, or choose another",
        ) from error
    try:
        fcntl.flock(held, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(held, 32, 0).decode(errors="replace").strip() or "(unknown)"
        os.close(held)
        raise busy(holder) from None
    os.ftruncate(held, 0)
    os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    return held
