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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.kernels import aggregates, groups, runs
from tailorbird.features.offline.kernels import windows as kernels

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
TieBreak = Callable[
    [Intps], Sequence[npt.NDArray]
]  # positions of events → sort keys, the most significant first

_RAGGED_MAX = 1 << 22  # entries of a ragged intermediate in memory
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
            kernels.accumulate(row)
        return sums

    def at(self, keys: Keys, t: Int64s, p: Int64s) -> "Moments":
        """Return moments for arrays of shape (q,); a key without events is a moment before all
        events.
        """
        return Moments(self, self._numbers.lookup(keys), t, p)

    def select(self, chosen: Bools) -> "Series":
        """Return the events where `chosen` (n,) is true, for queries about the newest of them."""
        return Series(self, np.flatnonzero(chosen[self.order]))

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
        edge, first = np.empty(len(times), np.intp), np.empty(len(times), np.intp)
        kernels.run_parallel(
            kernels.edges, len(times), self.entity, times, timeline.starts, timeline.ts, edge
        )
        kernels.run_parallel(
            kernels.in_flight, len(times), self.start, edge, self.p, timeline.running_p, first
        )
        slow = np.flatnonzero(first < edge)
        return Cut(timeline, self.p, edge, slow, first[slow])

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
            np.array([window[place] for window in windows], np.int64) for place in range(3)
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
            for place, (hop_of, length_of, prefix) in enumerate(windows):
                lower = moments.before(moments.t // hop_of * hop_of - length_of).sums(
                    [prefixes[prefix]]
                )[0]
                sums[deferred, place] = moments.to_input_order(upper[prefix] - lower)
        return sums

    def decayed_sums(
        self, prefix: Int64s, hop: int, weights: Floats, *, in_flight_max: int = IN_FLIGHT_MAX
    ) -> Floats:
        """Return the weighted sum of the tile of t and the len(weights) − 1 tiles before it.

        Tiles are weighted by age and added oldest first.
        """
        timeline = self.timeline
        totals, far = np.empty(len(self)), np.zeros(len(self), np.bool_)
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
            far,
        )
        rest = np.flatnonzero(far)
        if len(rest):
            totals[rest] = self.take(rest)._tile_by_tile(prefix, hop, weights)
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
    p: Int64s, first: Intps, last: Intps, bound: Int64s, prefixes: Sequence[Int64s]
) -> list[Int64s]:
    """Sum over the positions [first, last) with p ≤ bound, by a wavelet matrix processed level by
    level.

    Cost O((n + q) log n) for the n events that lie in any stretch; memory O(n + q), since only one
    level is held at a time.
    """
    marks = np.zeros(len(p) + 1, np.int64)
    np.add.at(marks, first, 1)
    np.subtract.at(marks, last, 1)
    covered = np.flatnonzero(np.cumsum(marks[:-1]))
    low = np.searchsorted(covered, first)
    high = np.searchsorted(covered, last)
    distinct, ranks = np.unique(p[covered], return_inverse=True)
    limit = np.searchsorted(distinct, bound, side="right")  # events with rank < limit were known
    values = [prefix[covered + 1] - prefix[covered] for prefix in prefixes]
    sums = [np.zeros(len(first), np.int64) for _ in prefixes]
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


@dataclass(frozen=True)
class Ragged:
    """For each moment a run of events, oldest first.

    `events[offsets[i]:offsets[i + 1]]` are indices of the n events.
    """

    offsets: Int64s
    events: Intps


