"""The candidates role: follows the routed log, keeps the folds up, and publishes their tables. It
alone writes `data/candidates/`.

    candidates/current.json        the contract whose tables servers read
    candidates/<contract>/         LMDB: published tables, see `tables`
    candidates/<contract>/state-<p>.npz    a snapshot of the folds at position p

A start takes the newest snapshot and goes on in the log behind it. Where there is none, or the log
no longer has what comes next, the folds are built from the lake. Until they are as far as what is
published, nothing is, so a kill at any moment loses and doubles nothing: tables are a function of
the log up to their position. A new contract is built beside the one that serves.
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
from tailorbird.candidates.batch import COLUMNS, EventBatch, batch_of, empty_batch
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.folder import ROLE, copied_name, folder_of, keep_current
from tailorbird.candidates.publish import Publisher
from tailorbird.errors import DamageError, NotReadyError, StorageError
from tailorbird.events.clock import MINUTE, Clock
from tailorbird.events.schema import ROUTED, numbered
from tailorbird.lock import FileLock
from tailorbird.store import Store, open_store
from tailorbird.store.valkey import WRITE_TIMEOUT_S, CopiesAt
from tailorbird.stream import Address, LogReader, Stored, open_reader
from tailorbird.whole import sync_folder

log = logging.getLogger(__name__)

ROWS_MAX = 20_000
ROW_BYTES = 300  # about what an event takes in a block
POLL_S = 0.02
SNAPSHOT_US = MINUTE
SNAPSHOT_ROWS = 2_000_000  # that make a snapshot sooner
_READ_OPTIONS = pa.ipc.IpcReadOptions(
    included_fields=[ROUTED.get_field_index(name) for name in COLUMNS]
)  # the rest stays packed

History = Callable[[int], Iterable[pa.Table]]  # given a p, all events behind it, in order of p


class CandidatesRole:
    """Keeps the tables of one contract up with the routed log.

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
        copies: CopiesAt | None = None,
    ) -> None:
        self.contract = contract
        self._routed, self._clock = routed, clock
        self._root, self._folder = folder, folder_of(folder, contract)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / ROLE)
        try:
            self._store = _store(self._folder, contract, copies)
        except BaseException:
            self._lock.release()
            raise
        self._publisher = Publisher(self._store, contract)
        self.fold = self._newest_snapshot() or CandidateFold(contract)
        self._reader: LogReader | None = None
        self._saved_at, self._saved_p = clock.now(), self.fold.p

    # Following the log

    def needs_history(self) -> bool:
        """Whether the log no longer has what comes next, so that the lake has to be asked."""
        return self.fold.p + 1 < max(self.log_start(), 1)

    def log_start(self) -> int:
        """The first position that the log still has; 0 where there is none."""
        reader = self._open_reader()
        return 0 if reader is None else reader.start()

    def build(self, history: History, p: int) -> None:
        """Take in events of the lake up to `p`, and go on in the log behind it."""
        for table in history(self.fold.p):
            if len(table):
                self.fold.update(batch_of(table, self.contract, pc.max(table["p"]).as_py()))
                self._save_if_due()
        self.fold.update(empty_batch(p))
        self.save()

    def step(self, rows_max: int = ROWS_MAX) -> int:
        """Take in what the log has, up to about `rows_max` rows; how many positions of the log that
        was.

        Raises:
            DamageError: the log does not match its checksums.
        """
        reader = self._open_reader()
        if reader is None or self.needs_history():
            return 0
        taken, position = 0, self.fold.p + 1
        for stored in reader.read(position, bytes_max=ROW_BYTES * rows_max):
            taken += stored.end - 1 - self.fold.p
            self.fold.update(self._batch(stored))
        return taken

    def _batch(self, stored: Stored) -> EventBatch:
        end = stored.end - 1
        if stored.block.kind != "events" or not stored.block.payload:
            return empty_batch(end)
        with pa.ipc.open_stream(stored.block.payload, options=_READ_OPTIONS) as stream:
            table = numbered(stream.read_all(), stored.offset)
        return batch_of(table.filter(pc.greater(table["p"], self.fold.p)), self.contract, end)

    # Publishing

    def publish(self, *, everything: bool = False) -> bool:
        """Publish the tables whose time it is, or `everything`; whether there were any. Then
        servers may read this contract.
        """
        now, lag = self._clock.now(), self._lag()
        if lag > ROWS_MAX and self._publisher.published is None:
            # tables that lack most of the log are no better than those of the contract before
            return False
        groups = (
            self._publisher.due(self.fold, now)
            if not everything
            else self._publisher.groups(self.fold)
        )
        if not groups:
            return False
        faults.at("candidates.before_publish")
        self._publisher.publish(self.fold, groups, now, newest=lag <= ROWS_MAX)
        faults.at("candidates.after_publish")
        keep_current(self._root, self.contract)
        return True

    def _lag(self) -> int:
        """How many positions of the log are not taken in yet."""
        reader = self._open_reader()
        return 0 if reader is None else max(reader.end() - 1 - self.fold.p, 0)

    def save(self) -> None:
        """Write a snapshot of the folds; the one before goes."""
        path = self._folder / f"state-{self.fold.p}.npz"
        temporary = self._folder / f".state-{os.getpid()}.npz"
        try:
            with temporary.open("wb") as file:
                np.savez(file, **self.fold.arrays())  # type: ignore[arg-type]  # no array is called as an argument is
                file.flush()
                os.fsync(file.fileno())
            faults.at("candidates.before_snapshot")
            os.replace(temporary, path)
            sync_folder(self._folder)
        except OSError as error:
            raise StorageError(
                f"cannot be written: {error.strerror}", where=str(path), fix="see to the disk"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        for other in self._snapshots():
            if other != path:
                other.unlink(missing_ok=True)
        self._saved_at, self._saved_p = self._clock.now(), self.fold.p

    def _save_if_due(self) -> None:
        new_positions = self.fold.p - self._saved_p
        if new_positions and (self._clock.now() - self._saved_at >= SNAPSHOT_US or new_positions >= SNAPSHOT_ROWS):
            self.save()

    def _snapshots(self) -> list[Path]:
        return sorted(
            self._folder.glob("state-*.npz"),
            key=lambda path: int(path.stem.partition("-")[2]),
            reverse=True,
        )

    def _newest_snapshot(self) -> CandidateFold | None:
        for path in self._snapshots():
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    return CandidateFold.restore(self.contract, dict(arrays))
            except (
                Exception
            ) as error:  # whatever is wrong with it, the lake has what it was made of
                log.error("%s cannot be read and is left out of account: %s", path, error)
        return None

    # The role

    def run(self, stop: threading.Event) -> None:
        """Step, publish and save until `stop` is set, or until the lake has to be asked."""
        has_more = True
        while not stop.is_set() and not self.needs_history():
            reader = self._open_reader()
            if has_more or (reader is not None and reader.changed()):
                has_more = self.step() > 0
            else:
                stop.wait(POLL_S)
            self.publish()
            self._save_if_due()

    def close(self) -> None:
        """Let go of all files, and let the next one in."""
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


def _store(folder: Path, contract: Contract, copies: CopiesAt | None) -> Store:
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
        return PublishedStore(store, copies.open(copied_name(contract), timeout_s=WRITE_TIMEOUT_S))
    except BaseException:
        store.close()
        raise
