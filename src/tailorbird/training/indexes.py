"""Indexes as of several moments, so that no training row sees an index that knows its own future.

A row at t is encoded with the newest index whose `as_of` is not after t. Training rows before the first one are not used. The bundle
gets yet another index, as of now: what was judged is the model over an index about as old as the one that will serve.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import UsageError
from tailorbird.events import DAY, HOUR
from tailorbird.events.schema import TIME
from tailorbird.ranking.slot import Slot
from tailorbird.ranking.tower import Space
from tailorbird.retrieval import Cooccurrence, Index, build_index
from tailorbird.retrieval.segments import FIELDS
from tailorbird.retrieval.sessions import SOURCES, Plan
from tailorbird.training.by_segment import RollingSegments
from tailorbird.training.coding import INTERESTS, Codes
from tailorbird.training.item_to_item import Rolling
from tailorbird.training.like_sessions import RollingSessions

Ints = npt.NDArray[np.int64]

READ = ("type", "ts", "person", "item_id", "agent", "counts", *FIELDS)  # what an index is built from
ITEMS = pa.schema([("id", pa.string()), ("valid_from", TIME), ("attributes", pa.string()), ("timeless", pa.bool_())])


@dataclass(frozen=True)
class IndexSettings:
    """How indexes are built, for training and for serving alike.

    Attributes:
        memory_us: only events of this long before `as_of` are counted; None counts all.
        gap_us: a person's sequence is cut where more time passes.
        backward: whether an item also leads to what came before it.
        event_types: what shows interest.
        sessions: how the newest sessions are kept; None keeps none.
    """

    memory_us: int | None = None
    gap_us: int = DAY
    backward: bool = True
    event_types: tuple[str, ...] = INTERESTS
    sessions: Plan | None = None

    def asked_by(self, *slots: Slot) -> "IndexSettings":
        """The same with sessions, where a slot asks them and nobody said how they are kept."""
        if self.sessions is None and any(source in slot.sources for slot in slots for source in SOURCES):
            return replace(self, sessions=Plan())
        return self


@dataclass(frozen=True)
class Room:
    """How many bytes indexes that are made every `every` microseconds may take together, all of them being held at once."""

    most: int
    every: int

    def must_hold(self, taken: int, made: int, wanted: int) -> None:
        """Raises:
        UsageError: what was made takes more; says how many were wanted, and how often there is room for.
        """
        if taken <= self.most:
            return
        least = math.ceil(self.every * wanted / made / HOUR)
        raise UsageError(
            f"{made} of {wanted} indexes take {taken / (1 << 20):,.0f} MB, and there is room for {self.most / (1 << 20):,.0f}",
            where="[train] index_every",
            fix=f'make them less often (index_every = "{least}h"), count less in each (index_memory), or give them room (index_room_mb)',
        )


@dataclass(frozen=True)
class IndexSeries:
    """Indexes by the moment of which they are, ascending; `spaces`: vectors over each of them, None over those
    before which too little had happened; or none at all."""

    moments: Ints
    indexes: tuple[Index, ...]
    spaces: tuple[Space | None, ...] = ()

    def place_of(self, t: Ints) -> Ints:
        """Which index a row at t may use; −1 where there is none yet."""
        return np.searchsorted(self.moments, t, side="right") - 1

    def space(self, place: int) -> Space | None:
        """The vectors over an index, None where the series has none."""
        return self.spaces[place] if self.spaces else None

    @property
    def with_sessions(self) -> bool:
        """Whether they hold the newest sessions."""
        return any(index.sessions is not None for index in self.indexes)

    def rolling(self, items: Codes) -> Rolling:
        """Their item-to-item tables, sessions and segments, with items by code."""
        tables = [_recoded(index, items) for index in self.indexes]
        sessions = RollingSessions(self.moments, self.indexes, items.keys) if self.with_sessions else None
        return Rolling(self.moments, tables, len(items), sessions, RollingSegments(self.moments, self.indexes, items.keys))


def build_series(
    events: pa.Table,
    items: pa.Table,
    moments: Sequence[int],
    settings: IndexSettings = IndexSettings(),
    *,
    room: Room | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IndexSeries:
    """Build an index for each moment, in a temporary folder, and open it; the newest, which are the largest, first.

    Args:
        room: how much they may take.

    Raises:
        UsageError: they take more.
    """
    ordered = sorted(set(moments))
    indexes: list[Index] = []
    taken = 0
    with tempfile.TemporaryDirectory(prefix="tailorbird-index-") as folder:
        for done, moment in enumerate(reversed(ordered), 1):
            path = Path(folder) / str(moment)
            write_index(path, events, items, moment, settings)
            if room is not None:
                taken += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                room.must_hold(taken, done, len(ordered))
            indexes.append(Index.open(path))
            if progress is not None:
                progress(done, len(ordered))
    return IndexSeries(np.array(ordered, np.int64), tuple(reversed(indexes)))


def write_index(folder: Path, events: pa.Table, items: pa.Table, as_of: int, settings: IndexSettings = IndexSettings()) -> None:
    """Build the index as of one moment in a new folder; without vectors, which a `towers.Learner` lays over it."""
    columns = [name for name in READ if name in events.column_names]
    seen = events.select(columns)
    if settings.memory_us is not None:
        ts = seen["ts"].cast(pa.int64())
        seen = seen.filter(pc.and_(pc.less(ts, as_of), pc.greater_equal(ts, as_of - settings.memory_us)))
    build_index(
        folder, seen, items, as_of=as_of, event_types=settings.event_types, gap_us=settings.gap_us, backward=settings.backward,
        sessions=settings.sessions,
    )  # fmt: skip


def no_items() -> pa.Table:
    """A table of items for a log without item profiles."""
    return ITEMS.empty_table()


def _recoded(index: Index, items: Codes) -> Cooccurrence:
    """The index's table with item codes in place of rows."""
    row = index.find(items.keys)
    code = np.full(len(index) + 1, -1, np.int64)
    code[row] = np.arange(len(items))  # items that the index does not know have row −1, which is the spare last place
    code[-1] = -1
    table = index.item_item
    known = np.flatnonzero(row >= 0)
    at, nth = table.entries(row[known].astype(np.intp))
    owner, follower = known[nth], code[table.items[at]]
    kept = follower >= 0
    owner, follower, weight = owner[kept], follower[kept], table.weights[at][kept]
    order = np.lexsort((follower, owner))
    indptr = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(items))))).astype(np.int64)
    return Cooccurrence(indptr, follower[order].astype(np.int32), weight[order])
