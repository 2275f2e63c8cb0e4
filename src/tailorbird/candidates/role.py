"""The candidates role: follows the routed log, updates the folds and publishes their tables.

It alone writes `data/candidates/`.

    candidates/current.json        the contract whose tables servers read
    candidates/<contract>/         LMDB: published tables, see `tables`
    candidates/<contract>/state-<p>.npz    a snapshot of the folds at position p

On start the role loads the newest snapshot and continues in the log after it. Without a snapshot,
or if the log no longer has the next events, it builds the folds from the lake. It publishes nothing
until the folds reach the published position, so a kill at any time loses and duplicates nothing:
tables are a function of the log up to their position. A new contract is built while the old one
serves.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird import faults
from tailorbird.atomic_write import sync_folder
from tailorbird.candidates.batch import EVENT_COLUMNS, EventBatch, empty_batch, to_event_batch
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.folder import WRITER_LOCK, copy_name, folder_of, set_current_contract
from tailorbird.candidates.publish import Publisher
from tailorbird.errors import DamageError, NotReadyError, StorageError, fix_for_os_error
from tailorbird.events.clock import MINUTE, Clock
from tailorbird.events.contract.schema import ROUTED, number_rows
from tailorbird.file_lock import FileLock
from tailorbird.store import WRITE_TIMEOUT_S, CopyTarget, Store, open_store
from tailorbird.stream import Address, LogReader, StoredBlock, open_reader

log = logging.getLogger(__name__)

ROWS_MAX = 20_000
ROW_BYTES_ESTIMATE = 300  # approximate size of an event in a block
POLL_S = 0.02
SNAPSHOT_INTERVAL_US = MINUTE
SNAPSHOT_ROWS = 2_000_000  # that make a snapshot sooner
_READ_OPTIONS = pa.ipc.IpcReadOptions(
    included_fields=[ROUTED.get_field_index(name) for name in EVENT_COLUMNS]
)  # the rest stays packed

HistoryReader = Callable[
    [int], Iterable[pa.Table]
]  # Given a p, returns all later events in order of p.


class CandidatesRole:
    """A process that keeps the tables of one contract up to date with the routed log.

    Args:
        routed: the router's log; it need not be there yet.
        folder: of all candidates, `data/candidates`.
        copies: a Valkey to which the tables are copied for servers elsewhere.
    Raises:
        LockedError: another process keeps them up.
    """

    def __init__(
        self,
        routed: Address,
        folder: Path,
        contract: Contract,
        *,
        clock: Clock,
        copies: CopyTarget | None = None,
    ) -> None:
        self.contract = contract
        self._routed = routed
        self._clock = clock
        self._root = folder
        self._folder = folder_of(folder, contract)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / WRITER_LOCK)
        try:
            self._store = _open_writable_store(self._folder, contract, copies)
        except BaseException:
            self._lock.release()
            raise
        self._publisher = Publisher(self._store, contract)
        self.fold = self._newest_snapshot() or CandidateFold(contract)
        self._reader: LogReader | None = None
        self._saved_at = clock.now()
        self._saved_position = self.fold.position

    # Following the log

    def needs_history(self) -> bool:
        """Return whether the log no longer has the next events, so that the lake is needed."""
        return self.fold.position + 1 < max(self.log_start(), 1)

    def log_start(self) -> int:
        """Return the first position that the log still has; 0 without a log."""
        reader = self._open_reader()
        return 0 if reader is None else reader.start()

    def build(self, read_history: HistoryReader, end_position: int) -> None:
        """Apply events of the lake up to `end_position`, then continue in the log after it."""
        for table in read_history(self.fold.position):
            if len(table):
                self.fold.update(to_event_batch(table, self.contract, pc.max(table["p"]).as_py()))
                self._save_if_due()
        self.fold.update(empty_batch(end_position))
        self.save_snapshot()

    def step(self, rows_max: int = ROWS_MAX) -> int:
        """Apply about `rows_max` rows of the log; return the number of positions consumed.

        Raises:
            DamageError: the log does not match its checksums.
        """
        reader = self._open_reader()
        if reader is None or self.needs_history():
            return 0
        rows_applied = 0
        position = self.fold.position + 1
        for stored_block in reader.read(position, bytes_max=ROW_BYTES_ESTIMATE * rows_max):
            rows_applied += stored_block.end - 1 - self.fold.position
            self.fold.update(self._read_batch(stored_block))
        return rows_applied

    def _read_batch(self, stored_block: StoredBlock) -> EventBatch:
        end_position = stored_block.end - 1
        if stored_block.block.kind != "events" or not stored_block.block.payload:
            return empty_batch(end_position)
        with pa.ipc.open_stream(stored_block.block.payload, options=_READ_OPTIONS) as stream:
            table = number_rows(stream.read_all(), stored_block.offset)
        return to_event_batch(
            table.filter(pc.greater(table["p"], self.fold.position)), self.contract, end_position
        )

    # Publishing

    def publish(self, *, everything: bool = False) -> bool:
        """Publish the tables that are due, or everything; return whether any were.

        Then servers may read this contract.
        """
        now = self._clock.now()
        unapplied_count = self._count_unapplied()
        if unapplied_count > ROWS_MAX and self._publisher.published is None:
            # Tables without most of the log are no better than those of the previous contract.
            return False
        groups = (
            self._publisher.due_groups(self.fold, now)
            if not everything
            else self._publisher.available_groups(self.fold)
        )
        if not groups:
            return False
        faults.fire_if_armed("candidates.before_publish")
        self._publisher.publish(self.fold, groups, now, is_newest=unapplied_count <= ROWS_MAX)
        faults.fire_if_armed("candidates.after_publish")
        set_current_contract(self._root, self.contract)
        return True

    def _count_unapplied(self) -> int:
        """Return the number of log positions that are not applied yet."""
        reader = self._open_reader()
        return 0 if reader is None else max(reader.end() - 1 - self.fold.position, 0)

    def save_snapshot(self) -> None:
        """Write a snapshot of the folds and remove the previous one."""
        path = self._folder / f"state-{self.fold.position}.npz"
        temporary = self._folder / f".state-{os.getpid()}.npz"
        try:
            with temporary.open("wb") as file:
                # No array has the name of a parameter.
                np.savez(file, **self.fold.arrays())  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            faults.fire_if_armed("candidates.before_snapshot")
            os.replace(temporary, path)
            sync_folder(self._folder)
        except OSError as error:
            raise StorageError(
                f"cannot be written: {error.strerror}",
                where=str(path),
                fix=fix_for_os_error(error, "look at the disk"),
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        for other in self._list_snapshots():
            if other != path:
                other.unlink(missing_ok=True)
        self._saved_at = self._clock.now()
        self._saved_position = self.fold.position

    def _save_if_due(self) -> None:
        new_positions = self.fold.position - self._saved_position
        if new_positions and (
            self._clock.now() - self._saved_at >= SNAPSHOT_INTERVAL_US
            or new_positions >= SNAPSHOT_ROWS
        ):
            self.save_snapshot()

    def _list_snapshots(self) -> list[Path]:
        return sorted(
            self._folder.glob("state-*.npz"),
            key=lambda path: int(path.stem.partition("-")[2]),
            reverse=True,
        )

    def _newest_snapshot(self) -> CandidateFold | None:
        for path in self._list_snapshots():
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    return CandidateFold.restore(self.contract, dict(arrays))
            except Exception as error:  # The fold can be rebuilt from the lake.
                log.error("%s cannot be read and is left out of account: %s", path, error)
        return None

    # The role

    def run(self, stop: threading.Event) -> None:
        """Step, publish and save until `stop` is set, or until the lake is needed."""
        has_more = True
        while not stop.is_set() and not self.needs_history():
            reader = self._open_reader()
            if has_more or (reader is not None and reader.has_changed()):
                has_more = self.step() > 0
            else:
                stop.wait(POLL_S)
            self.publish()
            self._save_if_due()

    def close(self) -> None:
        """Close all files and release the lock."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._store.close()
        self._lock.release()

    def __enter__(self) -> "CandidatesRole":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_reader(self) -> LogReader | None:
        if self._reader is None:
            try:
                self._reader = open_reader(self._routed)
            except NotReadyError:  # there is no router yet, or it is just making its file
                return None
        return self._reader


def _open_writable_store(folder: Path, contract: Contract, copies: CopyTarget | None) -> Store:
    try:
        store = open_store(folder, create=True)
    except DamageError:
        log.critical(
            "%s: the published candidates are damaged and are built anew. Look at the disk", folder
        )
        (folder / "data.mdb").unlink(missing_ok=True)
        store = open_store(folder, create=True)
    if copies is None:
        return store
    from tailorbird.store.published import PublishedStore

    try:
        return PublishedStore(store, copies.open(copy_name(contract), timeout_s=WRITE_TIMEOUT_S))
    except BaseException:
        store.close()
        raise
