"""SQLite files: opening with the settings that durability needs, checkpoints, and errors.

Each setting is read back, since `synchronous` does not persist and libraries have overridden it.
One connection writes and checkpoints. SQLite before 3.51.3 may corrupt a file that two connections
checkpoint at once, and is refused.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from tailorbird.atomic_write import sync_folder
from tailorbird.errors import DamageError, NotReadyError, StorageError

CHECKPOINT_BYTES = 8 << 20  # WAL size from which a commit is followed by a checkpoint
WAL_BYTES_MAX = 256 << 20  # WAL size from which a checkpoint waits for readers
_BUSY_MS = 5_000
_COPY_CHUNK_BYTES = 1 << 20
_SQLITE_VERSION_MIN = (3, 51, 3)


def connect_writer(path: Path) -> apsw.Connection:
    """Open the writing connection to `path`: WAL, synced commits, no automatic checkpoints.

    The names of file and WAL are durable when it returns: SQLite syncs the folder too, but ignores
    a failure.
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
    for pragma, value in (
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("wal_autocheckpoint", 0),
        ("mmap_size", 0),
    ):
        connection.execute(f"PRAGMA {pragma} = {value}").fetchall()
        actual_value = connection.execute(f"PRAGMA {pragma}").get
        if actual_value != value:
            connection.close()
            raise StorageError(
                f"expected {pragma} = {value}, SQLite says {actual_value}",
                where=str(path),
                fix="put the data on a local disk (no network share)",
            )
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # creates the WAL
        with _as_sqlite_errors():
            sync_folder(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> apsw.Connection:
    """Open a connection that never writes or checkpoints. Raises NotReadyError without a file."""
    _check_version(path)
    if not path.exists():
        raise NotReadyError("there is no such log", where=str(path), fix="start its writer first")
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(_BUSY_MS)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.execute("PRAGMA query_only = 1")
    return connection


def checkpoint(connection: apsw.Connection, path: Path, *, truncate: bool = False) -> None:
    """Move the WAL into the file. A failed sync raises; readers only delay it."""
    mode = apsw.SQLITE_CHECKPOINT_PASSIVE
    if truncate or wal_bytes(path) > WAL_BYTES_MAX:
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE
    try:
        connection.wal_checkpoint(mode=mode)
    except apsw.BusyError:
        return  # a reader blocks it; the WAL stays until the next checkpoint


def recover_wal(connection: apsw.Connection, path: Path) -> None:
    """Move the WAL of an earlier writer into the file, synced, before anything is written.

    A failed sync may have left the WAL in the kernel's memory only, marked as written. Another sync
    would succeed, and a power loss would take it away, from under later acknowledged commits or
    during a checkpoint. So it is rewritten in place before it is synced. Raises apsw's errors, as
    `checkpoint` does.
    """
    if not wal_bytes(path):
        return
    with _as_sqlite_errors():
        _rewrite_synced(Path(f"{path}-wal"))
    checkpoint(connection, path)


def _rewrite_synced(path: Path) -> None:
    """Rewrite a file in place and sync it. Concurrent readers see the same bytes."""
    with path.open("r+b", buffering=0) as file:
        offset = 0
        while data := os.pread(file.fileno(), _COPY_CHUNK_BYTES, offset):
            offset += os.pwrite(file.fileno(), data, offset)
        os.fsync(file.fileno())


def wal_bytes(path: Path) -> int:
    """Return the size of the WAL beside `path`."""
    try:
        return os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return 0


def read_one_row(connection: apsw.Connection, query: str) -> tuple:
    """Return the row of a query that must have one."""
    row = connection.execute(query).fetchone()
    if row is None:
        raise apsw.CorruptError(f"no row for: {query}")
    return row


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Convert SQLite errors to ours, which say what to do."""
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
            fix="look at the disk, the permissions and the limit of open files, then start again",
        ) from error


@contextmanager
def translate_decoding(path: Path) -> Iterator[None]:
    """Convert errors of decoding a row to DamageError; a misplaced page may hold any values."""
    try:
        with translate_errors(path):
            yield
    except (TypeError, ValueError, ArithmeticError, msgspec.MsgspecError) as error:
        raise DamageError(
            f"a row is not what was written: {error}",
            where=str(path),
            fix="stop all roles, keep a copy of the file, and look at the disk",
        ) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file so that it survives a power loss."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


@contextmanager
def _as_sqlite_errors() -> Iterator[None]:
    """Convert OSError to the error that SQLite raises for the same failure."""
    try:
        yield
    except OSError as error:
        raise (apsw.FullError if error.errno == errno.ENOSPC else apsw.IOError)(
            error.strerror or str(error)
        ) from error


def _check_version(path: Path) -> None:
    if tuple(map(int, apsw.sqlite_lib_version().split("."))) < _SQLITE_VERSION_MIN:
        raise StorageError(
            f"SQLite {apsw.sqlite_lib_version()} may corrupt a log (fixed in 3.51.3)",
            where=str(path),
            fix='pip install "apsw>=3.53"',
        )
