"""One process a file: an advisory lock (flock) beside the file, held as long as its writer is open.

The kernel lets go of it when the process dies, however it dies. The lock file stays, with the last holder's process id.
"""

import fcntl
import os
from pathlib import Path

from tailorbird.errors import LockedError, StorageError


class FileLock:
    """Holds `PATH.lock`. Raises LockedError at once if another writer, of this process or another, has it.

    With `shared`, others that share it may hold it too, and one that does not share may not.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path.with_name(path.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(
                f"cannot make the lock file: {error.strerror}", where=str(self.path), fix="make the folder writable, or choose another"
            ) from error
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise LockedError(
                f"process {holder or '(unknown)'} is writing this file; it can have one writer",
                where=str(path),
                fix=f"stop process {holder or '(unknown)'}, or start this one under another name",
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next writer in; harmless when already released."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
