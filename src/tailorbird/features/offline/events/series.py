"""Some events of a timeline, for queries about the newest known ones."""

from functools import cached_property

import numpy as np

from tailorbird.features.offline.asof import AsOfQueries, Timeline
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
        self.log_position = timeline.log_position[positions]
        self._minima_levels: list[Int64s] = []
        # Number of events of the series before each position of the timeline.
        self.events_before = np.empty(len(timeline) + 1, np.intp)
        kernels.count_before(positions, self.events_before)

    @cached_property
    def ts(self) -> Int64s:
        return self._timeline.ts[self._timeline_positions]

    @cached_property
    def events(self) -> Intps:
        """The index among the input events of each event of the series."""
        return self._timeline.order[self._timeline_positions]

    def newest(self, queries: AsOfQueries, since: Int64s | None = None) -> Intps:
        """Return the index of each query's newest known event at or after `since`, or −1."""
        floor = queries.start if since is None else queries.before(since).edge
        newest = np.empty(len(queries), np.intp)
        is_deferred = np.zeros(len(queries), np.bool_)
        query_arrays = (queries.order, floor, queries.stop.edge, queries.log_position)
        kernels.run_parallel(
            runs.write_newest,
            len(queries),
            *query_arrays,
            self.events_before,
            self.log_position,
            self.events,
            newest,
            is_deferred,
        )
        deferred = np.flatnonzero(is_deferred[queries.order])
        if len(deferred):
            index = self._newest_indices(
                self.events_before[queries.stop.edge[deferred]], queries.log_position[deferred]
            )
            is_in_window = index >= self.events_before[floor[deferred]]
            newest[queries.order[deferred]] = np.where(is_in_window, self.events[index], -1)
        return newest

    def last(self, queries: AsOfQueries, length: int, since: Int64s | None = None) -> EventRuns:
        """Return each query's last `length` known events at or after `since`, oldest first."""
        offsets, indices = self.last_indices(queries, length, since)
        return EventRuns(offsets, self.events[indices])

    def last_indices(
        self, queries: AsOfQueries, length: int, since: Int64s | None = None
    ) -> tuple[Int64s, Intps]:
        """Return the events of `last` as offsets and indices within the series."""
        floor = self.events_before[queries.start if since is None else queries.before(since).edge]
        stop = self.events_before[queries.stop.edge]
        start = np.maximum(stop - length, floor)
        index_pools = [np.arange(len(self._timeline_positions))]
        deferred_queries = queries.stop.in_flight_queries
        deferred_queries = deferred_queries[stop[deferred_queries] > floor[deferred_queries]]
        if len(deferred_queries):
            sizes, in_flight_indices = self._last_in_flight(
                floor[deferred_queries],
                stop[deferred_queries],
                queries.log_position[deferred_queries],
                length,
            )
            start[deferred_queries] = len(self._timeline_positions) + np.cumsum(sizes) - sizes
            stop[deferred_queries] = start[deferred_queries] + sizes
            index_pools.append(in_flight_indices)
        start = queries.to_input_order(start)
        stop = queries.to_input_order(stop)
        pool_indexes, offsets = concatenate_ranges(start, stop)
        return offsets, np.concatenate(index_pools)[pool_indexes]

    def _newest_indices(self, stop: Intps, bound: Int64s) -> Intps:
        """Return the greatest index < stop with p ≤ bound, in whatever entity; −1 if there is none.

        Costs O(log n) per query at worst.
        """
        index = stop - 1
        if not len(self.log_position):
            return np.full(len(stop), -1, np.intp)
        deferred_queries = np.flatnonzero((index >= 0) & (self.log_position[index] > bound))
        if len(deferred_queries):
            index[deferred_queries] = self._search_minima(
                stop[deferred_queries], bound[deferred_queries]
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
        for level, level_minima in enumerate(minima):
            unresolved = np.flatnonzero((node < 0) & (end & 1 == 1))
            hit = unresolved[level_minima[end[unresolved] - 1] <= bound[unresolved]]
            node[hit] = end[hit] - 1
            hit_level[hit] = level
            end >>= 1
        for level in range(len(minima) - 2, -1, -1):
            descending_queries = np.flatnonzero(hit_level > level)
            right = 2 * node[descending_queries] + 1
            node[descending_queries] = np.where(
                minima[level][right] <= bound[descending_queries], right, right - 1
            )
        return node

    def _minima_tree(self) -> list[Int64s]:
        if not self._minima_levels:
            unreachable = np.iinfo(np.int64).max
            level = self.log_position
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
        unfinished_queries = np.arange(len(stop))
        while len(unfinished_queries):
            still_unfinished = []
            for chunk in split_chunks(unfinished_queries, scan_length):
                start = np.maximum(stop[chunk] - scan_length, floor[chunk])
                positions, offsets = concatenate_ranges(start, stop[chunk])
                query_index = np.repeat(np.arange(len(chunk)), np.diff(offsets))
                is_routed = self.log_position[positions] <= bound[chunk][query_index]
                positions = positions[is_routed]
                query_index = query_index[is_routed]
                count = np.bincount(query_index, minlength=len(chunk))
                is_done = (count >= length) | (start == floor[chunk])
                from_end = np.cumsum(count)[query_index] - np.arange(
                    len(query_index)
                )  # 1 for the newest
                is_taken = is_done[query_index] & (from_end <= length)
                selected.append((chunk[query_index[is_taken]], positions[is_taken]))
                sizes[chunk[is_done]] = np.minimum(count[is_done], length)
                still_unfinished.append(chunk[~is_done])
            unfinished_queries = np.concatenate(still_unfinished)
            scan_length *= 4
        query_indexes = (
            np.concatenate([query_index for query_index, _ in selected])
            if selected
            else np.zeros(0, np.intp)
        )
        indices = (
            np.concatenate([position for _, position in selected])
            if selected
            else np.zeros(0, np.intp)
        )
        return sizes, indices[np.argsort(query_indexes, kind="stable")]
