"""The records of a feature set in a store: their keys, and arrays of them in and out. One folder a
schema: `state/<schema hash>/`, or where several workers share the entities, one for each:
`state/part-0-of-3/<schema hash>/`.

    h                        the schema hash: a folder under another name is refused
    m                        position: commit, p, offset, newest ts, applied rows, ready
    c  commit u64            p, written_at: what each commit stands for; answers log the commit that they read
    a  key u64               alias: ts, p, user id of the newest identify of an anonymous id; for good, since a person may come
                             back, and the router goes on to count the anonymous id's events for that person
    u  key u64               merge: the same of a user's newest merge, and whom it names
    g                        there are merges in this state
    n  entity u16            tally: how many entities of a kind, and their bytes (`features.idle`)
    e                        up to when idle entities have expired
    s  entity u16  key u64   state record        (big-endian keys, so that a batch is written in the order of the tree;
    r  entity u16  key u64   reading record       lanes of 64 bits are little-endian, those of states packed)

The worker writes all of them, readers read all but the first and second kinds together with the
rest of one commit.
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
from tailorbird.features.accumulators import Accumulator, Part, Readable, Sequences, accumulators
from tailorbird.features.columns import Keys
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.keypart import WHOLE, KeyPart
from tailorbird.features.layout import COMMIT, NEWEST, NEXT_CHANGE, VALID_FROM, EntityLayout, Layout
from tailorbird.features.packing import Packing
from tailorbird.features.tiles import Filled, Tiles
from tailorbird.store import EmbeddedStore, Snapshot, open_store

Int64s = npt.NDArray[np.int64]
LANE = np.dtype("<i8")

TAGS = np.dtype("<u2")
TAG_BITS = 16  # of a reading record's commit, the highest
COMMITS_KEPT = (
    100_000  # answers carry commit and p themselves; the table is for looking back a day or so
)

_POSITION = struct.Struct("<6q")
_COMMIT = struct.Struct("<2q")
_ALIAS = struct.Struct("<2q")
POSITION_KEY = b"m"
COMMITS = b"c"
ALIASES = b"a"
MERGES = b"u"
ANY_MERGES_KEY = b"g"
_RECORD_KEY = np.dtype("V11")  # a list of these is one of bytes
_SCHEMA_KEY = b"h"


@dataclass(frozen=True)
class Position:
    """How far the state is.

    Attributes:
        commit: numbered from 1.
        p: everything routed up to here is applied; `value(entity, t, p)` of what is read.
        offset: of the routed log, from where to read on.
        newest: the newest ts applied.
        rows: how many events were applied.
        ready: 0 while the history is still being taken in.
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
    """Who an anonymous id is by the newest identify by (ts, p), or a user by the newest merge."""

    ts: int
    p: int
    user_id: str

    @classmethod
    def decode(cls, data: bytes) -> "Alias":
        ts, p = _ALIAS.unpack_from(data)
        return cls(ts, p, data[_ALIAS.size :].decode())

    def encode(self) -> bytes:
        return _ALIAS.pack(self.ts, self.p) + self.user_id.encode()


def state_folder(state: Path, features: FeatureSet, part: KeyPart = WHOLE) -> Path:
    return part.folder(state) / features.schema_hash


def open_state(
    state: Path, features: FeatureSet, part: KeyPart = WHOLE, *, create: bool = False
) -> EmbeddedStore:
    """The store of this schema below `state`, or of a part of its entities.

    Raises:
        NotReadyError: there is none, and `create` is not set.
        DamageError: what lies there is the state of another schema.
    """
    folder = state_folder(state, features, part)
    store = open_store(folder, create=create)
    with store.snapshot() as snapshot:
        told = snapshot.get(_SCHEMA_KEY)
    if told is not None and told.decode(errors="replace") != features.schema_hash:
        store.close()
        message = (
            f"holds the state of schema {told.decode(errors='replace')}, not of "
            f"{features.schema_hash}"
        )
        raise DamageError(
            message, where=str(folder), fix="remove the folder; its worker builds it anew"
        )
    if create and told is None:
        store.write(lambda transaction: transaction.put_many([schema_record(features)]))
    return store


def schema_record(features: FeatureSet) -> tuple[bytes, bytes]:
    return _SCHEMA_KEY, features.schema_hash.encode()


def read_position(snapshot: Snapshot) -> Position:
    return position_of(snapshot.get(POSITION_KEY))


