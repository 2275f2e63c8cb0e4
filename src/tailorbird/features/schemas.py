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
from tailorbird.features.codec import FILE, encode_features, read_features
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.state.key_partition import all_parts, part_folders
from tailorbird.features.state.progress import SHUFFLE_FILE
from tailorbird.file_lock import FileLock

APPLIED_FILE = "applied.json"
_HISTORY_MAX = 50
_HASH = re.compile(r"[0-9a-f]{12}")


class Applied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `applied.json`.

    Attributes:
        schema: the hash of the applied schema; "" before the first.
        at: when it was applied, microseconds.
        before: the hashes applied before it, newest last.
        left: reverted hashes: a `features.py` that still declares one is not applied automatically.
    """

    schema: str = ""
    at: int = 0
    before: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def read_applied(state: Path) -> Applied:
    """Read the applied schema; an empty one if there is none. Raises DamageError."""
    path = state / APPLIED_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Applied)
    except FileNotFoundError:
        return Applied()
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
    path = state / schema / FILE
    try:
        return read_features(path, expect=schema)
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
    path = state / features.schema_hash / FILE
    data = encode_features(features)
    if not path.exists() or (overwrite and path.read_bytes() != data):
        _write(path, data)


def apply(state: Path, features: FeatureSet, *, at: int) -> bool:
    """Make this the applied schema, and return whether it was not yet.

    The worker that is started next builds its state.
    """
    with _lock_applied(state):
        save_declarations(state, features, overwrite=True)
        applied = read_applied(state)
        left_schemas = tuple(schema for schema in applied.left if schema != features.schema_hash)
        if applied.schema == features.schema_hash and left_schemas == applied.left:
            return False
        _write_applied(state, _with_schema(applied, features.schema_hash, at, left_schemas))
        return applied.schema != features.schema_hash


def revert(state: Path, *, at: int) -> str:
    """Apply the schema before the applied one again, and return its hash.

    Raises:
        NotReadyError: there is none with stored declarations.
    """
    with _lock_applied(state):
        applied = read_applied(state)
        earlier = [
            schema
            for schema in applied.before
            if schema != applied.schema and schema not in applied.left
        ]
        revertible = [schema for schema in earlier if (state / schema / FILE).exists()]
        if not revertible:
            raise NotReadyError(
                "no earlier schema is kept to go back to",
                where=str(state),
                fix="change features.py, then apply it",
            )
        load_declarations(state, revertible[-1])
        _write_applied(
            state,
            _with_schema(
                applied, revertible[-1], at, (*applied.left, applied.schema)[-_HISTORY_MAX:]
            ),
        )
        return revertible[-1]


def state_folders(state: Path) -> list[str]:
    """Return the hashes of all schemas that have a folder, sorted."""
    return (
        sorted(
            path.name for path in state.iterdir() if _HASH.fullmatch(path.name) and path.is_dir()
        )
        if state.is_dir()
        else []
    )


def prune(state: Path, retained: Collection[str], *, workers: int = 1) -> dict[str, int]:
    """Remove the states of schemas that are neither retained nor applied, and those of other
    partitions.

    Returns the bytes removed by schema. States locked by a worker stay.
    """
    removed: dict[str, int] = {}
    current_folders = {part.folder(state) for part in all_parts(workers)}
    for folder in part_folders(state):
        for schema in state_folders(folder):
            is_retained = schema in retained or schema == read_applied(state).schema
            if is_retained and folder in current_folders:
                continue
            size = _remove(folder / schema, declarations=not (is_retained and folder == state))
            if size:
                removed[schema] = removed.get(schema, 0) + size
        if folder not in current_folders and folder != state and not any(folder.iterdir()):
            folder.rmdir()
    return removed


def _remove(folder: Path, *, declarations: bool) -> int:
    """Remove a state, optionally its declarations; return its bytes, 0 if it is locked."""
    try:
        lock = FileLock(folder / "worker")
    except LockedError:
        return 0
    try:
        files = [
            file
            for file in folder.iterdir()
            if file.is_file() and (declarations or file.name not in (FILE, SHUFFLE_FILE))
        ]
        size = sum(file.stat().st_size for file in files if file.suffix != ".lock")
        for file in files:
            file.unlink()
        if declarations:
            folder.rmdir()
        return size
    except OSError as error:
        raise StorageError(f"cannot be removed: {error.strerror}", where=str(folder)) from error
    finally:
        lock.release()


def _with_schema(applied: Applied, schema: str, at: int, left_schemas: tuple[str, ...]) -> Applied:
    history = [earlier for earlier in applied.before if earlier != schema]
    if applied.schema and applied.schema != schema:
        history.append(applied.schema)
    return Applied(schema, at, tuple(history[-_HISTORY_MAX:]), left_schemas)


def _write_applied(state: Path, applied: Applied) -> None:
    _write(
        state / APPLIED_FILE, msgspec.json.format(msgspec.json.encode(applied), indent=1) + b"\n"
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


def _write(path: Path, data: bytes) -> None:
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
