"""Published tables as records of a store, and their reader for servers.

    e                      JSON: contract, and p, t and `at` by group of tables
    b  board segment       total, items and counts of a leaderboard; segment 0 is all users
    n                      new items and scores
    k  item                neighbours and weights
    i  item                first seen, category, id
    s  n                   the session table, in parts of at most a megabyte

Numbers are little-endian. The role commits the records of an epoch and `e` in one transaction, so a
snapshot shows whole epochs.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from tailorbird.candidates.contract import Board, Contract
from tailorbird.candidates.protocol import (
    ALL_USERS,
    BOARDS,
    EMPTY_LIST,
    SESSIONS,
    BoardTable,
    Epoch,
    ItemFacts,
    Keys,
    Neighbours,
    RankedList,
)
from tailorbird.candidates.session_knn.sessions import Sessions
from tailorbird.errors import DamageError
from tailorbird.store.protocol import Snapshot

SESSION_PART_BYTES = 1 << 20
_FACTS = struct.Struct("<qQ")
_LIST_HEADER = struct.Struct("<qI")


class GroupEpoch(
    msgspec.Struct, frozen=True, rename={"position": "p", "ts": "t", "current_as_of": "at"}
):
    """A published epoch of a group of tables.

    Attributes:
        position: all events routed at or before it are in the tables.
        ts: one microsecond after the newest of these events.
        current_as_of: when it was last known to be the newest state of the log, microseconds.
    """

    position: int
    ts: int
    current_as_of: int


class PublishedEpoch(msgspec.Struct, frozen=True, rename={"session_parts": "sessions"}):
    """The record `e`.

    Attributes:
        contract: hash of the contract.
        boards: leaderboards in the order in which records number them.
        groups: by group of tables.
        session_parts: how many parts the session table has.
        evicted_counts: by kind, what was forgotten because there was too much of it.
    """

    contract: str
    boards: tuple[Board, ...]
    groups: dict[str, GroupEpoch]
    session_parts: int = 0
    evicted_counts: dict[str, int] = {}


EPOCH_KEY = b"e"  # key of the record


# Encoding


def epoch_record(published: PublishedEpoch) -> tuple[bytes, bytes]:
    return EPOCH_KEY, msgspec.json.encode(published)


def board_record(board_number: int, segment: int, table: BoardTable) -> tuple[bytes, bytes]:
    items = table.items
    return _board_key(board_number, segment), _LIST_HEADER.pack(
        table.total, len(items)
    ) + _to_bytes(items.keys, "<u8") + _to_bytes(items.scores, "<i8")


def new_items_record(items: RankedList) -> tuple[bytes, bytes]:
    return b"n", _LIST_HEADER.pack(0, len(items)) + _to_bytes(items.keys, "<u8") + _to_bytes(
        items.scores, "<f8"
    )


def neighbour_records(keys: Keys, neighbours: Neighbours) -> Iterator[tuple[bytes, bytes]]:
    """Yield a record for each item of `keys`."""
    data = _to_bytes(neighbours.keys, "<u8")
    weights = _to_bytes(neighbours.weights, "<f4")
    for record_key, start, stop in zip(
        _item_keys(b"k", keys),
        neighbours.offsets[:-1].tolist(),
        neighbours.offsets[1:].tolist(),
        strict=True,
    ):
        yield record_key, data[8 * start : 8 * stop] + weights[4 * start : 4 * stop]


def item_record_keys(keys: Keys) -> list[bytes]:
    """Return the keys of the records of items to delete."""
    return [*_item_keys(b"k", keys), *_item_keys(b"i", keys)]


def facts_records(
    keys: Keys, facts: ItemFacts, ids: Sequence[str]
) -> Iterator[tuple[bytes, bytes]]:
    for record_key, first_seen, category, item_id in zip(
        _item_keys(b"i", keys), facts.first_seen.tolist(), facts.category.tolist(), ids, strict=True
    ):
        yield record_key, _FACTS.pack(first_seen, category) + item_id.encode()


def session_records(table: Sessions) -> list[tuple[bytes, bytes]]:
    """Return the parts of the session table, in order."""
    arrays = (
        (table.item_keys, "<u8"),
        (table.offsets, "<i8"),
        (table.item_index, "<i4"),
        (table.positions, "<i4"),
        (table.age_weights, "<f8"),
    )
    body = struct.pack("<q", table.gap_us)
    for array, dtype in arrays:
        data = _to_bytes(array, dtype)
        body += struct.pack("<q", len(data)) + data
    starts = range(0, len(body), SESSION_PART_BYTES)
    return [
        (_session_key(number), body[start : start + SESSION_PART_BYTES])
        for number, start in enumerate(starts)
    ]


def session_keys(first_part: int, end_part: int) -> list[bytes]:
    """Return the keys of the parts of a session table to delete."""
    return [_session_key(number) for number in range(first_part, end_part)]


def _session_key(part_number: int) -> bytes:
    return b"s" + struct.pack(">I", part_number)


def _to_bytes(array: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(array).astype(dtype).tobytes()


def _board_key(board_number: int, segment: int) -> bytes:
    return b"b" + struct.pack(">HQ", board_number, segment)


def _item_keys(prefix: bytes, keys: Keys) -> list[bytes]:
    return [
        prefix + key
        for key in (
            keys.astype(">u8").tobytes()[start : start + 8] for start in range(0, 8 * len(keys), 8)
        )
    ]


# Reading


class CachedBoard(NamedTuple):
    """A decoded leaderboard, with the position and the bytes that it was decoded from."""

    position: int
    data: bytes
    table: BoardTable


class CachedNewItems(NamedTuple):
    """The decoded new items, with the bytes that they were decoded from."""

    data: bytes
    items: RankedList


class CachedSessions(NamedTuple):
    """The decoded session table, and its epoch."""

    epoch: Epoch
    table: Sessions


@dataclass
class _DecodedTables:
    """A cache of tables decoded from the newest epochs."""

    epoch_record: bytes = b""
    published: PublishedEpoch | None = None
    boards: dict[tuple[Board, int], CachedBoard] = field(default_factory=dict)
    new_items: CachedNewItems | None = None
    sessions: CachedSessions | None = None


class Readable(Protocol):
    """A store that is read only."""

    def snapshot(self) -> AbstractContextManager[Snapshot]: ...
    def close(self) -> None: ...


class TableReader:
    """A reader of the tables of a store, caching what it decoded.

    Safe to use from several threads.

    Args:
        contract: whose tables the store holds.
    """

    def __init__(self, store: Readable, contract: Contract) -> None:
        self._store = store
        self.contract = contract
        self._decoded = _DecodedTables()

    @contextmanager
    def tables(self) -> Iterator["PublishedTables"]:
        """Open the newest tables until the end of the block."""
        with self._store.snapshot() as snapshot:
            yield PublishedTables(snapshot, self._decoded_tables_of(snapshot))

    def prefetch_sessions(self) -> None:
        """Decode a new session table ahead of the next request."""
        with self._store.snapshot() as snapshot:
            PublishedTables(snapshot, self._decoded_tables_of(snapshot)).renew_sessions()

    def published(self) -> PublishedEpoch | None:
        """Return the published epoch, or None."""
        with self._store.snapshot() as snapshot:
            return self._decoded_tables_of(snapshot).published

    @property
    def last_published(self) -> PublishedEpoch | None:
        """The published epoch as of the last request or refresh."""
        return self._decoded.published

    def close(self) -> None:
        self._store.close()

    def _decoded_tables_of(self, snapshot: Snapshot) -> _DecodedTables:
        record = snapshot.get(EPOCH_KEY) or b""
        decoded = self._decoded
        if decoded.epoch_record == record:
            return decoded
        new_decoded = _DecodedTables(
            record, read_epoch(record), dict(decoded.boards), decoded.new_items, decoded.sessions
        )
        self._decoded = new_decoded
        return new_decoded


def read_epoch(data: bytes | None) -> PublishedEpoch | None:
    """Decode the record of the published epoch, or return None.

    Raises DamageError.
    """
    try:
        return msgspec.json.decode(data, type=PublishedEpoch) if data else None
    except msgspec.MsgspecError as error:
        raise DamageError(
            f"the published candidates cannot be read: {error}",
            fix="remove data/candidates; they are built anew",
        ) from error


class PublishedTables:
    """The tables of one snapshot. Implements `protocol.CandidateTables`."""

    def __init__(self, snapshot: Snapshot, decoded: _DecodedTables) -> None:
        self._snapshot = snapshot
        self._decoded = decoded
        self.published = decoded.published

    @property
    def epochs(self) -> Mapping[str, Epoch]:
        groups = self.published.groups if self.published is not None else {}
        epochs = {name: Epoch(group.position, group.ts) for name, group in groups.items()}
        # The session table in use is the one decoded last, which may be older than the newest.
        return epochs | (
            {SESSIONS: self._decoded.sessions.epoch} if self._decoded.sessions is not None else {}
        )

    def leaderboard(self, board: Board, segment: int = ALL_USERS) -> BoardTable:
        if self.published is None or board not in self.published.boards:
            return BoardTable()
        position = self.published.groups[BOARDS].position
        cached_board = self._decoded.boards.get((board, segment))
        if cached_board is None or cached_board.position != position:
            board_number = self.published.boards.index(board)
            data = self._snapshot.get(_board_key(board_number, segment)) or b""
            # Most boards do not change between epochs, so decoded ones are reused.
            if cached_board is None or cached_board.data != data:
                table = _decode_board(data)
            else:
                table = cached_board.table
            cached_board = self._decoded.boards[board, segment] = CachedBoard(position, data, table)
        return cached_board.table

    def new_items(self) -> RankedList:
        data = self._snapshot.get(b"n")
        if data is None:
            return EMPTY_LIST
        if self._decoded.new_items is None or self._decoded.new_items.data != data:
            _, count = _LIST_HEADER.unpack_from(data)
            self._decoded.new_items = CachedNewItems(
                data, RankedList(*_decode_list(data, count, "<f8"))
            )
        return self._decoded.new_items.items

    def neighbours(self, keys: Keys) -> Neighbours:
        data, sizes = self._snapshot.get_many_with_sizes(_item_keys(b"k", keys))
        ends = np.cumsum(sizes)
        counts = np.array(sizes, np.int64) // 12
        key_parts = [np.zeros(0, np.uint64)]
        weights = [np.zeros(0, np.float32)]
        for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
            begin = end - 12 * count
            key_parts.append(np.frombuffer(data, "<u8", count, begin))
            weights.append(np.frombuffer(data, "<f4", count, begin + 8 * count))
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        return Neighbours(offsets, np.concatenate(key_parts), np.concatenate(weights))

    def sessions(self) -> Sessions | None:
        if self._decoded.sessions is None:
            self.renew_sessions()
        return self._decoded.sessions.table if self._decoded.sessions is not None else None

    def renew_sessions(self) -> None:
        """Decode the session table if it differs from the cached one."""
        if (
            self.published is None
            or SESSIONS not in self.published.groups
            or not self.published.session_parts
        ):
            return
        group = self.published.groups[SESSIONS]
        cached_sessions = self._decoded.sessions
        if cached_sessions is None or cached_sessions.epoch.position != group.position:
            parts = [
                self._snapshot.get(_session_key(number)) or b""
                for number in range(self.published.session_parts)
            ]
            table = _decode_sessions(b"".join(parts))
            table.precompute()
            self._decoded.sessions = CachedSessions(Epoch(group.position, group.ts), table)

    def facts(self, keys: Keys) -> ItemFacts:
        data, sizes = self._snapshot.get_many_with_sizes(_item_keys(b"i", keys))
        first_seen = np.zeros(len(keys), np.int64)
        category = np.zeros(len(keys), np.uint64)
        begin = 0
        for index, size in enumerate(sizes):
            if size:
                first_seen[index], category[index] = _FACTS.unpack_from(data, begin)
            begin += size
        return ItemFacts(first_seen, category)


def _decode_board(data: bytes) -> BoardTable:
    if not data:
        return BoardTable()
    total, count = _LIST_HEADER.unpack_from(data)
    return BoardTable(RankedList(*_decode_list(data, count, "<i8")), total)


def _decode_list(data: bytes, count: int, dtype: str) -> tuple[Keys, np.ndarray]:
    keys = np.frombuffer(data, "<u8", count, _LIST_HEADER.size)
    return keys, np.frombuffer(data, dtype, count, _LIST_HEADER.size + 8 * count).astype(np.float64)


def _decode_sessions(data: bytes) -> Sessions:
    (gap_us,) = struct.unpack_from("<q", data)
    start = 8
    arrays = []
    for dtype in ("<u8", "<i8", "<i4", "<i4", "<f8"):
        (size,) = struct.unpack_from("<q", data, start)
        arrays.append(np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, start + 8))
        start += 8 + size
    item_keys, starts, items, position, age_weight = arrays
    return Sessions(
        item_keys=item_keys,
        offsets=starts,
        item_index=items,
        positions=position,
        age_weights=age_weight,
        gap_us=gap_us,
    )
