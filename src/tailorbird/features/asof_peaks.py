"""The largest value of what was known at (t, p) within a window, for many moments at once; the rest
of `features.asof`.

Above the values, in the order of the timeline, stands a tree of maxima: a range is the union of
O(log n) of its nodes.

    values   3  0  7  2 | 5  0  …          range [1, 4): 0, then the node over (7, 2)
    level 1    3     7  |   5

That holds for the part of the window before the first event in flight (happened, not yet routed).
What lies behind it is looked at event by event, which is little unless events of crowded entities
come very late.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.asof import Moments, Timeline
from tailorbird.features.kernels import in_shares
from tailorbird.features.kernels_more import peaks

Int64s = npt.NDArray[np.int64]


class Peaks:
    """The values (n,) of a timeline's events, given in the order in which they came in; none is
    below 0, and 0 is no value.
    """

    def __init__(self, timeline: Timeline, values: Int64s) -> None:
        self._timeline = timeline
        levels = [values[timeline.order]]
        while len(levels[-1]) > 1:
            level = levels[-1]
            if len(level) & 1:
                level = levels[-1] = np.append(level, 0)
            levels.append(level.reshape(-1, 2).max(axis=1))
        self._flat = np.concatenate(levels)
        self._levels = np.cumsum([0, *(len(level) for level in levels)])

    def since(self, moments: Moments, since: Int64s) -> Int64s:
        """For each moment the largest value of the known events at or after `since`, 0 without one."""
        start, cut, found = (
            moments.before(since).edge,
            moments.stop,
            np.empty(len(moments), np.int64),
        )
        of_moments = (moments.order, start, cut.edge, cut.reach(), moments.p)
        in_shares(
            peaks, len(moments), *of_moments, self._timeline.p, self._flat, self._levels, found
        )
        return found
