"""Sketches of what was known at (t, p) within a window, for many moments at once; the rest of
`features.asof`.

The timeline is cut into blocks of events, and above their registers stands a tree of unions. A
window is a few events at its beginning, whole blocks, a few events at its end; events in flight and
what follows them are looked at one by one, and so is a window of few events.

    events   [a b c d] [e f g h] [i j k l] [m …        window [c, k): c d | block 1 | i j
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.asof import Moments, Timeline
from tailorbird.features.declare import RANK_MAX
from tailorbird.features.kernels import in_shares
from tailorbird.features.kernels_marks import registers_of
from tailorbird.features.kernels_more import BLOCK, union_of_blocks, unions

Intps = npt.NDArray[np.intp]
Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class Unions:
    """The hashes (n,) of a timeline's events, of those that are `chosen` (n,), in the order in
    which they came in.
    """

    def __init__(self, timeline: Timeline, hashes: Keys, chosen: Bools, precision: int) -> None:
        self._timeline = timeline
        self._register, self._rank = (
            np.empty(len(timeline), np.uint8),
            np.empty(len(timeline), np.uint8),
        )
        of_events = (
            timeline.order,
            chosen,
            hashes,
            precision,
            RANK_MAX,
            self._register,
            self._rank,
        )
        in_shares(registers_of, len(timeline), *of_events)
        level = np.zeros((len(timeline) // BLOCK, 1 << precision), np.uint8)
        in_shares(union_of_blocks, len(level), self._register, self._rank, level)
        levels = [level]
        while len(levels[-1]) > 1:
            level = levels[-1]
            if len(level) & 1:
                level = levels[-1] = np.concatenate(
                    [level, np.zeros((1, level.shape[1]), np.uint8)]
                )
            levels.append(np.maximum(level[::2], level[1::2]))
        self._flat = np.concatenate(levels)
        self._levels = np.cumsum([0, *(len(level) for level in levels)])

    def since(self, moments: Moments, since: Int64s) -> tuple[Int64s, Int64s]:
        """For each moment the summary of the known events at or after `since`."""
        return self.over(moments, moments.before(since).edge)

    def over(self, moments: Moments, start: Intps) -> tuple[Int64s, Int64s]:
        """The same with the position where each moment's window begins, moments in order of
        (entity, t).
        """
        cut = moments.stop
        empty, weight = np.empty(len(moments), np.int64), np.empty(len(moments), np.int64)
        of_moments = (moments.order, start, cut.edge, cut.reach(), moments.p)
        of_events = (self._timeline.p, self._register, self._rank, self._flat, self._levels)
        in_shares(unions, len(moments), *of_moments, *of_events, RANK_MAX, empty, weight)
        return empty, weight