def position_of(found: bytes | None) -> Position:
    """A position as its record has it; that of a state without one."""
    return Position(*_POSITION.unpack(found)) if found else Position()


def position_in(state: Path, features: FeatureSet, part: KeyPart = WHOLE) -> Position:
    """How far the state on this machine is. Raises NotReadyError where there is none."""
    store = open_state(state, features, part)
    try:
        with store.snapshot() as snapshot:
            return read_position(snapshot)
    finally:
        store.close()


def commit_record(position: Position, written_at: int) -> tuple[bytes, bytes]:
    return _commit_key(position.commit), _COMMIT.pack(position.p, written_at)


def outlived_commits(position: Position) -> list[bytes]:
    """The keys that go when `position` is committed, so that the table stays bounded."""
    return [_commit_key(position.commit - COMMITS_KEPT)] if position.commit > COMMITS_KEPT else []


def commits(snapshot: Snapshot) -> Iterator[tuple[int, int, int]]:
    """(commit, p, written_at) of each commit, oldest first."""
    for key, value in snapshot.scan(COMMITS):
        yield int.from_bytes(key[1:], "big"), *_COMMIT.unpack(value)


def _commit_key(commit: int) -> bytes:
    return COMMITS + commit.to_bytes(8, "big")


def alias_key(anonymous_id: str) -> bytes:
    return ALIASES + hash64(anonymous_id).to_bytes(8, "big")


def merge_key(user_id: str) -> bytes:
    return MERGES + hash64(user_id).to_bytes(8, "big")


def read_alias(snapshot: Snapshot, key: bytes) -> Alias | None:
    """What stands under an `alias_key` or a `merge_key`."""
    found = snapshot.get(key)
    return None if found is None else Alias.decode(found)


def count_aliases(snapshot: Snapshot) -> tuple[int, int]:
    """How many anonymous ids are somebody, and the bytes of their records, keys included. They stay
    for good, as the router's do.
    """
    count = size = 0
    for key, value in snapshot.scan(ALIASES):
        count, size = count + 1, size + len(key) + len(value)
    return count, size


@dataclass(frozen=True)
class Held:
    """State records as they were read: `states` (n, state lanes), a copy; `sizes` (n,) in bytes, 0
    for one that is not there.
    """

    states: Int64s
    filled: Filled
    sizes: Int64s


