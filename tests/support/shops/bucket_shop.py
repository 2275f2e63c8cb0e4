"""A project whose lake is a bucket."""

from pathlib import Path
from typing import Any


def copied(bucket: Any, folder: Path) -> Path:
    for each in bucket.rglob("*"):
        target = folder / str(each).removeprefix(str(bucket)).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(each.read_bytes())
    return folder
