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
from tailorbird.features.declare.limits import HORIZON
from tailorbird.features.event_columns.columns import Keys
from tailorbird.features.layout.layout import NEWEST, PROFILE_HEADER, EntityLayout, Layout
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

    def adjusted(self, new_entities: int, added_bytes: int) -> "EntityCounts":
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
    merged: dict[str, EntityCounts] = {}
    for name in parts[0]:
        counts_of_kind = [part[name] for part in parts]
        entities, size, expired, dropped, _ = (
            sum(column) for column in zip(*map(astuple, counts_of_kind), strict=True)
        )
        merged[name] = EntityCounts(
            entities,
            size,
            expired,
            dropped,
            max(counts.dropped_newest for counts in counts_of_kind),
        )
    return merged


def read_swept(snapshot: Snapshot) -> int:
    """Return the time up to which idle entities have expired: no request is read at an earlier
    time.
    """
    return decode_swept(snapshot.get(SWEPT_KEY))


def decode_swept(record: bytes | None) -> int:
    """Decode that time from its record."""
    return int.from_bytes(record, "little") if record else 0


def retention_us(layout: EntityLayout) -> int:
    """Return how long after its newest event an entity may have a value that is not permanent."""
    tiles = [(ring.tiles + 1) * ring.hop for ring in (*layout.rings, *layout.sketches)]
    return max([0, *tiles, *([HORIZON] if layout.lasts or layout.sequences else [])])


def permanent_lanes(layout: EntityLayout) -> Bools:
    """Return the lanes that stay when an entity expires; shape (state lanes,)."""
    is_permanent = np.zeros(layout.state_lanes, np.bool_)
    spans = [(first_time.lane, 1) for first_time in layout.firsts] + [
        (first_value.lane, 3) for first_value in layout.first_values
    ]
    if layout.profile is not None:
        spans.append((layout.profile.lane, PROFILE_HEADER + len(layout.profile.attributes)))
    for lane, lanes in spans:
        is_permanent[lane : lane + lanes] = True
    return is_permanent


@dataclass(frozen=True)
class SweepBatch:
    """Some records of a kind as read; `is_last` means that the kind has none after them."""

    keys: Keys
    stored: StateBatch
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
        self._kinds = [_Kind(record) for record in records]
        self._kind_index, self._after = 0, b""

    def next_batch(self, snapshot: Snapshot) -> tuple[int, SweepBatch]:
        """Return the kind whose turn it is, and its next records."""
        index, records = self._kind_index, self._records[self._kind_index]
        layout = records.layout
        prefix = b"s" + layout.index.to_bytes(2, "big")
        count = SWEEP_RECORDS_MAX if self.is_over_cap(snapshot) else SWEEP_RECORDS
        entries = list(islice(snapshot.scan(prefix, after=self._after), count))
        keys = np.array([int.from_bytes(key[3:], "big") for key, _ in entries], np.uint64)
        stored = records.unpack(
            b"".join(value for _, value in entries),
            np.array([len(value) for _, value in entries], np.int64),
        )
        is_last = len(entries) < count
        self._kind_index, self._after = (
            ((index + 1) % len(self._records), b"") if is_last else (index, entries[-1][0])
        )
        return index, SweepBatch(keys, stored, is_last)

    def is_over_cap(self, snapshot: Snapshot) -> bool:
        """Return whether any kind has too many entities."""
        return any(
            read_counts(snapshot, record.layout).entities > self._entities_max
            for record in self._records
        )

    def find_idle(
        self, index: int, batch: SweepBatch, until: int, entities: int
    ) -> tuple[Bools, Bools]:
        """Return which records have expired by `until`, and which are dropped for the cap."""
        kind, states = self._kinds[index], batch.stored.states
        newest = states[:, NEWEST]
        dropped = newest < kind.drop_before
        is_transient = ~(states[:, kind.permanent] != 0).any(axis=1)
        expired = (
            (newest + kind.retention_us < until)
            & ~dropped
            & (is_transient | (states[:, kind.expiring] != 0).any(axis=1))
        )
        remains = ~dropped & ~(expired & is_transient)
        kind.ages.update((newest[remains] // MINUTE).tolist())
        if batch.is_last:
            kind.drop_before = _drop_before(
                kind.ages, entities - int(np.count_nonzero(~remains)) - self._entities_max
            )
            kind.ages = Counter()
        return expired, dropped

    def evict(
        self,
        transaction: Transaction,
        index: int,
        batch: SweepBatch,
        expired: Bools,
        dropped: Bools,
        until: int,
        commit: int,
    ) -> EntityCounts:
        """Evict these entities in the worker's transaction, and return the counts of the kind."""
        kind, records = self._kinds[index], self._records[index]
        rows = np.flatnonzero(expired)
        states = np.where(kind.permanent, batch.stored.states[rows], 0)
        is_permanent = states.any(axis=1)
        states[:, NEWEST] = batch.stored.states[rows, NEWEST]
        deleted_keys = np.concatenate([batch.keys[rows[~is_permanent]], batch.keys[dropped]])
        transaction.delete_many(records.keys(b"s", deleted_keys) + records.keys(b"r", deleted_keys))
        keys, states = batch.keys[rows[is_permanent]], states[is_permanent]
        packed = records.pack(states)
        transaction.put_many(zip(records.keys(b"s", keys), packed, strict=True))
        readings = records.finish(
            states, np.maximum(states[:, NEWEST] + 1, until), commit, sequences=False
        )
        transaction.put_many(records.reading_records(keys, readings))
        counts = read_counts(transaction, records.layout)
        added_bytes = sum(map(len, packed)) - int(batch.stored.sizes[expired | dropped].sum())
        counts = replace(
            counts.adjusted(-len(deleted_keys), added_bytes),
            expired=counts.expired + len(rows),
            dropped=counts.dropped + int(dropped.sum()),
        )
        newest = int(batch.stored.states[dropped, NEWEST].max(initial=counts.dropped_newest))
        counts = replace(counts, dropped_newest=newest)
        transaction.put_many(
            [
                counts.encode(records.layout),
                (SWEPT_KEY, max(until, read_swept(transaction)).to_bytes(8, "little")),
            ]
        )
        return counts


class _Kind:
    """The sweep's data about one kind of entity."""

    def __init__(self, records: Records) -> None:
        self.retention_us = retention_us(records.layout)
        self.permanent = permanent_lanes(records.layout)
        self.expiring = ~self.permanent
        self.expiring[NEWEST] = False  # It stays with the permanent lanes.
        self.ages: Counter[int] = (
            Counter()
        )  # number of entities by minute of their last event, in this cycle
        self.drop_before = 0


def _drop_before(ages: Counter[int], excess: int) -> int:
    """Return the time before which at least `excess` entities had their last event; 0 without
    excess.
    """
    before = 0
    for minute in sorted(ages) if excess > 0 else ():
        if excess <= 0:
            break
        excess -= ages[minute]
        before = (minute + 1) * MINUTE
    return before


def _counts_key(layout: EntityLayout) -> bytes:
    return b"n" + layout.index.to_bytes(2, "big")
