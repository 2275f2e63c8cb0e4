"""Sketches of what was known at (t, p) within a window, for many moments at once; the rest of `features.asof`.

The timeline is cut into blocks of events, and above their registers stands a tree of unions. A window is a few events at
its beginning, whole blocks, a few events at its end; events in flight and what follows them are looked at one by one.

    events   [a b c d] [e f g h] [i j k l] [m …        window [c, k): c d | block 1 | i j
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.asof import Moments, Timeline, ragged
from tailorbird.features.asof_peaks import in_lots
from tailorbird.features.sketch import Registers, places, summary

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_BLOCK = 64  # events: about as many as a union of registers costs
_MOMENTS = 1 << 14  # that are unions at a time: 4 MB of registers


class Unions:
    """The hashes (n,) of a timeline's events, of those that are `chosen` (n,), in the order in which they came in."""

    def __init__(self, timeline: Timeline, hashes: Keys, chosen: Bools, precision: int) -> None:
        self._timeline = timeline
        self._registers = 1 << precision
        register, rank = places(hashes[timeline.order], precision)
        self._register, self._rank = register, np.where(chosen[timeline.order], rank, np.uint8(0))
        blocks = len(timeline) // _BLOCK
        level = np.zeros((blocks, self._registers), np.uint8)
        whole = slice(0, blocks * _BLOCK)
        self._add(level, np.repeat(np.arange(blocks), _BLOCK), self._register[whole], self._rank[whole])
        self._levels = [level]
        while len(self._levels[-1]) > 1:
            level = self._levels[-1]
            if len(level) & 1:
                level = self._levels[-1] = np.concatenate([level, np.zeros((1, self._registers), np.uint8)])
            self._levels.append(np.maximum(level[::2], level[1::2]))

    def since(self, moments: Moments, since: Int64s) -> tuple[Int64s, Int64s]:
        """For each moment the summary of the known events at or after `since`."""
        start, cut = moments.before(since).edge, moments.stop
        stop = cut.edge.copy()
        stop[cut.slow] = np.maximum(cut.first, start[cut.slow])
        empty, weight = np.empty(len(start), np.int64), np.empty(len(start), np.int64)
        slow = np.zeros(len(start), np.bool_)
        slow[cut.slow] = True
        for begin in range(0, len(start), _MOMENTS):
            some = np.arange(begin, min(begin + _MOMENTS, len(start)))
            union = self._union(start[some], stop[some])
            late = np.flatnonzero(slow[some])
            for lot in in_lots(late, (cut.edge - stop)[some[late]]):
                rows = some[lot]
                self._events(union, lot, stop[rows], cut.edge[rows], moments.p[rows])
            empty[some], weight[some] = summary(union)
        return moments.restore(empty), moments.restore(weight)

    def _union(self, start: Intps, stop: Intps) -> Registers:
        """Over the positions [start, stop), known or not."""
        union = np.zeros((len(start), self._registers), np.uint8)
        rows = np.arange(len(start))
        low, high = -(-start // _BLOCK), stop // _BLOCK
        none = low >= high
        self._events(union, rows, start, np.where(none, stop, low * _BLOCK))
        self._events(union, rows, np.where(none, stop, high * _BLOCK), stop)
        for level in self._levels:
            left = np.flatnonzero((low < high) & (low & 1 == 1))
            union[left] = np.maximum(union[left], level[low[left]])
            low[left] += 1
            right = np.flatnonzero((low < high) & (high & 1 == 1))
            high[right] -= 1
            union[right] = np.maximum(union[right], level[high[right]])
            low >>= 1
            high >>= 1
        return union

    def _events(self, union: Registers, rows: Intps, start: Intps, stop: Intps, p: Int64s | None = None) -> None:
        """Add the events of [start, stop) to the rows of a union, in place; those known at p, where that is given."""
        picks, offsets = ragged(start, stop)
        owner = np.repeat(np.arange(len(start)), np.diff(offsets))
        if p is not None:
            known = self._timeline.p[picks] <= p[owner]
            picks, owner = picks[known], owner[known]
        self._add(union, rows[owner], self._register[picks], self._rank[picks])

    def _add(self, union: Registers, rows: Intps, register: Intps, rank: Registers) -> None:
        np.maximum.at(union.reshape(-1), rows * self._registers + register, rank)
