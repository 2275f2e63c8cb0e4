"""The small JSON files of a registry, each replaced atomically: aliases, formulas, experiments."""

from pathlib import Path
from typing import TypeVar

import msgspec

from tailorbird.errors import DamageError

Content = TypeVar("Content", bound=msgspec.Struct)


def read_json(path: Path, content: type[Content], *, fix: str) -> Content:
    """Return the content of a file, or its default where there is none.

    Raises:
        DamageError: the file is damaged; `fix` is what to do.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=content)
    except FileNotFoundError:
        return content()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamageError(f"cannot be read: {error}", where=str(path), fix=fix) from error


def encode_json(content: msgspec.Struct) -> bytes:
    """Return a content as stored: indented, for people who look."""
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
