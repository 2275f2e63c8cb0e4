"""The worker: applies the routed log to the state of its features, micro-batch by micro-batch.

It alone writes `state/<schema hash>/`. Where several share the entities, each applies what concerns
its part of the keys: from the routed log itself, or from the log that the shuffle writes for this
part (`features.online.shuffle`), in which each row has the same position.

A step is one transaction of the store: state records, reading records, aliases, the read offset of
the log, and the p of the commit. So a kill at any point leaves all of a step or none of it, and a
repeated step leads to the same bits. `features.online.apply` applies a batch;
`features.online.read` reads the state.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird import faults
from tailorbird.errors import NotReadyError, StorageError
from tailorbird.events.clock import Clock
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features.arithmetic.stacks import find_one_row_entities
from tailorbird.features.event_columns.columns import Frame
from tailorbird.features.event_columns.fields import TextHashCache
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.online.aliases import read_aliases
from tailorbird.features.online.apply import AppliedChange, HotKeys, compute_additions
from tailorbird.features.online.commit import write_commit
from tailorbird.features.online.copied_state import (
    measure_state,
    open_copied_state,
    republish_records,
)
from tailorbird.features.online.crash_loop import StartMarker
from tailorbird.features.online.idle_entities import evict_idle
from tailorbird.features.online.receipts import is_only_in_lake, read_block_events
from tailorbird.features.online.renewal import RenewalQueue, renew_readings
from tailorbird.features.online.routed_input import RoutedInput
from tailorbird.features.online.type_mismatches import MismatchCounter, add_mismatches
from tailorbird.features.online.worker_report import WorkerReport
from tailorbird.features.schemas import save_declarations
from tailorbird.features.state.eviction import ENTITIES_MAX, EvictionCycle, SweepReport
from tailorbird.features.state.key_partition import ALL_KEYS, KeyPart
from tailorbird.features.state.progress import (
    WorkerProgress,
    read_worker_progress,
    write_worker_progress,
)
from tailorbird.features.state.state import (
    Position,
    all_records,
    read_position,
    schema_record,
    state_folder,
)
from tailorbird.file_lock import FileLock
from tailorbird.store import CopyTarget, Transaction, read_inode
from tailorbird.stream import Address

log = logging.getLogger(__name__)

ROWS_MAX = 20_000
ROW_BYTES = 300  # approximate size of an event in a block, to bound a step's read
POLL_S = 0.003
REFRESH_INTERVAL_S = 1.0
PROGRESS_INTERVAL_S = 5.0


class FeatureWorker:
    """Applies the routed log to the state of one schema.

    Args:
        routed: the router's log, or the shuffle's log for the part; it need not exist yet.
        state: the folder of all states; this schema's is below it.
        copies: a Valkey to which the records are copied for remote readers.
        entities_max: cap of a kind, over all parts, past which the longest idle are dropped; see
            `features.state.eviction`.
        part: the entities of this worker.
    Raises:
        LockedError: another worker writes this state.
    """

    def __init__(
        self,
        routed: Address,
        state: Path,
        features: FeatureSet,
        *,
        clock: Clock,
        copies: CopyTarget | None = None,
        entities_max: int = ENTITIES_MAX,
        part: KeyPart = ALL_KEYS,
    ) -> None:
        self.features = features
        self.part = part
        self._input = RoutedInput(routed, features)
        self._clock = clock
        self._folder = folder = state_folder(state, features, part)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "worker")
        try:
            save_declarations(state, features)
            self._start_marker = StartMarker(folder)
            self._start_marker.begin()
            self._store = open_copied_state(state, features, part, copies)
        except BaseException:
            self._lock.release()
            raise
        self._folder_inode = read_inode(folder)
        self._records = all_records(features.layout)
        self._eviction_cycle = EvictionCycle(self._records, -(-entities_max // part.count))
        hot_keys = [
            HotKeys.of_kind(is_one_row=is_one_row)
            for is_one_row in find_one_row_entities(features.layout, features.key_part_lanes)
        ]
        self._renewals = RenewalQueue(self._records, hot_keys)
        self._text_hashes = TextHashCache()
        self._mismatches = MismatchCounter()
        # The log continues with events that lack an attribute, or was pruned: only the lake has
        # them.
        self.waits_for_lake = False
        progress = read_worker_progress(folder)
        self._progress = self._empty_progress() if progress is None else progress
        with self._store.snapshot() as snapshot:
            self.position = read_position(snapshot)

    def step(self, rows_max: int = ROWS_MAX) -> WorkerReport:
        """Apply the log, up to about `rows_max` rows, and commit.

        `waits_for_lake` says whether it stops before events that only the lake has.

        Raises:
            NotReadyError: the building of this state was interrupted; `bootstrap` it again.
            InputError: the log no longer has what comes next; `bootstrap` from the lake.
            DamageError: the log does not match its checksums.
            StorageError: the state could not be written; nothing of the step is in it.
        """
        if not self.position.is_ready:
            raise NotReadyError(
                "the building of this state was cut short",
                where=str(self._folder),
                fix="tailorbird run worker builds it anew",
            )
        reader = self._input.open(self.position.offset)
        self.waits_for_lake = self._input.is_truncated(self.position.offset)
        offset = self.position.offset
        has_nothing = reader is None or self.waits_for_lake or self._input.lags(reader, offset)
        blocks = (
            [] if has_nothing else reader.read(self.position.offset, bytes_max=ROW_BYTES * rows_max)
        )
        row_count = 0
        tables = []
        position = self.position
        for stored_block in blocks:
            if row_count >= rows_max:
                break
            self.waits_for_lake = is_only_in_lake(stored_block.block, self.features)
            if self.waits_for_lake:
                break
            row_count += stored_block.block.rows
            table = read_block_events(stored_block, self.position.offset, self._input.address)
            if table is not None:
                tables.append(table)
            position = replace(position, offset=stored_block.end, log_position=stored_block.end - 1)
        if not row_count:
            self._start_marker.clear()
            return WorkerReport(0, self.position.commit, self.position.log_position)
        faults.fire_if_armed("worker.before_step")
        frame = self._commit(pa.concat_tables(tables) if tables else ROUTED.empty_table(), position)
        self._start_marker.clear()
        field_counts = (
            dict(frame.capped_counts),
            dict(frame.unreadable_counts),
            dict(frame.converted_counts),
        )
        return WorkerReport(
            row_count, self.position.commit, self.position.log_position, *field_counts
        )

    def bootstrap(self, history: Callable[[int], Iterable[pa.Table]], log_position: int) -> None:
        """Bring the state up to `log_position` with the lake's events, then continue in the log.

        Until it returns, readers are told that the state is not ready. An interrupted build
        resumes, as does a state behind a log that was pruned since; a state with unknown progress
        is rebuilt from scratch.

        Args:
            history: given a position, returns all events after it up to `log_position`, as
                tables in order of p.
        """
        start_position = replace(self.position, is_ready=0)
        if not start_position.log_position or start_position.log_position > log_position:
            start_position = Position(is_ready=0)

        def reset(transaction: Transaction) -> None:
            if not start_position.log_position:
                transaction.delete_many([key for key, _ in transaction.scan(b"")])
                transaction.put_many([schema_record(self.features)])
            transaction.put_many([start_position.encode()])

        self._store.write(reset)
        self.position = start_position
        if not start_position.log_position:
            self._progress = self._empty_progress()
        for table in history(start_position.log_position):
            if len(table):
                self._commit(table, replace(self.position, log_position=pc.max(table["p"]).as_py()))
                self.publish_progress()
        faults.fire_if_armed("worker.before_ready")
        self._commit(
            ROUTED.empty_table(),
            replace(self.position, log_position=log_position, offset=log_position + 1, is_ready=1),
        )

    def republish(self, progress: Callable[[int], None] | None = None) -> int:
        """Copy all records again to the copies' server, and return their number.

        Args:
            progress: called with the number of records copied so far.
        Raises:
            UsageError: this worker has no copies.
            StorageError: the server cannot be reached, or another process publishes there.
        """
        return republish_records(self._store, progress)

    def needs_history(self) -> bool:
        """Return whether the log alone cannot bring this state up to date.

        Its building was interrupted; or what comes next was deleted, or was routed before an
        attribute was declared.
        """
        return (
            not self.position.is_ready
            or self.has_log_gap()
            or self._input.is_next_only_in_lake(self.position.offset)
        )

    def has_log_gap(self) -> bool:
        """Return whether what comes next was deleted from the log."""
        return self._input.has_gap(self.position.offset)

    def log_start(self) -> int:
        """Return the first row that the log still has."""
        return self._input.start(self.position.offset)

    def refresh(self) -> int:
        """Renew the reading records of recently changed entities that are out of date; return their
        number.
        """
        self._renewals.collect_due(self._clock.now())
        return sum(iter(self._renew_some, 0))

    def _renew_some(self) -> int:
        """Renew some due records, few at once since events wait meanwhile; return 0 when there are
        none.
        """
        if not self._renewals.is_pending:
            return 0
        records, keys = self._renewals.pop()
        now = self._clock.now()
        return self._store.write(
            lambda transaction: renew_readings(
                transaction, records, keys, now, self.position.commit
            )
        )

    def sweep(self) -> SweepReport:
        """Examine some more entities, and evict those that are idle for too long or past the cap.

        No other value changes.
        """
        if not self.position.is_ready:
            return SweepReport()
        report = evict_idle(
            self._store, self._eviction_cycle, self._records, self.position, self._clock.now()
        )
        if report.dropped:
            self.publish_progress()
        return report

    def publish_progress(self) -> None:
        """Write the progress and the sizes of the state to the file of
        `features.state.progress`.
        """
        reader = self._input.open(self.position.offset)
        lag_rows = 0 if reader is None else max(0, reader.end() - max(self.position.offset, 1))
        state_figures = measure_state(self._store, self.features.layout, self.position)
        progress = msgspec.structs.replace(
            self._progress, at=self._clock.now(), behind=lag_rows, **state_figures
        )
        try:
            write_worker_progress(self._folder, progress)
        except OSError as error:
            log.warning("the worker's figures could not be written: %s", error)

    def sweep_all(self) -> None:
        """Sweep until no kind is past its cap, after a build from the entire lake."""
        is_over_cap = self.position.is_ready
        while is_over_cap:
            self.sweep()
            with self._store.snapshot() as snapshot:
                is_over_cap = self._eviction_cycle.is_over_cap(snapshot)

    def run(self, stop_event: threading.Event) -> None:
        """Step until `stop_event` is set or it `waits_for_lake`; while there is nothing, poll every
        few milliseconds.

        Between steps, a few out-of-date records are renewed: many are due at once whenever a tile
        ends, and no event should wait for all.

        Raises:
            StorageError: as `step`, or the state's file was removed or replaced, so that no reader
                would see further writes.
        """
        refresh_due_s = time.monotonic() + REFRESH_INTERVAL_S
        has_more = True
        progress_due_s = 0.0
        while not stop_event.is_set():
            reader = self._input.open(self.position.offset)
            if has_more or (reader is not None and reader.has_changed()):
                has_more = self.step().rows > 0
                if self.waits_for_lake and not has_more:
                    return
            elif not self._renewals.is_pending:
                stop_event.wait(POLL_S)
            self._renew_some()
            if time.monotonic() >= progress_due_s:
                self.publish_progress()
                progress_due_s = time.monotonic() + PROGRESS_INTERVAL_S
            if time.monotonic() >= refresh_due_s:
                self._require_file()
                self._renewals.collect_due(self._clock.now())
                self.sweep()
                self._mismatches.log_counts(time.monotonic())
                refresh_due_s = time.monotonic() + REFRESH_INTERVAL_S

    def _require_file(self) -> None:
        if read_inode(self._folder) != self._folder_inode:
            fix = (
                "tailorbird up starts the worker again, which builds the state anew; else "
                "tailorbird run worker"
            )
            raise StorageError(
                "the state was removed while it was kept up", where=str(self._folder), fix=fix
            )

    def _empty_progress(self) -> WorkerProgress:
        return WorkerProgress(schema_hash=self.features.schema_hash, part=self.part.name)

    def close(self) -> None:
        """Close state and log, and release the lock."""
        self._input.close()
        self._store.close()
        self._start_marker.clear()
        self._lock.release()

    def __enter__(self) -> "FeatureWorker":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _commit(self, table: pa.Table, position: Position) -> Frame:
        """Apply a table of events, and move to `position`, numbered as the next commit."""
        frame = Frame(table, hash_repeated_texts=self._text_hashes)
        batches = [compute_additions(records, frame, self.part) for records in self._records]
        aliases = read_aliases(table, self.part)
        position_before = self.position
        newest_ts = int(frame.ts.max(initial=0))
        committed_position = replace(
            position,
            commit=position_before.commit + 1,
            newest_ts=max(position_before.newest_ts, newest_ts),
            applied_rows=position_before.applied_rows + len(table),
        )
        written_at = self._clock.now()

        def apply_changes(transaction: Transaction) -> list[AppliedChange]:
            if read_position(transaction).commit != position_before.commit:
                raise StorageError(
                    "another process wrote this state",
                    where=str(self._folder),
                    fix="run one worker a schema",
                )
            changes = write_commit(
                transaction, self._records, batches, aliases, committed_position, written_at
            )
            faults.fire_if_armed("worker.before_commit")
            return changes

        changes = self._store.write(apply_changes)
        faults.fire_if_armed("worker.after_commit")
        self.position = committed_position
        self._renewals.record_changes([batch.keys for batch in batches], changes)
        self._mismatches.add(frame)
        self._progress = add_mismatches(self._progress, frame)
        return frame
