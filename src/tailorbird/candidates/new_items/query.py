"""New items, in the order in which they should be tried: an upper confidence bound on what an item
is worth to who sees it.

    score = (clicks + 1) / (shown + 2) + sqrt(ln(1 + Σ shown) / (shown + 1))      (UCB1: Auer et al., 2002)

among the items that came within `within_us` and were not shown `ENOUGH` times yet. Where nothing is
known of what was shown, as of an imported log, the newest come first.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.protocol import EMPTY_LIST, Keys, RankedList

Int64s = npt.NDArray[np.int64]

SIZE = 500
ENOUGH = 1_000  # times shown, after which others can tell what an item is worth


def newest_items(
    keys: Keys, first_seen: Int64s, clicks: Int64s, shown: Int64s, t: int, within_us: int
) -> RankedList:
    """Rank the items that came within a time before t.

    Args:
        keys, first_seen, clicks, shown: (n,): of all items; `first_seen` 0 is not known.
    """
    at = np.flatnonzero((first_seen > t - within_us) & (first_seen > 0) & (shown < ENOUGH))
    if not len(at):
        return EMPTY_LIST
    total = int(shown.sum())
    if not total:
        order = at[np.lexsort((keys[at], -first_seen[at]))[:SIZE]]
        age = np.maximum(t - first_seen[order], 0) / max(within_us, 1)
        return RankedList(keys[order], 1.0 - age)
    bound = (clicks[at] + 1) / (shown[at] + 2) + np.sqrt(np.log(1 + total) / (shown[at] + 1))
    order = np.lexsort((keys[at], -first_seen[at], -bound))[:SIZE]
    return RankedList(keys[at[order]], bound[order])
