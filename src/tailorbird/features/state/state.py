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
    COMMIT,
    NEWEST,
    NEXT_CHANGE,
    VALID_FROM,
    EntityLayout,
    Layout,
)
from tailorbird.features.state.accumulators import (
    Accumulator,
    Part,
    Readable,
    Sequences,
    build_accumulators,
)
from tailorbird.features.state.key_partition import ALL_KEYS, KeyPart
from tailorbird.features.state.packing import Packing
from tailorbird.features.state.tiles import FilledLanes, Tiles
from tailorbird.store import EmbeddedStore, Snapshot, open_store

Int64s = npt.NDArray[np.int64]
LANE = np.dtype("<i8")

TAGS = np.dtype("<u2")
TAG_BITS = 16  # highest bits of a reading record's commit
COMMITS_MAX = 100_000  # enough for about a day; responses carry commit and p themselves

_POSITION = struct.Struct("<6q")
_COMMIT = struct.Struct("<2q")
_ALIAS = struct.Struct("<2q")
POSITION_KEY = b"m"
COMMITS = b"c"
ALIASES = b"a"
MERGES = b"u"
ANY_MERGES_KEY = b"g"
_RECORD_KEY = np.dtype("V11")  # `tolist` gives bytes
_SCHEMA_KEY = b"h"


@dataclass(frozen=True)
class Position:
    """The progress of a state.

    Attributes:
        commit: numbered from 1.
        p: everything routed up to here is applied; the p of `value(entity, t, p)`.
        offset: the next row of the routed log to read.
        newest: the newest ts applied.
        rows: number of events applied.
        ready: 0 while the history is still being applied.
    """

    commit: int = 0
    p: int = 0
    offset: int = 0
    newest: int = 0
    rows: int = 0
    ready: int = 1

    def encode(self) -> tuple[bytes, bytes]:
        return POSITION_KEY, _POSITION.pack(
            self.commit, self.p, self.offset, self.newest, self.rows, self.ready
        )


@dataclass(frozen=True)
class Alias:
    """The person of an anonymous id by the newest identify (ts, p), or of a user by the newest
    merge.
    """

    ts: int
    p: int
    user_id: str

    @classmethod
    def decode(cls, data: bytes) -> "Alias":
        ts, p = _ALIAS.unpack_from(data)
        return cls(ts, p, data[_ALIAS.size :].decode())

    def encode(self) -> bytes:
        return _ALIAS.pack(self.ts, self.p) + self.user_id.encode()


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
    return Position(*_POSITION.unpack(record)) if record else Position()


def read_local_position(state: Path, features: FeatureSet, part: KeyPart = ALL_KEYS) -> Position:
    """Return the position of the state on this machine. Raises NotReadyError."""
    store = open_state(state, features, part)
    try:
        with store.snapshot() as snapshot:
            return read_position(snapshot)
    finally:
        store.close()


def commit_record(position: Position, written_at: int) -> tuple[bytes, bytes]:
    return _commit_key(position.commit), _COMMIT.pack(position.p, written_at)


def expired_commit_keys(position: Position) -> list[bytes]:
    """Return the keys to delete when `position` is committed, so that the table stays bounded."""
    return [_commit_key(position.commit - COMMITS_MAX)] if position.commit > COMMITS_MAX else []


def read_commits(snapshot: Snapshot) -> Iterator[tuple[int, int, int]]:
    """Yield (commit, p, written_at) of each commit, oldest first."""
    for key, value in snapshot.scan(COMMITS):
        yield int.from_bytes(key[1:], "big"), *_COMMIT.unpack(value)


def _commit_key(commit: int) -> bytes:
    return COMMITS + commit.to_bytes(8, "big")


def alias_key(anonymous_id: str) -> bytes:
    return ALIASES + hash64(anonymous_id).to_bytes(8, "big")


