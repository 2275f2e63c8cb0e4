"""The schemas of a project: which one is applied, which were before, and the declarations of each,
as long as its state is there.

    state/applied.json            the applied schema, those before it (newest last), and those that were gone back from
    state/<hash>/features.json    the declarations, see `features.codec`; written before anything else of the folder

Whoever needs a schema finds it here by its hash, whatever `features.py` says meanwhile: workers,
servers, training. What is active besides the applied one (the champion's, the previous champion's)
is for `config.schemas` to say, which knows the registry.
"""

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tailorbird.errors import DamageError, LockedError, NotReadyError, StorageError
from tailorbird.features.codec import FILE, encode_features, read_features
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.figures import SHUFFLE_FILE
from tailorbird.features.keypart import part_folders, parts_of
from tailorbird.lock import FileLock
from tailorbird.whole import sync_folder

APPLIED = "applied.json"
_HISTORY_MAX = 50
_HASH = re.compile(r"[0-9a-f]{12}")


class Applied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `applied.json` says.

    Attributes:
        schema: the hash of the applied schema; "" before the first.
        at: when it was applied, microseconds.
        before: the hashes applied before it, newest last.
        left: those that were gone back from: a `features.py` that still declares one is not applied
            by itself.
    """

    schema: str = ""
    at: int = 0
    before: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def read_applied(state: Path) -> Applied:
    """What is applied; nothing if nothing was. Raises DamageError."""
    path = state / APPLIED
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
    """The declarations of the applied schema; None before the first."""
    schema = read_applied(state).schema
    return kept_features(state, schema) if schema else None


def kept_features(state: Path, schema: str) -> FeatureSet:
    """The declarations that a state was, or is to be, built by.

    Raises:
        NotReadyError: they are not kept.
        DamageError, DeclarationError: as `codec.decode_features`.
    """
    path = state / schema / FILE
    try:
        return read_features(path, expect=schema)
    except FileNotFoundError:
        raise NotReadyError(
            f"the declarations of schema {schema} are not kept here", where=str(path)
        ) from None


def keep(state: Path, features: FeatureSet, *, anew: bool = False) -> None:
    """Write the declarations beside the state that is, or will be, built by them.

    Args:
        anew: also where they are kept already: places, descriptions and transforms are no part of
            the schema, and may have changed.
    """
    path = state / features.schema_hash / FILE
    data = encode_features(features)
    if not path.exists() or (anew and path.read_bytes() != data):
        _write(path, data)


def apply(state: Path, features: FeatureSet, *, at: int) -> bool:
    """Make this the applied schema; whether it was not yet. Its state is built by the worker that
    is then started.
    """
    with _changing(state):
        keep(state, features, anew=True)
        before = read_applied(state)
        left = tuple(schema for schema in before.left if schema != features.schema_hash)
        if before.schema == features.schema_hash and left == before.left:
            return False
        _write_applied(state, _after(before, features.schema_hash, at, left))
        return before.schema != features.schema_hash


def go_back(state: Path, *, at: int) -> str:
    """Apply the schema before the applied one again; its hash.

    Raises:
        NotReadyError: there is none whose declarations are kept.
    """
    with _changing(state):
        now = read_applied(state)
        earlier = [
            schema for schema in now.before if schema != now.schema and schema not in now.left
        ]
        known = [schema for schema in earlier if (state / schema / FILE).exists()]
        if not known:
            raise NotReadyError(
                "no earlier schema is kept to go back to",
                where=str(state),
                fix="change features.py, then apply it",
            )
        kept_features(state, known[-1])
        _write_applied(state, _after(now, known[-1], at, (*now.left, now.schema)[-_HISTORY_MAX:]))
        return known[-1]


def state_folders(state: Path) -> list[str]:
    """The hashes of all schemas that have a folder, sorted."""
    return (
        sorted(
            path.name for path in state.iterdir() if _HASH.fullmatch(path.name) and path.is_dir()
        )
        if state.is_dir()
        else []
    )


def prune(state: Path, wanted: Collection[str], *, workers: int = 1) -> dict[str, int]:
    """Remove the states of schemas that are neither wanted nor applied, and those of all that
    another number of workers kept; the bytes of each schema. One that a worker keeps stays.
    """
    removed: dict[str, int] = {}
    current = {part.folder(state) for part in parts_of(workers)}
    for folder in part_folders(state):
        for schema in state_folders(folder):
            kept = schema in wanted or schema == read_applied(state).schema
            if kept and folder in current:
                continue
            size = _remove(folder / schema, declarations=not (kept and folder == state))
            if size:
                removed[schema] = removed.get(schema, 0) + size
        if folder not in current and folder != state and not any(folder.iterdir()):
            folder.rmdir()
    return removed


def _remove(folder: Path, *, declarations: bool) -> int:
    """Remove a state, its declarations only if told so; the bytes of it, 0 if a worker keeps it."""
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


def _after(before: Applied, schema: str, at: int, left: tuple[str, ...]) -> Applied:
    history = [one for one in before.before if one != schema]
    if before.schema and before.schema != schema:
        history.append(before.schema)
    return Applied(schema, at, tuple(history[-_HISTORY_MAX:]), left)


def _write_applied(state: Path, applied: Applied) -> None:
    _write(state / APPLIED, msgspec.json.format(msgspec.json.encode(applied), indent=1) + b"\n")


@contextmanager
def _changing(state: Path) -> Iterator[None]:
    """One process changes what is applied at a time; changes are short, so the second one waits."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = open(state / f"{APPLIED}.lock", "a")  # noqa: SIM115, it is closed, and so unlocked, below
    except OSError as error:
        raise StorageError(
            f"the applied schema cannot be changed: {error.strerror}", where=str(state)
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and on the disk."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            fix="see to the disk and its permissions",
        ) from error
