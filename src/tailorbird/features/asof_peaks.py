"""The largest value of what was known at (t, p) within a window, for many moments at once; the rest of `features.asof`.

Above the values, in the order of the timeline, stands a tree of maxima: a range is the union of O(log n) of its nodes.

    values   3  0  7  2 | 5  0  …          range [1, 4): 0, then the node over (7, 2)
    level 1    3     7  |   5

That holds for the part of the window before the first event in flight (happened, not yet routed). What lies behind it is
looked at event by event, which is little unless events of crowded entities come very late.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.asof import Moments, Timeline, ragged

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]

_RAGGED_MAX = 1 << 22  # events that are looked at one by one at a time


class Peaks:
    """The values (n,) of a timeline's events, given in the order in which they came in; none is below 0, and 0 is no value."""

    def __init__(self, timeline: Timeline, values: Int64s) -> None:
        self._timeline = timeline
        self._levels = [values[timeline.order]]
        while len(self._levels[-1]) > 1:
            level = self._levels[-1]
            if len(level) & 1:
                level = self._levels[-1] = np.append(level, 0)
            self._levels.append(level.reshape(-1, 2).max(axis=1))

    def since(self, moments: Moments, since: Int64s) -> Int64s:
        """For each moment the largest value of the known events at or after `since`, 0 without one."""
        start, cut = moments.before(since).edge, moments.stop
        stop = cut.edge.copy()
        stop[cut.slow] = np.maximum(cut.first, start[cut.slow])
        found = self._largest(start, stop)
        slow = cut.slow[stop[cut.slow] < cut.edge[cut.slow]]
        slow = slow[self._largest(stop[slow], cut.edge[slow]) > found[slow]]  # known or not, the others are no larger
        for some in in_lots(slow, cut.edge[slow] - stop[slow]):
            found[some] = np.maximum(found[some], self._known(stop[some], cut.edge[some], moments.p[some]))
        return moments.restore(found)

    def _largest(self, start: Intps, stop: Intps) -> Int64s:
        """Over the positions [start, stop): on each level the ends that have no sibling inside are taken, then up."""
        found = np.zeros(len(start), np.int64)
        low, high = start.copy(), stop.copy()
        for level in self._levels:
            left = np.flatnonzero((low < high) & (low & 1 == 1))
            found[left] = np.maximum(found[left], level[low[left]])
            low[left] += 1
            right = np.flatnonzero((low < high) & (high & 1 == 1))
            high[right] -= 1
            found[right] = np.maximum(found[right], level[high[right]])
            low >>= 1
            high >>= 1
        return found

    def _known(self, start: Intps, stop: Intps, p: Int64s) -> Int64s:
        """Over the events of [start, stop), none of them empty, that were known at p, one by one."""
        picks, offsets = ragged(start, stop)
        owner = np.repeat(np.arange(len(start)), np.diff(offsets))
        values = np.where(self._timeline.p[picks] <= p[owner], self._levels[0][picks], 0)
        return np.maximum.reduceat(values, offsets[:-1])


def in_lots(rows: Intps, sizes: Intps) -> list[Intps]:
    """The rows in lots of about `_RAGGED_MAX` events."""
    if not len(rows):
        return []
    return np.split(rows, np.flatnonzero(np.diff(np.cumsum(sizes) // _RAGGED_MAX)) + 1)
