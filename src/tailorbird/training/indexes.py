"""Items as they were known at several moments, so that no training row sees a profile of its own
future.

A row at t is encoded with the newest index whose `as_of` is not after t. An item that came between
two of them is in the earlier one as it was when it came: a server knows it within a second. What
people did with items is in no index, see `training.replaying`.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.schema import TIME
from tailorbird.ranking.tower import Space
from tailorbird.retrieval import Index, MeaningSettings, build_index
from tailorbird.training.coding import INTERESTS

Ints = npt.NDArray[np.int64]

READ = ("type", "ts", "person", "item_id", "agent", "counts")  # what an index is built from
ITEMS = pa.schema(
    [
        ("id", pa.string()),
        ("valid_from", TIME),
        ("attributes", pa.string()),
        ("timeless", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class IndexSeries:
    """Indexes by the moment of which they are, ascending; `spaces`: vectors over each of them, None
    over those before which too little had happened; or none at all.
    """

    moments: Ints
    indexes: tuple[Index, ...]
    spaces: tuple[Space | None, ...] = ()

    def place_of(self, t: Ints) -> Ints:
        """Which index a row at t may use; −1 where there is none yet."""
        return np.searchsorted(self.moments, t, side="right") - 1

    def space(self, place: int) -> Space | None:
        """The vectors over an index, None where the series has none."""
        return self.spaces[place] if self.spaces else None


def build_series(
    events: pa.Table,
    items: pa.Table,
    moments: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> IndexSeries:
    """Build an index for each moment, in a temporary folder, and open it."""
    ordered = sorted(set(moments))
    indexes: list[Index] = []
    with tempfile.TemporaryDirectory(prefix="tailorbird-index-") as folder:
        for done, (moment, until) in enumerate(pairwise([*ordered, 1 << 62]), 1):
            path = Path(folder) / str(moment)
            write_index(path, events, items, moment, until=until, texts=False)
            indexes.append(Index.open(path))
            if progress is not None:
                progress(done, len(ordered))
    return IndexSeries(np.array(ordered, np.int64), tuple(indexes))


def write_index(
    folder: Path,
    events: pa.Table,
    items: pa.Table,
    as_of: int,
    *,
    until: int | None = None,
    texts: bool = True,
    meaning: MeaningSettings | None = None,
) -> None:
    """Build the index as of one moment in a new folder; without vectors, which a `towers.Learner`
    lays over it.

    Args:
        until: items that came until then are there too, as they were when they came.
        texts: whether it can be searched.
        meaning: how it gets text vectors; None searches by words alone.
    """
    seen = events.select([name for name in READ if name in events.column_names])
    build_index(
        folder,
        seen,
        items,
        as_of=as_of,
        event_types=INTERESTS,
        until=until,
        texts=texts,
        meaning=meaning,
    )


def no_items() -> pa.Table:
    """A table of items for a log without item profiles."""
    return ITEMS.empty_table()
