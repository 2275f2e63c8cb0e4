"""Some events of a timeline, for queries about the newest known ones."""

from functools import cached_property

import numpy as np

from tailorbird.features.offline.asof import Moments, Timeline
from tailorbird.features.offline.events.ragged import (
    EventRuns,
    Int64s,
    Intps,
    concatenate_ranges,
    split_chunks,
)
from tailorbird.features.offline.kernels import runs
from tailorbird.features.offline.kernels import windows as kernels


class Series:
    """Some of a timeline's events, in its order, for queries about the newest known ones."""

    def __init__(self, timeline: Timeline, positions: Intps) -> None:
        self._timeline = timeline
        self._timeline_positions = positions  # position in the timeline of each event of the series
        self.p = self._p = timeline.p[positions]
        self._minima_levels: list[Int64s] = []
        # Number of events of the series before each position of the timeline.
        self.before = self._before = np.empty(len(timeline) + 1, np.intp)
        kernels.count_before(positions, self.before)

    @cached_property
    def ts(self) -> Int64s:
        return self._timeline.ts[self._timeline_positions]

    @cached_property
    def events(self) -> Intps:
        """The index among the input events of each event of the series."""
        return self._timeline.order[self._timeline_positions]

    def newest(self, moments: Moments, since: Int64s | None = None) -> Intps:
        """Return the index of each moment's newest known event at or after `since`, or −1."""
        floor = moments.start if since is None else moments.before(since).edge
        newest, is_deferred = np.empty(len(moments), np.intp), np.zeros(len(moments), np.bool_)
        of_moments = (moments.order, floor, moments.stop.edge, moments.p)
        kernels.run_parallel(
            runs.write_newest,
            len(moments),
            *of_moments,
            self.before,
            self.p,
            self.events,
            newest,
            is_deferred,
        )
        deferred = np.flatnonzero(is_deferred[moments.order])
        if len(deferred):
            index = self._newest_indices(
                self._before[moments.stop.edge[deferred]], moments.p[deferred]
            )
            is_in_window = index >= self._before[floor[deferred]]
            newest[moments.order[deferred]] = np.where(is_in_window, self.events[index], -1)
        return newest

    def last(self, moments: Moments, length: int, since: Int64s | None = None) -> EventRuns:
        """Return each moment's last `length` known events at or after `since`, oldest first."""
        offsets, indices = self.last_indices(moments, length, since)
        return EventRuns(offsets, self.events[indices])

    def last_indices(
        self, moments: Moments, length: int, since: Int64s | None = None
    ) -> tuple[Int64s, Intps]:
        """Return the events of `last` as offsets and indices within the series."""
        floor = self._before[moments.start if since is None else moments.before(since).edge]
        stop = self._before[moments.stop.edge]
        start = np.maximum(stop - length, floor)
        pools = [np.arange(len(self._timeline_positions))]
        deferred_moments = moments.stop.slow
        deferred_moments = deferred_moments[stop[deferred_moments] > floor[deferred_moments]]
        if len(deferred_moments):
            sizes, pool = self._last_in_flight(
                floor[deferred_moments], stop[deferred_moments], moments.p[deferred_moments], length
            )
            start[deferred_moments] = len(self._timeline_positions) + np.cumsum(sizes) - sizes
            stop[deferred_moments] = start[deferred_moments] + sizes
            pools.append(pool)
        start, stop = moments.to_input_order(start), moments.to_input_order(stop)
        picks, offsets = concatenate_ranges(start, stop)
        return offsets, np.concatenate(pools)[picks]

    def _newest_indices(self, stop: Intps, bound: Int64s) -> Intps:
        """Return the greatest index < stop with p ≤ bound, in whatever entity; −1 if there is none.

        Costs O(log n) per query at worst.
        """
        index = stop - 1
        if not len(self._p):
            return np.full(len(stop), -1, np.intp)
        deferred_moments = np.flatnonzero((index >= 0) & (self._p[index] > bound))
        if len(deferred_moments):
            index[deferred_moments] = self._search_minima(
                stop[deferred_moments], bound[deferred_moments]
            )
        return index

    def _search_minima(self, stop: Intps, bound: Int64s) -> Intps:
        """Climb a tree of minima to a block on the left with a small enough p, then descend to its
        last entry.
        """
        minima = self._minima_tree()
        node = np.full(len(stop), -1, np.intp)
        hit_level = np.full(len(stop), -1, np.intp)
        end = stop.copy()
        for level, lows in enumerate(minima):
            unresolved = np.flatnonzero((node < 0) & (end & 1 == 1))
            hit = unresolved[lows[end[unresolved] - 1] <= bound[unresolved]]
            node[hit] = end[hit] - 1
            hit_level[hit] = level
            end >>= 1
        for level in range(len(minima) - 2, -1, -1):
            below = np.flatnonzero(hit_level > level)
            right = 2 * node[below] + 1
            node[below] = np.where(minima[level][right] <= bound[below], right, right - 1)
        return node

    def _minima_tree(self) -> list[Int64s]:
        if not self._minima_levels:
            unreachable = np.iinfo(np.int64).max
            level = self._p
            minima = [np.append(level, [unreachable] * (len(level) & 1))]
            while len(minima[-1]) > 1:
                level = minima[-1].reshape(-1, 2).min(axis=1)
                minima.append(
                    np.append(level, [unreachable] * (len(level) & 1 if len(level) > 1 else 0))
                )
            self._minima_levels = minima
        return self._minima_levels

    def _last_in_flight(
        self, floor: Intps, stop: Intps, bound: Int64s, length: int
    ) -> tuple[Intps, Intps]:
        """Return sizes and indices of the last `length` known events of queries with events in
        flight.
        """
        stop = np.maximum(
            self._newest_indices(stop, bound) + 1, floor
        )  # Skip everything after the newest known event.
        sizes = np.zeros(len(stop), np.intp)
        selected: list[tuple[Intps, Intps]] = []
        scan_length = 2 * length
        unfinished_moments = np.arange(len(stop))
        while len(unfinished_moments):
            still_unfinished = []
            for chunk in split_chunks(unfinished_moments, scan_length):
                start = np.maximum(stop[chunk] - scan_length, floor[chunk])
                picks, offsets = concatenate_ranges(start, stop[chunk])
                owner = np.repeat(np.arange(len(chunk)), np.diff(offsets))
                is_routed = self._p[picks] <= bound[chunk][owner]
                picks, owner = picks[is_routed], owner[is_routed]
                count = np.bincount(owner, minlength=len(chunk))
                is_done = (count >= length) | (start == floor[chunk])
                from_end = np.cumsum(count)[owner] - np.arange(len(owner))  # 1 for the newest
                is_taken = is_done[owner] & (from_end <= length)
                selected.append((chunk[owner[is_taken]], picks[is_taken]))
                sizes[chunk[is_done]] = np.minimum(count[is_done], length)
                still_unfinished.append(chunk[~is_done])
            unfinished_moments = np.concatenate(still_unfinished)
            scan_length *= 4
        owners = (
            np.concatenate([owner for owner, _ in selected]) if selected else np.zeros(0, np.intp)
        )
        indices = (
            np.concatenate([place for _, place in selected]) if selected else np.zeros(0, np.intp)
        )
        return sizes, indices[np.argsort(owners, kind="stable")]
