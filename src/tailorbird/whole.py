"""Small files that are there whole or not at all: written beside their place, and renamed into it.

A reader sees the old file or the new one. Whether the new one outlives a power cut is promised by
`write_private` only: what else must is synced by who owns it.
"""

import os
from contextlib import suppress
from pathlib import Path

_GONE = ".gone"
FileStamp = tuple[int, int, int]


def file_stamp(path: Path) -> FileStamp | None:
    """What tells one state of a file from another, without reading it; None where there is none. A
    rename makes a new inode.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def atomic_write(path: Path, data: bytes) -> None:
    """Put `data` in the place of what stands at `path`; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_private(path: Path, data: bytes) -> None:
    """As `atomic_write`, readable for its owner alone, and on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def shred(path: Path) -> None:
    """Delete what `write_private` wrote, overwritten before, and its draft; harmless where there is
    none.

    Whoever dies on the way leaves the file as it was, or none of that name: `finish_shredding` finds
    what is left then.
    """
    finish_shredding(path)
    for each in (path.with_name(path.name + ".new"), path):
        with suppress(FileNotFoundError):
            os.replace(each, path.with_name(path.name + _GONE))
            sync_folder(path.parent)
            finish_shredding(path)


def finish_shredding(path: Path) -> None:
    """Bring to its end what `destroy` began; harmless where there is nothing, and beside another
    that does the same.
    """
    gone = path.with_name(path.name + _GONE)
    with suppress(FileNotFoundError):
        with gone.open("r+b") as file:
            file.write(bytes(gone.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        gone.unlink()
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
