"""Small files that are there whole or not at all: written beside their place, and renamed into it.

A reader sees the old file or the new one. Whether the new one outlives a power cut is not promised: what must is synced by who owns it.
"""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` in the place of what stands at `path`; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
