"""Point-in-time queries at (t, p): sums, newest events and last L events, for many moments.

A moment asks about the events of one entity with ts < t that were routed at or before p. Events are
sorted once by (entity, ts, id). A window's edge is then a position in that order, found by binary
search, and a sum is a difference of prefix sums. That is exact wherever all events before the edge
were known, which one gather from the running maximum of p shows. For the few moments with events in
flight (happened, not yet routed), only the stretch from the first of them to the edge is searched,
by a wavelet matrix for sums and by a tree of minima for the newest: O(log n) a moment, whatever the
delay.

    order:     entity 0: ts ts ts … | entity 1: ts ts …     edge x: events [start, x) have ts < t
    p:         5  6  9  7 … | …                             sum(x) at p = 7:
    running_p: 5  6  9  9 … | …                               prefix[y] + stretch [y, x) with p ≤ 7
                                                             y: first position with running_p > 7

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
        entity_keys: keys of the entities that moments will name, in any order, with repeats.
        keys: shape (n,), the entity of each event; events of other entities are dropped.
        ts, p: shape (n,).
        tie: orders the events of one entity with equal ts; called only for those.

    Attributes:
        order: shape (m,), the index among the n events of each position. ts, p: shape (m,).
        starts: shape (entities + 2,), the first position of each entity; the last but one stands
            for unknown entities, which have no events.
        running_p: shape (m,), the largest p of the entity up to each position.
    """

    def __init__(
        self, entity_keys: Keys, keys: Keys, ts: Int64s, p: Int64s, tie: TieBreak | None = None
    ) -> None:
        assert keys.shape == ts.shape == p.shape
        self._numbers = groups.KeyNumbering(entity_keys)
        count = self._numbers.count
        starts, self.order, self.ts, self.p = groups.group_entries(
            self._numbers.lookup(keys), count, ts, p
        )
        self.starts: Int64s = np.append(starts, starts[-1])
        if tie is not None:
            self._break_ties(tie, p)
        self.running_p: Int64s = np.empty(len(self.p), np.int64)
        kernels.run_parallel(
            kernels.running_maximum,
            count,
            starts,
            self.p,
            self.running_p,
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

    def at(self, keys: Keys, t: Int64s, p: Int64s) -> "Moments":
        """Return moments for arrays of shape (q,); a key without events is a moment before all
        events.
        """
        return Moments(self, self._numbers.lookup(keys), t, p)

    def _break_ties(self, tie: TieBreak, p: Int64s) -> None:
        tied_positions = np.flatnonzero(kernels.find_ties(self.starts, self.ts))
        if len(tied_positions):
            tied_events = self.order[tied_positions]
            # Tied positions of one entity and time are adjacent, and each run is sorted by
            # the tie-break.
            entity = np.searchsorted(self.starts, tied_positions, side="right")
            tied_events = tied_events[
                np.lexsort((*reversed(tie(tied_events)), self.ts[tied_positions], entity))
            ]
            self.order[tied_positions], self.p[tied_positions] = tied_events, p[tied_events]


class Moments:
    """Queries to a timeline, sorted by (entity, t) so that edges advance through memory in order.

    All input and output arrays have one entry per moment, in the input order of the moments.
    """

    def __init__(
        self, timeline: Timeline, entity: npt.NDArray[np.int32], t: Int64s, p: Int64s
    ) -> None:
        self.timeline = timeline
        self.starts, self.order, self.sorted_t, self.p = groups.group_entries(
            entity, len(timeline.starts) - 1, t, p
        )
        self.entity = entity[self.order]
        self.t = t
        self._unsorted = entity, p
        self.start = timeline.starts[self.entity]

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def stop(self) -> "Cut":
        """The edge at t."""
        return self._cut(self.sorted_t)

    def before(self, times: Int64s | None = None) -> "Cut":
        """Return the edge at `times` (q,), or at t: the known events before it."""
        return self.stop if times is None else self._cut(times[self.order])

    def window_start(self, hop: int, length: int) -> Intps:
        """Return the first position from t // hop · hop − length, in order of (entity, t)."""
        starts = np.empty(len(self), np.intp)
        of_events = (self.timeline.starts, self.timeline.ts)
        kernels.run_parallel(
            kernels.window_edges,
            len(self),
            self.entity,
            self.sorted_t,
            *of_events,
            hop,
            length,
            starts,
        )
        return starts

    def take(self, rows: Intps) -> "Moments":
        """Return only the moments at `rows`."""
        entity, p = self._unsorted
        return Moments(self.timeline, entity[rows], self.t[rows], p[rows])

    def _cut(self, times: Int64s) -> "Cut":
        timeline = self.timeline
        edge, first_in_flight = np.empty(len(times), np.intp), np.empty(len(times), np.intp)
        kernels.run_parallel(
            kernels.write_edges, len(times), self.entity, times, timeline.starts, timeline.ts, edge
        )
        kernels.run_parallel(
            kernels.in_flight,
            len(times),
            self.start,
            edge,
            self.p,
            timeline.running_p,
            first_in_flight,
        )
        slow = np.flatnonzero(first_in_flight < edge)
        return Cut(timeline, self.p, edge, slow, first_in_flight[slow])

    def to_input_order(self, values: npt.NDArray) -> npt.NDArray:
        """Reorder values from the sorted order back to the input order of the moments."""
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
            windows: (hop, length, index of the prefix): the events since t // hop · hop − length.
            in_flight_max: moments with more events in flight are answered by a wavelet matrix,
                whose time does not grow with them.
        """
        timeline = self.timeline
        hop, length, prefix_of = (
            np.array([window[index] for window in windows], np.int64) for index in range(3)
        )
        sums, is_deferred = (
            np.empty((len(self), len(windows)), np.int64),
            np.zeros(len(self), np.bool_),
        )
        of_moments = (self.order, self.entity, self.sorted_t, self.p)
        of_events = (timeline.starts, timeline.ts, timeline.p, timeline.running_p, prefixes)
        kernels.run_parallel(
            kernels.window_sums,
            len(self),
            *of_moments,
            *of_events,
            hop,
            length,
            prefix_of,
            in_flight_max,
            sums,
            is_deferred,
        )
        deferred = np.flatnonzero(is_deferred)
        if len(deferred):
            moments = self.take(deferred)
            upper = moments.before().sums(list(prefixes))
            for index, (hop_of, length_of, prefix) in enumerate(windows):
                lower = moments.before(moments.t // hop_of * hop_of - length_of).sums(
                    [prefixes[prefix]]
                )[0]
                sums[deferred, index] = moments.to_input_order(upper[prefix] - lower)
        return sums

    def decayed_sums(
        self, prefix: Int64s, hop: int, weights: Floats, *, in_flight_max: int = IN_FLIGHT_MAX
    ) -> Floats:
        """Return the weighted sum of the tile of t and the len(weights) − 1 tiles before it.

        Tiles are weighted by age and added oldest first.
        """
        timeline = self.timeline
        totals, is_far = np.empty(len(self)), np.zeros(len(self), np.bool_)
        of_moments = (self.order, self.entity, self.sorted_t, self.p)
        of_events = (timeline.starts, timeline.ts, timeline.p, timeline.running_p, prefix)
        kernels.run_parallel(
            aggregates.decayed_sums,
            len(self),
            *of_moments,
            *of_events,
            hop,
            weights,
            in_flight_max,
            totals,
            is_far,
        )
        far_rows = np.flatnonzero(is_far)
        if len(far_rows):
            totals[far_rows] = self.take(far_rows)._tile_by_tile(prefix, hop, weights)
        return totals

    def _tile_by_tile(self, prefix: Int64s, hop: int, weights: Floats) -> Floats:
        total = np.zeros(len(self))
        below = self.before((self.t // hop - len(weights) + 1) * hop).sums([prefix])[0]
        for age in range(len(weights) - 1, -1, -1):
            edge = self.before((self.t // hop - age + 1) * hop) if age else self.before()
            above = edge.sums([prefix])[0]
            total += (above - below).astype(np.float64) * weights[age]
            below = above
        return self.to_input_order(total)


@dataclass(frozen=True)
class Cut:
    """One time edge of every moment.

    `slow` are the moments with events in flight before the edge, `first` the first of these events.
    """

    timeline: Timeline
    p: Int64s
    edge: Intps
    slow: Intps
    first: Intps

    def first_in_flight(self) -> Intps:
        """Return the first event in flight of each moment, or the edge where there is none."""
        positions = self.edge.copy()
        positions[self.slow] = self.first
        return positions

    def sums(self, prefixes: Sequence[Int64s]) -> list[Int64s]:
        """Return, for each measure's prefix sums (m + 1,), the sum of all known events before the
        edge.

        The constant contribution of entities earlier in the order is included. It cancels in a
        difference of cuts.
        """
        totals = [prefix[self.edge] for prefix in prefixes]
        if len(self.slow):
            last, bound = self.edge[self.slow], self.p[self.slow]
            stretches = _stretch_sums(self.timeline.p, self.first, last, bound, prefixes)
            for total, prefix, extra in zip(totals, prefixes, stretches, strict=True):
                total[self.slow] = prefix[self.first] + extra
        return totals


def _stretch_sums(
    p: Int64s, first_in_flight: Intps, last: Intps, bound: Int64s, prefixes: Sequence[Int64s]
) -> list[Int64s]:
    """Sum over the positions [first, last) with p ≤ bound, by a wavelet matrix processed level by
    level.

    Cost O((n + q) log n) for the n events that lie in any stretch; memory O(n + q), since only one
    level is held at a time.
    """
    marks = np.zeros(len(p) + 1, np.int64)
    np.add.at(marks, first_in_flight, 1)
    np.subtract.at(marks, last, 1)
    covered = np.flatnonzero(np.cumsum(marks[:-1]))
    low = np.searchsorted(covered, first_in_flight)
    high = np.searchsorted(covered, last)
    distinct, ranks = np.unique(p[covered], return_inverse=True)
    limit = np.searchsorted(distinct, bound, side="right")  # events with rank < limit were known
    values = [prefix[covered + 1] - prefix[covered] for prefix in prefixes]
    sums = [np.zeros(len(first_in_flight), np.int64) for _ in prefixes]
    for bit in reversed(range(len(distinct).bit_length())):
        ones = (ranks >> bit) & 1 == 1
        zeros_before = np.concatenate(([0], np.cumsum(~ones)))
        below = (
            limit >> bit
        ) & 1 == 1  # All zeros of this level are below the limit; continue among the ones.
        for index, column in enumerate(values):
            partial = np.concatenate(([0], np.cumsum(np.where(ones, 0, column))))
            sums[index] += np.where(below, partial[high] - partial[low], 0)
        split = np.concatenate((np.flatnonzero(~ones), np.flatnonzero(ones)))
        ranks, values = ranks[split], [column[split] for column in values]
        low = np.where(below, zeros_before[-1] + low - zeros_before[low], zeros_before[low])
        high = np.where(below, zeros_before[-1] + high - zeros_before[high], zeros_before[high])
    return sums
