"""The store in LMDB: a memory-mapped B-tree in one folder, one writer, readers that never wait.

Beyond the defaults, an environment is opened once per process and path, as LMDB requires, and
refused after a fork. Slots of dead readers are cleared at opening and on a timer, since they block
the reuse of pages. Values are copied out, since they live only as long as their transaction. The
map grows when it is full, and follows when another process grew it. WRITEMAP is never used: on a
full disk it kills the process. See docs/decisions/0003-lmdb.md.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb

from tailorbird.errors import DamageError, NotReadyError, StorageError
from tailorbird.store.protocol import Transaction

T = TypeVar("T")

MAP_BYTES = 1 << 30
MAP_BYTES_MAX = 1 << 44
READERS_MAX = 1_024
READER_CHECK_S = 30.0


class _Environment:
    """An open environment shared by its stores in this process, with a lock for growing the map."""

    def __init__(self, lmdb_environment: lmdb.Environment) -> None:
        self.lmdb = lmdb_environment
        self.store_count = 1
        self._growth_condition = threading.Condition()
        self._snapshot_count = 0
        self._is_growing = False
        self._readers_checked_at = time.monotonic()

    def enter_snapshot(self) -> None:
        with self._growth_condition:
            while self._is_growing:
                self._growth_condition.wait()
            self._snapshot_count += 1

    def leave_snapshot(self) -> None:
        with self._growth_condition:
            self._snapshot_count -= 1
            if self._is_growing:
                self._growth_condition.notify_all()

    def resize(self, size: int) -> None:
        """Set the map size (0: as another process set it) once no snapshot is open here."""
        with self._growth_condition:
            self._is_growing = True
            try:
                self._growth_condition.wait_for(lambda: self._snapshot_count == 0)
                self.lmdb.set_mapsize(size)
            finally:
                self._is_growing = False
                self._growth_condition.notify_all()

    def check_readers(self) -> None:
        """Clear the slots of dead readers from time to time; each blocks the reuse of pages."""
        if time.monotonic() - self._readers_checked_at > READER_CHECK_S:
            self._readers_checked_at = time.monotonic()
            self.lmdb.reader_check()


# Environments by process and path: LMDB's locks break when one is opened twice or after a fork.
_environments: dict[tuple[int, str], _Environment] = {}
_environments_lock = threading.Lock()


class EmbeddedSnapshot:
    """A `store.Snapshot`, and with a writing transaction a `store.Transaction`."""

    published_at = 0  # this is the store itself, no copy

    def __init__(self, transaction: lmdb.Transaction) -> None:
        self._transaction = transaction

    def get(self, key: bytes) -> bytes | None:
        value = self._transaction.get(key)
        return None if value is None else bytes(value)

    def get_many(self, keys: Sequence[bytes], *, default: bytes) -> bytes:
        get = self._transaction.get
        return b"".join([get(key, default) for key in keys])  # join copies out of the map

    def get_many_with_sizes(self, keys: Sequence[bytes]) -> tuple[bytes, list[int]]:
        get = self._transaction.get
        values = [get(key, b"") for key in keys]
        return b"".join(values), [len(value) for value in values]

    def scan(self, prefix: bytes, *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._transaction.cursor() as cursor:
            has_record = cursor.set_range(max(prefix, after))
            if has_record and after and bytes(cursor.key()) == after:
                has_record = cursor.next()
            while has_record and bytes(cursor.key()).startswith(prefix):
                yield bytes(cursor.key()), bytes(cursor.value())
                has_record = cursor.next()

    def put_many(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        with self._transaction.cursor() as cursor:
            cursor.putmulti(list(records), dupdata=False)

    def delete_many(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._transaction.delete(key)


class EmbeddedStore:
    """A `store.Store` in a folder; created by `open_store`."""

    def __init__(self, path: Path, environment: _Environment) -> None:
        self.path = path
        self._environment: _Environment | None = environment
        self._environment_key = (os.getpid(), os.path.realpath(path))

    @contextmanager
    def snapshot(self) -> Iterator[EmbeddedSnapshot]:
        environment = self._require_open()
        environment.enter_snapshot()
        try:
            transaction = self._begin_read(environment)
            try:
                yield EmbeddedSnapshot(transaction)
            finally:
                transaction.abort()
        finally:
            environment.leave_snapshot()

    def write(self, change: Callable[[Transaction], T]) -> T:
        environment = self._require_open()
        while True:
            try:
                with environment.lmdb.begin(write=True, buffers=True) as transaction:
                    return change(EmbeddedSnapshot(transaction))
            except lmdb.MapFullError:
                self._grow(environment)
            except lmdb.MapResizedError:
                environment.resize(0)
            except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError) as error:
                raise DamageError(
                    f"the store is damaged: {error}",
                    where=str(self.path),
                    fix="rebuild the state from the lake",
                ) from error
            except lmdb.Error as error:
                raise StorageError(
                    f"cannot write: {error}",
                    where=str(self.path),
                    fix="see to the disk, then start again",
                ) from error

    def size_bytes(self) -> int:
        """Return the disk space of the records, including free pages."""
        return (self.path / "data.mdb").stat().st_size

    def close(self) -> None:
        """Close the store, and its environment with the last store of this process. Idempotent."""
        if self._environment is None:
            return
        environment = self._environment
        self._environment = None
        with _environments_lock:
            environment.store_count -= 1
            if environment.store_count == 0 and self._environment_key[0] == os.getpid():
                del _environments[self._environment_key]
                environment.lmdb.close()

    def _require_open(self) -> _Environment:
        if self._environment is None:
            raise StorageError("the store is closed", where=str(self.path))
        if self._environment_key[0] != os.getpid():
            raise StorageError(
                "the store was opened before a fork; open it in the new process",
                where=str(self.path),
            )
        self._environment.check_readers()
        return self._environment

    def _begin_read(self, environment: _Environment) -> lmdb.Transaction:
        try:
            return environment.lmdb.begin(buffers=True)
        except lmdb.MapResizedError:  # another process grew it
            environment.leave_snapshot()
            try:
                environment.resize(0)
            finally:
                environment.enter_snapshot()
            return environment.lmdb.begin(buffers=True)
        except lmdb.ReadersFullError as error:
            environment.lmdb.reader_check()
            raise StorageError(
                f"more than {READERS_MAX} readers at a time", where=str(self.path)
            ) from error

    def _grow(self, environment: _Environment) -> None:
        size = 2 * environment.lmdb.info()["map_size"]
        if size > MAP_BYTES_MAX:
            raise StorageError(
                f"the store would exceed {MAP_BYTES_MAX >> 40} TiB", where=str(self.path)
            )
        environment.resize(size)


def read_inode(path: Path) -> int:
    """Return the inode of a store's file, 0 if there is none.

    It tells that the file was removed or replaced, which its open readers do not notice.
    """
    try:
        return (path / "data.mdb").stat().st_ino
    except OSError:
        return 0


def open_store(path: Path, *, create: bool = False, map_bytes: int = MAP_BYTES) -> EmbeddedStore:
    """Open the store in the folder `path`.

    Args:
        create: create the store if it does not exist; only for the writer.
        map_bytes: initial size of the map, which grows by itself and takes no disk before use.
    Raises:
        NotReadyError: there is none.
        StorageError: the folder cannot be used.
    """
    if not create and not (path / "data.mdb").exists():
        raise NotReadyError(
            "no records yet", where=str(path), fix="start the worker: tailorbird run worker"
        )
    key = (os.getpid(), os.path.realpath(path))
    with _environments_lock:
        environment = _environments.get(key)
        if environment is not None:
            environment.store_count += 1
            return EmbeddedStore(path, environment)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lmdb_environment = lmdb.open(
                str(path), map_size=map_bytes, max_readers=READERS_MAX, readahead=False
            )
            lmdb_environment.reader_check()
        except (lmdb.Error, OSError) as error:
            fix = "check the folder's permissions and the disk"
            raise StorageError(
                f"cannot open the store: {error}", where=str(path), fix=fix
            ) from error
        new_environment = _environments[key] = _Environment(lmdb_environment)
    return EmbeddedStore(path, new_environment)
