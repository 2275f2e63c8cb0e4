"""What the person had before: the items of the sequence by how often they are in it, of equal ones
the newest first.
"""

import numpy as np

from tailorbird.candidates.protocol import EMPTY_LIST, CandidateRequest, RankedList

SIZE = 500


def repeat(request: CandidateRequest) -> RankedList:
    """Return the different items of the person's sequence; a score is how often the item is in it."""
    keys = request.recent[request.recent != 0][::-1]
    if not len(keys):
        return EMPTY_LIST
    distinct, first, count = np.unique(keys, return_index=True, return_counts=True)
    order = np.lexsort((first, -count))[:SIZE]
    return RankedList(distinct[order], count[order].astype(np.float64))
