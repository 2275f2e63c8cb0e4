"""Advisory file locks (flock) that allow one writer process per file.

The kernel releases a lock when its process dies. The lock file stays and holds the process id of
its last owner.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from tailorbird.errors import LockedError, StorageError, fix_for_os_error


class FileLock:
    """A lock on `PATH.lock`; raises LockedError at once if another writer holds it.

    The other writer can be in this process or in another one. A `shared` lock admits other shared
    locks and excludes exclusive ones.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        def lock_error(holder_pid: str) -> LockedError:
            fix = f"stop process {holder_pid}, or start this one under another name"
            return LockedError(
                f"process {holder_pid} is writing this file; it can have one writer",
                where=str(path),
                fix=fix,
            )

        self.path = path.with_name(path.name + ".lock")
        self._descriptor = acquire_lock(self.path, lock_error, shared=shared)

    def release(self) -> None:
        """Release the lock; does nothing if it is released already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def acquire_lock(
    file: Path, to_error: Callable[[str], LockedError], *, shared: bool = False
) -> int:
    """Create a lock file if needed, lock it, and return the descriptor, which holds the lock.

    Args:
        to_error: makes the error from the process id of the lock's owner.
    Raises:
        LockedError: another process or object holds the lock.
        StorageError: the file cannot be created.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            f"cannot make the lock file: {error.strerror}",
            where=str(file),
            fix=fix_for_os_error(error, "look at the disk, or choose another folder"),
        ) from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        holder_pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "(unknown)"
        os.close(descriptor)
        raise to_error(holder_pid) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
