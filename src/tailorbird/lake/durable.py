"""Files that survive a power cut: write, sync, name, sync the folder, in this order. Nothing else in `lake` calls fsync.

A failed sync is never tried again: the kernel has marked the pages clean and would answer "done" without having written
them. The caller stops, and what is on disk is checked when it starts again.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tailorbird import faults
from tailorbird.errors import StorageError

_CHUNK = 1 << 20


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Write a file of a new name and sync it; its folder is synced by `sync_folder`, once for many files."""
    with disk_errors(path), path.open("xb") as file:
        file.write(data)
        file.flush()
        _sync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Put `data` in the place of the file, all or nothing, and sync file and folder."""
    draft = path.with_name(path.name + ".new")
    with disk_errors(path):
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            _sync(file.fileno())
        draft.replace(path)
    sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Append to a file, made if it is not there, and sync it."""
    made = not path.exists()
    with disk_errors(path), path.open("ab") as file:
        file.write(data)
        file.flush()
        _sync(file.fileno())
    if made:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Sync a file that somebody else wrote."""
    with disk_errors(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            _sync(handle)
        finally:
            os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` last."""
    sync_file(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, its parents included, so that the names last."""
    missing = [folder, *folder.parents]
    missing = missing[: next(i for i, each in enumerate(missing) if each.exists())]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_folder(each.parent)


def move_aside(path: Path, folder: Path) -> Path:
    """Move a damaged file (or folder) into `folder` under a name that is free, and sync both folders; where it is now."""
    make_folder(folder)
    target = next(t for n in range(1_000_000) if not (t := folder / (f"{path.name}.{n}" if n else path.name)).exists())
    with disk_errors(path):
        path.rename(target)
    sync_folder(folder)
    sync_folder(path.parent)
    return target


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into ours."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the disk refused: {error.strerror or error}",
            where=str(path),
            fix="free some space or mend the disk, then start the role again",
        ) from error


def _sync(handle: int) -> None:
    if not faults.cut("lake.sync"):
        os.fsync(handle)
