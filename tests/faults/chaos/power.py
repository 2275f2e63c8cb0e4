"""Power cuts: a small file system in a file, whose backing file is copied while its writers stand
still, and mounted elsewhere.

What was not synced is in the kernel's memory only and not in the copy, as after a cut. Writers are
stopped first: a copy that takes a moment while they go on would be of no instant that ever was.
What this does not show is a drive that lies about its cache.
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
    """Why power cannot be cut here; empty if it can."""
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
    """A file system in the file `image`, with what is in the folder `content`."""
    with image.open("wb") as file:
        file.truncate(size)
    given = ["-d", str(content)] if content is not None else []
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-m", "0", *given, str(image)], check=True, capture_output=True
    )
    return image


@contextmanager
def mounted(image: Path, where: Path) -> Iterator[Path]:
    """The file system at `where`, until the end of the block."""
    where.mkdir(exist_ok=True, parents=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(where)], check=True, capture_output=True)
    try:
        yield where
    finally:
        unmount(where)


@contextmanager
def small_disk(where: Path, size: int) -> Iterator[Path]:
    """A file system in memory that is full after `size` bytes."""
    where.mkdir(exist_ok=True, parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(where)],
        check=True,
        capture_output=True,
    )
    try:
        yield where
    finally:
        unmount(where)


def unmount(where: Path) -> None:
    done = subprocess.run(["umount", str(where)], check=False, capture_output=True)
    if (
        done.returncode != 0
    ):  # somebody still looks: let go of the name now, and of the rest when they are gone
        subprocess.run(["umount", "-l", str(where)], check=True, capture_output=True)


def copy_image(image: Path, copy: Path) -> Path:
    """What is on the disk now, and not what is only in memory."""
    subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
    return copy
