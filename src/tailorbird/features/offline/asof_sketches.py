"""Sketches of what was known at (t, p) within a window, for many queries at once.

Extends `features.offline.asof`. The timeline is cut into blocks of events, and a tree of unions is
built over their registers. A window is a few events at its beginning, complete blocks, and a few
events at its end. Events in flight and those after them are scanned one by one, as are short
windows.

    events   [a b c d] [e f g h] [i j k l] [m …        window [c, k): c d | block 1 | i j
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.declare.limits import RANK_MAX
from tailorbird.features.offline.asof import AsOfQueries, Timeline
from tailorbird.features.offline.kernels.aggregates import (
    BLOCK_EVENTS,
    write_block_unions,
    write_unions,
)
from tailorbird.features.offline.kernels.marks import write_registers
from tailorbird.features.offline.kernels.windows import run_parallel

Intps = npt.NDArray[np.intp]
Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class SketchTree:
    """Sketches over the hashes (n,) of a timeline's selected events (n,), both in input order."""

    def __init__(
        self, timeline: Timeline, hashes: Keys, is_selected: Bools, precision: int
    ) -> None:
        self._timeline = timeline
        self._register = np.empty(len(timeline), np.uint8)
        self._rank = np.empty(len(timeline), np.uint8)
        event_arrays = (
            timeline.order,
            is_selected,
            hashes,
            precision,
            RANK_MAX,
            self._register,
            self._rank,
        )
        run_parallel(write_registers, len(timeline), *event_arrays)
        level = np.zeros((len(timeline) // BLOCK_EVENTS, 1 << precision), np.uint8)
        run_parallel(write_block_unions, len(level), self._register, self._rank, level)
        levels = [level]
        while len(levels[-1]) > 1:
            level = levels[-1]
            if len(level) & 1:
                level = levels[-1] = np.concatenate(
                    [level, np.zeros((1, level.shape[1]), np.uint8)]
                )
            levels.append(np.maximum(level[::2], level[1::2]))
        self._tree_nodes = np.concatenate(levels)
        self._level_starts = np.cumsum([0, *(len(level) for level in levels)])

    def summary_since(self, queries: AsOfQueries, since: Int64s) -> tuple[Int64s, Int64s]:
        """Return empty registers and rank sum of each query's known events at or after `since`."""
        return self.summary_from_positions(queries, queries.before(since).edge)

    def summary_from_positions(self, queries: AsOfQueries, start: Intps) -> tuple[Int64s, Int64s]:
        """Return the same summary from each window's first position, in order of (entity, t)."""
        empty_registers = np.empty(len(queries), np.int64)
        rank_sum = np.empty(len(queries), np.int64)
        event_arrays = (
            self._timeline.log_position,
            self._register,
            self._rank,
            self._tree_nodes,
            self._level_starts,
        )
        run_parallel(
            write_unions,
            len(queries),
            *queries.kernel_arrays(start),
            *event_arrays,
            RANK_MAX,
            empty_registers,
            rank_sum,
        )
        return empty_registers, rank_sum
