"""Point-in-time queries at (t, p): sums, newest events and last L events, for many of them.

A query asks about the events of one entity with ts < t that were routed at or before p. Events are
sorted once by (entity, ts, id). A window's edge is then a position in that order, found by binary
search, and a sum is a difference of prefix sums. That is exact wherever all events before the edge
were known, which one gather from the running maximum of p shows. For the few queries with events in
flight (happened, not yet routed), only the stretch from the first of them to the edge is searched,
by a wavelet matrix for sums and by a tree of minima for the newest: O(log n) a query, whatever the
delay.

    order:     entity 0: ts ts ts … | entity 1: ts ts …     edge x: events [start, x) have ts < t
    p:         5  6  9  7 … | …                             sum(x) at p = 7:
    running p: 5  6  9  9 … | …                               prefix[y] + stretch [y, x) with p ≤ 7
                                                             y: first position with running p > 7

`log_position` is p of an event or of a query, `running_log_position` the running maximum.
`features.offline.backfill` decides which events belong to which entity, and finishes columns from
the sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.events.ragged import Int64s, Intps
from tailorbird.features.offline.kernels import aggregates, groups
from tailorbird.features.offline.kernels import windows as kernels

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
TieBreak = Callable[
    [Intps], Sequence[npt.NDArray]
]  # positions of events → sort keys, the most significant first

IN_FLIGHT_MAX = 256  # events in flight that are scanned one by one


class Timeline:
    """The events of the requested entities, sorted by (entity, ts, tie-break).

    Args:
        entity_keys: keys of the entities that queries will name, in any order, with repeats.
        keys: shape (n,), the entity of each event; events of other entities are dropped.
        ts, log_position: shape (n,).
        tie_break: orders the events of one entity with equal ts; called only for those.

    Attributes:
        order: shape (m,), the index among the n events of each position. ts, log_position: shape (m,).
        starts: shape (entities + 2,), the first position of each entity; the last but one stands
            for unknown entities, which have no events.
        running_log_position: shape (m,), the largest p of the entity up to each position.
    """

    def __init__(
        self,
        entity_keys: Keys,
        keys: Keys,
        ts: Int64s,
        log_position: Int64s,
        tie_break: TieBreak | None = None,
    ) -> None:
        assert keys.shape == ts.shape == log_position.shape
        self._key_numbering = groups.KeyNumbering(entity_keys)
        entity_count = self._key_numbering.count
        starts, self.order, self.ts, self.log_position = groups.group_entries(
            self._key_numbering.lookup(keys), entity_count, ts, log_position
        )
        self.starts: Int64s = np.append(starts, starts[-1])
        if tie_break is not None:
            self._break_ties(tie_break, log_position)
        self.running_log_position: Int64s = np.empty(len(self.log_position), np.int64)
        kernels.run_parallel(
            kernels.write_running_maximum,
            entity_count,
            starts,
            self.log_position,
            self.running_log_position,
            bounds=kernels.share_bounds(starts),
        )

    def __len__(self) -> int:
        return len(self.order)

    def prefix(self, values: Int64s) -> Int64s:
        """Return prefix sums, shape (m + 1,), of `values` (n,) in the input order of the events."""
        return self.prefixes([values])[0]

    def prefixes(self, values: Sequence[Int64s]) -> Int64s:
        """Return the prefix sums of several measures, shape (measures, m + 1)."""
        sums = np.empty((len(values), len(self) + 1), np.int64)
        sums[:, 0] = 0
        for row, column in zip(sums, values, strict=True):
            kernels.run_parallel(kernels.gather, len(self), column, self.order, row[1:])
            kernels.accumulate_sums(row)
        return sums

    def queries_at(self, keys: Keys, t: Int64s, log_position: Int64s) -> "AsOfQueries":
        """Return queries for arrays of shape (q,); a key without events is a query before all
        events.
        """
        return AsOfQueries(self, self._key_numbering.lookup(keys), t, log_position)

    def _break_ties(self, tie_break: TieBreak, log_position: Int64s) -> None:
        tied_positions = np.flatnonzero(kernels.find_ties(self.starts, self.ts))
        if len(tied_positions):
            tied_events = self.order[tied_positions]
            # Tied positions of one entity and time are adjacent, and each run is sorted by
            # the tie-break.
            entity = np.searchsorted(self.starts, tied_positions, side="right")
            tied_events = tied_events[
                np.lexsort((*reversed(tie_break(tied_events)), self.ts[tied_positions], entity))
            ]
            self.order[tied_positions], self.log_position[tied_positions] = (
                tied_events,
                log_position[tied_events],
            )


class AsOfQueries:
    """Queries to a timeline, sorted by (entity, t) so that edges advance through memory in order.

    All input and output arrays have one entry per query, in the input order of the queries.
    """

    def __init__(
        self, timeline: Timeline, entity: npt.NDArray[np.int32], t: Int64s, log_position: Int64s
    ) -> None:
        self.timeline = timeline
        self.starts, self.order, self.sorted_t, self.log_position = groups.group_entries(
            entity, len(timeline.starts) - 1, t, log_position
        )
        self.entity = entity[self.order]
        self.t = t
        self._unsorted_arrays = entity, log_position
        self.start = timeline.starts[self.entity]

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def stop(self) -> "TimeEdge":
        """The edge at t."""
        return self._find_edge(self.sorted_t)

    def before(self, times: Int64s | None = None) -> "TimeEdge":
        """Return the edge at `times` (q,), or at t: the known events before it."""
        return self.stop if times is None else self._find_edge(times[self.order])

    def window_start(self, hop: int, length: int) -> Intps:
        """Return the first position from t // hop · hop − length, in order of (entity, t)."""
        starts = np.empty(len(self), np.intp)
        event_arrays = (self.timeline.starts, self.timeline.ts)
        kernels.run_parallel(
            kernels.write_window_edges,
            len(self),
            self.entity,
            self.sorted_t,
            *event_arrays,
            hop,
            length,
            starts,
        )
        return starts

    def kernel_arrays(self, start: Intps) -> tuple[Intps, Intps, Intps, Intps, Int64s]:
        """Return what a tree's kernel reads of the queries, whose windows begin at `start`."""
        return self.order, start, self.stop.edge, self.stop.first_in_flight(), self.log_position

    def take(self, rows: Intps) -> "AsOfQueries":
        """Return only the queries at `rows`."""
        entity, log_position = self._unsorted_arrays
        return AsOfQueries(self.timeline, entity[rows], self.t[rows], log_position[rows])

    def _find_edge(self, times: Int64s) -> "TimeEdge":
        timeline = self.timeline
        edge = np.empty(len(times), np.intp)
        first_in_flight = np.empty(len(times), np.intp)
        kernels.run_parallel(
            kernels.write_edges, len(times), self.entity, times, timeline.starts, timeline.ts, edge
        )
        kernels.run_parallel(
            kernels.write_first_in_flight,
            len(times),
            self.start,
            edge,
            self.log_position,
            timeline.running_log_position,
            first_in_flight,
        )
        in_flight_queries = np.flatnonzero(first_in_flight < edge)
        return TimeEdge(
            timeline, self.log_position, edge, in_flight_queries, first_in_flight[in_flight_queries]
        )

    def to_input_order(self, values: npt.NDArray) -> npt.NDArray:
        """Reorder values from the sorted order back to the input order of the queries."""
        restored = np.empty_like(values)
        restored[self.order] = values
        return restored

    def window_sums(
        self,
        prefixes: Int64s,
        windows: Sequence[tuple[int, int, int]],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> Int64s:
        """Return the sum of each window, shape (q, windows).

        Args:
            prefixes: from `Timeline.prefixes`.
            windows: (hop, length, prefix_index): the events since t // hop · hop − length.
            in_flight_max: queries with more events in flight are answered by a wavelet matrix,
                whose time does not grow with them.
        """
        timeline = self.timeline
        hops, lengths, prefix_indexes = (
            np.array([window[index] for window in windows], np.int64) for index in range(3)
        )
        sums = np.empty((len(self), len(windows)), np.int64)
        is_deferred = np.zeros(len(self), np.bool_)
        query_arrays = (self.order, self.entity, self.sorted_t, self.log_position)
        event_arrays = (
            timeline.starts,
            timeline.ts,
            timeline.log_position,
            timeline.running_log_position,
            prefixes,
        )
        kernels.run_parallel(
            kernels.write_window_sums,
            len(self),
            *query_arrays,
            *event_arrays,
            hops,
            lengths,
            prefix_indexes,
            in_flight_max,
            sums,
            is_deferred,
        )
        deferred = np.flatnonzero(is_deferred)
        if len(deferred):
            queries = self.take(deferred)
            sums_before_t = queries.before().sums(list(prefixes))
            for index, (hop, length, prefix_index) in enumerate(windows):
                sums_before_window = queries.before(queries.t // hop * hop - length).sums(
                    [prefixes[prefix_index]]
                )[0]
                sums[deferred, index] = queries.to_input_order(
                    sums_before_t[prefix_index] - sums_before_window
                )
        return sums

    def decayed_sums(
        self, prefix: Int64s, hop: int, weights: Floats, *, in_flight_max: int = IN_FLIGHT_MAX
    ) -> Floats:
        """Return the weighted sum of the tile of t and the len(weights) − 1 tiles before it.

        Tiles are weighted by age and added oldest first.
        """
        timeline = self.timeline
        totals = np.empty(len(self))
        is_deferred = np.zeros(len(self), np.bool_)
        query_arrays = (self.order, self.entity, self.sorted_t, self.log_position)
        event_arrays = (
            timeline.starts,
            timeline.ts,
            timeline.log_position,
            timeline.running_log_position,
            prefix,
        )
        kernels.run_parallel(
            aggregates.write_decayed_sums,
            len(self),
            *query_arrays,
            *event_arrays,
            hop,
            weights,
            in_flight_max,
            totals,
            is_deferred,
        )
        deferred = np.flatnonzero(is_deferred)
        if len(deferred):
            totals[deferred] = self.take(deferred)._decayed_sums_tile_by_tile(prefix, hop, weights)
        return totals

    def _decayed_sums_tile_by_tile(self, prefix: Int64s, hop: int, weights: Floats) -> Floats:
        total = np.zeros(len(self))
        sum_before_start = self.before((self.t // hop - len(weights) + 1) * hop).sums([prefix])[0]
        for age in range(len(weights) - 1, -1, -1):
            edge = self.before((self.t // hop - age + 1) * hop) if age else self.before()
            sum_before_end = edge.sums([prefix])[0]
            total += (sum_before_end - sum_before_start).astype(np.float64) * weights[age]
            sum_before_start = sum_before_end
        return self.to_input_order(total)


@dataclass(frozen=True)
class TimeEdge:
    """One time edge of every query.

    `in_flight_queries` are the queries with events in flight before the edge, `first_unknown` the
    first of these events.
    """

    timeline: Timeline
    log_position: Int64s
    edge: Intps
    in_flight_queries: Intps
    first_unknown: Intps

    def first_in_flight(self) -> Intps:
        """Return the first event in flight of each query, or the edge where there is none."""
        positions = self.edge.copy()
        positions[self.in_flight_queries] = self.first_unknown
        return positions

    def sums(self, prefixes: Sequence[Int64s]) -> list[Int64s]:
        """Return, for each measure's prefix sums (m + 1,), the sum of all known events before the
        edge.

        The constant contribution of entities earlier in the order is included. It cancels in a
        difference of two edges.
        """
        totals = [prefix[self.edge] for prefix in prefixes]
        if len(self.in_flight_queries):
            stop = self.edge[self.in_flight_queries]
            position_max = self.log_position[self.in_flight_queries]
            stretch_sums = _stretch_sums(
                self.timeline.log_position, self.first_unknown, stop, position_max, prefixes
            )
            for total, prefix, stretch_sum in zip(totals, prefixes, stretch_sums, strict=True):
                total[self.in_flight_queries] = prefix[self.first_unknown] + stretch_sum
        return totals


def _stretch_sums(
    log_position: Int64s,
    first_in_flight: Intps,
    stop: Intps,
    position_max: Int64s,
    prefixes: Sequence[Int64s],
) -> list[Int64s]:
    """Sum over the positions [first_in_flight, stop) with p ≤ position_max, by a wavelet matrix
    processed level by level.

    Cost O((n + q) log n) for the n events that lie in any stretch; memory O(n + q), since only one
    level is held at a time.
    """
    coverage_changes = np.zeros(len(log_position) + 1, np.int64)
    np.add.at(coverage_changes, first_in_flight, 1)
    np.subtract.at(coverage_changes, stop, 1)
    covered_positions = np.flatnonzero(np.cumsum(coverage_changes[:-1]))
    low = np.searchsorted(covered_positions, first_in_flight)
    high = np.searchsorted(covered_positions, stop)
    distinct_positions, ranks = np.unique(log_position[covered_positions], return_inverse=True)
    rank_limit = np.searchsorted(
        distinct_positions, position_max, side="right"
    )  # events with rank < limit were known
    values = [prefix[covered_positions + 1] - prefix[covered_positions] for prefix in prefixes]
    sums = [np.zeros(len(first_in_flight), np.int64) for _ in prefixes]
    for bit in reversed(range(len(distinct_positions).bit_length())):
        has_bit = (ranks >> bit) & 1 == 1
        zeros_before = np.concatenate(([0], np.cumsum(~has_bit)))
        includes_zeros = (
            rank_limit >> bit
        ) & 1 == 1  # All zeros of this level are below the limit; continue among the ones.
        for index, column in enumerate(values):
            partial_sums = np.concatenate(([0], np.cumsum(np.where(has_bit, 0, column))))
            sums[index] += np.where(includes_zeros, partial_sums[high] - partial_sums[low], 0)
        reordered = np.concatenate((np.flatnonzero(~has_bit), np.flatnonzero(has_bit)))
        ranks = ranks[reordered]
        values = [column[reordered] for column in values]
        low = np.where(
            includes_zeros, zeros_before[-1] + low - zeros_before[low], zeros_before[low]
        )
        high = np.where(
            includes_zeros, zeros_before[-1] + high - zeros_before[high], zeros_before[high]
        )
    return sums
