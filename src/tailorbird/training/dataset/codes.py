"""Codes for ids: users and items as numbers in [0, n), so later steps are array arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import hash64s, micros
from tailorbird.experiments.assign import INTERLEAVED
from tailorbird.models.interactions import Interactions
from tailorbird.ranking.policy.targets import DWELL_MAX_S, DWELL_PATTERN, is_amount_head

Ints = npt.NDArray[np.int64]

# Event types that show interest in an item.
INTERACTION_TYPES = ("click", "view", "cart", "purchase", "rating", "like", "share")


@dataclass(frozen=True)
class IdVocabulary:
    """Distinct texts; the code of a text is its index."""

    values: pa.Array

    @classmethod
    def of(cls, *columns: pa.Array | pa.ChunkedArray) -> "IdVocabulary":
        """Collect the distinct texts of some columns; nulls get no code."""
        chunks = [
            chunk
            for column in columns
            for chunk in (column.chunks if isinstance(column, pa.ChunkedArray) else [column])
        ]
        return cls(pc.drop_null(pc.unique(pa.chunked_array(chunks, pa.string()))))

    @classmethod
    def sorted_of(cls, *columns: pa.Array | pa.ChunkedArray) -> "IdVocabulary":
        """Collect the distinct texts in ascending order, whatever the order of the columns."""
        values = cls.of(*columns).values
        return cls(values.take(pc.sort_indices(values)))

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, column: pa.Array | pa.ChunkedArray) -> Ints:
        """Return the code of each text, −1 for nulls and unknown texts."""
        codes = pc.index_in(column.cast(pa.string()), value_set=self.values, skip_nulls=True)
        return (
            pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int64)
            if isinstance(codes, pa.Array)
            else _to_codes(codes)
        )

    def decode(self, code: Ints) -> list[str]:
        """Return the texts of codes ≥ 0."""
        return self.values.take(pa.array(code)).to_pylist()

    @cached_property
    def keys(self) -> npt.NDArray[np.uint64]:
        """Return `events.hash64` of each text."""
        return hash64s(self.values.to_pylist())


def encode_interactions(
    events: pa.Table,
    person_vocabulary: IdVocabulary,
    item_vocabulary: IdVocabulary,
    types: Sequence[str] = INTERACTION_TYPES,
) -> Interactions:
    """Encode interactions: human events of `types` (dwell heads included) that count."""
    matching_events = events.filter(interaction_mask(events, types))
    return Interactions(
        person_vocabulary.encode(matching_events["person"]),
        item_vocabulary.encode(matching_events["item_id"]),
        micros(matching_events["ts"]),
        len(person_vocabulary),
        len(item_vocabulary),
    )


def interaction_mask(events: pa.Table, types: Sequence[str]) -> pa.ChunkedArray:
    """Return the mask of interactions: human events of `types` with an item that count.

    Args:
        types: event types or heads, see `head_mask`.
    """
    mask = pc.and_(head_mask(events, types), pc.is_valid(events["item_id"]))
    if "counts" in events.column_names:
        mask = pc.and_(mask, pc.fill_null(events["counts"], True))
    return pc.and_(mask, human_mask(events))


def head_mask(events: pa.Table, heads: Sequence[str]) -> pa.ChunkedArray:
    """Return the mask of events that any of some heads predicts.

    These are events of that type; for `dwell_30s`, views of at least 30 seconds; for `dwell_s`,
    views of any duration.
    """
    mask = pc.is_in(events["type"], pa.array(heads, pa.string()))
    for seconds in (float(dwell[1]) for head in heads if (dwell := DWELL_PATTERN.fullmatch(head))):
        mask = pc.or_(
            mask, _view_mask(events, pc.greater_equal(events["dwell_ms"], 1_000.0 * seconds))
        )
    return (
        pc.or_(mask, _view_mask(events, pc.greater(events["dwell_ms"], 0.0)))
        if any(map(is_amount_head, heads))
        else mask
    )


def _view_mask(events: pa.Table, is_long: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.and_(pc.equal(events["type"], "view"), pc.fill_null(is_long, False))


def seconds_viewed(events: pa.Table) -> npt.NDArray[np.float64]:
    """Return the seconds that each event adds to `dwell_s`, shape (n,)."""
    seconds = pc.divide(pc.fill_null(events["dwell_ms"], 0.0), 1_000.0).to_numpy()
    return np.minimum(seconds, DWELL_MAX_S).astype(np.float64)


def interleaved_mask(responses: pa.Table) -> pa.ChunkedArray:
    """Return which responses were drafted from two rankings, which explores nothing."""
    return pc.fill_null(pc.equal(responses["arm"], INTERLEAVED), False)


def human_mask(events: pa.Table) -> pa.ChunkedArray:
    """Return the mask of events that were not made by a bot."""
    return pc.fill_null(pc.not_equal(events["agent"], "bot"), True)


def _to_codes(column: pa.ChunkedArray) -> Ints:
    return pc.fill_null(column, -1).to_numpy().astype(np.int64)
