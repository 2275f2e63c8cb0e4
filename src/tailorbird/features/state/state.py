"""The records of a feature set in a store: keys, and conversion to and from arrays.

A folder per schema: `state/<schema hash>/`, or where several workers share the entities, one per
part: `state/part-0-of-3/<schema hash>/`.

    h                        the schema hash: a folder under another name is refused
    m                        position: commit, p, offset, newest ts, applied rows, ready
    c  commit u64            p, written_at of each commit; responses log the commit that they read
    a  key u64               alias: ts, p, user id of the newest identify of an anonymous id;
                             permanent, since a person may come back, and the router continues to
                             count the anonymous id's events for that person
    u  key u64               merge: the same of a user's newest merge
    g                        there are merges in this state
    n  entity u16            entities of a kind, and their bytes (`features.state.eviction`)
    e                        the time up to which idle entities have expired
    s  entity u16  key u64   state record
    r  entity u16  key u64   reading record

Keys are big-endian, so that a batch is written in the order of the tree. Lanes of 64 bits are
little-endian, those of states packed. The worker writes all records. Readers read all but the first
two kinds, in a single snapshot.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DamageError
from tailorbird.events.keys import hash64
from tailorbird.features.event_columns.columns import Keys
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import (
    COMMIT_LANE,
    NEWEST_LANE,
    NEXT_CHANGE_LANE,
    VALID_FROM_LANE,
    EntityLayout,
    Layout,
)
from tailorbird.features.state.accumulators import (
    Accumulator,
    AccumulatorUpdate,
    Readable,
    RecentEvents,
    build_accumulators,
)
from tailorbird.features.state.key_partition import ALL_KEYS, KeyPart
from tailorbird.features.state.packing import Packing
from tailorbird.features.state.reading_lanes import sequence_lanes, stored_lanes
from tailorbird.features.state.tiles import FilledLanes, Tiles
from tailorbird.store import EmbeddedStore, Snapshot, open_store

Int64s = npt.NDArray[np.int64]
LANE_DTYPE = np.dtype("<i8")

TAG_DTYPE = np.dtype("<u2")
TAG_BITS = 16  # highest bits of a reading record's commit
COMMITS_MAX = 100_000  # enough for about a day; responses carry commit and p themselves

_POSITION_STRUCT = struct.Struct("<6q")
_COMMIT_STRUCT = struct.Struct("<2q")
_ALIAS_STRUCT = struct.Struct("<2q")
POSITION_KEY = b"m"
COMMIT_PREFIX = b"c"
ALIAS_PREFIX = b"a"
MERGE_PREFIX = b"u"
ANY_MERGES_KEY = b"g"
_RECORD_KEY = np.dtype("V11")  # `tolist` gives bytes
_SCHEMA_KEY = b"h"


@dataclass(frozen=True)
class Position:
    """The progress of a state.

    Attributes:
        commit: numbered from 1.
        log_position: everything routed up to here is applied; the p of `value(entity, t, p)`.
        offset: the next row of the routed log to read.
        newest_ts: the newest ts applied.
        applied_rows: number of events applied.
        is_ready: 0 while the history is still being applied.
    """

    commit: int = 0
    log_position: int = 0
    offset: int = 0
    newest_ts: int = 0
    applied_rows: int = 0
    is_ready: int = 1

    def encode(self) -> tuple[bytes, bytes]:
        return POSITION_KEY, _POSITION_STRUCT.pack(
            self.commit,
            self.log_position,
            self.offset,
            self.newest_ts,
            self.applied_rows,
            self.is_ready,
        )


@dataclass(frozen=True)
class Alias:
    """The person of an anonymous id by the newest identify (ts, p), or of a user by the newest
    merge.
    """

    ts: int
    log_position: int
    user_id: str

    @classmethod
    def decode(cls, data: bytes) -> "Alias":
        ts, log_position = _ALIAS_STRUCT.unpack_from(data)
        return cls(ts, log_position, data[_ALIAS_STRUCT.size :].decode())

    def encode(self) -> bytes:
        return _ALIAS_STRUCT.pack(self.ts, self.log_position) + self.user_id.encode()


def state_folder(state: Path, features: FeatureSet, part: KeyPart = ALL_KEYS) -> Path:
    return part.folder(state) / features.schema_hash


def open_state(
    state: Path, features: FeatureSet, part: KeyPart = ALL_KEYS, *, create: bool = False
) -> EmbeddedStore:
    """Open the store of this schema below `state`, or of a part of its entities.

    Raises:
        NotReadyError: there is none, and `create` is not set.
        DamageError: the folder contains the state of another schema.
    """
    folder = state_folder(state, features, part)
    store = open_store(folder, create=create)
    with store.snapshot() as snapshot:
        stored_hash = snapshot.get(_SCHEMA_KEY)
    if stored_hash is not None and stored_hash.decode(errors="replace") != features.schema_hash:
        store.close()
        message = (
            f"holds the state of schema {stored_hash.decode(errors='replace')}, not of "
            f"{features.schema_hash}"
        )
        raise DamageError(
            message, where=str(folder), fix="remove the folder; its worker builds it anew"
        )
    if create and stored_hash is None:
        store.write(lambda transaction: transaction.put_many([schema_record(features)]))
    return store


def schema_record(features: FeatureSet) -> tuple[bytes, bytes]:
    return _SCHEMA_KEY, features.schema_hash.encode()


def read_position(snapshot: Snapshot) -> Position:
    return decode_position(snapshot.get(POSITION_KEY))


def decode_position(record: bytes | None) -> Position:
    """Decode a position from its record, or return that of an empty state."""
    return Position(*_POSITION_STRUCT.unpack(record)) if record else Position()


def read_local_position(state: Path, features: FeatureSet, part: KeyPart = ALL_KEYS) -> Position:
    """Return the position of the state on this machine. Raises NotReadyError."""
    store = open_state(state, features, part)
    try:
        with store.snapshot() as snapshot:
            return read_position(snapshot)
    finally:
        store.close()


def commit_record(position: Position, written_at: int) -> tuple[bytes, bytes]:
    return _commit_key(position.commit), _COMMIT_STRUCT.pack(position.log_position, written_at)


def expired_commit_keys(position: Position) -> list[bytes]:
    """Return the keys to delete when `position` is committed, so that the table stays bounded."""
    return [_commit_key(position.commit - COMMITS_MAX)] if position.commit > COMMITS_MAX else []


def read_commits(snapshot: Snapshot) -> Iterator[tuple[int, int, int]]:
    """Yield (commit, p, written_at) of each commit, oldest first."""
    for key, value in snapshot.scan(COMMIT_PREFIX):
        yield int.from_bytes(key[1:], "big"), *_COMMIT_STRUCT.unpack(value)


def _commit_key(commit: int) -> bytes:
    return COMMIT_PREFIX + commit.to_bytes(8, "big")


def alias_key(anonymous_id: str) -> bytes:
    return ALIAS_PREFIX + hash64(anonymous_id).to_bytes(8, "big")


def merge_key(user_id: str) -> bytes:
    return MERGE_PREFIX + hash64(user_id).to_bytes(8, "big")


def read_alias(snapshot: Snapshot, key: bytes) -> Alias | None:
    """Return the alias under an `alias_key` or a `merge_key`."""
    record = snapshot.get(key)
    return None if record is None else Alias.decode(record)


def count_aliases(snapshot: Snapshot) -> tuple[int, int]:
    """Return the number of identified anonymous ids, and the bytes of their records with keys.

    Aliases are permanent, like the router's.
    """
    alias_count = byte_count = 0
    for key, value in snapshot.scan(ALIAS_PREFIX):
        alias_count = alias_count + 1
        byte_count = byte_count + len(key) + len(value)
    return alias_count, byte_count


@dataclass(frozen=True)
class StateBatch:
    """State records as read: `states` (n, state lanes), a copy; `sizes` (n,) in bytes, 0 if
    missing.
    """

    states: Int64s
    filled_lanes: FilledLanes
    sizes: Int64s


class Records:
    """The records of one entity, as arrays with a row for each key.

    State records are packed (`features.state.packing`). Reading records have a fixed width, without
    the lanes of sequences, which are read from the state; the high bits of their commit are a tag
    of the layout, so that none is misread.
    """

    def __init__(self, layout: EntityLayout) -> None:
        self.layout = layout
        self.accumulators: list[Accumulator[Any]] = build_accumulators(layout)
        self._packing = Packing(layout)
        self._tiles = Tiles(layout)
        self._entity_bytes = layout.index.to_bytes(2, "big")
        self._stored_lanes = stored_lanes(layout)
        readable_accumulators = [
            accumulator for accumulator in self.accumulators if isinstance(accumulator, Readable)
        ]
        self.readable_accumulator_ids = frozenset(
            map(id, readable_accumulators)
        )  # Cached because `isinstance` with a protocol is slow.
        self._sequences = [
            accumulator
            for accumulator in readable_accumulators
            if isinstance(accumulator, RecentEvents)
        ]
        self._sequence_lanes = sequence_lanes(layout)
        self._direct_accumulators = [
            accumulator
            for accumulator in readable_accumulators
            if not isinstance(accumulator, RecentEvents)
        ]
        self._tag = hash64(f"{layout.entity.name}/{layout.reading_lanes}") % (1 << TAG_BITS - 1)
        empty_reading = self.compute_readings(
            np.zeros((1, layout.state_lanes), np.int64), np.ones(1, np.int64)
        )
        self._empty_reading = self._to_stored(empty_reading).tobytes()

    def states(self, snapshot: Snapshot, keys: Keys) -> Int64s:
        """Return a copy of the states (n, state lanes); zeros for missing keys."""
        return self.read_states(snapshot, keys).states

    def read_states(self, snapshot: Snapshot, keys: Keys) -> StateBatch:
        """Return the states with the size of each record."""
        record_bytes, sizes = snapshot.get_many_with_sizes(self.keys(b"s", keys))
        return self.unpack(record_bytes, np.array(sizes, np.int64))

    def unpack(self, record_bytes: bytes, sizes: Int64s) -> StateBatch:
        filled_lanes = self._packing.unpack(record_bytes, sizes)
        return StateBatch(filled_lanes.states(self.layout.state_lanes), filled_lanes, sizes)

    def update(
        self, batch: StateBatch, newest_ts: Int64s, updates: Sequence[AccumulatorUpdate]
    ) -> None:
        """Apply events in place; `newest_ts` (n,) is each state's newest ts with them."""
        states = batch.states
        previous_ts = batch.states[:, NEWEST_LANE].copy()
        self._tiles.clear_expired(states, batch.filled_lanes, previous_ts, newest_ts)
        for accumulator, rows, additions in updates:
            if len(rows):
                accumulator.update(states, newest_ts, rows, additions)
        states[:, NEWEST_LANE] = newest_ts

    def readings(self, snapshot: Snapshot, keys: Keys) -> Int64s:
        """Return the reading records (n, reading lanes); missing keys read like an entity without
        events.

        Raises:
            DamageError: a record is cut short, or has another layout.
        """
        data = snapshot.get_many(self.keys(b"r", keys), default=self._empty_reading)
        lane_count = len(self._stored_lanes)
        is_complete = len(data) == 8 * lane_count * len(keys)
        stored_readings = (
            np.frombuffer(data, LANE_DTYPE).reshape(len(keys), lane_count)
            if is_complete
            else np.zeros((1, lane_count), LANE_DTYPE)
        )
        if (stored_readings.view(TAG_DTYPE)[:, 4 * COMMIT_LANE + 3] != self._tag).any():
            message = (
                f"a reading record of {self.layout.entity.name} is cut short, or of another format"
            )
            raise DamageError(
                message,
                fix="delete the schema's folder below state/; the worker builds it anew from the "
                "lake",
            )
        if not self._sequences:
            return stored_readings
        readings = np.zeros((len(keys), self.layout.reading_lanes), np.int64)
        readings[:, self._stored_lanes] = stored_readings
        record_bytes, sizes = snapshot.get_many_with_sizes(self.keys(b"s", keys))
        filled_lanes = self._packing.unpack(record_bytes, np.array(sizes, np.int64))
        reading_lanes = self._sequence_lanes[filled_lanes.lane]
        sequence_indexes = np.flatnonzero(reading_lanes)
        readings[filled_lanes.row[sequence_indexes], reading_lanes[sequence_indexes]] = (
            filled_lanes.value[sequence_indexes]
        )
        return readings

    def compute_readings(
        self,
        states: Int64s,
        t: Int64s,
        commit: int = 0,
        *,
        sequences: bool = True,
        filled_lanes: FilledLanes | None = None,
    ) -> Int64s:
        """Return the reading records of the states at t (n,), each above its state's newest ts.

        The lanes of sequences are included on request. `filled_lanes`: the states' non-zero lanes,
        if the caller has them.
        """
        readings = np.zeros((len(states), self.layout.reading_lanes), np.int64)
        readings[:, NEWEST_LANE] = newest_ts = states[:, NEWEST_LANE]
        readings[:, VALID_FROM_LANE] = t
        readings[:, COMMIT_LANE] = commit
        readings[:, NEXT_CHANGE_LANE] = self._tiles.write_readings(
            FilledLanes.from_states(states) if filled_lanes is None else filled_lanes,
            newest_ts,
            t,
            readings,
        )
        for accumulator in self._direct_accumulators:
            accumulator.write_readings(states, readings)
        for accumulator in self._sequences if sequences else ():
            accumulator.write_readings(states, readings)
        return readings

    def pack(self, states: Int64s, filled_lanes: FilledLanes | None = None) -> list[bytes]:
        return self._packing.pack(states, filled_lanes)

    def reading_records(self, keys: Keys, readings: Int64s) -> list[tuple[bytes, bytes]]:
        """Return the records to write for the readings of `compute_readings`."""
        data = self._to_stored(readings).tobytes()
        record_size = 8 * len(self._stored_lanes)
        starts = range(0, len(data), record_size)
        return [
            (key, data[start : start + record_size])
            for key, start in zip(self.keys(b"r", keys), starts, strict=True)
        ]

    def keys(self, kind: bytes, keys: Keys) -> list[bytes]:
        """Return the keys of state ("s") or reading ("r") records."""
        prefix = np.frombuffer(kind + self._entity_bytes, np.uint8)
        key_bytes = np.empty((len(keys), 11), np.uint8)
        key_bytes[:, :3] = prefix
        key_bytes[:, 3:] = keys.astype(">u8").view(np.uint8).reshape(len(keys), 8)
        return key_bytes.reshape(-1).view(_RECORD_KEY).tolist()

    def _to_stored(self, readings: Int64s) -> Int64s:
        stored_readings = readings[:, self._stored_lanes].astype(LANE_DTYPE)
        stored_readings[:, COMMIT_LANE] |= self._tag << 64 - TAG_BITS
        return stored_readings


def all_records(layout: Layout) -> list[Records]:
    """Return the records of each entity, by index."""
    return [Records(entity) for entity in layout.entities]
