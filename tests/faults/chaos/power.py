"""Power cuts by copying the backing file of a small file system while its writers are stopped.

The copy is mounted elsewhere. Unsynced data are only in the kernel's memory and not in the copy, as
after a cut. Writers are stopped first: a copy made while they run would mix several instants. This
does not cover a drive that lies about its cache.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE_BYTES = 24 << 20


def why_not() -> str:
    """Return the reason why power cannot be cut here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "file systems are mounted by root on Linux only"
    if shutil.which("mkfs.ext4") is None:
        return "no mkfs.ext4 here (Debian: apt-get install e2fsprogs)"
    with tempfile.TemporaryDirectory() as folder:
        try:
            image = make_image(Path(folder) / "image", None, size=4 << 20)
            with mounted(image, Path(folder) / "mount"):
                pass
        except (subprocess.CalledProcessError, OSError) as error:
            return f"nothing can be mounted by loop here: {error}"
    return ""


def make_image(image: Path, content: Path | None, *, size: int = IMAGE_BYTES) -> Path:
    """Make a file system in the file `image`, with the contents of the folder `content`."""
    with image.open("wb") as file:
        file.truncate(size)
    options_ = ["-d", str(content)] if content is not None else []
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-m", "0", *options_, str(image)], check=True, capture_output=True
    )
    return image


@contextmanager
def mounted(image: Path, mount_point: Path) -> Iterator[Path]:
    """Mount the file system at `mount_point` until the end of the block."""
    mount_point.mkdir(exist_ok=True, parents=True)
    subprocess.run(
        ["mount", "-o", "loop", str(image), str(mount_point)], check=True, capture_output=True
    )
    try:
        yield mount_point
    finally:
        unmount(mount_point)


@contextmanager
def small_disk(mount_point: Path, size: int) -> Iterator[Path]:
    """Mount a file system in memory that is full after `size` bytes."""
    mount_point.mkdir(exist_ok=True, parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(mount_point)],
        check=True,
        capture_output=True,
    )
    try:
        yield mount_point
    finally:
        unmount(mount_point)


def unmount(mount_point: Path) -> None:
    process = subprocess.run(["umount", str(mount_point)], check=False, capture_output=True)
    if (
        process.returncode != 0
    ):  # The mount is still in use: detach the name now, and the rest later.
        subprocess.run(["umount", "-l", str(mount_point)], check=True, capture_output=True)


def copy_image(image: Path, copy: Path) -> Path:
    """Copy the bytes on the disk, without those that are only in memory."""
    subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
    return copy