class Records:
    """The records of one entity, as arrays: a row for each key.

    State records are packed (`features.packing`). Reading records have a fixed width, without the
    lanes of sequences, which are read from the state; the high bits of their commit say which
    records they are, so that none is misread.
    """

    def __init__(self, layout: EntityLayout) -> None:
        self.layout = layout
        self.accumulators: list[Accumulator[Any]] = accumulators(layout)
        self._packing = Packing(layout)
        self._tiles = Tiles(layout)
        self._index = layout.index.to_bytes(2, "big")
        self._kept = kept_lanes(layout)
        readable = [one for one in self.accumulators if isinstance(one, Readable)]
        self.readable = frozenset(
            map(id, readable)
        )  # asked for at each step, and asking what a protocol has is slow
        self._sequences = [one for one in readable if isinstance(one, Sequences)]
        self._sequence_lanes = sequence_lanes(layout)
        self._read_directly = [one for one in readable if not isinstance(one, Sequences)]
        self._tag = hash64(f"{layout.entity.name}/{layout.reading_lanes}") % (1 << TAG_BITS - 1)
        none = self.finish(np.zeros((1, layout.state_lanes), np.int64), np.ones(1, np.int64))
        self._no_reading = self._stored(none).tobytes()

    def states(self, snapshot: Snapshot, keys: Keys) -> Int64s:
        """(n, state lanes), a copy; of keys that are not there, zeros."""
        return self.held(snapshot, keys).states

    def held(self, snapshot: Snapshot, keys: Keys) -> Held:
        """As `states`, with the bytes of each record."""
        joined, sizes = snapshot.get_sized(self.keys(b"s", keys))
        return self.unpacked(joined, np.array(sizes, np.int64))

    def unpacked(self, joined: bytes, sizes: Int64s) -> Held:
        filled = self._packing.unpack(joined, sizes)
        return Held(filled.states(self.layout.state_lanes), filled, sizes)

    def update(self, held: Held, new: Int64s, parts: Sequence[Part]) -> None:
        """Take up events, in place; `new` (n,) is the newest ts of each state with them."""
        states, old = held.states, held.states[:, NEWEST].copy()
        self._tiles.advance(states, held.filled, old, new)
        for accumulator, rows, added in parts:
            if len(rows):
                accumulator.update(states, new, rows, added)
        states[:, NEWEST] = new

    def readings(self, snapshot: Snapshot, keys: Keys) -> Int64s:
        """(n, reading lanes); of keys that are not there, what is read of an entity without events.

        Raises:
            DamageError: a record is cut short, or of other lanes than these.
        """
        data = snapshot.get_many(self.keys(b"r", keys), default=self._no_reading)
        lanes = len(self._kept)
        whole = len(data) == 8 * lanes * len(keys)
        stored = (
            np.frombuffer(data, LANE).reshape(len(keys), lanes)
            if whole
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
        readings[:, self._kept] = stored
        joined, sizes = snapshot.get_sized(self.keys(b"s", keys))
        filled = self._packing.unpack(joined, np.array(sizes, np.int64))
        lane = self._sequence_lanes[filled.lane]
        some = np.flatnonzero(lane)
        readings[filled.row[some], lane[some]] = filled.value[some]
        return readings

    def finish(
        self,
        states: Int64s,
        t: Int64s,
        commit: int = 0,
        *,
        sequences: bool = True,
        filled: Filled | None = None,
    ) -> Int64s:
        """The reading records of the states at t (n,), each above its state's newest ts; the lanes
        of sequences only if asked for.

        `filled`: the states' filled lanes, where the caller has them.
        """
        readings = np.zeros((len(states), self.layout.reading_lanes), np.int64)
        readings[:, NEWEST] = newest = states[:, NEWEST]
        readings[:, VALID_FROM] = t
        readings[:, COMMIT] = commit
        readings[:, NEXT_CHANGE] = self._tiles.finish(
            Filled.of(states) if filled is None else filled, newest, t, readings
        )
        for one in self._read_directly:
            one.finish(states, readings)
        for one in self._sequences if sequences else ():
            one.finish(states, readings)
        return readings

    def packed(self, states: Int64s, filled: Filled | None = None) -> list[bytes]:
        return self._packing.pack(states, filled)

    def published(self, keys: Keys, readings: Int64s) -> list[tuple[bytes, bytes]]:
        """The reading records to be written of `finish`'s readings."""
        data, width = self._stored(readings).tobytes(), 8 * len(self._kept)
        starts = range(0, len(data), width)
        return [
            (key, data[start : start + width])
            for key, start in zip(self.keys(b"r", keys), starts, strict=True)
        ]

    def keys(self, kind: bytes, keys: Keys) -> list[bytes]:
        """Under which keys the state ("s") and reading ("r") records stand."""
        head = np.frombuffer(kind + self._index, np.uint8)
        table = np.empty((len(keys), 11), np.uint8)
        table[:, :3] = head
        table[:, 3:] = keys.astype(">u8").view(np.uint8).reshape(len(keys), 8)
        return table.reshape(-1).view(_RECORD_KEY).tolist()

    def _stored(self, readings: Int64s) -> Int64s:
        stored = readings[:, self._kept].astype(LANE)
        stored[:, COMMIT] |= self._tag << 64 - TAG_BITS
        return stored


def all_records(layout: Layout) -> list[Records]:
    """By index of the entity."""
    return [Records(one) for one in layout.entities]


def kept_lanes(layout: EntityLayout) -> npt.NDArray[np.intp]:
    """The lanes of a reading that are stored: all but those of sequences."""
    kept = np.ones(layout.reading_lanes, np.bool_)
    for one in layout.sequences:
        kept[one.reading_lane : one.reading_lane + one.reading_columns * one.length] = False
    return np.flatnonzero(kept)


def sequence_lanes(layout: EntityLayout) -> npt.NDArray[np.intp]:
    """By lane of the state, at which lane of the reading it stands if it is read of a sequence,
    else 0.
    """
    found = np.zeros(layout.state_lanes, np.intp)
    for one in layout.sequences:
        for place, column in enumerate((0, *range(2, one.state_columns))):  # without the id
            from_, to = one.lane + column * one.length, one.reading_lane + place * one.length
            found[from_ : from_ + one.length] = np.arange(to, to + one.length)
    return found
