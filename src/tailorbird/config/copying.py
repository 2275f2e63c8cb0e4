"""Where a project's records are copied to, from section [store], and what its keys begin with
there.

Several projects may share a server, so each key begins with the project's id: `store.prefix`; else,
where the logs are topics, what the names of these begin with, which is the same on all machines;
else `data/project-id`, drawn once.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from tailorbird.config.settings import Settings
from tailorbird.errors import ConfigError, StorageError
from tailorbird.store.valkey import CopyTarget

FILE = "project-id"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def copies_of(settings: Settings, data: Path) -> CopyTarget | None:
    """Where the records are copied to; None where they are not.

    Raises:
        ConfigError: `store.prefix` cannot begin a key, or the file with the id does not hold one.
        StorageError: an id was drawn and cannot be kept.
    """
    store = settings.store
    if not store.url:
        return None
    return CopyTarget(store.url, _project_id(settings, data), store.password, store.replica)


def _project_id(settings: Settings, data: Path) -> str:
    prefix = settings.store.prefix
    if prefix:
        if not _ID.match(prefix):
            raise ConfigError(
                f"keys cannot begin with {prefix!r}",
                where="store.prefix",
                fix="use letters, digits, '_' and '-'",
            )
        return prefix
    if settings.stream.url:
        from tailorbird.stream.kafka import parse_cluster

        return parse_cluster(settings.stream.url).prefix
    file = data / FILE
    if not file.exists():
        try:
            _draw(file)
        except OSError as error:
            raise StorageError(
                f"cannot be written: {error.strerror}",
                where=str(file),
                fix="make the folder writable",
            ) from None
    try:
        found = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        found = ""
    if not _ID.match(found):
        fix = (
            "set store.prefix, or put the file back: it says what this project's keys in the "
            "Valkey begin with"
        )
        raise ConfigError("does not hold an id", where=str(file), fix=fix)
    return found


def _draw(file: Path) -> None:
    """The first of several processes decides."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("wb") as out:
            out.write(secrets.token_hex(5).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)
