"""Neighbours of a user's last items, summed with a decay.

score[j] = Σ over the items i, newest first, of (1 − 1/last) ** age · value[i, j].

With `last` = 1 only the newest item counts; with 2 each counts half as much as the next newer one.
Few items work best where users move from one item to the next, as in news sessions; many where
items belong together, as in baskets.
"""

import numpy as np

from tailorbird.candidates.contract import LAST_ITEMS_MAX
from tailorbird.candidates.protocol import CandidateTables, Keys, Neighbours, RankedList, rank_items
from tailorbird.candidates.ragged import expand_ranges

RECENT_MAX = LAST_ITEMS_MAX
LIST_MAX = 1_000


def score_neighbours(recent: Keys, neighbours: Neighbours, last_items: int) -> RankedList:
    """Sum the neighbours of a user's last items, newest first, leaving these items out."""
    decay = 1.0 - 1.0 / last_items
    entry_count = len(neighbours.keys) if decay else int(neighbours.offsets[1])
    _, age = expand_ranges(neighbours.offsets[:-1], np.diff(neighbours.offsets))
    keys, key_index = np.unique(neighbours.keys[:entry_count], return_inverse=True)
    weights = neighbours.weights[:entry_count] * decay ** age[:entry_count]
    scores = np.bincount(key_index, weights=weights, minlength=len(keys)).astype(np.float64)
    recent_index = np.searchsorted(keys, recent)
    recent_index = recent_index[recent_index < len(keys)]
    scores[recent_index[np.isin(keys[recent_index], recent)]] = 0.0
    return rank_items(keys, scores, LIST_MAX)


def item_neighbours(tables: CandidateTables, key: int) -> RankedList:
    """Return the neighbours of one item."""
    return tables.neighbours(np.array([key], np.uint64)).list_for(0)
