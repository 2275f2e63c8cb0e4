"""Columns computed from the items and the user's recent sequence, see `COMPUTED_COLUMNS`.

`ranking.encode.encoder` puts them into a matrix. Columns read live from candidate sources are in
`ranking.encode.live`.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import DAY
from tailorbird.features.declare.declarations import COMPUTED_NAMES
from tailorbird.retrieval.index import Index

Keys = npt.NDArray[np.uint64]
Times = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

RECENT_MAX = 10
COMPUTED_COLUMNS = {
    "recent_age": "how many of the last ten came after the person last had this very item; NaN if "
    "it is not among them",
    "category_share": "share of the last ten that are of its category; NaN without any of known "
    "category",
    "age_days": "days since the item came; NaN if it has been there from the beginning",
}
assert tuple(COMPUTED_COLUMNS) == COMPUTED_NAMES


class RaggedLike(Protocol):
    """The concatenated sequences of many requests: `features.offline.bulk.RaggedSequence`.

    Request r has offsets[r]:offsets[r + 1].
    """

    @property
    def offsets(self) -> Times: ...
    @property
    def item(self) -> Keys: ...
    @property
    def ts(self) -> Times: ...


def computed_columns(
    names: Sequence[str],
    item_keys: Keys,
    request_of_row: Rows,
    sequence: RaggedLike | None,
    t: Times,
    index: Index,
) -> dict[str, npt.NDArray[np.generic]]:
    """Compute the columns, each (rows,); a row is a candidate of a request.

    One vectorised step per rank of the ten recent items, newest first, without a loop over rows.

    Args:
        item_keys, request_of_row: the item and the request of each row, (rows,).
        sequence: recent items of the requests; None without a sequence.
        t: time of each request, (requests,).
    """
    index_rows = index.find(item_keys)
    is_indexed = index_rows >= 0
    clamped_rows = np.where(is_indexed, index_rows, 0)
    columns: dict[str, npt.NDArray[np.generic]] = {}
    if len(index) == 0:
        return dict.fromkeys(names, np.full(item_keys.size, np.nan, np.float32))
    first_seen = np.where(is_indexed, index.first_seen[clamped_rows], 0)
    columns["age_days"] = np.where(first_seen > 0, (t[request_of_row] - first_seen) / DAY, np.nan)

    category = np.where(is_indexed, index.category.codes[clamped_rows], -1)
    same_category_count = np.zeros(item_keys.size)
    categorised_count = np.zeros(item_keys.size)
    rank_of_item = np.full(item_keys.size, np.nan)
    for rank in range(RECENT_MAX if sequence is not None and sequence.item.size else 0):
        assert sequence is not None
        recent_key, is_present = item_at_rank(sequence, rank)  # (requests,)
        recent_row = np.where(is_present, index.find(recent_key), -1)
        recent_category = np.where(  # (requests,), then (rows,)
            recent_row >= 0, index.category.codes[np.maximum(recent_row, 0)], -1
        )[request_of_row]
        categorised_count += recent_category >= 0
        same_category_count += (recent_category >= 0) & (recent_category == category)
        is_item = (
            is_present[request_of_row]
            & (recent_key[request_of_row] == item_keys)
            & np.isnan(rank_of_item)
        )
        rank_of_item[is_item] = rank
    columns["recent_age"] = rank_of_item
    columns["category_share"] = np.divide(
        same_category_count,
        categorised_count,
        out=np.full(same_category_count.size, np.nan),
        where=categorised_count > 0,
    )
    return columns


def item_at_rank(sequence: RaggedLike, rank: int) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """Return each request's item key `rank` positions before the newest, and whether it exists.

    Both have shape (requests,).
    """
    positions = sequence.offsets[1:] - 1 - rank
    is_present = positions >= sequence.offsets[:-1]
    return sequence.item[np.where(is_present, positions, 0)], is_present
