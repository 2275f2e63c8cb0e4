"""Repeat consumption: items of the user's sequence by frequency, ties by recency."""

import numpy as np

from tailorbird.candidates.protocol import EMPTY_LIST, CandidateRequest, RankedList

LIST_MAX = 500


def query_repeat(request: CandidateRequest) -> RankedList:
    """Return the distinct items of the user's sequence, scored by frequency."""
    keys = request.recent[request.recent != 0][::-1]
    if not len(keys):
        return EMPTY_LIST
    distinct_keys, first_index, counts = np.unique(keys, return_index=True, return_counts=True)
    order = np.lexsort((first_index, -counts))[:LIST_MAX]
    return RankedList(distinct_keys[order], counts[order].astype(np.float64))
