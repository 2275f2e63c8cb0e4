"""The schemas of a project: the applied one, earlier ones, and their declarations.

    state/applied.json            the applied schema, earlier ones (newest last), and reverted ones
    state/<hash>/features.json    the declarations, see `features.codec`; the folder's first file

Workers, servers and training load a schema from here by its hash, independent of the current
`features.py`. `config.schemas`, which knows the registry, determines which schemas are active
besides the applied one (those of champion and previous champion).
"""

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tailorbird.atomic_write import sync_folder
from tailorbird.errors import (
    DamageError,
    LockedError,
    NotReadyError,
    StorageError,
    fix_for_os_error,
)
from tailorbird.features.codec import FEATURES_FILE, encode_features, read_features
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.state.key_partition import all_parts, part_folders
from tailorbird.features.state.progress import SHUFFLE_FILE
from tailorbird.file_lock import FileLock

APPLIED_FILE = "applied.json"
_HISTORY_MAX = 50
_HASH_PATTERN = re.compile(r"[0-9a-f]{12}")


class SchemaHistory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `applied.json`.

    Attributes:
        schema: the hash of the applied schema; "" before the first.
        applied_at: microseconds.
        earlier: the hashes applied before it, newest last.
        reverted: a `features.py` that still declares one of these is not applied automatically.
    """

    schema: str = ""
    applied_at: int = msgspec.field(default=0, name="at")
    earlier: tuple[str, ...] = msgspec.field(default=(), name="before")
    reverted: tuple[str, ...] = msgspec.field(default=(), name="left")


def read_applied(state: Path) -> SchemaHistory:
    """Read the applied schema; an empty one if there is none. Raises DamageError."""
    path = state / APPLIED_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=SchemaHistory)
    except FileNotFoundError:
        return SchemaHistory()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(path),
            fix="remove it; the next `tailorbird up` writes it anew",
        ) from error


def applied_features(state: Path) -> FeatureSet | None:
    """Return the declarations of the applied schema; None before the first."""
    schema = read_applied(state).schema
    return load_declarations(state, schema) if schema else None


def load_declarations(state: Path, schema: str) -> FeatureSet:
    """Load the declarations of a schema's state.

    Raises:
        NotReadyError: they are not stored.
        DamageError, DeclarationError: as `codec.decode_features`.
    """
    path = state / schema / FEATURES_FILE
    try:
        return read_features(path, expected_hash=schema)
    except FileNotFoundError:
        raise NotReadyError(
            f"the declarations of schema {schema} are not kept here", where=str(path)
        ) from None


def save_declarations(state: Path, features: FeatureSet, *, overwrite: bool = False) -> None:
    """Write the declarations beside the state that is, or will be, built by them.

    Args:
        overwrite: replace existing declarations: locations, descriptions and transforms are no part
            of the schema, and may have changed.
    """
    path = state / features.schema_hash / FEATURES_FILE
    data = encode_features(features)
    if not path.exists() or (overwrite and path.read_bytes() != data):
        _write_durably(path, data)


def apply_schema(state: Path, features: FeatureSet, *, at: int) -> bool:
    """Make this the applied schema, and return whether it was not yet.

    The worker that is started next builds its state.
    """
    with _lock_applied(state):
        save_declarations(state, features, overwrite=True)
        schema_history = read_applied(state)
        reverted = tuple(
            schema for schema in schema_history.reverted if schema != features.schema_hash
        )
        if schema_history.schema == features.schema_hash and reverted == schema_history.reverted:
            return False
        _write_applied(state, _with_schema(schema_history, features.schema_hash, at, reverted))
        return schema_history.schema != features.schema_hash


def revert_schema(state: Path, *, at: int) -> str:
    """Apply the schema before the applied one again, and return its hash.

    Raises:
        NotReadyError: there is none with stored declarations.
    """
    with _lock_applied(state):
        schema_history = read_applied(state)
        earlier_schemas = [
            schema
            for schema in schema_history.earlier
            if schema != schema_history.schema and schema not in schema_history.reverted
        ]
        revertible_schemas = [
            schema for schema in earlier_schemas if (state / schema / FEATURES_FILE).exists()
        ]
        if not revertible_schemas:
            raise NotReadyError(
                "no earlier schema is kept to go back to",
                where=str(state),
                fix="change features.py, then apply it",
            )
        load_declarations(state, revertible_schemas[-1])
        _write_applied(
            state,
            _with_schema(
                schema_history,
                revertible_schemas[-1],
                at,
                (*schema_history.reverted, schema_history.schema)[-_HISTORY_MAX:],
            ),
        )
        return revertible_schemas[-1]


def state_folders(state: Path) -> list[str]:
    """Return the hashes of all schemas that have a folder, sorted."""
    return (
        sorted(
            path.name
            for path in state.iterdir()
            if _HASH_PATTERN.fullmatch(path.name) and path.is_dir()
        )
        if state.is_dir()
        else []
    )


def prune_states(state: Path, retained: Collection[str], *, workers: int = 1) -> dict[str, int]:
    """Remove the states of schemas that are neither retained nor applied, and those of other
    partitions.

    Returns the bytes removed by schema. States locked by a worker stay.
    """
    removed_bytes_by_schema: dict[str, int] = {}
    current_folders = {part.folder(state) for part in all_parts(workers)}
    for folder in part_folders(state):
        for schema in state_folders(folder):
            is_retained = schema in retained or schema == read_applied(state).schema
            if is_retained and folder in current_folders:
                continue
            size = _remove_state(
                folder / schema, with_declarations=not (is_retained and folder == state)
            )
            if size:
                removed_bytes_by_schema[schema] = removed_bytes_by_schema.get(schema, 0) + size
        if folder not in current_folders and folder != state and not any(folder.iterdir()):
            folder.rmdir()
    return removed_bytes_by_schema


def _remove_state(folder: Path, *, with_declarations: bool) -> int:
    """Remove a state, optionally its declarations; return its bytes, 0 if it is locked."""
    try:
        lock = FileLock(folder / "worker")
    except LockedError:
        return 0
    try:
        files = [
            file
            for file in folder.iterdir()
            if file.is_file()
            and (with_declarations or file.name not in (FEATURES_FILE, SHUFFLE_FILE))
        ]
        size = sum(file.stat().st_size for file in files if file.suffix != ".lock")
        for file in files:
            file.unlink()
        if with_declarations:
            folder.rmdir()
        return size
    except OSError as error:
        raise StorageError(f"cannot be removed: {error.strerror}", where=str(folder)) from error
    finally:
        lock.release()


def _with_schema(
    schema_history: SchemaHistory, schema: str, at: int, reverted: tuple[str, ...]
) -> SchemaHistory:
    earlier_schemas = [other for other in schema_history.earlier if other != schema]
    if schema_history.schema and schema_history.schema != schema:
        earlier_schemas.append(schema_history.schema)
    return SchemaHistory(schema, at, tuple(earlier_schemas[-_HISTORY_MAX:]), reverted)


def _write_applied(state: Path, schema_history: SchemaHistory) -> None:
    _write_durably(
        state / APPLIED_FILE,
        msgspec.json.format(msgspec.json.encode(schema_history), indent=1) + b"\n",
    )


@contextmanager
def _lock_applied(state: Path) -> Iterator[None]:
    """Serialise changes of the applied schema between processes; they are short."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = open(state / f"{APPLIED_FILE}.lock", "a")  # noqa: SIM115, closed below
    except OSError as error:
        raise StorageError(
            f"the applied schema cannot be changed: {error.strerror}", where=str(state)
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_durably(path: Path, data: bytes) -> None:
    """Write atomically and durably."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            fix=fix_for_os_error(error, "look at the disk"),
        ) from error
