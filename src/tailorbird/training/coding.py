"""Texts as codes: people and items as numbers in [0, n), so that everything after is arithmetic on
columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import hash64s, micros
from tailorbird.models.interactions import Interactions
from tailorbird.ranking.targets import DWELL, DWELL_MAX_S, is_amount

Ints = npt.NDArray[np.int64]

INTERESTS = (
    "click",
    "view",
    "cart",
    "purchase",
    "rating",
    "like",
    "share",
)  # what shows interest in an item


@dataclass(frozen=True)
class Codes:
    """Distinct texts; a text's code is its place."""

    values: pa.Array

    @classmethod
    def of(cls, *columns: pa.Array | pa.ChunkedArray) -> "Codes":
        """The codes of all texts in some columns; nulls get none."""
        chunks = [
            chunk
            for column in columns
            for chunk in (column.chunks if isinstance(column, pa.ChunkedArray) else [column])
        ]
        return cls(pc.drop_null(pc.unique(pa.chunked_array(chunks, pa.string()))))

    @classmethod
    def sorted_of(cls, *columns: pa.Array | pa.ChunkedArray) -> "Codes":
        """The same texts in ascending order, whatever the order of the columns."""
        values = cls.of(*columns).values
        return cls(values.take(pc.sort_indices(values)))

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, column: pa.Array | pa.ChunkedArray) -> Ints:
        """The code of each text, −1 for nulls and unknown texts."""
        found = pc.index_in(column.cast(pa.string()), value_set=self.values, skip_nulls=True)
        return (
            pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
            if isinstance(found, pa.Array)
            else _numbers(found)
        )

    def decode(self, code: Ints) -> list[str]:
        """The texts of codes ≥ 0."""
        return self.values.take(pa.array(code)).to_pylist()

    @cached_property
    def keys(self) -> npt.NDArray[np.uint64]:
        """`events.hash64` of each text."""
        return hash64s(self.values.to_pylist())


def interactions(
    events: pa.Table, people: Codes, items: Codes, types: Sequence[str] = INTERESTS
) -> Interactions:
    """What people did with items: events of `types`, heads by dwell included, that count and were
    not made by a bot.
    """
    kept = events.filter(interesting(events, types))
    return Interactions(
        people.encode(kept["person"]),
        items.encode(kept["item_id"]),
        micros(kept["ts"]),
        len(people),
        len(items),
    )


def interesting(events: pa.Table, types: Sequence[str]) -> pa.ChunkedArray:
    """Which rows are of `types` (see `happened`), name an item, count, and come from a person and
    not a bot.
    """
    kept = pc.and_(happened(events, types), pc.is_valid(events["item_id"]))
    if "counts" in events.column_names:
        kept = pc.and_(kept, pc.fill_null(events["counts"], True))
    return pc.and_(kept, people_only(events))


def happened(events: pa.Table, heads: Sequence[str]) -> pa.ChunkedArray:
    """Which rows are what a head predicts: an event of that type; of `dwell_30s`, a view of at
    least 30 seconds; of `dwell_s`, any.
    """
    found = pc.is_in(events["type"], pa.array(heads, pa.string()))
    for seconds in (float(dwell[1]) for head in heads if (dwell := DWELL.fullmatch(head))):
        found = pc.or_(
            found, _viewed(events, pc.greater_equal(events["dwell_ms"], 1_000.0 * seconds))
        )
    return (
        pc.or_(found, _viewed(events, pc.greater(events["dwell_ms"], 0.0)))
        if any(map(is_amount, heads))
        else found
    )


def _viewed(events: pa.Table, long: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.and_(pc.equal(events["type"], "view"), pc.fill_null(long, False))


def seconds_viewed(events: pa.Table) -> npt.NDArray[np.float64]:
    """The seconds that each event adds to `dwell_s`, shape (n,)."""
    seconds = pc.divide(pc.fill_null(events["dwell_ms"], 0.0), 1_000.0).to_numpy()
    return np.minimum(seconds, DWELL_MAX_S).astype(np.float64)


def people_only(events: pa.Table) -> pa.ChunkedArray:
    """Which rows were not made by a bot."""
    return pc.fill_null(pc.not_equal(events["agent"], "bot"), True)


def _numbers(column: pa.ChunkedArray) -> Ints:
    return pc.fill_null(column, -1).to_numpy().astype(np.int64)
