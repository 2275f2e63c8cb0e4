"""Lists that are the same for everybody: what is popular, what is new, what goes with an item."""

import numpy as np

from tailorbird.retrieval import Index
from tailorbird.serving.messages import Shown

_REASONS = {"popular": "Popular", "fresh": "New"}


def list_items(index: Index, source: str, size: int, category: str | None = None) -> list[Shown]:
    """The first items of `popular` or `fresh`, of one category if it is named; none of a category that no item has."""
    if source == "popular":
        found = index.popular(size, category)
    else:
        found = index.fresh(size if category is None else len(index))
    rows, scores = found.rows, found.scores
    if source == "fresh" and category is not None:
        code = index.category.code(category)
        kept = np.flatnonzero((index.category.codes[rows] == code) & (code >= 0))[:size]
        rows, scores = rows[kept], scores[kept]
    shown = zip(rows.tolist(), scores.tolist(), strict=True)
    return [
        Shown(item_id=index.ids[row], position=place, score=score, reason=_REASONS[source], reason_code=source, source=source)
        for place, (row, score) in enumerate(shown, 1)
    ]


def similar_items(index: Index, item_id: str, size: int) -> list[Shown]:
    """What goes with an item that the index knows, best first, filled up with what is popular."""
    found = index.similar(item_id, size)
    return [
        Shown(
            item_id=index.ids[row],
            position=place,
            score=score,
            reason="Goes with it" if score > 0 else "Popular",
            reason_code="related" if score > 0 else "popular",
            source="item_to_item" if score > 0 else "popular",
        )
        for place, (row, score) in enumerate(zip(found.rows.tolist(), found.scores.tolist(), strict=True), 1)
    ]
