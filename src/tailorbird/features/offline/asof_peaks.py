"""The largest known value within a window, for many queries at once; extends
`features.offline.asof`.

A tree of maxima is built over the values in the order of the timeline: a range is the union of
O(log n) of its nodes.

    values   3  0  7  2 | 5  0  …          range [1, 4): 0, then the node over (7, 2)
    level 1    3     7  |   5

That covers the part of the window before the first event in flight (happened, not yet routed). The
remainder is scanned event by event. It is short unless events of crowded entities arrive very late.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.asof import AsOfQueries, Timeline
from tailorbird.features.offline.kernels.aggregates import write_peaks
from tailorbird.features.offline.kernels.windows import run_parallel

Int64s = npt.NDArray[np.int64]


class MaximumTree:
    """The values (n,) of a timeline's events in input order; none is negative, and 0 means no
    value.
    """

    def __init__(self, timeline: Timeline, values: Int64s) -> None:
        self._timeline = timeline
        levels = [values[timeline.order]]
        while len(levels[-1]) > 1:
            level = levels[-1]
            if len(level) & 1:
                level = levels[-1] = np.append(level, 0)
            levels.append(level.reshape(-1, 2).max(axis=1))
        self._tree_nodes = np.concatenate(levels)
        self._level_starts = np.cumsum([0, *(len(level) for level in levels)])

    def largest_since(self, queries: AsOfQueries, since: Int64s) -> Int64s:
        """Return the largest value of each query's known events at or after `since`, 0 if there
        are none.
        """
        largest_values = np.empty(len(queries), np.int64)
        run_parallel(
            write_peaks,
            len(queries),
            *queries.kernel_arrays(queries.before(since).edge),
            self._timeline.log_position,
            self._tree_nodes,
            self._level_starts,
            largest_values,
        )
        return largest_values
