"""The router: reads the raw logs, decides on each event once, and writes the routed log.

It alone writes `routed.db`. A step is one transaction over blocks, dedup index, responses,
identities, profiles and raw positions, so a kill at any point leaves all of a step or none of it.
Decisions depend on the raw logs, the plan and the order of the steps, never on the clock. With
Kafka the log is a topic, see `router.routed_log.topic`. `router.partitions.merge` orders the logs,
`router.decide.route` decides, and `router.role` is the loop that calls `step`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import NotReadyError
from tailorbird.events import Clock, RoutePlan
from tailorbird.events.contract.columnwise import Contract
from tailorbird.events.contract.contract import CONTRACT_VERSION
from tailorbird.events.suppression import SuppressionList
from tailorbird.router.columns import (
    RefusedRow,
    RoutedReceipt,
    build_quarantine_batch,
    encode_block,
    encode_progress,
)
from tailorbird.router.decide.arrivals import Arrivals, ArrivalsBuilder, Body
from tailorbird.router.decide.route import MEMORY_BYTES, RouterMemory, route
from tailorbird.router.partitions.follow import ProfileFollower
from tailorbird.router.partitions.merge import LogBatch, merge_by_receipt
from tailorbird.router.routed_log import pruned
from tailorbird.router.routed_log.tables import (
    build_duplicates_batch,
    find_newest_received_at,
    open_log,
)
from tailorbird.stream import (
    HISTORICAL_PRODUCERS,
    Block,
    LogReader,
    LogShare,
    StoredBlock,
    Stream,
    log_set,
    open_reader,
    sqlite,
)

_BYTES_MAX = 32 << 20  # of raw bodies a step, shared by the producers


class RouteReport(msgspec.Struct, frozen=True):
    """Report of a step.

    Attributes:
        positions: position up to which each producer's raw log has been routed, with this step.
        lag_us: age of the newest event of the step; 0 if there was none.
        has_more: whether the step routed anything, so that the next may find more.
    """

    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    positions: dict[str, int] = {}
    lag_us: int = 0
    has_more: bool = False

    @property
    def rows(self) -> int:
        """The number of rows that were read from the raw logs."""
        return self.accepted + self.duplicates + self.quarantined


class _Source(msgspec.Struct):
    """A raw log and the position up to which it was routed."""

    id: int
    producer: str
    offset: int
    newest_received_at: int
    reader: LogReader | None = None


class Router:
    """The router of the raw logs of `stream`: a folder, or one partition of a cluster's topics.

    Args:
        suppression_list: erased people, whose earlier events are dropped, see `events.suppression`.
        memory_bytes: approximate bound of the caches of identities and profiles.
    Raises:
        LockedError: another router runs here.
        DamageError: a log does not match its checksums; nothing is routed past the damage.
    """

    def __init__(
        self,
        stream: "Stream | LogShare",
        plan: RoutePlan,
        *,
        clock: Clock,
        suppression_list: SuppressionList | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._share = share = log_set(stream).single_share()
        self._partition_number = share.partition_number
        self._partition_count = share.partition_count
        self._plan = plan
        self._memory_bytes = memory_bytes
        self._suppression_list = suppression_list or SuppressionList(b"")
        self._clock = clock
        self._contract = Contract(plan)
        self._receipt = RoutedReceipt(
            plan.version, CONTRACT_VERSION, tuple(plan.user_attributes), tuple(plan.item_attributes)
        )
        self._sources: dict[str, _Source] = {}
        self._log = open_log(share)
        self._profile_follower: ProfileFollower | None = None
        if share.kafka_logs is not None and share.partition_number > 0:
            self._profile_follower = ProfileFollower(share.kafka_logs, self._log.connection)
        self._load()

    def _load(self) -> None:
        """Load the state of the last committed step."""
        connection = self._log.connection
        for source in self._sources.values():
            if source.reader is not None:
                source.reader.close()
        with sqlite.translate_decoding(Path(connection.filename)):
            rows = connection.execute(
                "SELECT id, producer, offset, newest FROM raw_position ORDER BY producer"
            ).fetchall()
            self._sources = {
                producer: _Source(id_, producer, offset, newest)
                for id_, producer, offset, newest in rows
            }
            self._memory = RouterMemory(connection, self._plan, self._memory_bytes)
            if self._profile_follower is not None:
                self._profile_follower.load(connection)

    def step(self, rows_max: int = 20_000) -> RouteReport:
        """Route about `rows_max` rows in whole bodies, durably, and return a report.

        Raises:
            DamageError: a raw log is damaged, or lost rows that were routed.
            StorageError: the disk refused; earlier steps are safe, and a new router continues
                after them.
        """
        try:
            return self._step(rows_max)
        except BaseException:
            self._load()  # memory may have changes that were not committed
            raise

    def _step(self, rows_max: int) -> RouteReport:
        followed_rows = (
            0 if self._profile_follower is None else self._profile_follower.follow(self._memory)
        )
        arrivals, offset_by_producer, received_at = self._read_arrivals(rows_max)
        if not offset_by_producer:
            if followed_rows:
                self._save_profiles()
            return RouteReport(positions=self.positions, has_more=followed_rows > 0)
        faults.fire_if_armed("router.after_read")
        original_by_row = (
            {}
            if faults.is_disabled("router.dedup")
            else self._memory.dedup_index.find_duplicates(arrivals.dedup_entries)
        )
        first_log_position = self._log.end()
        accepted_events = (
            arrivals.without_rows(list(original_by_row)) if original_by_row else arrivals
        )
        with sqlite.translate_errors(Path(self._log.connection.filename)):
            routed_batch = route(accepted_events, self._memory, self._plan, first_log_position)
        self._memory.dedup_index.add(accepted_events.dedup_entries)
        refused_rows = arrivals.refused_rows
        duplicates = build_duplicates_batch(arrivals, original_by_row)
        newest_by_producer = find_newest_received_at(arrivals)
        with self._log.transaction() as connection:
            faults.fire_if_armed("router.before_append")
            self._log.append(
                [
                    *self._encode_blocks(routed_batch, refused_rows, duplicates, received_at),
                    *self._encode_progress_blocks(offset_by_producer),
                ]
            )
            faults.fire_if_armed("router.after_append")
            self._memory.save(
                connection,
                newest_by_producer,
                [
                    source.id
                    for source in self._sources.values()
                    if source.producer in HISTORICAL_PRODUCERS
                ],
            )
            if self._profile_follower is not None:
                self._profile_follower.save(connection)
            faults.fire_if_armed("router.before_positions")
            update_sql = (
                "UPDATE raw_position SET offset = ?, newest = max(newest, ?) WHERE producer = ?"
            )
            connection.executemany(
                update_sql,
                [
                    (offset, newest_by_producer.get(self._sources[name].id, 0), name)
                    for name, offset in offset_by_producer.items()
                ],
            )
            faults.fire_if_armed("router.before_commit")
        faults.fire_if_armed("router.after_commit")
        for name, offset in offset_by_producer.items():
            source = self._sources[name]
            source.offset = offset
            source.newest_received_at = max(
                source.newest_received_at, newest_by_producer.get(source.id, 0)
            )
        lag_us = max(
            0, self._clock.now() - max(newest_by_producer.values(), default=self._clock.now())
        )
        return RouteReport(
            accepted=routed_batch.num_rows,
            duplicates=duplicates.num_rows,
            quarantined=len(refused_rows),
            positions=self.positions,
            lag_us=lag_us,
            has_more=True,
        )

    def _save_profiles(self) -> None:
        """Save followed profiles where there is nothing to route."""
        assert self._profile_follower is not None
        with self._log.transaction() as connection:
            self._memory.save(connection, {}, [])
            self._profile_follower.save(connection)

    @property
    def positions(self) -> dict[str, int]:
        """The next row to route by producer; rows before it may be pruned once archived."""
        return {source.producer: source.offset for source in self._sources.values()}

    def end(self) -> int:
        """Return the position after the last routed row."""
        return self._log.end()

    def prune(self, before: int) -> int:
        """Delete routed blocks that end at or before `before` and return how many there were.

        The caller knows that lake and workers have them.
        """
        count = 0
        while deleted_count := self.prune_batch(before):
            count += deleted_count
        return count

    def prune_batch(self, before: int) -> int:
        """Delete some blocks in one transaction and return how many; 0 when none are left.

        A summary of their items stays, see `router.routed_log.pruned`.
        """
        return self._log.prune_batch(
            before, on_delete=partial(pruned.summarize_blocks, self._log.connection)
        )

    def has_changed(self) -> bool:
        """Return whether any raw log has grown since the last call; cheap enough to poll."""
        if self._profile_follower is not None and self._profile_follower.has_changed():
            return True
        return any(
            source.reader.has_changed()
            for source in self._find_sources()
            if source.reader is not None
        )

    def _read_arrivals(self, rows_max: int) -> tuple[Arrivals, dict[str, int], int]:
        """Return checked events in order of receipt, the new offset of each log, and the newest
        time of receipt.
        """
        newest_received_at = 0
        offset_by_producer: dict[str, int] = {}
        bodies = merge_by_receipt(self._read_batches(rows_max))
        producer_ids = {source.producer: source.id for source in self._sources.values()}
        builder = ArrivalsBuilder(
            self._contract, producer_ids, (self._partition_number, self._partition_count)
        )
        for body in bodies:
            producer = body.producer
            stored_block = body.stored_block
            receipt = body.receipt
            offset_by_producer[producer] = stored_block.end
            if receipt is None:
                continue
            newest_received_at = max(newest_received_at, receipt.received_at)
            payload = self._suppression_list.filter_body(stored_block.block.payload, receipt)
            builder.add(
                Body(payload, receipt, producer, stored_block.offset, stored_block.block.rows),
                is_shared=producer in HISTORICAL_PRODUCERS,
            )
        return builder.build(), offset_by_producer, newest_received_at

    def _read_batches(self, rows_max: int) -> list[LogBatch]:
        """Read the next whole bodies of each raw log, about `rows_max` rows in all."""
        readers = [
            (source, source.reader) for source in self._find_sources() if source.reader is not None
        ]
        initial_ends = [reader.end() for _, reader in readers]
        batches: list[LogBatch] = []
        rows_read = 0
        for log_index, (source, reader) in enumerate(readers):
            # Later logs get what earlier ones left.
            rows_left = max(1, (rows_max - rows_read) // (len(readers) - log_index))
            bodies: list[StoredBlock] = []
            for stored_block in reader.read(source.offset, bytes_max=_BYTES_MAX // len(readers)):
                bodies.append(stored_block)
                rows_left -= stored_block.block.rows
                if rows_left <= 0:
                    break
            rows_read += sum(stored_block.block.rows for stored_block in bodies)
            has_more = bool(bodies) and bodies[-1].end < reader.end()
            batches.append(LogBatch(source.producer, bodies, initial_ends[log_index], has_more))
        return batches

    def _find_sources(self) -> list[_Source]:
        """Return the raw logs in order of name.

        A new log gets its number at once, since the dedup index refers to it.
        """
        addresses = self._share.raw_logs()
        for source in self._sources.values():
            if source.reader is not None and source.producer not in addresses:  # deleted topic
                source.reader.close()
                source.reader = None
        for producer, address in addresses.items():
            source = self._sources.get(producer)
            if source is None:
                with self._log.transaction() as connection:
                    insert_sql = (
                        "INSERT INTO raw_position(producer, offset, newest) VALUES (?, 0, 0)"
                    )
                    connection.execute(insert_sql, (producer,))
                    id_ = connection.last_insert_rowid()
                source = self._sources[producer] = _Source(id_, producer, 0, 0)
            if source.reader is None:
                try:
                    source.reader = open_reader(address)
                except NotReadyError:
                    continue  # its writer is creating it
        return [source for _, source in sorted(self._sources.items()) if source.reader is not None]

    def _encode_blocks(
        self,
        routed_batch: pa.RecordBatch,
        refused_rows: Sequence[RefusedRow],
        duplicates: pa.RecordBatch,
        received_at: int,
    ) -> list[Block]:
        receipt = msgspec.structs.replace(self._receipt, received_at=received_at)
        batches = (
            ("events", routed_batch),
            ("quarantine", build_quarantine_batch(refused_rows)),
            ("duplicates", duplicates),
        )
        return [encode_block(kind, rows, receipt) for kind, rows in batches if rows.num_rows]

    def _encode_progress_blocks(self, offset_by_producer: dict[str, int]) -> list[Block]:
        """Return a block with the progress in the logs that all routers share.

        The rows do not tell it, since other routers have some of them.
        """
        shared_offsets = {
            name: offset
            for name, offset in offset_by_producer.items()
            if name in HISTORICAL_PRODUCERS
        }
        return (
            [encode_progress(self._partition_number, self._partition_count, shared_offsets)]
            if shared_offsets and self._partition_count > 1
            else []
        )

    def close(self) -> None:
        """Close all logs and release the lock."""
        if self._profile_follower is not None:
            self._profile_follower.close()
        for source in self._sources.values():
            if source.reader is not None:
                source.reader.close()
        self._log.close()

    def __enter__(self) -> "Router":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
