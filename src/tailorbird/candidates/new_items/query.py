"""New items in the order in which to try them, by an upper confidence bound on their value.

    score = (clicks + 1) / (shown + 2) + sqrt(ln(1 + Σ shown) / (shown + 1))

This is UCB1 (Auer et al., 2002), among the items added within `within_us` that were not shown
`IMPRESSIONS_MAX` times yet. Without any impressions, as in an imported log, the newest come first.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.protocol import EMPTY_LIST, Keys, RankedList

Int64s = npt.NDArray[np.int64]

LIST_MAX = 500
IMPRESSIONS_MAX = 1_000  # impressions after which other sources can judge an item


def newest_items(
    keys: Keys,
    first_seen: Int64s,
    click_counts: Int64s,
    impression_counts: Int64s,
    t: int,
    within_us: int,
) -> RankedList:
    """Rank the items that were added within a time before t.

    Args:
        keys, first_seen, click_counts, impression_counts: (n,): of all items; `first_seen` 0 is not
            known.
    """
    new_rows = np.flatnonzero(
        (first_seen > t - within_us) & (first_seen > 0) & (impression_counts < IMPRESSIONS_MAX)
    )
    if not len(new_rows):
        return EMPTY_LIST
    impressions_total = int(impression_counts.sum())
    if not impressions_total:
        order = new_rows[np.lexsort((keys[new_rows], -first_seen[new_rows]))[:LIST_MAX]]
        age = np.maximum(t - first_seen[order], 0) / max(within_us, 1)
        return RankedList(keys[order], 1.0 - age)
    upper_bounds = (click_counts[new_rows] + 1) / (impression_counts[new_rows] + 2) + np.sqrt(
        np.log(1 + impressions_total) / (impression_counts[new_rows] + 1)
    )
    order = np.lexsort((keys[new_rows], -first_seen[new_rows], -upper_bounds))[:LIST_MAX]
    return RankedList(keys[new_rows[order]], upper_bounds[order])
