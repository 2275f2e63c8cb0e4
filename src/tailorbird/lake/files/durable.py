"""Files that survive a power cut: write, sync, rename, sync the folder, in this order. Nothing else
in `lake` calls fsync.

Objects are durable and complete once they are put, so there is nothing to sync and no folder to
create.

A failed sync is never retried: the kernel has marked the pages clean and would report success
without having written them. The caller stops, and its next start checks what is on disk.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tailorbird import faults
from tailorbird.errors import StorageError, TailorbirdError
from tailorbird.storage_paths import ObjectPath, Storage

_CHUNK = 1 << 20


def write_new(path: Storage, data: bytes | memoryview) -> None:
    """Write a new file and sync it. Sync its folder with `sync_folder`, once for many files."""
    if isinstance(path, ObjectPath):
        return _put_new(path, data)
    with disk_errors(path), path.open("xb") as file:
        file.write(data)
        file.flush()
        _sync(file.fileno())


def link(path: Path, target: Path) -> None:
    """Give a file that never changes a second name, or copy it where the disk has no links."""
    with disk_errors(target):
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    sync_file(target)


def replace(path: Storage, data: bytes) -> None:
    """Replace a file atomically, and sync file and folder."""
    if isinstance(path, ObjectPath):
        with disk_errors(path):
            path.write_bytes(data)
        return
    draft = path.with_name(path.name + ".new")
    with disk_errors(path):
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            _sync(file.fileno())
        draft.replace(path)
    sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Append to a file, created if absent, and sync it."""
    made = not path.exists()
    with disk_errors(path), path.open("ab") as file:
        file.write(data)
        file.flush()
        _sync(file.fileno())
    if made:
        sync_folder(path.parent)


def sync_file(path: Storage) -> None:
    """Sync a file that a library wrote."""
    if isinstance(path, ObjectPath):
        return
    with disk_errors(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            _sync(handle)
        finally:
            os.close(handle)


def sync_folder(folder: Storage) -> None:
    """Make the names in a folder durable."""
    sync_file(folder)


def make_folder(folder: Storage) -> None:
    """Create a folder and its parents durably."""
    if isinstance(folder, ObjectPath):
        return
    missing = [folder, *folder.parents]
    missing = missing[: next(i for i, each in enumerate(missing) if each.exists())]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for missing_folder in reversed(missing):
        sync_folder(missing_folder.parent)


def move_aside(path: Storage, folder: Storage) -> Storage:
    """Move a file or folder into `folder` under a free name, and sync both folders.

    Returns:
        Its new path.
    """
    make_folder(folder)
    target = next(
        t
        for n in range(1_000_000)
        if not (t := folder / (f"{path.name}.{n}" if n else path.name)).exists()
    )
    with disk_errors(path):
        path.rename(target)  # pyrefly: ignore[bad-argument-type]: both are of one kind
    sync_folder(folder)
    sync_folder(path.parent)
    return target


def sha256_of(path: Storage) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    if isinstance(path, ObjectPath):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def disk_errors(path: Storage) -> Iterator[None]:
    """Turn errors of the disk or the object storage into StorageError."""
    if isinstance(path, ObjectPath):
        with _storage_errors(path):
            yield
        return
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the disk refused: {error.strerror or error}",
            where=str(path),
            fix="free some space or repair the disk, then restart the role or the command",
        ) from error


def _sync(handle: int) -> None:
    if not faults.is_disabled("lake.sync"):
        os.fsync(handle)


def _put_new(path: ObjectPath, data: bytes | memoryview) -> None:
    with disk_errors(path):
        try:
            path.put_new(data)
        except FileExistsError:
            if path.read_bytes() != bytes(data):  # else it was put, and only the reply was lost
                raise


@contextmanager
def _storage_errors(path: ObjectPath) -> Iterator[None]:
    try:
        yield
    except TailorbirdError:
        raise
    except Exception as error:  # deltalake raises what it likes
        what = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else (str(error).splitlines() or [type(error).__name__])[0]
        )
        raise StorageError(
            f"the object storage refused or did not answer: {what}",
            where=str(path),
            fix="check its address (AWS_ENDPOINT_URL), the credentials and the bucket; what came "
            "of it is decided at the next start",
        ) from error
