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

from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.ranking.tower import Space
from tailorbird.retrieval import Index, TextVectorSettings, build_index
from tailorbird.training.dataset.codes import INTERACTION_TYPES

Ints = npt.NDArray[np.int64]

EVENT_COLUMNS = ("type", "ts", "person", "item_id", "agent", "counts")  # read by the index
ITEM_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("valid_from", TIME_TYPE),
        ("attributes", pa.string()),
        ("timeless", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class IndexSeries:
    """Indexes in ascending order of their `as_of_times`.

    Attributes:
        spaces: vectors over each index, None where too little had happened before; or empty.
    """

    as_of_times: Ints
    indexes: tuple[Index, ...]
    spaces: tuple[Space | None, ...] = ()

    def index_numbers_at(self, t: Ints) -> Ints:
        """Return the position of the index for rows at t, −1 where there is none yet."""
        return np.searchsorted(self.as_of_times, t, side="right") - 1

    def space(self, position: int) -> Space | None:
        """Return the vectors over an index, None where the series has none."""
        return self.spaces[position] if self.spaces else None


def build_series(
    events: pa.Table,
    items: pa.Table,
    as_of_times: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> IndexSeries:
    """Build an index for each time, in a temporary folder, and open it."""
    sorted_times = sorted(set(as_of_times))
    indexes: list[Index] = []
    with tempfile.TemporaryDirectory(prefix="tailorbird-index-") as folder:
        for indexes_built, (as_of, next_as_of) in enumerate(pairwise([*sorted_times, 1 << 62]), 1):
            path = Path(folder) / str(as_of)
            write_index(
                path, events, items, as_of, new_items_until=next_as_of, with_text_index=False
            )
            indexes.append(Index.open(path))
            if progress is not None:
                progress(indexes_built, len(sorted_times))
    return IndexSeries(np.array(sorted_times, np.int64), tuple(indexes))


def write_index(
    folder: Path,
    events: pa.Table,
    items: pa.Table,
    as_of: int,
    *,
    new_items_until: int | None = None,
    with_text_index: bool = True,
    text_vector_settings: TextVectorSettings | None = None,
) -> None:
    """Build the index as of one moment in a new folder, without the vectors of a tower.

    Args:
        new_items_until: items that appear before this time are included, with their first profile.
        with_text_index: whether to build the text index for search.
        text_vector_settings: how the index gets text vectors; None searches by words alone.
    """
    index_events = events.select([name for name in EVENT_COLUMNS if name in events.column_names])
    build_index(
        folder,
        index_events,
        items,
        as_of=as_of,
        event_types=INTERACTION_TYPES,
        new_items_until=new_items_until,
        with_text_index=with_text_index,
        text_vector_settings=text_vector_settings,
    )


def empty_items() -> pa.Table:
    """Return an empty item table, for a log without item profiles."""
    return ITEM_SCHEMA.empty_table()
