"""Lists from leaderboards: of everybody, of the segment of who asks, or of the categories that the
person looked at.
"""

import numpy as np

from tailorbird.candidates.contract import Board
from tailorbird.candidates.protocol import (
    EMPTY_LIST,
    BoardTable,
    CandidateRequest,
    CandidateTables,
    RankedList,
    concatenated,
    ranked,
)

SEGMENT_MIN = 20  # events of a segment in the window, below which everybody's list says more
CATEGORY_DECAY = 0.95  # of what a person looked at, in whose categories something is looked for
CATEGORIES_MAX = 8
RECENT = 64
SIZE = 500  # of a list over several categories


def popular(tables: CandidateTables, request: CandidateRequest, board: Board) -> RankedList:
    """Return the items with most events by their share of the traffic: of the segment where it is
    known and not too small.
    """
    if board.segment == "category":
        return _popular_in_categories(tables, request, board)
    table = of_segment(tables, request, board)
    return (table if table is not None else tables.board(Board(board.window_us))).shares


def of_segment(
    tables: CandidateTables, request: CandidateRequest, board: Board
) -> BoardTable | None:
    """Return the items of the segment of who asks, by a context field; None where it is not known
    or too small.
    """
    segment = request.segments.get(board.segment, 0) if board.segment else 0
    table = tables.board(board, segment) if segment else None
    return table if table is not None and table.total >= SEGMENT_MIN else None


def _popular_in_categories(tables: CandidateTables, request: CandidateRequest, board: Board) -> RankedList:
    """Return the most popular items of the categories of the person's newest items.

    score = Σ over the person's items that are of the category, the newest first, of 0.95 ** age  ÷  the item's place in its category
    """
    recent = request.recent[::-1][:RECENT]
    categories = tables.facts(recent).category
    has_category = categories != 0
    if not has_category.any():
        return EMPTY_LIST
    values, at = np.unique(categories[has_category], return_inverse=True)
    weight = np.bincount(at, CATEGORY_DECAY ** np.flatnonzero(has_category))
    best = np.lexsort((values, -weight))[:CATEGORIES_MAX]
    parts = []
    for place in best.tolist():
        items = tables.board(board, int(values[place])).items
        parts.append(RankedList(items.keys, weight[place] / np.arange(1, len(items) + 1)))
    keys, scores = concatenated(parts)
    distinct, at = np.unique(
        keys, return_inverse=True
    )  # an item that changed its category is popular in both
    return ranked(distinct, np.bincount(at, scores, len(distinct)).astype(np.float64), SIZE)
