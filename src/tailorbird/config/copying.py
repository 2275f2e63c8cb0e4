"""The Valkey that a project's feature records are copied to (section [store]), and its key prefix.

Several projects can share a server, so each key starts with the project's id. The id is
`store.prefix` if set. Otherwise it is the prefix of the topics, which is the same on all machines.
Without topics it is drawn once and stored in `data/project-id`.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from tailorbird.config.settings import Settings
from tailorbird.errors import ConfigError, StorageError, fix_for_os_error
from tailorbird.store import CopyTarget

FILE = "project-id"
_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def copy_target_of(settings: Settings, data: Path) -> CopyTarget | None:
    """Return the server and key prefix to copy records to, or None without one.

    Raises:
        ConfigError: `store.prefix` is no valid prefix, or the id file is invalid.
        StorageError: a new id cannot be written.
    """
    store = settings.store
    if not store.url:
        return None
    return CopyTarget(store.url, _project_id(settings, data), store.password, store.replica)


def _project_id(settings: Settings, data: Path) -> str:
    prefix = settings.store.prefix
    if prefix:
        if not _ID_PATTERN.match(prefix):
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
            _create_id(file)
        except OSError as error:
            raise StorageError(
                f"cannot be written: {error.strerror}",
                where=str(file),
                fix=fix_for_os_error(error, "look at the disk"),
            ) from None
    try:
        project_id = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        project_id = ""
    if not _ID_PATTERN.match(project_id):
        fix = (
            "set store.prefix, or put the file back: it says what this project's keys in the "
            "Valkey begin with"
        )
        raise ConfigError("does not hold an id", where=str(file), fix=fix)
    return project_id


def _create_id(file: Path) -> None:
    """Write a random id; of several processes, the first one decides."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary_file = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary_file.open("wb") as out:
            out.write(secrets.token_hex(5).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(temporary_file, file)
    finally:
        temporary_file.unlink(missing_ok=True)
