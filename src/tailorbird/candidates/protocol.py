"""The protocol of candidate sources: a fold over the routed log, and a query over its tables.

    routed log ──► CandidateFold.update ──► tables, as of position p ──► query ──► RankedList
                   (candidates role, or a replay of the lake)          (server, or the replay)

Guarantees of every fold: updating in log order gives the same state for any batch sizes. A restart
from a snapshot at p equals an uninterrupted run. Memory stays within the contract's settings, and
evictions are counted. Tables published at position p hold exactly the events routed at or before p.
A query is a pure function of tables and request, so that a list logged by a server can be
recomputed from the lake, ties included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.contract import Board
from tailorbird.candidates.session_knn.sessions import Sessions
from tailorbird.events.keys import hash64s

Keys = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]

ALL_USERS = 0  # the segment of all users, in place of the key of a value
NO_KEYS: Keys = np.zeros(0, np.uint64)
NO_TIMES: Int64s = np.zeros(0, np.int64)

item_keys = hash64s  # the name of the API


BOARDS, NEIGHBOURS, SESSIONS = GROUPS = (
    "boards",
    "neighbours",
    "sessions",
)  # tables that are published together


@dataclass(frozen=True)
class Epoch:
    """A published state: all events routed at or before `position`.

    `ts` (microseconds) is just after the newest of them.
    """

    position: int = 0
    ts: int = 0


@dataclass(frozen=True)
class RankedList:
    """Items of a source, best first.

    Attributes:
        keys: (n,): `events.hash64` of the ids, each once.
        scores: (n,): comparable within the source only.
    """

    keys: Keys
    scores: Floats

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def key_order(self) -> Positions:
        """The positions by ascending key, for lookups."""
        return np.argsort(self.keys, kind="stable")

    @cached_property
    def sorted_keys(self) -> Keys:
        """The keys, ascending."""
        return self.keys[self.key_order]

    @property
    def is_shared(self) -> bool:
        """True if keys were looked up in it before, as in a list that many requests read."""
        return "key_order" in self.__dict__

    @cached_property
    def digest(self) -> int:
        """A checksum of the items and their order, as a signed 64-bit integer."""
        return int.from_bytes(
            blake2b(self.keys.astype("<u8").tobytes(), digest_size=8).digest(),
            "little",
            signed=True,
        )

    def ranks(self, keys: Keys) -> Positions:
        """Return the position of each key in the list, −1 where it is not in it."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.intp)
        positions = np.minimum(np.searchsorted(self.sorted_keys, keys), len(self.keys) - 1)
        return np.where(self.sorted_keys[positions] == keys, self.key_order[positions], -1)

    def scores_of(self, keys: Keys) -> Floats:
        """Return the score of each key, 0 where it is not in the list."""
        rank = self.ranks(keys)
        scores = np.zeros(len(keys))
        is_listed = rank >= 0
        scores[is_listed] = self.scores[rank[is_listed]]
        return scores


EMPTY_LIST = RankedList(NO_KEYS, np.zeros(0))


@dataclass(frozen=True)
class BoardTable:
    """The most frequent items of one segment in one window.

    Attributes:
        items: the items, most frequent first; their scores are counts.
        total: all events of the segment in the window, those of items beyond the table included.
    """

    items: RankedList = EMPTY_LIST
    total: int = 0

    @cached_property
    def shares(self) -> RankedList:
        """The same items by their share of the segment's traffic."""
        shares = RankedList(self.items.keys, self.items.scores / max(self.total, 1))
        shares.__dict__["key_order"] = self.items.key_order
        shares.__dict__["sorted_keys"] = self.items.sorted_keys
        return shares


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of some items: item i has the entries offsets[i]:offsets[i + 1], best first.

    Attributes:
        keys, weights: (entries,): the neighbours and how strongly they follow, from 0 to 1.
    """

    offsets: Int64s
    keys: Keys
    weights: npt.NDArray[np.float32]

    def list_for(self, item_index: int) -> RankedList:
        """Return the neighbours of the item at a position, strongest first."""
        entries = slice(self.offsets[item_index], self.offsets[item_index + 1])
        return RankedList(self.keys[entries], self.weights[entries].astype(np.float64))


@dataclass(frozen=True)
class ItemFacts:
    """Facts of some items from the log; arrays of shape (n,).

    Attributes:
        first_seen: time of the item's first event or profile, microseconds; 0 if unknown.
        category: key of its newest category; 0 without one.
    """

    first_seen: Int64s
    category: Keys


class CandidateTables(Protocol):
    """Published tables, all as of one read.

    Servers read them from the store, a replay from the fold itself.
    """

    @property
    def epochs(self) -> Mapping[str, Epoch]:
        """The published state by group of tables."""
        ...

    def leaderboard(self, board: Board, segment: int = ALL_USERS) -> BoardTable:
        """Return the items of a segment, by the key of its value; 0 is all users."""
        ...

    def new_items(self) -> RankedList: ...
    def neighbours(self, keys: Keys) -> Neighbours: ...
    def sessions(self) -> Sessions | None: ...
    def facts(self, keys: Keys) -> ItemFacts: ...


@dataclass(frozen=True)
class CandidateRequest:
    """The part of a request that candidate sources read.

    Attributes:
        recent, recent_ts: keys and times of the person's newest items, oldest first.
        segments: key of the value of each context field, such as `device`; a field that is not
            known is missing.
    """

    recent: Keys = field(default_factory=lambda: NO_KEYS)
    recent_ts: Int64s = field(default_factory=lambda: NO_TIMES)
    segments: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class NoTables:
    """The tables of a project that has not published any."""

    epochs: Mapping[str, Epoch] = field(default_factory=dict)

    def leaderboard(self, board: Board, segment: int = ALL_USERS) -> BoardTable:
        return BoardTable()

    def new_items(self) -> RankedList:
        return EMPTY_LIST

    def neighbours(self, keys: Keys) -> Neighbours:
        return Neighbours(np.zeros(len(keys) + 1, np.int64), NO_KEYS, np.zeros(0, np.float32))

    def sessions(self) -> Sessions | None:
        return None

    def facts(self, keys: Keys) -> ItemFacts:
        return ItemFacts(np.zeros(len(keys), np.int64), np.zeros(len(keys), np.uint64))


NO_TABLES = NoTables()


def rank_items(keys: Keys, scores: Floats, limit: int) -> RankedList:
    """Return the items with a positive score, best first, ties by key, up to a limit."""
    positive_rows = np.flatnonzero(scores > 0)
    order = positive_rows[np.lexsort((keys[positive_rows], -scores[positive_rows]))[:limit]]
    return RankedList(keys[order], scores[order])


def concatenate_lists(lists: Sequence[RankedList]) -> tuple[Keys, Floats]:
    """Concatenate the keys and scores of several lists."""
    keys = np.concatenate([NO_KEYS, *(part.keys for part in lists)])
    return keys, np.concatenate([np.zeros(0), *(part.scores for part in lists)])
