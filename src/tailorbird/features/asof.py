"""What was known at (t, p): sums, newest events and last L events of many entities, for many
moments at once.

A moment asks about the events of one entity with ts < t that were routed at or before p. Events are
sorted once by (entity, ts, id); a window's edge is then a position in that order, found by binary
search, and a sum is a difference of prefix sums. That is exact wherever all events before the edge
were known, which one gather from the running maximum of p tells. For the few moments with events in
flight (happened, not yet routed) only the stretch from the first of them to the edge is looked at,
by a wavelet matrix for sums and by a tree of minima for the newest: O(log n) a moment, however
late.

    order:     entity 0: ts ts ts … | entity 1: ts ts …          edge x: events [start, x) have ts < x's time
    p:         5  6  9  7 … | …                                  known(x) at p = 7: prefix[y] + stretch [y, x) with p ≤ 7
    running:   5  6  9  9 … | …                                  y: the first position whose running maximum exceeds p

Which events belong to which entity, and what is finished from the sums, stands in
`features.backfill`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.features import kernels, kernels_groups, kernels_more, kernels_runs

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
TieBreak = Callable[
    [Intps], Sequence[npt.NDArray]
]  # positions of events → sort keys, the most significant first

_RAGGED_MAX = 1 << 22  # entries of a ragged intermediate that are held at a time
IN_FLIGHT_MAX = 256  # events in flight that are looked at one by one


class Timeline:
    """The events of the entities that are asked about, sorted by (entity, ts, tie-break).

    Args:
        asked: keys of the entities that moments will name, any order, repeats allowed.
        keys: shape (n,), the entity of each event; events of entities that nobody asks about are
        dropped. ts, p: shape (n,).
        tie: gives the order of events of one entity with equal ts; called for those alone.

    Attributes:
        order: shape (m,), which of the n events stands at each position. ts, p: shape (m,).
        starts: shape (entities + 2,), where each entity's positions begin; the last but one is
            nobody, who has none.
        known: shape (m,), the largest p of the entity up to each position.
    """

    def __init__(
        self, asked: Keys, keys: Keys, ts: Int64s, p: Int64s, tie: TieBreak | None = None
    ) -> None:
        assert keys.shape == ts.shape == p.shape
        self._numbers = kernels_groups.Numbers(asked)
        count = self._numbers.count
        starts, self.order, self.ts, self.p = kernels_groups.grouped(
            self._numbers.of(keys), count, ts, p
        )
        self.starts: Int64s = np.append(starts, starts[-1])
        if tie is not None:
            self._break_ties(tie, p)
        self.known: Int64s = np.empty(len(self.p), np.int64)
        kernels.in_shares(
            kernels.running_maximum,
            count,
            starts,
            self.p,
            self.known,
            bounds=kernels.shares_of(starts),
        )

    def __len__(self) -> int:
        return len(self.order)

    def prefix(self, values: Int64s) -> Int64s:
        """Prefix sums, shape (m + 1,), of `values` (n,), given in the order of the events that came
        in.
        """
        return self.prefixes([values])[0]

    def prefixes(self, values: Sequence[Int64s]) -> Int64s:
        """The prefix sums of several measures, shape (measures, m + 1)."""
        sums = np.empty((len(values), len(self) + 1), np.int64)
        sums[:, 0] = 0
        for row, column in zip(sums, values, strict=True):
            kernels.in_shares(kernels.gather, len(self), column, self.order, row[1:])
            kernels.accumulate(row)
        return sums

    def at(self, keys: Keys, t: Int64s, p: Int64s) -> "Moments":
        """Moments, shape (q,) each; a key without events is a moment before all events."""
        return Moments(self, self._numbers.of(keys), t, p)

    def series(self, chosen: Bools) -> "Series":
        """The events with `chosen` (n,) true, for questions about the newest of them."""
        return Series(self, np.flatnonzero(chosen[self.order]))

    def _break_ties(self, tie: TieBreak, p: Int64s) -> None:
        places = np.flatnonzero(kernels.tied(self.starts, self.ts))
        if len(places):
            some = self.order[places]
            # Places of one entity and time lie together, and each of these runs is put in order of
            # the tie-break.
            entity = np.searchsorted(self.starts, places, side="right")
            some = some[np.lexsort((*reversed(tie(some)), self.ts[places], entity))]
            self.order[places], self.p[places] = some, p[some]


class Moments:
    """Questions to a timeline, kept sorted by (entity, t) so that edges run through memory in
    order.

    All arrays that are taken and given have one entry for each moment, in the order in which the
    moments came in.
    """

    def __init__(
        self, timeline: Timeline, entity: npt.NDArray[np.int32], t: Int64s, p: Int64s
    ) -> None:
        self.timeline = timeline
        self.starts, self.order, self.sorted_t, self.p = kernels_groups.grouped(
            entity, len(timeline.starts) - 1, t, p
        )
        self.entity = entity[self.order]
        self.t = t
        self._keep = entity, p
        self.start = timeline.starts[self.entity]

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def stop(self) -> "Cut":
        """The edge at t."""
        return self._cut(self.sorted_t)

    def before(self, times: Int64s | None = None) -> "Cut":
        """The edge at `times` (q,), or at t itself: what happened before it and was known."""
        return self.stop if times is None else self._cut(times[self.order])

    def window_start(self, hop: int, length: int) -> Intps:
        """Of each moment, in order of (entity, t), the first position at or after t // hop · hop −
        length.
        """
        found = np.empty(len(self), np.intp)
        of_events = (self.timeline.starts, self.timeline.ts)
        kernels.in_shares(
            kernels.window_edges,
            len(self),
            self.entity,
            self.sorted_t,
            *of_events,
            hop,
            length,
            found,
        )
        return found

    def some(self, rows: Intps) -> "Moments":
        """These moments alone."""
        entity, p = self._keep
        return Moments(self.timeline, entity[rows], self.t[rows], p[rows])

    def _cut(self, times: Int64s) -> "Cut":
        timeline = self.timeline
        edge, first = np.empty(len(times), np.intp), np.empty(len(times), np.intp)
        kernels.in_shares(
            kernels.edges, len(times), self.entity, times, timeline.starts, timeline.ts, edge
        )
        kernels.in_shares(
            kernels.in_flight, len(times), self.start, edge, self.p, timeline.known, first
        )
        slow = np.flatnonzero(first < edge)
        return Cut(timeline, self.p, edge, slow, first[slow])

    def restore(self, values: npt.NDArray) -> npt.NDArray:
        """From the sorted order back to that of the moments."""
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
        """The sum of each window, shape (q, windows).

        Args:
            prefixes: as of `Timeline.prefixes`.
            windows: (hop, length, which of the prefixes): the events from t // hop · hop − length
                on.
            in_flight_max: moments with more events in flight are answered by a wavelet matrix, in
                time that does not grow with them.
        """
        timeline = self.timeline
        hop, length, prefix_of = (
            np.array([window[place] for window in windows], np.int64) for place in range(3)
        )
        sums, far = np.empty((len(self), len(windows)), np.int64), np.zeros(len(self), np.bool_)
        of_moments = (self.order, self.entity, self.sorted_t, self.p)
        of_events = (timeline.starts, timeline.ts, timeline.p, timeline.known, prefixes)
        kernels.in_shares(
            kernels.window_sums,
            len(self),
            *of_moments,
            *of_events,
            hop,
            length,
            prefix_of,
            in_flight_max,
            sums,
            far,
        )
        rest = np.flatnonzero(far)
        if len(rest):
            some = self.some(rest)
            upper = some.before().sums(list(prefixes))
            for place, (hop_of, length_of, prefix) in enumerate(windows):
                lower = some.before(some.t // hop_of * hop_of - length_of).sums([prefixes[prefix]])[
                    0
                ]
                sums[rest, place] = some.restore(upper[prefix] - lower)
        return sums

    def decayed_sums(
        self, prefix: Int64s, hop: int, weights: Floats, *, in_flight_max: int = IN_FLIGHT_MAX
    ) -> Floats:
        """The tiles of t and of the len(weights) − 1 hops before it, each times the weight of its
        age, added up from the oldest on.
        """
        timeline = self.timeline
        totals, far = np.empty(len(self)), np.zeros(len(self), np.bool_)
        of_moments = (self.order, self.entity, self.sorted_t, self.p)
        of_events = (timeline.starts, timeline.ts, timeline.p, timeline.known, prefix)
        kernels.in_shares(
            kernels_more.decayed_sums,
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
            totals[rest] = self.some(rest)._tile_by_tile(prefix, hop, weights)
        return totals

    def _tile_by_tile(self, prefix: Int64s, hop: int, weights: Floats) -> Floats:
        total = np.zeros(len(self))
        below = self.before((self.t // hop - len(weights) + 1) * hop).sums([prefix])[0]
        for age in range(len(weights) - 1, -1, -1):
            edge = self.before((self.t // hop - age + 1) * hop) if age else self.before()
            above = edge.sums([prefix])[0]
            total += (above - below).astype(np.float64) * weights[age]
            below = above
        return self.restore(total)


@dataclass(frozen=True)
class Cut:
    """One time edge of every moment. `slow` are the moments with events in flight before it,
    `first` the first of these.
    """

    timeline: Timeline
    p: Int64s
    edge: Intps
    slow: Intps
    first: Intps

    def reach(self) -> Intps:
        """Of each moment the first event in flight; the edge where there is none."""
        found = self.edge.copy()
        found[self.slow] = self.first
        return found

    def sums(self, prefixes: Sequence[Int64s]) -> list[Int64s]:
        """Of each measure, given by its prefix sums (m + 1,), the sum over all known events before
        the edge.

        The constant part, of the entities that come earlier in the order, is left in: it cancels in
        a difference of cuts.
        """
        totals = [prefix[self.edge] for prefix in prefixes]
        if len(self.slow):
            last, bound = self.edge[self.slow], self.p[self.slow]
            rest = _stretch_sums(self.timeline.p, self.first, last, bound, prefixes)
            for total, prefix, extra in zip(totals, prefixes, rest, strict=True):
                total[self.slow] = prefix[self.first] + extra
        return totals


def _stretch_sums(
    p: Int64s, first: Intps, last: Intps, bound: Int64s, prefixes: Sequence[Int64s]
) -> list[Int64s]:
    """Sums over the positions [first, last) with p ≤ bound, by a wavelet matrix that is built and
    left level by level.

    Cost O((n + q) log n) for the n events that lie in any stretch; memory O(n + q), since only one
    level is held.
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
        ) & 1 == 1  # the zeros of this level are below the limit whole; go on among the ones
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
    """For each moment a run of events, oldest first: `events[offsets[i]:offsets[i + 1]]` are
    indices of the n events.
    """

    offsets: Int64s
    events: Intps


