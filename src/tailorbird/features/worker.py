"""The worker: takes the routed log into the state of its features, micro-batch by micro-batch. It
alone writes `state/<schema hash>/`.

Where several share the entities, each takes what concerns its part of the keys and leaves the rest:
of the routed log itself, or of the log that the shuffle makes of it for this part
(`features.shuffle`), in which each row stands where it does in the other.

A step is one transaction of the store: state records, reading records, aliases, how far the log was
read, and which p the commit stands for. So a kill at any point leaves all of a step or none of it,
and the step that is repeated leads to the same bits. How a batch is applied is in
`features.applying`; who reads the state, in `features.read`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird import faults
from tailorbird.errors import NotReadyError, StorageError, UsageError
from tailorbird.events.clock import Clock
from tailorbird.events.schema import ROUTED
from tailorbird.features.aliases import aliases_of, newer_records
from tailorbird.features.applying import HOT_MANY, HOT_ONE, Change, HotKeys, additions, apply
from tailorbird.features.columns import Frame
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.fields import TextHashCache
from tailorbird.features.figures import CopiesFigures, Figures, Kind, read_figures, write_figures
from tailorbird.features.idle import ENTITIES_MAX, SLACK, Sweep, SweepReport, read_tally, tallies
from tailorbird.features.keypart import WHOLE, KeyPart
from tailorbird.features.receipts import events_of, is_only_in_lake
from tailorbird.features.renewing import RenewalQueue, renew
from tailorbird.features.schemas import keep
from tailorbird.features.stacks import one_row
from tailorbird.features.starting import Starting
from tailorbird.features.state import (
    COMMITS,
    Position,
    all_records,
    commit_record,
    open_state,
    outlived_commits,
    read_position,
    schema_record,
    state_folder,
)
from tailorbird.features.unfit import Unfit, with_frame
from tailorbird.lock import FileLock
from tailorbird.store import Store, Transaction, inode
from tailorbird.store.valkey import WRITE_TIMEOUT_S, CopiesAt
from tailorbird.stream import Address, LogReader, is_made_of_another, open_reader

log = logging.getLogger(__name__)

ROWS_MAX = 20_000
ROW_BYTES = 300  # about what an event takes in a block: how much of the log a step reads
POLL_S = 0.003
REFRESH_S = 1.0
TELL_S = 5.0


@dataclass(frozen=True)
class WorkerReport:
    """What a step did: rows of the log taken (0: there was nothing), the commit that is now the
    newest, and its p.

    By field: `capped` values were cut off at the maximum that is declared for them; `unreadable`
    ones are no number or text as they are declared, and are missing; `converted` ones are truths
    and lists that were taken as numbers.
    """

    rows: int
    commit: int
    p: int
    capped: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)


class FeatureWorker:
    """Keeps the state of one schema up with the routed log.

    Args:
        routed: the router's log, or what the shuffle wrote of it for the part; it need not be there
            yet.
        state: the folder of all states; this schema's is below it.
        copies: a Valkey to which the records are copied for readers elsewhere.
        entities_max: past so many of a kind, over all parts, those idle longest are dropped; see
            `features.idle`.
        part: which entities it keeps.
    Raises:
        LockedError: another worker keeps this state.
    """

    def __init__(
        self,
        routed: Address,
        state: Path,
        features: FeatureSet,
        *,
        clock: Clock,
        copies: CopiesAt | None = None,
        entities_max: int = ENTITIES_MAX,
        part: KeyPart = WHOLE,
    ) -> None:
        self.features, self.part = features, part
        self._routed = routed
        self._clock = clock
        self._folder = folder = state_folder(state, features, part)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "worker")
        try:
            keep(state, features)
            self._starting = Starting(folder)
            self._starting.begin()
            self._store = _store(state, features, part, copies)
        except BaseException:
            self._lock.release()
            raise
        self._file = inode(folder)
        self._records = all_records(features.layout)
        self._sweep = Sweep(self._records, -(-entities_max // part.count))
        hot = [
            HotKeys(HOT_ONE if same else HOT_MANY)
            for same in one_row(features.layout, features.composite_spots)
        ]
        self._renewing = RenewalQueue(self._records, hot)
        self._known = TextHashCache()
        self._reader: LogReader | None = None
        self._begins_later = self._maybe_ahead = False
        self._unfit = Unfit()
        # the log goes on with events that lack an attribute, or begins further on: the lake has
        # them
        self.waits = False
        told = read_figures(folder)
        self._figures = self._no_figures() if told is None else told
        with self._store.snapshot() as snapshot:
            self.position = read_position(snapshot)

    def step(self, rows_max: int = ROWS_MAX) -> WorkerReport:
        """Take in what the log has, up to about `rows_max` rows, and commit; `waits` says whether
        it stops short of what it lacks.

        Raises:
            NotReadyError: the building of this state was cut short; `bootstrap` it again.
            InputError: the log no longer has what comes next; `bootstrap` from the lake.
            DamageError: the log does not match its checksums.
            StorageError: the state could not be written; nothing of the step is in it.
        """
        if not self.position.ready:
            path = str(self._folder)
            raise NotReadyError(
                "the building of this state was cut short",
                where=path,
                fix="tailorbird run worker builds it anew",
            )
        reader = self._open_reader()
        self._begins_later = self.waits = self._begins_later and self.is_behind_log()
        nothing = reader is None or self.waits or self._is_ahead(reader)
        blocks = (
            [] if nothing else reader.read(self.position.offset, bytes_max=ROW_BYTES * rows_max)
        )
        rows, tables = 0, []
        position = self.position
        for stored in blocks:
            if rows >= rows_max:
                break
            self.waits = is_only_in_lake(stored.block, self.features)
            if self.waits:
                break
            rows += stored.block.rows
            table = events_of(stored, self.position.offset, self._routed)
            if table is not None:
                tables.append(table)
            position = replace(position, offset=stored.end, p=stored.end - 1)
        if not rows:
            self._starting.done()
            return WorkerReport(0, self.position.commit, self.position.p)
        faults.at("worker.before_step")
        frame = self._commit(pa.concat_tables(tables) if tables else ROUTED.empty_table(), position)
        self._starting.done()
        counted = (dict(frame.capped), dict(frame.unreadable), dict(frame.converted))
        return WorkerReport(rows, self.position.commit, self.position.p, *counted)

    def bootstrap(self, history: Callable[[int], Iterable[pa.Table]], p: int) -> None:
        """Bring the state up to `p` with events of the lake, then go on in the log behind it.

        Until it returns, readers are told that the state is not ready. One that was cut short goes
        on where it was, as does a state that was left behind by a log that was pruned since; one of
        which nobody knows how far it is begins from nothing.

        Args:
            history: given a p, all events behind it up to `p`, as tables in order of p.
        """
        start = replace(self.position, ready=0)
        if not start.p or start.p > p:
            start = Position(ready=0)

        def begin(transaction: Transaction) -> None:
            if not start.p:
                transaction.delete_many([key for key, _ in transaction.scan(b"")])
                transaction.put_many([schema_record(self.features)])
            transaction.put_many([start.encode()])

        self._store.write(begin)
        self.position = start
        if not start.p:
            self._figures = self._no_figures()
        for table in history(start.p):
            if len(table):
                self._commit(table, replace(self.position, p=pc.max(table["p"]).as_py()))
                self.tell()
        faults.at("worker.before_ready")
        self._commit(ROUTED.empty_table(), replace(self.position, p=p, offset=p + 1, ready=1))

    def republish(self, told: Callable[[int], None] | None = None) -> int:
        """Copy all records anew to where they are copied to; how many. `told` gets how many are
        there so far.

        Raises:
            UsageError: this worker copies to nowhere.
            StorageError: the server cannot be reached, or another process publishes there.
        """
        from tailorbird.store.published import PublishedStore

        if not isinstance(self._store, PublishedStore):
            raise UsageError("this worker was given no address to copy to", fix="set store.url")
        return self._store.republish(told)

    def needs_history(self) -> bool:
        """Whether the log alone cannot bring this state up.

        Its building was cut short; or what comes next was deleted, or was routed before an
        attribute was declared.
        """
        return not self.position.ready or self.is_behind_log() or self._next_lacks()

    def is_behind_log(self) -> bool:
        """Whether what comes next was deleted from the log."""
        return max(self.position.offset, 1) < self.log_start()

    def log_start(self) -> int:
        """The first row that the log still has."""
        reader = self._open_reader()
        return 0 if reader is None else reader.start()

    def refresh(self) -> int:
        """Renew the reading records, of entities changed lately, that have run out by now; the
        number of them.
        """
        self._renewing.collect_due(self._clock.now())
        return sum(iter(self._renew_some, 0))

    def _renew_some(self) -> int:
        """Renew some of those that are due, not many at once, since events wait meanwhile; 0 when
        there are none.
        """
        if not self._renewing.is_pending:
            return 0
        records, keys = self._renewing.pop()
        now = self._clock.now()
        return self._store.write(
            lambda transaction: renew(transaction, records, keys, now, self.position.commit)
        )

    def sweep(self) -> SweepReport:
        """Look at some more entities, and let those go that are idle for too long or past the cap.
        No other value changes.
        """
        if not self.position.ready:
            return SweepReport()
        with self._store.snapshot() as snapshot:
            index, look = self._sweep.next_batch(snapshot)
            tally = read_tally(snapshot, self._records[index].layout)
        until = max(0, min(self._clock.now(), self.position.newest) - SLACK)
        expired, dropped = self._sweep.find_idle(index, look, until, tally.entities)
        if expired.any() or dropped.any():

            def change(transaction: Transaction) -> None:
                self._sweep.evict(
                    transaction, index, look, expired, dropped, until, self.position.commit
                )
                faults.at("worker.before_swept")

            self._store.write(change)
            faults.at("worker.after_swept")
        report = SweepReport(len(look.keys), int(expired.sum()), int(dropped.sum()))
        if report.dropped:
            name = self._records[index].layout.entity.name
            log.warning(
                "dropped %d of %d entities of %s, idle longest: there are too many",
                report.dropped,
                tally.entities,
                name,
            )
            self.tell()
        return report

    def tell(self) -> None:
        """Write down for others what was taken in and what there is, in the file of
        `features.figures`.
        """
        with self._store.snapshot() as snapshot:
            found = {
                name: Kind(**vars(tally))
                for name, tally in tallies(snapshot, self.features.layout).items()
            }
        reader = self._open_reader()
        behind = 0 if reader is None else max(0, reader.end() - max(self.position.offset, 1))
        now = msgspec.structs.replace(
            self._figures,
            at=self._clock.now(),
            rows=self.position.rows,
            behind=behind,
            offset=self.position.offset,
            kinds=found,
            copies=_copies(self._store),
        )
        try:
            write_figures(self._folder, now)
        except OSError as error:
            log.warning("the worker's figures could not be written: %s", error)

    def sweep_all(self) -> None:
        """Sweep until no kind is past its cap: after a build, which takes in all that the lake has."""
        excess = self.position.ready
        while excess:
            self.sweep()
            with self._store.snapshot() as snapshot:
                excess = self._sweep.is_over_cap(snapshot)

    def run(self, stop: threading.Event) -> None:
        """Step while there is something, else look again every few milliseconds, until `stop` is
        set or it `waits` for the lake.

        Between steps, a few records that ran out are renewed: many do at once, whenever a tile
        ends, and no event waits for all.

        Raises:
            StorageError: as `step`, or the state's file was removed or replaced, where nobody would
                read what is written on.
        """
        refresh_at = time.monotonic() + REFRESH_S
        more, tell_at = True, 0.0
        while not stop.is_set():
            reader = self._open_reader()
            if more or (reader is not None and reader.changed()):
                more = self.step().rows > 0
                if self.waits and not more:
                    return
            elif not self._renewing.is_pending:
                stop.wait(POLL_S)
            self._renew_some()
            tell_at = self._tell_at_times(tell_at)
            if time.monotonic() >= refresh_at:
                self._require_file()
                self._renewing.collect_due(self._clock.now())
                self.sweep()
                self._unfit.tell(time.monotonic())
                refresh_at = time.monotonic() + REFRESH_S

    def _require_file(self) -> None:
        if inode(self._folder) != self._file:
            fix = (
                "tailorbird up starts the worker again, which builds the state anew; else "
                "tailorbird run worker"
            )
            raise StorageError(
                "the state was removed while it was kept up", where=str(self._folder), fix=fix
            )

    def _no_figures(self) -> Figures:
        return Figures(schema_hash=self.features.schema_hash, part=self.part.name)

    def _tell_at_times(self, due: float) -> float:
        if time.monotonic() < due:
            return due
        self.tell()
        return time.monotonic() + TELL_S

    def close(self) -> None:
        """Close state and log, and let the next worker in."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._store.close()
        self._starting.done()
        self._lock.release()

    def __enter__(self) -> "FeatureWorker":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _next_lacks(self) -> bool:
        reader = self._open_reader()
        blocks = (
            []
            if reader is None or self._is_ahead(reader)
            else reader.read(self.position.offset, bytes_max=1)
        )
        return any(is_only_in_lake(stored.block, self.features) for stored in blocks)

    def _is_ahead(self, reader: LogReader) -> bool:
        """Whether a shuffle has yet to come to where this state is, which was built of the lake or
        the routed log, as after an erasure.
        """
        self._maybe_ahead = self._maybe_ahead and reader.end() < self.position.offset
        return self._maybe_ahead

    def _open_reader(self) -> LogReader | None:
        if self._reader is None:
            try:
                self._reader = open_reader(self._routed)
                self._begins_later, self._maybe_ahead = (
                    self.is_behind_log(),
                    is_made_of_another(self._routed),
                )
            except NotReadyError:  # there is no router yet, or it is just making its file
                return None
        return self._reader

    def _commit(self, table: pa.Table, position: Position) -> Frame:
        """Apply a table of events, and move to `position`, numbered as the next commit."""
        frame = Frame(table, repeated=self._known)
        batches = [additions(records, frame, self.part) for records in self._records]
        aliases = aliases_of(table, self.part)
        before = self.position
        newest = int(frame.ts.max(initial=0))
        after = replace(
            position,
            commit=before.commit + 1,
            newest=max(before.newest, newest),
            rows=before.rows + len(table),
        )
        written_at = self._clock.now()

        def change(transaction: Transaction) -> list[Change]:
            if read_position(transaction).commit != before.commit:
                raise StorageError(
                    "another process wrote this state",
                    where=str(self._folder),
                    fix="run one worker a schema",
                )
            changes = [
                apply(transaction, *pair, after.commit)
                for pair in zip(self._records, batches, strict=True)
            ]
            for records, changed in zip(self._records, changes, strict=True):
                if changed.new_keys or changed.added_bytes:
                    tally = read_tally(transaction, records.layout).adjusted(
                        changed.new_keys, changed.added_bytes
                    )
                    transaction.put_many([tally.encode(records.layout)])
            transaction.put_many(newer_records(transaction, aliases))
            transaction.put_many([after.encode(), commit_record(after, written_at)])
            transaction.delete_many(outlived_commits(after))
            faults.at("worker.before_commit")
            return changes

        changes = self._store.write(change)
        faults.at("worker.after_commit")
        self.position = after
        self._renewing.record_changes([batch.keys for batch in batches], changes)
        self._unfit.take(frame)
        self._figures = with_frame(self._figures, frame)
        return frame


def _store(state: Path, features: FeatureSet, part: KeyPart, copies: CopiesAt | None) -> Store:
    store = open_state(state, features, part, create=True)
    if copies is None:
        return store
    from tailorbird.store.published import PublishedStore

    try:
        return PublishedStore(
            store,
            copies.open(part.copies(features.schema_hash), timeout_s=WRITE_TIMEOUT_S),
            skip=(COMMITS,),
        )
    except BaseException:
        store.close()
        raise


def _copies(store: Store) -> CopiesFigures | None:
    from tailorbird.store.published import PublishedStore

    if not isinstance(store, PublishedStore):
        return None
    now = store.publishing()
    return CopiesFigures(
        at=now.at, commits=now.commits, records=now.records, failing=bool(now.problem)
    )


def run(
    routed: Address,
    state: Path,
    features: FeatureSet,
    *,
    clock: Clock,
    stop: threading.Event,
    entities_max: int = ENTITIES_MAX,
) -> None:
    """The role: a worker that runs until `stop` is set; the step under way is finished first."""
    with FeatureWorker(routed, state, features, clock=clock, entities_max=entities_max) as worker:
        worker.run(stop)
