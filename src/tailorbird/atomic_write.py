"""Atomic writes of small files: written next to the target and renamed into place.

A reader sees the old file or the new one. Only `write_private` guarantees that the new file
survives a power failure. For other files that is up to the caller.
"""

import os
from contextlib import suppress
from pathlib import Path

_DELETED_SUFFIX = ".gone"
FileStamp = tuple[int, int, int]


def file_stamp(path: Path) -> FileStamp | None:
    """Return a stamp that changes whenever a file is replaced, or None if there is no file.

    A rename creates a new inode, so the content need not be read.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the file at `path` atomically, creating its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary_path = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary_path.write_bytes(data)
        os.replace(temporary_path, path)
    except BaseException:
        temporary_path.unlink(missing_ok=True)
        raise


def write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically and durably, readable only by its owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary_path = path.with_name(path.name + ".new")
    with open(os.open(temporary_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary_path, path)
    sync_folder(path.parent)


def shred(path: Path) -> None:
    """Overwrite and delete a file that `write_private` wrote, and its draft.

    Does nothing if there is no file. A crash part-way leaves either the old file or one under a
    temporary name, which `finish_shredding` removes.
    """
    finish_shredding(path)
    for file in (path.with_name(path.name + ".new"), path):
        with suppress(FileNotFoundError):
            os.replace(file, path.with_name(path.name + _DELETED_SUFFIX))
            sync_folder(path.parent)
            finish_shredding(path)


def finish_shredding(path: Path) -> None:
    """Complete an interrupted `shred`.

    Does nothing if there is nothing left to do, and is safe while another process does the same.
    """
    deleted_path = path.with_name(path.name + _DELETED_SUFFIX)
    with suppress(FileNotFoundError):
        with deleted_path.open("r+b") as file:
            file.write(bytes(deleted_path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        deleted_path.unlink()
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync a folder, so that its file names survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