class Series:
    """Some of a timeline's events, in its order, for queries about the newest known ones."""

    def __init__(self, timeline: Timeline, positions: Intps) -> None:
        self._timeline = timeline
        self._places = positions  # position in the timeline of each event of the series
        self.p = self._p = timeline.p[positions]
        self._minima: list[Int64s] = []
        # Number of events of the series before each position of the timeline.
        self.before = self._before = np.empty(len(timeline) + 1, np.intp)
        kernels.count_before(positions, self.before)

    @cached_property
    def ts(self) -> Int64s:
        return self._timeline.ts[self._places]

    @cached_property
    def events(self) -> Intps:
        """The index among the input events of each event of the series."""
        return self._timeline.order[self._places]

    def newest(self, moments: Moments, since: Int64s | None = None) -> Intps:
        """Return the index of each moment's newest known event at or after `since`, or −1."""
        floor = moments.start if since is None else moments.before(since).edge
        newest, is_deferred = np.empty(len(moments), np.intp), np.zeros(len(moments), np.bool_)
        of_moments = (moments.order, floor, moments.stop.edge, moments.p)
        kernels.run_parallel(
            runs.newest,
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

    def last(self, moments: Moments, length: int, since: Int64s | None = None) -> Ragged:
        """Return each moment's last `length` known events at or after `since`, oldest first."""
        offsets, indices = self.last_indices(moments, length, since)
        return Ragged(offsets, self.events[indices])

    def last_indices(
        self, moments: Moments, length: int, since: Int64s | None = None
    ) -> tuple[Int64s, Intps]:
        """Return the events of `last` as offsets and indices within the series."""
        floor = self._before[moments.start if since is None else moments.before(since).edge]
        stop = self._before[moments.stop.edge]
        start = np.maximum(stop - length, floor)
        pools = [np.arange(len(self._places))]
        slow = moments.stop.slow
        slow = slow[stop[slow] > floor[slow]]
        if len(slow):
            sizes, pool = self._last_in_flight(floor[slow], stop[slow], moments.p[slow], length)
            start[slow] = len(self._places) + np.cumsum(sizes) - sizes
            stop[slow] = start[slow] + sizes
            pools.append(pool)
        start, stop = moments.to_input_order(start), moments.to_input_order(stop)
        picks, offsets = ragged(start, stop)
        return offsets, np.concatenate(pools)[picks]

    def _newest_indices(self, stop: Intps, bound: Int64s) -> Intps:
        """Return the greatest index < stop with p ≤ bound, in whatever entity; −1 if there is none.

        Costs O(log n) per query at worst.
        """
        index = stop - 1
        if not len(self._p):
            return np.full(len(stop), -1, np.intp)
        slow = np.flatnonzero((index >= 0) & (self._p[index] > bound))
        if len(slow):
            index[slow] = self._search_minima(stop[slow], bound[slow])
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
        if not self._minima:
            unreachable = np.iinfo(np.int64).max
            level = self._p
            minima = [np.append(level, [unreachable] * (len(level) & 1))]
            while len(minima[-1]) > 1:
                level = minima[-1].reshape(-1, 2).min(axis=1)
                minima.append(
                    np.append(level, [unreachable] * (len(level) & 1 if len(level) > 1 else 0))
                )
            self._minima = minima
        return self._minima

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
        picked: list[tuple[Intps, Intps]] = []
        reach = 2 * length
        pending = np.arange(len(stop))
        while len(pending):
            unfinished = []
            for chunk in _chunked(pending, reach):
                start = np.maximum(stop[chunk] - reach, floor[chunk])
                picks, offsets = ragged(start, stop[chunk])
                owner = np.repeat(np.arange(len(chunk)), np.diff(offsets))
                is_routed = self._p[picks] <= bound[chunk][owner]
                picks, owner = picks[is_routed], owner[is_routed]
                count = np.bincount(owner, minlength=len(chunk))
                is_done = (count >= length) | (start == floor[chunk])
                from_end = np.cumsum(count)[owner] - np.arange(len(owner))  # 1 for the newest
                is_taken = is_done[owner] & (from_end <= length)
                picked.append((chunk[owner[is_taken]], picks[is_taken]))
                sizes[chunk[is_done]] = np.minimum(count[is_done], length)
                unfinished.append(chunk[~is_done])
            pending = np.concatenate(unfinished)
            reach *= 4
        owners = np.concatenate([owner for owner, _ in picked]) if picked else np.zeros(0, np.intp)
        indices = np.concatenate([place for _, place in picked]) if picked else np.zeros(0, np.intp)
        return sizes, indices[np.argsort(owners, kind="stable")]


def ragged(start: Intps, stop: Intps) -> tuple[Intps, Int64s]:
    """Return the concatenated positions of all ranges [start, stop), and the offsets (q + 1,) of
    each.
    """
    sizes = np.maximum(stop - start, 0)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    picks = np.arange(offsets[-1], dtype=np.intp) + np.repeat(start - offsets[:-1], sizes)
    return picks, offsets


def _chunked(rows: Intps, width: int) -> Iterator[Intps]:
    size = max(1, _RAGGED_MAX // width)
    for at in range(0, len(rows), size):
        yield rows[at : at + size]
