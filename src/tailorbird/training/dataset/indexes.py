"""Item indexes as of several moments, so that no training row sees a profile of its own future.

A row at t is encoded with the newest index whose `as_of` is not after t. An item that appears
between two indexes is in the earlier one with its first profile, since a server knows it within a
second. Interactions are in no index, see `training.dataset.replay`.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.contract.schema import TIME
from tailorbird.ranking.tower import Space
from tailorbird.retrieval import Index, MeaningSettings, build_index
from tailorbird.training.dataset.codes import INTERACTION_TYPES

Ints = npt.NDArray[np.int64]

EVENT_COLUMNS = ("type", "ts", "person", "item_id", "agent", "counts")  # read by the index
ITEM_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("valid_from", TIME),
        ("attributes", pa.string()),
        ("timeless", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class IndexSeries:
    """Indexes in ascending order of their moment.

    Attributes:
        spaces: vectors over each index, None where too little had happened before; or empty.
    """

    moments: Ints
    indexes: tuple[Index, ...]
    spaces: tuple[Space | None, ...] = ()

    def positions_at(self, t: Ints) -> Ints:
        """Return the position of the index for rows at t, −1 where there is none yet."""
        return np.searchsorted(self.moments, t, side="right") - 1

    def space(self, position: int) -> Space | None:
        """Return the vectors over an index, None where the series has none."""
        return self.spaces[position] if self.spaces else None


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
    """Build the index as of one moment in a new folder, without the vectors of a tower.

    Args:
        until: items that appear before this time are included, with their first profile.
        texts: whether to build the text index for search.
        meaning: how the index gets text vectors; None searches by words alone.
    """
    index_events = events.select([name for name in EVENT_COLUMNS if name in events.column_names])
    build_index(
        folder,
        index_events,
        items,
        as_of=as_of,
        event_types=INTERACTION_TYPES,
        until=until,
        texts=texts,
        meaning=meaning,
    )


def empty_items() -> pa.Table:
    """Return an empty item table, for a log without item profiles."""
    return ITEM_SCHEMA.empty_table()
