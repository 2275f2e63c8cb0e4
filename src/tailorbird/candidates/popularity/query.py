"""Lists from leaderboards: overall, of the request's segment, or of the user's categories."""

import numpy as np

from tailorbird.candidates.contract import Board
from tailorbird.candidates.protocol import (
    EMPTY_LIST,
    BoardTable,
    CandidateRequest,
    CandidateTables,
    RankedList,
    concatenate_lists,
    rank_items,
)

SEGMENT_MIN = 20  # minimum number of events of a segment in the window
CATEGORY_DECAY = 0.95  # decay per age of the user's items
CATEGORIES_MAX = 8
RECENT_ITEMS_MAX = 64
LIST_MAX = 500  # of a list over several categories


def query_popular(tables: CandidateTables, request: CandidateRequest, board: Board) -> RankedList:
    """Return the most popular items by traffic share, of the request's segment if large enough."""
    if board.segment == "category":
        return _popular_in_categories(tables, request, board)
    table = segment_board(tables, request, board)
    return (table if table is not None else tables.leaderboard(Board(board.window_us))).shares


def segment_board(
    tables: CandidateTables, request: CandidateRequest, board: Board
) -> BoardTable | None:
    """Return the leaderboard of the request's segment, or None if unknown or too small."""
    segment_key = request.segments.get(board.segment, 0) if board.segment else 0
    table = tables.leaderboard(board, segment_key) if segment_key else None
    return table if table is not None and table.total >= SEGMENT_MIN else None


def _popular_in_categories(
    tables: CandidateTables, request: CandidateRequest, board: Board
) -> RankedList:
    """Return the most popular items of the categories of the user's newest items.

    score = (Σ of 0.95 ** age over the user's items of the category) / the item's rank in it
    """
    recent = request.recent[::-1][:RECENT_ITEMS_MAX]
    categories = tables.facts(recent).category
    has_category = categories != 0
    if not has_category.any():
        return EMPTY_LIST
    category_keys, index_of_item = np.unique(categories[has_category], return_inverse=True)
    category_weights = np.bincount(index_of_item, CATEGORY_DECAY ** np.flatnonzero(has_category))
    top_categories = np.lexsort((category_keys, -category_weights))[:CATEGORIES_MAX]
    category_lists = []
    for index in top_categories.tolist():
        items = tables.leaderboard(board, int(category_keys[index])).items
        category_lists.append(
            RankedList(items.keys, category_weights[index] / np.arange(1, len(items) + 1))
        )
    listed_keys, scores = concatenate_lists(category_lists)
    item_keys, index_of_item = np.unique(
        listed_keys, return_inverse=True
    )  # an item that changed its category is popular in both
    return rank_items(
        item_keys, np.bincount(index_of_item, scores, len(item_keys)).astype(np.float64), LIST_MAX
    )
