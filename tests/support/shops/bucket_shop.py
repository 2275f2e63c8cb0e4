"""A project whose lake is a bucket."""

from pathlib import Path
from typing import Any


def copy_bucket(bucket: Any, folder: Path) -> Path:
    for path in bucket.rglob("*"):
        target = folder / str(path).removeprefix(str(bucket)).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder
