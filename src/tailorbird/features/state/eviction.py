"""Eviction of idle entities: expiry changes no value, and a cap drops the longest idle.

    newest ts ────── retention: the longest look-back of its features ──────► reads as empty

Expiry deletes an idle entity's record except what is permanent: profile, first time, first value. A
state records the time up to which it was swept, and requests are read at no earlier time, so each
value stays what it was, and equals that of the lake.

The cap protects against floods of ids: past `entities_max` of a kind, the longest idle entities are
dropped completely, profile included, and read as if they had never existed. The lake still has
them, so a drop is counted and marked in the kind's counts: values of entities with a last event up
to `dropped_newest` may differ from those computed from the lake.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import DAY, MINUTE
from tailorbird.features.declare.limits import LOOK_BACK_MAX
from tailorbird.features.event_columns.columns import Keys
from tailorbird.features.layout.layout import (
    NEWEST_LANE,
    PROFILE_HEADER_LANES,
    EntityLayout,
    Layout,
)
from tailorbird.features.state.state import Records, StateBatch
from tailorbird.store import Snapshot, Transaction

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CLOCK_LAG_US = DAY  # tolerated clock lag of a reader
ENTITIES_MAX = 20_000_000
SWEEP_RECORDS = 1_000  # records per step while no kind is past its cap
SWEEP_RECORDS_MAX = 20_000

_COUNTS_STRUCT = struct.Struct("<5q")
SWEPT_KEY = b"e"


@dataclass(frozen=True)
class EntityCounts:
    """The size of one kind of entity.

    Attributes:
        entities: number of entities with records.
        state_bytes: size of their state records; a reading record has a fixed width.
        expired: number evicted because nothing of them could be read any more.
        dropped: number evicted to stay within the cap.
        dropped_newest: the newest ts of any that was dropped.
    """

    entities: int = 0
    state_bytes: int = 0
    expired: int = 0
    dropped: int = 0
    dropped_newest: int = 0

    @property
    def state_bytes_mean(self) -> int | None:
        return round(self.state_bytes / self.entities) if self.entities else None

    def encode(self, layout: EntityLayout) -> tuple[bytes, bytes]:
        return _counts_key(layout), _COUNTS_STRUCT.pack(
            self.entities, self.state_bytes, self.expired, self.dropped, self.dropped_newest
        )

    def with_added(self, new_entities: int, added_bytes: int) -> "EntityCounts":
        return replace(
            self, entities=self.entities + new_entities, state_bytes=self.state_bytes + added_bytes
        )


def read_counts(snapshot: Snapshot, layout: EntityLayout) -> EntityCounts:
    record = snapshot.get(_counts_key(layout))
    return EntityCounts() if record is None else EntityCounts(*_COUNTS_STRUCT.unpack(record))


def read_all_counts(snapshot: Snapshot, layout: Layout) -> dict[str, EntityCounts]:
    """Return the counts of each kind, by name of the entity."""
    return {entity.entity.name: read_counts(snapshot, entity) for entity in layout.entities}


def merge_entity_counts(parts: Sequence[dict[str, EntityCounts]]) -> dict[str, EntityCounts]:
    """Return the sums over the parts of a state, by name of the entity."""
    if len(parts) == 1:
        return parts[0]
    counts_by_entity: dict[str, EntityCounts] = {}
    for name in parts[0]:
        counts_of_kind = [part[name] for part in parts]
        entities, size, expired, dropped, _ = (
            sum(column) for column in zip(*map(astuple, counts_of_kind), strict=True)
        )
        counts_by_entity[name] = EntityCounts(
            entities,
            size,
            expired,
            dropped,
            max(counts.dropped_newest for counts in counts_of_kind),
        )
    return counts_by_entity


def read_swept_until(snapshot: Snapshot) -> int:
    """Return the time up to which idle entities have expired: no request is read at an earlier
    time.
    """
    return decode_swept_until(snapshot.get(SWEPT_KEY))


def decode_swept_until(record: bytes | None) -> int:
    """Decode that time from its record."""
    return int.from_bytes(record, "little") if record else 0


def retention_us(layout: EntityLayout) -> int:
    """Return how long after its newest event an entity may have a value that is not permanent."""
    tiles = [(ring.tiles + 1) * ring.hop for ring in (*layout.rings, *layout.sketches)]
    return max([0, *tiles, *([LOOK_BACK_MAX] if layout.lasts or layout.sequences else [])])


def permanent_lanes(layout: EntityLayout) -> Bools:
    """Return the lanes that stay when an entity expires; shape (state lanes,)."""
    is_permanent = np.zeros(layout.state_lanes, np.bool_)
    lane_spans = [(first_time.lane, 1) for first_time in layout.firsts] + [
        (first_value.lane, 3) for first_value in layout.first_values
    ]
    if layout.profile is not None:
        lane_spans.append(
            (layout.profile.lane, PROFILE_HEADER_LANES + len(layout.profile.attributes))
        )
    for start, lane_count in lane_spans:
        is_permanent[start : start + lane_count] = True
    return is_permanent


@dataclass(frozen=True)
class SweepBatch:
    """Some records of a kind as read; `is_last` means that the kind has none after them."""

    keys: Keys
    state_batch: StateBatch
    is_last: bool


@dataclass(frozen=True)
class SweepReport:
    """The result of a step of the sweep."""

    examined: int = 0
    expired: int = 0
    dropped: int = 0


class EvictionCycle:
    """Cycles through the entities of all kinds, some at a time.

    Its position need not be stored: it may start anywhere.
    """

    def __init__(self, records: list[Records], entities_max: int) -> None:
        self._records = records
        self._entities_max = entities_max
        self._kind_sweeps = [_KindSweep(kind_records) for kind_records in records]
        self._kind_index = 0
        self._last_key = b""

    def next_batch(self, snapshot: Snapshot) -> tuple[int, SweepBatch]:
        """Return the kind whose turn it is, and its next records."""
        kind_index = self._kind_index
        records = self._records[self._kind_index]
        layout = records.layout
        prefix = b"s" + layout.index.to_bytes(2, "big")
        record_count = SWEEP_RECORDS_MAX if self.is_over_cap(snapshot) else SWEEP_RECORDS
        entries = list(islice(snapshot.scan(prefix, after=self._last_key), record_count))
        keys = np.array([int.from_bytes(key[3:], "big") for key, _ in entries], np.uint64)
        state_batch = records.unpack(
            b"".join(value for _, value in entries),
            np.array([len(value) for _, value in entries], np.int64),
        )
        is_last = len(entries) < record_count
        self._kind_index, self._last_key = (
            ((kind_index + 1) % len(self._records), b"")
            if is_last
            else (kind_index, entries[-1][0])
        )
        return kind_index, SweepBatch(keys, state_batch, is_last)

    def is_over_cap(self, snapshot: Snapshot) -> bool:
        """Return whether any kind has too many entities."""
        return any(
            read_counts(snapshot, kind_records.layout).entities > self._entities_max
            for kind_records in self._records
        )

    def find_idle(
        self, kind_index: int, batch: SweepBatch, until: int, entity_count: int
    ) -> tuple[Bools, Bools]:
        """Return which records have expired by `until`, and which are dropped for the cap."""
        kind_sweep = self._kind_sweeps[kind_index]
        states = batch.state_batch.states
        newest_ts = states[:, NEWEST_LANE]
        is_dropped = newest_ts < kind_sweep.drop_before_ts
        is_transient = ~(states[:, kind_sweep.is_permanent_lane] != 0).any(axis=1)
        is_expired = (
            (newest_ts + kind_sweep.retention_us < until)
            & ~is_dropped
            & (is_transient | (states[:, kind_sweep.is_expiring_lane] != 0).any(axis=1))
        )
        is_remaining = ~is_dropped & ~(is_expired & is_transient)
        kind_sweep.entities_by_minute.update((newest_ts[is_remaining] // MINUTE).tolist())
        if batch.is_last:
            kind_sweep.drop_before_ts = _drop_before_ts(
                kind_sweep.entities_by_minute,
                entity_count - int(np.count_nonzero(~is_remaining)) - self._entities_max,
            )
            kind_sweep.entities_by_minute = Counter()
        return is_expired, is_dropped

    def evict(
        self,
        transaction: Transaction,
        kind_index: int,
        batch: SweepBatch,
        is_expired: Bools,
        is_dropped: Bools,
        until: int,
        commit: int,
    ) -> EntityCounts:
        """Evict these entities in the worker's transaction, and return the counts of the kind."""
        kind_sweep = self._kind_sweeps[kind_index]
        records = self._records[kind_index]
        expired_rows = np.flatnonzero(is_expired)
        states = np.where(kind_sweep.is_permanent_lane, batch.state_batch.states[expired_rows], 0)
        has_permanent = states.any(axis=1)
        states[:, NEWEST_LANE] = batch.state_batch.states[expired_rows, NEWEST_LANE]
        deleted_keys = np.concatenate(
            [batch.keys[expired_rows[~has_permanent]], batch.keys[is_dropped]]
        )
        transaction.delete_many(records.keys(b"s", deleted_keys) + records.keys(b"r", deleted_keys))
        keys = batch.keys[expired_rows[has_permanent]]
        states = states[has_permanent]
        packed_states = records.pack(states)
        transaction.put_many(zip(records.keys(b"s", keys), packed_states, strict=True))
        readings = records.compute_readings(
            states, np.maximum(states[:, NEWEST_LANE] + 1, until), commit, sequences=False
        )
        transaction.put_many(records.reading_records(keys, readings))
        counts = read_counts(transaction, records.layout)
        added_bytes = sum(map(len, packed_states)) - int(
            batch.state_batch.sizes[is_expired | is_dropped].sum()
        )
        counts = replace(
            counts.with_added(-len(deleted_keys), added_bytes),
            expired=counts.expired + len(expired_rows),
            dropped=counts.dropped + int(is_dropped.sum()),
        )
        dropped_newest = int(
            batch.state_batch.states[is_dropped, NEWEST_LANE].max(initial=counts.dropped_newest)
        )
        counts = replace(counts, dropped_newest=dropped_newest)
        transaction.put_many(
            [
                counts.encode(records.layout),
                (SWEPT_KEY, max(until, read_swept_until(transaction)).to_bytes(8, "little")),
            ]
        )
        return counts


class _KindSweep:
    """The sweep's data about one kind of entity."""

    def __init__(self, records: Records) -> None:
        self.retention_us = retention_us(records.layout)
        self.is_permanent_lane = permanent_lanes(records.layout)
        self.is_expiring_lane = ~self.is_permanent_lane
        self.is_expiring_lane[NEWEST_LANE] = False  # It stays with the permanent lanes.
        self.entities_by_minute: Counter[int] = (
            Counter()
        )  # number of entities by minute of their last event, in this cycle
        self.drop_before_ts = 0


def _drop_before_ts(entities_by_minute: Counter[int], excess: int) -> int:
    """Return the time before which at least `excess` entities had their last event; 0 without
    excess.
    """
    before_ts = 0
    for minute in sorted(entities_by_minute) if excess > 0 else ():
        if excess <= 0:
            break
        excess -= entities_by_minute[minute]
        before_ts = (minute + 1) * MINUTE
    return before_ts


def _counts_key(layout: EntityLayout) -> bytes:
    return b"n" + layout.index.to_bytes(2, "big")