class Series:
    """Some of a timeline's events, in its order, for questions about the newest known ones."""

    def __init__(self, timeline: Timeline, places: Intps) -> None:
        self._timeline = timeline
        self._places = places  # position in the timeline of each event of the series
        self.p = self._p = timeline.p[places]
        self._minima: list[Int64s] = []
        # How many of the series come before each position of the timeline.
        self.before = self._before = np.empty(len(timeline) + 1, np.intp)
        kernels.count_before(places, self.before)

    @cached_property
    def ts(self) -> Int64s:
        return self._timeline.ts[self._places]

    @cached_property
    def events(self) -> Intps:
        """Which event, as they came in, each one of the series is."""
        return self._timeline.order[self._places]

    def newest(self, moments: Moments, since: Int64s | None = None) -> Intps:
        """For each moment the index of the newest known event (at or after `since`, if given), −1
        without one.
        """
        floor = moments.start if since is None else moments.before(since).edge
        found, far = np.empty(len(moments), np.intp), np.zeros(len(moments), np.bool_)
        of_moments = (moments.order, floor, moments.stop.edge, moments.p)
        kernels.in_shares(
            kernels_runs.newest,
            len(moments),
            *of_moments,
            self.before,
            self.p,
            self.events,
            found,
            far,
        )
        rest = np.flatnonzero(far[moments.order])
        if len(rest):
            place = self._newest(self._before[moments.stop.edge[rest]], moments.p[rest])
            known = place >= self._before[floor[rest]]
            found[moments.order[rest]] = np.where(known, self.events[place], -1)
        return found

    def last(self, moments: Moments, length: int, since: Int64s | None = None) -> Ragged:
        """For each moment its last `length` known events (at or after `since`, if given), oldest
        first.
        """
        offsets, places = self.last_places(moments, length, since)
        return Ragged(offsets, self.events[places])

    def last_places(
        self, moments: Moments, length: int, since: Int64s | None = None
    ) -> tuple[Int64s, Intps]:
        """As `last`: offsets, and places within the series."""
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
        start, stop = moments.restore(start), moments.restore(stop)
        picks, offsets = ragged(start, stop)
        return offsets, np.concatenate(pools)[picks]

    def _newest(self, stop: Intps, bound: Int64s) -> Intps:
        """The greatest place < stop with p ≤ bound, in whatever entity; −1 without one. O(log n) a
        question at worst.
        """
        place = stop - 1
        if not len(self._p):
            return np.full(len(stop), -1, np.intp)
        slow = np.flatnonzero((place >= 0) & (self._p[place] > bound))
        if len(slow):
            place[slow] = self._climb(stop[slow], bound[slow])
        return place

    def _climb(self, stop: Intps, bound: Int64s) -> Intps:
        """Up a tree of minima until a block to the left has a small enough p, then down to its last
        such place.
        """
        minima = self._tree()
        node = np.full(len(stop), -1, np.intp)
        found_at = np.full(len(stop), -1, np.intp)
        end = stop.copy()
        for level, lows in enumerate(minima):
            open_ = np.flatnonzero((node < 0) & (end & 1 == 1))
            hit = open_[lows[end[open_] - 1] <= bound[open_]]
            node[hit] = end[hit] - 1
            found_at[hit] = level
            end >>= 1
        for level in range(len(minima) - 2, -1, -1):
            below = np.flatnonzero(found_at > level)
            right = 2 * node[below] + 1
            node[below] = np.where(minima[level][right] <= bound[below], right, right - 1)
        return node

    def _tree(self) -> list[Int64s]:
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
        """The last `length` known places of each question, for questions with events in flight:
        sizes and all places.
        """
        stop = np.maximum(
            self._newest(stop, bound) + 1, floor
        )  # what follows the newest known one is skipped whole
        sizes = np.zeros(len(stop), np.intp)
        kept: list[tuple[Intps, Intps]] = []
        reach = 2 * length
        rest = np.arange(len(stop))
        while len(rest):
            again = []
            for some in _chunks(rest, reach):
                start = np.maximum(stop[some] - reach, floor[some])
                picks, offsets = ragged(start, stop[some])
                owner = np.repeat(np.arange(len(some)), np.diff(offsets))
                known = self._p[picks] <= bound[some][owner]
                picks, owner = picks[known], owner[known]
                count = np.bincount(owner, minlength=len(some))
                done = (count >= length) | (start == floor[some])
                from_end = np.cumsum(count)[owner] - np.arange(len(owner))  # 1 for the newest
                take = done[owner] & (from_end <= length)
                kept.append((some[owner[take]], picks[take]))
                sizes[some[done]] = np.minimum(count[done], length)
                again.append(some[~done])
            rest = np.concatenate(again)
            reach *= 4
        owners = np.concatenate([owner for owner, _ in kept]) if kept else np.zeros(0, np.intp)
        places = np.concatenate([place for _, place in kept]) if kept else np.zeros(0, np.intp)
        return sizes, places[np.argsort(owners, kind="stable")]


def ragged(start: Intps, stop: Intps) -> tuple[Intps, Int64s]:
    """The positions of all ranges [start, stop), one after the other, and the offsets (q + 1,)
    where each begins.
    """
    sizes = np.maximum(stop - start, 0)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    picks = np.arange(offsets[-1], dtype=np.intp) + np.repeat(start - offsets[:-1], sizes)
    return picks, offsets


def _chunks(rows: Intps, width: int) -> Iterator[Intps]:
    size = max(1, _RAGGED_MAX // width)
    for at in range(0, len(rows), size):
        yield rows[at : at + size]
