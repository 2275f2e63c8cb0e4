"""Lists that are the same for everybody: popular items, new items, and items related to an item."""

import numpy as np

from tailorbird.candidates.contract import Board
from tailorbird.candidates.item_knn.query import item_neighbours
from tailorbird.candidates.protocol import CandidateTables, RankedList
from tailorbird.candidates.query import WEEK_BOARD
from tailorbird.events.keys import hash64
from tailorbird.retrieval import Index
from tailorbird.serving.messages import ShownItem

_REASONS = {"popular": "Popular", "new_items": "New"}


def list_items(
    index: Index, tables: CandidateTables, source: str, size: int, category: str | None = None
) -> list[ShownItem]:
    """Return the first items of `popular` or `new_items`, of one category if it is named.

    An unknown category has none.
    """
    ranked_list = (
        tables.new_items() if source == "new_items" else tables.leaderboard(WEEK_BOARD).shares
    )
    if source == "popular" and category is not None:
        category_board = tables.leaderboard(
            Board(WEEK_BOARD.window_us, "category"), hash64(category)
        )
        ranked_list = category_board.shares if len(category_board.items) else ranked_list
    rows, scores = _visible_rows(index, ranked_list)
    if category is not None:
        category_code = index.category.code(category)
        matching_positions = np.flatnonzero(
            (index.category.codes[rows] == category_code) & (category_code >= 0)
        )
        rows = rows[matching_positions]
        scores = scores[matching_positions]
    ranked_rows = zip(rows[:size].tolist(), scores[:size].tolist(), strict=True)
    return [
        ShownItem(
            item_id=index.ids[row],
            position=position,
            score=score,
            reason=_REASONS[source],
            reason_code=source,
            source=source,
        )
        for position, (row, score) in enumerate(ranked_rows, 1)
    ]


def list_similar_items(
    index: Index, tables: CandidateTables, item_id: str, size: int
) -> list[ShownItem]:
    """Return the items related to an item, best first, then popular ones of its category, then
    of all.
    """
    row = int(index.find_ids([item_id])[0])
    related_rows, scores = _visible_rows(index, item_neighbours(tables, int(index.keys[row])))
    filler_rows, _ = _visible_rows(index, tables.leaderboard(WEEK_BOARD).items)
    category_code = index.category.codes[row]
    filler_rows = filler_rows[
        np.argsort(
            ~((index.category.codes[filler_rows] == category_code) & (category_code >= 0)),
            kind="stable",
        )
    ]
    filler_rows = filler_rows[~np.isin(filler_rows, related_rows) & (filler_rows != row)]
    rows = np.concatenate([related_rows, filler_rows])[:size]
    scores = np.concatenate([scores, np.zeros(len(filler_rows))])[:size]
    return [
        ShownItem(
            item_id=index.ids[row],
            position=position,
            score=score,
            reason="Goes with it" if score > 0 else "Popular",
            reason_code="related" if score > 0 else "popular",
            source="item_knn" if score > 0 else "popular",
        )
        for position, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), 1)
    ]


def _visible_rows(index: Index, ranked_list: RankedList) -> tuple[np.ndarray, np.ndarray]:
    rows = index.find(ranked_list.keys)
    is_visible = rows >= 0
    if index.visible is not None:
        is_visible &= index.visible[np.maximum(rows, 0)]
    return rows[is_visible], ranked_list.scores[is_visible]
