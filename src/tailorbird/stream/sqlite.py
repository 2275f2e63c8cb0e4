"""How we hold a SQLite file: open it with the settings that durability needs, checkpoint it, and
name its errors.

Each setting is read back, since `synchronous` does not persist and libraries have overridden it.
One connection writes and checkpoints; SQLite below 3.51.3 may corrupt a file that two connections
checkpoint at once, and is refused.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from tailorbird.errors import DamageError, NotReadyError, StorageError
from tailorbird.whole import sync_folder

CHECKPOINT_BYTES = 8 << 20  # of WAL, from which on a commit is followed by a checkpoint
WAL_BYTES_MAX = 256 << 20  # from which on a checkpoint waits for readers, to start the WAL anew
_BUSY_MS = 5_000
_CHUNK = 1 << 20
_VERSION_MIN = (3, 51, 3)


def connect_writer(path: Path) -> apsw.Connection:
    """The one connection that writes to `path`: WAL, synced at each commit, no automatic
    checkpoints.

    The names of file and WAL last once it returns, before anything is written: SQLite syncs the
    folder too, but ignores it if that fails.
    """
    _check_version(path)
    if not path.exists():
        with _as_sqlite_errors():
            path.touch()
            sync_folder(path.parent)
    connection = apsw.Connection(
        str(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    )
    connection.set_busy_timeout(_BUSY_MS)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    for setting, value in (
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("wal_autocheckpoint", 0),
        ("mmap_size", 0),
    ):
        connection.execute(f"PRAGMA {setting} = {value}").fetchall()
        actual = connection.execute(f"PRAGMA {setting}").get
        if actual != value:
            connection.close()
            raise StorageError(
                f"expected {setting} = {value}, SQLite says {actual}",
                where=str(path),
                fix="put the data on a local disk (no network share)",
            )
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # which makes the WAL
        with _as_sqlite_errors():
            sync_folder(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> apsw.Connection:
    """A connection that only reads, and does not checkpoint even when it is the last to close;
    NotReadyError without a file.
    """
    _check_version(path)
    if not path.exists():
        raise NotReadyError("there is no such log", where=str(path), fix="start its writer first")
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(_BUSY_MS)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.execute("PRAGMA query_only = 1")
    return connection


def checkpoint(connection: apsw.Connection, path: Path, *, truncate: bool = False) -> None:
    """Bring the WAL into the file. A failed sync raises; readers in the way only delay it to the
    next time.
    """
    mode = apsw.SQLITE_CHECKPOINT_PASSIVE
    if truncate or wal_bytes(path) > WAL_BYTES_MAX:
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE
    try:
        connection.wal_checkpoint(mode=mode)
    except apsw.BusyError:
        return  # a reader is in the way: nothing is lost, the WAL stays a while


def settle(connection: apsw.Connection, path: Path) -> None:
    """Bring what a writer before left in the WAL into the file, synced, before anything is written
    behind it.

    A failed sync may have left it in the kernel's memory only, marked as written: another sync
    would say "done", and a power cut would take it away, from under all that was acknowledged
    behind it, or in the middle of the checkpoint that relies on it. So it is written anew, over
    itself, before it is synced. Raises apsw's errors, as `checkpoint` does.
    """
    if not wal_bytes(path):
        return
    with _as_sqlite_errors():
        _write_anew(Path(f"{path}-wal"))
    checkpoint(connection, path)


def _write_anew(path: Path) -> None:
    """Write what a file has over itself, and sync it. Who reads it meanwhile sees the same bytes."""
    with path.open("r+b", buffering=0) as file:
        offset = 0
        while data := os.pread(file.fileno(), _CHUNK, offset):
            offset += os.pwrite(file.fileno(), data, offset)
        os.fsync(file.fileno())


def wal_bytes(path: Path) -> int:
    """The size of the WAL beside `path`."""
    try:
        return os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return 0


def one_row(connection: apsw.Connection, query: str) -> tuple:
    """The row of a query that has one."""
    row = connection.execute(query).fetchone()
    if row is None:
        raise apsw.CorruptError(f"no row for: {query}")
    return row


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, which say what to do."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
        raise DamageError(
            f"SQLite: {error}",
            where=str(path),
            fix="keep a copy of the file and restore it from the archive",
        ) from error
    except apsw.FullError as error:
        raise StorageError(
            "the disk is full; nothing was written", where=str(path), fix="free some space"
        ) from error
    except (
        apsw.IOError,
        apsw.CantOpenError,
        apsw.ReadOnlyError,
        apsw.PermissionsError,
        apsw.BusyError,
    ) as error:
        raise StorageError(
            f"SQLite: {error}",
            where=str(path),
            fix="look at the disk and at the permissions, then start again",
        ) from error


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """For what is read from a file's tables and taken apart: where a page holds another's content,
    values may be of any kind.
    """
    try:
        with errors(path):
            yield
    except (TypeError, ValueError, ArithmeticError, msgspec.MsgspecError) as error:
        raise DamageError(
            f"a row is not what was written: {error}",
            where=str(path),
            fix="stop all roles, keep a copy of the file, and look at the disk",
        ) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file so that it survives a power cut."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


@contextmanager
def _as_sqlite_errors() -> Iterator[None]:
    """Turn what the disk refuses to us into what SQLite says when it is refused the same."""
    try:
        yield
    except OSError as error:
        raise (apsw.FullError if error.errno == errno.ENOSPC else apsw.IOError)(
            error.strerror or str(error)
        ) from error


def _check_version(path: Path) -> None:
    if tuple(map(int, apsw.sqlite_lib_version().split("."))) < _VERSION_MIN:
        raise StorageError(
            f"SQLite {apsw.sqlite_lib_version()} may corrupt a log (fixed in 3.51.3)",
            where=str(path),
            fix='pip install "apsw>=3.53"',
        )
