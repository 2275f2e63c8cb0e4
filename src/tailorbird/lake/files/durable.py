"""Files that survive a power cut: write, sync, rename, sync the folder, in this order. Nothing else
in `lake` syncs. `storage` does it for local folders and buckets.
"""

import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from tailorbird.storage import LocalStorage, storage_at
from tailorbird.storage_paths import StoragePath


def write_new(path: StoragePath, data: bytes | memoryview) -> None:
    """Write a new file and sync it. Sync its folder with `sync_folder`, once for many files."""
    storage_at(path).write_new(data)


def link(path: Path, target: Path) -> None:
    """Give a file that never changes a second name, or copy it where the disk has no links."""
    with translate_disk_errors(target):
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    sync_file(target)


def replace(path: StoragePath, data: bytes) -> None:
    """Replace a file atomically, and sync file and folder."""
    storage_at(path).replace(data)


def append(path: Path, data: bytes) -> None:
    """Append to a file, created if absent, and sync it."""
    LocalStorage(path).append(data)


def sync_file(path: StoragePath) -> None:
    """Sync a file that a library wrote."""
    storage_at(path).sync()


def sync_folder(folder: StoragePath) -> None:
    """Make the names in a folder durable."""
    storage_at(folder).sync()


def make_folder(folder: StoragePath) -> None:
    """Create a folder and its parents durably."""
    storage_at(folder).make_folder()


def move_aside(path: StoragePath, folder: StoragePath) -> StoragePath:
    """Move a file or folder into `folder` under a free name, and sync both folders.

    Returns:
        Its new path.
    """
    make_folder(folder)
    target = next(
        candidate
        for suffix in range(1_000_000)
        if not (candidate := folder / (f"{path.name}.{suffix}" if suffix else path.name)).exists()
    )
    with translate_disk_errors(path):
        path.rename(target)  # pyrefly: ignore[bad-argument-type]: both are of one kind
    sync_folder(folder)
    sync_folder(path.parent)
    return target


def sha256_of(path: StoragePath) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    return storage_at(path).sha256()


def translate_disk_errors(path: StoragePath) -> AbstractContextManager[None]:
    """Turn errors of the disk or the object storage into StorageError."""
    return storage_at(path).translate_errors()
