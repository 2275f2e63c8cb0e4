"""The router: reads the raw logs, decides on each event once, and writes the routed log. It alone
writes `routed.db`.

A step is one transaction: blocks, dedup index, answers, identity, catalogue, and how far each raw
log was read. So a kill at any point leaves all of a step or none of it. What is decided depends on
the raw logs, the plan and the order of the steps, never on the clock. With Kafka the log is a
topic, see `router.topic`. In which order logs are taken stands in `router.merge`; the decision
itself in `router.route`; the loop that calls `step`, in `router.role`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import msgspec
import numpy as np
import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import NotReadyError
from tailorbird.events import Clock, RoutePlan
from tailorbird.events.columnwise import Contract
from tailorbird.events.contract import CONTRACT_VERSION
from tailorbird.events.suppression import SuppressionList
from tailorbird.router import follow, pruned
from tailorbird.router.arrivals import Arrivals, Body, Gathering
from tailorbird.router.columns import (
    DUPLICATES,
    Decided,
    Refused,
    block,
    quarantine_batch,
    taken_block,
)
from tailorbird.router.follow import Profiles
from tailorbird.router.merge import Run, merged
from tailorbird.router.route import MEMORY_BYTES, Memory, route
from tailorbird.stream import (
    PAST,
    Block,
    EmbeddedWriter,
    LogReader,
    Share,
    Stored,
    Stream,
    open_reader,
    open_writer,
    raw_addresses,
    routed_path,
    share_of,
    sqlite,
)

if TYPE_CHECKING:
    from tailorbird.router.topic import RoutedTopic

FIRST_P = 1
_BYTES_MAX = 32 << 20  # of raw bodies a step, shared by the producers
_TABLE = """
CREATE TABLE IF NOT EXISTS raw_position(
    id INTEGER PRIMARY KEY, producer TEXT NOT NULL UNIQUE,
    offset INTEGER NOT NULL,   -- the next row to route
    newest INTEGER NOT NULL    -- the newest time of receipt so far
) STRICT;
"""


class RouteReport(msgspec.Struct, frozen=True):
    """What a step did.

    Attributes:
        positions: for each producer, how far its raw log has been routed, this step included.
        lag_us: how long ago the newest event of the step came in; 0 if there was none.
        more: whether there was anything to take, so that the next step may find more.
    """

    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    positions: dict[str, int] = {}
    lag_us: int = 0
    more: bool = False

    @property
    def rows(self) -> int:
        """All rows that were taken from the raw logs."""
        return self.accepted + self.duplicates + self.quarantined


class _Source(msgspec.Struct):
    """A raw log and how far it was routed."""

    id: int
    producer: str
    offset: int
    newest: int
    reader: LogReader | None = None


class Router:
    """Routes what stands in the raw logs under `stream`, a folder, or one partition of a cluster's
    topics.

    Args:
        stopped: of whom nothing old is taken again, see `events.suppression`.
        memory_bytes: of identities and profiles that are held in memory, about; the rest is read
            from its file.
    Raises:
        LockedError: another router is at work here.
        DamageError: a log does not match its checksums; nothing is routed past the damage.
    """

    def __init__(
        self,
        stream: "Stream | Share",
        plan: RoutePlan,
        *,
        clock: Clock,
        stopped: SuppressionList | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._stream = stream = share_of(stream)
        self._number, self._count = (
            (0, 1) if isinstance(stream, Path) else (stream.number, stream.count)
        )
        self._plan, self._stopped, self._memory_bytes = (
            plan,
            stopped or SuppressionList(b""),
            memory_bytes,
        )
        self._clock, self._contract = clock, Contract(plan)
        self._decided = Decided(
            plan.version, CONTRACT_VERSION, tuple(plan.user_attributes), tuple(plan.item_attributes)
        )
        self._sources: dict[str, _Source] = {}
        self._log = _open_log(stream)
        self._profiles: Profiles | None = None
        if not isinstance(stream, Path) and stream.number > 0:
            self._profiles = Profiles(stream, self._log.connection)
        self._load()

    def _load(self) -> None:
        """Take up what the last committed step left."""
        connection = self._log.connection
        for source in self._sources.values():
            if source.reader is not None:
                source.reader.close()
        with sqlite.decoding(Path(connection.filename)):
            rows = connection.execute(
                "SELECT id, producer, offset, newest FROM raw_position ORDER BY producer"
            ).fetchall()
            self._sources = {
                producer: _Source(id_, producer, offset, newest)
                for id_, producer, offset, newest in rows
            }
            self._memory = Memory(connection, self._plan, self._memory_bytes)
            if self._profiles is not None:
                self._profiles.load(connection)

    def step(self, rows_max: int = 20_000) -> RouteReport:
        """Route about `rows_max` rows of what is there (whole bodies), durably; a report of zeros
        if there is nothing.

        Raises:
            DamageError: a raw log is damaged, or lost rows that were routed.
            StorageError: the disk refused; what was committed before is safe, and a new router goes
                on from there.
        """
        try:
            return self._step(rows_max)
        except BaseException:
            self._load()  # memory may hold what was not committed
            raise

    def _step(self, rows_max: int) -> RouteReport:
        followed = 0 if self._profiles is None else self._profiles.follow(self._memory)
        arrivals, offsets, received_at = self._read(rows_max)
        if not offsets:
            if followed:
                self._save_profiles()
            return RouteReport(positions=self.positions, more=followed > 0)
        faults.at("router.after_read")
        repeats = {} if faults.cut("router.dedup") else self._memory.seen.repeats(arrivals.entries)
        first_p = self._log.end()
        kept = arrivals.without(list(repeats)) if repeats else arrivals
        with sqlite.errors(Path(self._log.connection.filename)):
            batch = route(kept, self._memory, self._plan, first_p)
        self._memory.seen.add(kept.entries)
        refused, duplicates = arrivals.refused, self._duplicates(arrivals, repeats)
        newest = _newest(arrivals)
        with self._log.transaction() as connection:
            faults.at("router.before_append")
            self._log.append(
                [*self._blocks(batch, refused, duplicates, received_at), *self._taken(offsets)]
            )
            faults.at("router.after_append")
            self._memory.save(
                connection,
                newest,
                [source.id for source in self._sources.values() if source.producer in PAST],
            )
            if self._profiles is not None:
                self._profiles.save(connection)
            faults.at("router.before_positions")
            update = (
                "UPDATE raw_position SET offset = ?, newest = max(newest, ?) WHERE producer = ?"
            )
            connection.executemany(
                update,
                [
                    (offset, newest.get(self._sources[name].id, 0), name)
                    for name, offset in offsets.items()
                ],
            )
            faults.at("router.before_commit")
        faults.at("router.after_commit")
        for name, offset in offsets.items():
            source = self._sources[name]
            source.offset = offset
            source.newest = max(source.newest, newest.get(source.id, 0))
        lag_us = max(0, self._clock.now() - max(newest.values(), default=self._clock.now()))
        return RouteReport(
            batch.num_rows, duplicates.num_rows, len(refused), self.positions, lag_us, True
        )

    def _save_profiles(self) -> None:
        """Keep what others' profiles taught, where there is nothing to route."""
        assert self._profiles is not None
        with self._log.transaction() as connection:
            self._memory.save(connection, {}, [])
            self._profiles.save(connection)

    @property
    def positions(self) -> dict[str, int]:
        """For each producer, the next row of its raw log to be routed; what stands before may be
        pruned once it is archived.
        """
        return {source.producer: source.offset for source in self._sources.values()}

    def end(self) -> int:
        """The position behind the last routed row."""
        return self._log.end()

    def prune(self, before: int) -> int:
        """Delete routed blocks that end at or before `before`, when lake and workers have them; how
        many.
        """
        count = 0
        while some := self.prune_some(before):
            count += some
        return count

    def prune_some(self, before: int) -> int:
        """A piece of `prune`, in one transaction; 0 when nothing is left. What they said of items
        stays, see `router.pruned`.
        """
        return self._log.prune_some(before, last_look=partial(pruned.sum_up, self._log.connection))

    def changed(self) -> bool:
        """Whether any raw log has grown since this was last asked; cheap enough to poll."""
        if self._profiles is not None and self._profiles.changed():
            return True
        return any(
            source.reader.changed() for source in self._find_sources() if source.reader is not None
        )

    def _read(self, rows_max: int) -> tuple[Arrivals, dict[str, int], int]:
        """Checked events, in order of receipt; how far each log is routed with them; and when the
        newest body came in.
        """
        newest = 0
        offsets: dict[str, int] = {}
        bodies = merged(self._runs(rows_max))
        numbers = {source.producer: source.id for source in self._sources.values()}
        gathering = Gathering(self._contract, numbers, (self._number, self._count))
        for body in bodies:
            producer, stored, receipt = body.producer, body.stored, body.receipt
            offsets[producer] = stored.end
            if receipt is None:
                continue
            newest = max(newest, receipt.received_at)
            payload = self._stopped.without(stored.block.payload, receipt)
            gathering.add(
                Body(payload, receipt, producer, stored.offset, stored.block.rows),
                shared=producer in PAST,
            )
        return gathering.arrivals(), offsets, newest

    def _runs(self, rows_max: int) -> list[Run]:
        """What each raw log has next, whole bodies, about `rows_max` rows in all."""
        readers = [
            (source, source.reader) for source in self._find_sources() if source.reader is not None
        ]
        seen_ends = [reader.end() for _, reader in readers]
        runs: list[Run] = []
        taken = 0
        for index, (source, reader) in enumerate(readers):
            share = max(
                1, (rows_max - taken) // (len(readers) - index)
            )  # what others leave is for those behind
            bodies: list[Stored] = []
            for stored in reader.read(source.offset, bytes_max=_BYTES_MAX // len(readers)):
                bodies.append(stored)
                share -= stored.block.rows
                if share <= 0:
                    break
            taken += sum(stored.block.rows for stored in bodies)
            more = bool(bodies) and bodies[-1].end < reader.end()
            runs.append(Run(source.producer, bodies, seen_ends[index], more))
        return runs

    def _find_sources(self) -> list[_Source]:
        """The raw logs there are, in order of name; a new one gets its number at once, for the
        dedup index refers to it.
        """
        there = raw_addresses(self._stream)
        for source in self._sources.values():
            if source.reader is not None and source.producer not in there:  # retired
                source.reader.close()
                source.reader = None
        for producer, path in there.items():
            source = self._sources.get(producer)
            if source is None:
                with self._log.transaction() as connection:
                    insert = "INSERT INTO raw_position(producer, offset, newest) VALUES (?, 0, 0)"
                    connection.execute(insert, (producer,))
                    id_ = connection.last_insert_rowid()
                source = self._sources[producer] = _Source(id_, producer, 0, 0)
            if source.reader is None:
                try:
                    source.reader = open_reader(path)
                except NotReadyError:
                    continue  # its writer is just making it
        return [source for _, source in sorted(self._sources.items()) if source.reader is not None]

    def _duplicates(self, arrivals: Arrivals, repeats: dict[int, tuple]) -> pa.RecordBatch:
        # An event that stands where the index says it stood is itself, read again: not even a
        # repeat.
        found = {
            row: (first, arrivals.entries[row].item()) for row, first in sorted(repeats.items())
        }
        rows = {row: both for row, both in found.items() if both[0][3:] != both[1][3:]}
        firsts, owns = [first for first, _ in rows.values()], [own for _, own in rows.values()]
        columns = [
            arrivals.said["event_id"].take(pa.array(list(rows), pa.int64())),
            *_places(owns, arrivals.producers),
            *_places(firsts, arrivals.producers),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=DUPLICATES)

    def _blocks(
        self,
        batch: pa.RecordBatch,
        refused: Sequence[Refused],
        duplicates: pa.RecordBatch,
        received_at: int,
    ) -> list[Block]:
        decided = msgspec.structs.replace(self._decided, received_at=received_at)
        batches = (
            ("events", batch),
            ("quarantine", quarantine_batch(refused)),
            ("duplicates", duplicates),
        )
        return [block(kind, rows, decided) for kind, rows in batches if rows.num_rows]

    def _taken(self, offsets: dict[str, int]) -> list[Block]:
        """How far the logs that all routers share were taken by this one: the rows do not tell,
        since others have some of them.
        """
        shared = {name: offset for name, offset in offsets.items() if name in PAST}
        return (
            [taken_block(self._number, self._count, shared)] if shared and self._count > 1 else []
        )

    def close(self) -> None:
        """Close all logs; another router may start."""
        if self._profiles is not None:
            self._profiles.close()
        for source in self._sources.values():
            if source.reader is not None:
                source.reader.close()
        self._log.close()

    def __enter__(self) -> "Router":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open_log(stream: Share) -> "EmbeddedWriter | RoutedTopic":
    if not isinstance(stream, Path):
        from tailorbird.router.topic import RoutedTopic

        return RoutedTopic(
            stream.routed,
            stream.index,
            make_tables,
            first=FIRST_P,
            snapshots=stream.snapshots,
            snapshot_rows=stream.snapshot_rows,
        )
    # A damaged tail stops: its positions are committed with it, so setting it aside would lose
    # events without a word.
    log = open_writer(routed_path(stream), partition="routed", first=FIRST_P, damaged_tail="stop")
    with log.transaction() as connection:
        make_tables(connection)
    return log


def make_tables(connection: apsw.Connection) -> None:
    """All tables that a router has, where they are not there yet."""
    Memory.make_tables(connection)
    connection.execute(_TABLE)
    connection.execute(follow.TABLE)
    connection.execute(pruned.TABLES)


def _places(entries: Sequence[tuple], producers: dict[int, str]) -> list[pa.Array]:
    """Partition, offset and row of entries of the index of repeats."""
    columns = [
        [producers[entry[4]] for entry in entries],
        [entry[3] for entry in entries],
        [entry[5] for entry in entries],
    ]
    return [
        pa.array(column, kind)
        for column, kind in zip(columns, (pa.string(), pa.int64(), pa.int32()), strict=True)
    ]


def _newest(arrivals: Arrivals) -> dict[int, int]:
    """By producer, the newest time of receipt among the accepted events."""
    producers, received_at = arrivals.entries["producer"], arrivals.received_at
    return {
        number: int(received_at[producers == number].max())
        for number in np.unique(producers).tolist()
    }