def merge_key(user_id: str) -> bytes:
    return MERGES + hash64(user_id).to_bytes(8, "big")


def read_alias(snapshot: Snapshot, key: bytes) -> Alias | None:
    """Return the alias under an `alias_key` or a `merge_key`."""
    record = snapshot.get(key)
    return None if record is None else Alias.decode(record)


def count_aliases(snapshot: Snapshot) -> tuple[int, int]:
    """Return the number of identified anonymous ids, and the bytes of their records with keys.

    Aliases are permanent, like the router's.
    """
    count = size = 0
    for key, value in snapshot.scan(ALIASES):
        count, size = count + 1, size + len(key) + len(value)
    return count, size


@dataclass(frozen=True)
class StateBatch:
    """State records as read: `states` (n, state lanes), a copy; `sizes` (n,) in bytes, 0 if
    missing.
    """

    states: Int64s
    filled: FilledLanes
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
        self._index = layout.index.to_bytes(2, "big")
        self._stored_lanes = stored_lanes(layout)
        readable = [
            accumulator for accumulator in self.accumulators if isinstance(accumulator, Readable)
        ]
        self.readable = frozenset(
            map(id, readable)
        )  # Cached because `isinstance` with a protocol is slow.
        self._sequences = [
            accumulator for accumulator in readable if isinstance(accumulator, Sequences)
        ]
        self._sequence_lanes = sequence_lanes(layout)
        self._read_directly = [
            accumulator for accumulator in readable if not isinstance(accumulator, Sequences)
        ]
        self._tag = hash64(f"{layout.entity.name}/{layout.reading_lanes}") % (1 << TAG_BITS - 1)
        none = self.finish(np.zeros((1, layout.state_lanes), np.int64), np.ones(1, np.int64))
        self._no_reading = self._read_stored(none).tobytes()

    def states(self, snapshot: Snapshot, keys: Keys) -> Int64s:
        """Return a copy of the states (n, state lanes); zeros for missing keys."""
        return self.read_states(snapshot, keys).states

    def read_states(self, snapshot: Snapshot, keys: Keys) -> StateBatch:
        """Return the states with the size of each record."""
        joined, sizes = snapshot.get_sized(self.keys(b"s", keys))
        return self.unpack(joined, np.array(sizes, np.int64))

    def unpack(self, joined: bytes, sizes: Int64s) -> StateBatch:
        filled = self._packing.unpack(joined, sizes)
        return StateBatch(filled.states(self.layout.state_lanes), filled, sizes)

    def update(self, batch: StateBatch, new: Int64s, parts: Sequence[Part]) -> None:
        """Apply events in place; `new` (n,) is each state's newest ts with them."""
        states, old = batch.states, batch.states[:, NEWEST].copy()
        self._tiles.advance(states, batch.filled, old, new)
        for accumulator, rows, additions_ in parts:
            if len(rows):
                accumulator.update(states, new, rows, additions_)
        states[:, NEWEST] = new

    def readings(self, snapshot: Snapshot, keys: Keys) -> Int64s:
        """Return the reading records (n, reading lanes); missing keys read like an entity without
        events.

        Raises:
            DamageError: a record is cut short, or has another layout.
        """
        data = snapshot.get_many(self.keys(b"r", keys), default=self._no_reading)
        lanes = len(self._stored_lanes)
        is_complete = len(data) == 8 * lanes * len(keys)
        stored = (
            np.frombuffer(data, LANE).reshape(len(keys), lanes)
            if is_complete
            else np.zeros((1, lanes), LANE)
        )
        if (stored.view(TAGS)[:, 4 * COMMIT + 3] != self._tag).any():
            message = (
                f"a reading record of {self.layout.entity.name} is cut short, or of another format"
            )
            raise DamageError(
                message,
                fix="delete the schema's folder below state/; the worker builds it anew from the "
                "lake",
            )
        if not self._sequences:
            return stored
        readings = np.zeros((len(keys), self.layout.reading_lanes), np.int64)
        readings[:, self._stored_lanes] = stored
        joined, sizes = snapshot.get_sized(self.keys(b"s", keys))
        filled = self._packing.unpack(joined, np.array(sizes, np.int64))
        lane = self._sequence_lanes[filled.lane]
        sequence_lanes_ = np.flatnonzero(lane)
        readings[filled.row[sequence_lanes_], lane[sequence_lanes_]] = filled.value[sequence_lanes_]
        return readings

    def finish(
        self,
        states: Int64s,
        t: Int64s,
        commit: int = 0,
        *,
        sequences: bool = True,
        filled: FilledLanes | None = None,
    ) -> Int64s:
        """Return the reading records of the states at t (n,), each above its state's newest ts.

        The lanes of sequences are included on request. `filled`: the states' non-zero lanes, if the
        caller has them.
        """
        readings = np.zeros((len(states), self.layout.reading_lanes), np.int64)
        readings[:, NEWEST] = newest = states[:, NEWEST]
        readings[:, VALID_FROM] = t
        readings[:, COMMIT] = commit
        readings[:, NEXT_CHANGE] = self._tiles.finish(
            FilledLanes.from_states(states) if filled is None else filled, newest, t, readings
        )
        for accumulator in self._read_directly:
            accumulator.finish(states, readings)
        for accumulator in self._sequences if sequences else ():
            accumulator.finish(states, readings)
        return readings

    def pack(self, states: Int64s, filled: FilledLanes | None = None) -> list[bytes]:
        return self._packing.pack(states, filled)

    def reading_records(self, keys: Keys, readings: Int64s) -> list[tuple[bytes, bytes]]:
        """Return the records to write for the readings of `finish`."""
        data, width = self._read_stored(readings).tobytes(), 8 * len(self._stored_lanes)
        starts = range(0, len(data), width)
        return [
            (key, data[start : start + width])
            for key, start in zip(self.keys(b"r", keys), starts, strict=True)
        ]

    def keys(self, kind: bytes, keys: Keys) -> list[bytes]:
        """Return the keys of state ("s") or reading ("r") records."""
        head = np.frombuffer(kind + self._index, np.uint8)
        table = np.empty((len(keys), 11), np.uint8)
        table[:, :3] = head
        table[:, 3:] = keys.astype(">u8").view(np.uint8).reshape(len(keys), 8)
        return table.reshape(-1).view(_RECORD_KEY).tolist()

    def _read_stored(self, readings: Int64s) -> Int64s:
        stored = readings[:, self._stored_lanes].astype(LANE)
        stored[:, COMMIT] |= self._tag << 64 - TAG_BITS
        return stored


def all_records(layout: Layout) -> list[Records]:
    """Return the records of each entity, by index."""
    return [Records(entity) for entity in layout.entities]


def stored_lanes(layout: EntityLayout) -> npt.NDArray[np.intp]:
    """Return the lanes of a reading that are stored: all but those of sequences."""
    is_stored = np.ones(layout.reading_lanes, np.bool_)
    for sequence in layout.sequences:
        is_stored[
            sequence.reading_lane : sequence.reading_lane
            + sequence.reading_columns * sequence.length
        ] = False
    return np.flatnonzero(is_stored)


def sequence_lanes(layout: EntityLayout) -> npt.NDArray[np.intp]:
    """Return for each lane of the state its lane in the reading if it belongs to a sequence, else
    0.
    """
    reading_lanes = np.zeros(layout.state_lanes, np.intp)
    for sequence in layout.sequences:
        for index, column in enumerate((0, *range(2, sequence.state_columns))):  # without the id
            source, to = (
                sequence.lane + column * sequence.length,
                sequence.reading_lane + index * sequence.length,
            )
            reading_lanes[source : source + sequence.length] = np.arange(to, to + sequence.length)
    return reading_lanes
