"""Sketches of what was known at (t, p) within a window, for many moments at once.

Extends `features.offline.asof`. The timeline is cut into blocks of events, and a tree of unions is
built over their registers. A window is a few events at its beginning, complete blocks, and a few
events at its end. Events in flight and those after them are scanned one by one, as are short
windows.

    events   [a b c d] [e f g h] [i j k l] [m …        window [c, k): c d | block 1 | i j
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.declare.limits import RANK_MAX
from tailorbird.features.offline.asof import Moments, Timeline
from tailorbird.features.offline.kernels.aggregates import BLOCK, union_of_blocks, write_unions
from tailorbird.features.offline.kernels.marks import registers_of
from tailorbird.features.offline.kernels.windows import run_parallel

Intps = npt.NDArray[np.intp]
Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class Unions:
    """Sketches over the hashes (n,) of a timeline's `chosen` events (n,), both in input order."""

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
        run_parallel(registers_of, len(timeline), *of_events)
        level = np.zeros((len(timeline) // BLOCK, 1 << precision), np.uint8)
        run_parallel(union_of_blocks, len(level), self._register, self._rank, level)
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
        """Return the summary of each moment's known events at or after `since`."""
        return self.from_positions(moments, moments.before(since).edge)

    def from_positions(self, moments: Moments, start: Intps) -> tuple[Int64s, Int64s]:
        """Return the same from each window's first position, in order of (entity, t)."""
        cut = moments.stop
        empty, weight = np.empty(len(moments), np.int64), np.empty(len(moments), np.int64)
        of_moments = (moments.order, start, cut.edge, cut.first_in_flight(), moments.p)
        of_events = (self._timeline.p, self._register, self._rank, self._flat, self._levels)
        run_parallel(write_unions, len(moments), *of_moments, *of_events, RANK_MAX, empty, weight)
        return empty, weight
