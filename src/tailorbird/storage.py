"""What a local folder and a bucket do differently, behind one protocol.

    storage_at(path).replace(data)      LocalStorage: write beside, sync, rename, sync the folder
                                        S3Storage: one put, which is atomic and durable

Reading, listing and deleting are the same methods of `Path` and `storage_paths.ObjectPath`. A
failed sync is never retried: the kernel has marked the pages clean and would report success without
having written them. The caller stops, and its next start checks what is on disk.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tailorbird import faults
from tailorbird.errors import StorageError, TailorbirdError, fix_for_os_error
from tailorbird.storage_paths import ObjectPath, StoragePath, client_options

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_BYTES = 1 << 20


class StorageBackend(Protocol):
    """The storage of one file, object, folder or prefix."""

    @property
    def is_remote(self) -> bool:
        """Whether other machines use the storage, and a request whose reply was lost may arrive."""
        ...

    @property
    def local_path(self) -> Path | None:
        """The path on this machine's disk; None for an object."""
        ...

    @property
    def conditional_object(self) -> ObjectPath | None:
        """The object, which `put_new` and `put_if` protect from a second writer; None for a file.

        A file is protected by a lock instead.
        """
        ...

    def translate_errors(self) -> AbstractContextManager[None]:
        """Turn errors of the storage into StorageError."""
        ...

    def write_new(self, data: bytes | memoryview) -> None:
        """Write a new file durably; its folder is not synced. Raises FileExistsError."""
        ...

    def replace(self, data: bytes) -> None:
        """Replace the file atomically and durably."""
        ...

    def sync(self) -> None:
        """Make durable what a library wrote: a file, or the names in a folder."""
        ...

    def make_folder(self) -> None:
        """Create the folder and its parents durably."""
        ...

    def sha256(self) -> str:
        """Return the SHA-256 of the content in hexadecimal."""
        ...

    def is_regular_file(self) -> bool:
        """Return whether it is a file of its own, and no link to another."""
        ...

    def arrow_source(self) -> "Path | pa.BufferReader":
        """Return what Arrow reads the file from."""
        ...

    def delta_options(self) -> dict[str, str] | None:
        """Return the options with which deltalake opens a table here."""
        ...


@dataclass(frozen=True)
class LocalStorage:
    """A file or folder on this machine's disk."""

    path: Path
    is_remote: bool = False
    conditional_object: None = None

    @property
    def local_path(self) -> Path:
        return self.path

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"the disk refused: {error.strerror or error}",
                where=str(self.path),
                fix=fix_for_os_error(error, "look at the disk")
                + "; then restart the role or the command",
            ) from error

    def write_new(self, data: bytes | memoryview) -> None:
        self._write(self.path, "xb", data)

    def replace(self, data: bytes) -> None:
        draft_path = self.path.with_name(self.path.name + ".new")
        self._write(draft_path, "wb", data)
        with self.translate_errors():
            draft_path.replace(self.path)
        LocalStorage(self.path.parent).sync()

    def append(self, data: bytes) -> None:
        """Append to the file, created if absent, and sync it."""
        is_new = not self.path.exists()
        self._write(self.path, "ab", data)
        if is_new:
            LocalStorage(self.path.parent).sync()

    def _write(self, path: Path, mode: str, data: bytes | memoryview) -> None:
        with self.translate_errors(), path.open(mode) as file:
            file.write(data)
            file.flush()
            _sync(file.fileno())

    def sync(self) -> None:
        with self.translate_errors():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                _sync(descriptor)
            finally:
                os.close(descriptor)

    def make_folder(self) -> None:
        missing_folders = [self.path, *self.path.parents]
        missing_folders = missing_folders[
            : next(i for i, folder in enumerate(missing_folders) if folder.exists())
        ]
        with self.translate_errors():
            self.path.mkdir(parents=True, exist_ok=True)
        for missing_folder in reversed(missing_folders):
            LocalStorage(missing_folder.parent).sync()

    def sha256(self) -> str:
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def is_regular_file(self) -> bool:
        return self.path.is_file() and not self.path.is_symlink()

    def arrow_source(self) -> Path:
        return self.path

    def delta_options(self) -> None:
        return None


@dataclass(frozen=True)
class S3Storage:
    """An object or a prefix of a bucket. An object is durable and complete once it is put."""

    path: ObjectPath
    is_remote: bool = True
    local_path: None = None

    @property
    def conditional_object(self) -> ObjectPath:
        return self.path

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        try:
            yield
        except TailorbirdError:
            raise
        except Exception as error:  # deltalake raises exceptions of many types
            reason = (
                error.strerror
                if isinstance(error, OSError) and error.strerror
                else (str(error).splitlines() or [type(error).__name__])[0]
            )
            raise StorageError(
                f"the object storage refused or did not answer: {reason}",
                where=str(self.path),
                fix="check its address (AWS_ENDPOINT_URL), the credentials and the bucket; what "
                "came of it is decided at the next start",
            ) from error

    def write_new(self, data: bytes | memoryview) -> None:
        with self.translate_errors():
            try:
                self.path.put_new(data)
            except FileExistsError:
                # The object may have been put, and only the reply was lost.
                if self.path.read_bytes() != bytes(data):
                    raise

    def replace(self, data: bytes) -> None:
        with self.translate_errors():
            self.path.write_bytes(data)

    def sync(self) -> None:
        """Do nothing: a put is durable."""

    def make_folder(self) -> None:
        """Do nothing: a prefix needs no folder."""

    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def is_regular_file(self) -> bool:
        return True

    def arrow_source(self) -> "pa.BufferReader":
        import pyarrow as pa

        return pa.BufferReader(self.path.read_bytes())

    def delta_options(self) -> dict[str, str]:
        return client_options()


def storage_at(path: StoragePath) -> LocalStorage | S3Storage:
    """Return the storage of a path that `storage_paths.open_storage` returned, or of one below it."""
    return S3Storage(path) if isinstance(path, ObjectPath) else LocalStorage(path)


def _sync(descriptor: int) -> None:
    if not faults.is_disabled("lake.sync"):
        os.fsync(descriptor)
