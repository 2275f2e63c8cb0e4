"""The newest sessions of everybody, in an index: what people who did the like went on to, by V-SkNN and STAN (`retrieval.neighbours`).

A session is a run of one person's events without a pause of more than `gap_us`, whose items are at least two. They are numbered by
the time of their last event, and hold neither whose they are nor when they were: only how much STAN lets their age count.

    sessions_starts.npy   int64 (m + 1,)    session s has the entries starts[s]:starts[s + 1]
    sessions_items.npy    int32 (entries,)  rows of the index; an item once in a session, at its last place
    sessions_places.npy   int32 (entries,)  places, from 1
    sessions_fade.npy     float64 (m,)      exp(−(as_of − time of the last event) / λ2)
    sessions.json         `Plan`

A context is the newest run of a person's sequence, cut in the same way. Sums run in float64 in a fixed order, so a question has the same
answer, bit for bit, however many are asked at once: training asks thousands, a server one. Age is counted from the index's moment, so
what is told of an item does not change with the hour at which a bundle is asked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import DAY, MINUTE
from tailorbird.retrieval.arrays import array_bytes, read_array
from tailorbird.retrieval.neighbours import CONTEXT_MAX, SAMPLE_MAX, STAN, Search, VSkNN
from tailorbird.retrieval.stretches import spread

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

ARRAYS = ("sessions_starts.npy", "sessions_items.npy", "sessions_places.npy", "sessions_fade.npy")
FILES = (*ARRAYS, "sessions.json")
SOURCES = ("sessions", "stan")
_AT_ONCE = 200  # questions, which bounds what is spread out


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How sessions are cut, kept and compared.

    Attributes:
        gap_us: a longer pause ends a session.
        most: so many of the newest are kept,
        within_us: none that ended longer before the index was made,
        length: and of each the last so many events.
        sessions, stan: how the two sources compare them. As far as the newest 500 with an item: more cost a request more than they
            were worth on the sets in docs/results.md.
    """

    gap_us: int = 30 * MINUTE
    most: int = 100_000
    within_us: int = 28 * DAY
    length: int = 50
    sessions: VSkNN = VSkNN(k=500, sample=500, weighting="quadratic", weighting_score="quadratic")
    stan: STAN = STAN(k=500, sample=500)

    def __post_init__(self) -> None:
        numbers = (
            self.gap_us,
            self.most,
            self.within_us,
            self.length,
            self.sessions.k,
            self.stan.k,
            self.sessions.sample,
            self.stan.sample,
        )
        lengths = (self.stan.position, self.stan.recency_us, self.stan.closeness)
        if min(numbers) < 1 or max(numbers[-2:]) > SAMPLE_MAX or not all(each > 0 and math.isfinite(each) for each in lengths):
            raise ValueError(f"sessions want numbers of at least 1, samples of at most {SAMPLE_MAX:,}, and lengths above 0")


@dataclass(frozen=True)
class Near:
    """What similar sessions went on to, of some questions: sorted by question and item, without what a question's own context has.

    Attributes:
        key: (n,): question · items + row of the item.
        gain: (n,), above 0.
    """

    key: Ints
    gain: Floats
    items: int

    @cached_property
    def row(self) -> Rows:
        return (self.key % max(self.items, 1)).astype(np.intp)

    def score(self, question: Rows, row: Rows) -> Floats:
        """Of each pair, (m,); 0 where it was not found."""
        if not len(self.key):
            return np.zeros(len(row))
        wanted = question * self.items + row
        at = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        return np.where((self.key[at] == wanted) & (row >= 0) & (row < self.items), self.gain[at], 0.0)

    def best(self, questions: int) -> Floats:
        """The best gain of each question, (questions,); NaN where nothing was found."""
        most = np.full(questions, -np.inf)
        np.maximum.at(most, self.key // max(self.items, 1), self.gain)
        return np.where(most > 0, most, np.nan)


@dataclass(frozen=True)
class Sessions:
    """The newest sessions over the rows of an index. It never changes, and may be asked from several threads.

    Attributes:
        starts, item, place, fade: see the module.
        items: how many rows the index had when it was built.
    """

    plan: Plan
    starts: Ints
    item: Int32s
    place: Int32s
    fade: Floats
    items: int
    _last: dict[str, tuple[bytes, Near]] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.fade)

    @cached_property
    def postings(self) -> tuple[Ints, Int32s]:
        """For each item the sessions that hold it, ascending: where its list begins, and the lists."""
        lists = np.concatenate(([0], np.cumsum(np.bincount(self.item, minlength=self.items)))).astype(np.int64)
        owner = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.starts))
        return lists, owner[np.argsort(self.item, kind="stable")]

    @cached_property
    def _searches(self) -> dict[str, tuple[Search, Floats, Floats]]:
        """Source → its tables: of the search, of rare items, and of distances within a session."""
        held = np.diff(self.postings[0])
        apart = np.arange(int(self.place.max(initial=0)) + 1)
        made = {}
        for name, how in (("sessions", self.plan.sessions.search()), ("stan", self.plan.stan.search())):
            made[name] = how, how.lift(held, len(self)), np.exp(-apart / how.closeness)
        return made

    def near(self, source: str, offsets: Ints, row: Rows, ts: Ints) -> Near:
        """What sessions like the newest run of each sequence went on to.

        Args:
            source: one of `SOURCES`.
            offsets: (questions + 1,): question q has row[offsets[q]:offsets[q + 1]], oldest first.
            row: rows of the index; −1 and rows that it did not have when this was built are skipped, but have their places.
            ts: their times, microseconds; empty: each sequence is one run.
        """
        offsets, at = newest_runs(offsets, ts, self.plan.gap_us, CONTEXT_MAX)
        row = row[at]
        if len(offsets) > 2:
            parts = [self._ask(source, offsets[low : low + _AT_ONCE + 1], row) for low in range(0, len(offsets) - 1, _AT_ONCE)]
            keys = [part.key + number * _AT_ONCE * self.items for number, part in enumerate(parts)]
            return Near(np.concatenate(keys), np.concatenate([part.gain for part in parts]), self.items)
        asked = row.tobytes()  # of one person, whose candidates are asked for before their columns are
        before = self._last.get(source)
        if before is None or before[0] != asked:
            before = self._last[source] = asked, self._ask(source, offsets, row)
        return before[1]

    def _ask(self, source: str, offsets: Ints, row: Rows) -> Near:
        how, lift, apart = self._searches[source]
        own = _own(offsets, row, how, self.items)
        if not len(own.row) or not len(self):
            return Near(np.zeros(0, np.int64), np.zeros(0), self.items)
        owner, session, gain = self._neighbours(own, how, len(offsets) - 1)
        size = self.starts[session + 1] - self.starts[session]
        at, nth = spread(self.starts[session], size)
        key = owner[nth] * self.items + self.item[at]
        mine = np.sort(own.owner * self.items + own.row)
        is_own = mine[np.minimum(np.searchsorted(mine, key), len(mine) - 1)] == key
        gain = gain[nth]
        if math.isfinite(how.closeness):
            star = np.maximum.reduceat(np.where(is_own, self.place[at], 0), np.cumsum(size) - size)
            gain = gain * apart[np.abs(self.place[at] - star[nth])]
        gain = gain * lift[self.item[at]]
        kept = ~is_own & (gain > 0)
        distinct = _distinct(key[kept])
        summed = np.bincount(np.searchsorted(distinct, key[kept]), gain[kept], len(distinct)).astype(np.float64)  # of nothing, integers
        return Near(distinct, summed, self.items)

    def _neighbours(self, own: "_Own", how: Search, questions: int) -> tuple[Ints, Ints, Floats]:
        """The nearest sessions of each question, the newest first or, where there are more than k, the nearest: who asks, which, and what
        each of its items gains."""
        lists, holder = self.postings
        low = np.maximum(lists[own.row], lists[own.row + 1] - how.sample)  # none of the newest with any item lies before
        at, nth = spread(low, lists[own.row + 1] - low)
        count = max(len(self), 1)
        key = own.owner[nth] * count + (count - 1 - holder[at])
        distinct = _distinct(key)
        distinct = distinct[_rank(distinct // count) < how.sample]
        owner, session = distinct // count, count - 1 - distinct % count
        place = np.minimum(np.searchsorted(distinct, key), max(len(distinct) - 1, 0))
        inside = distinct[place] == key if len(distinct) else np.zeros(len(key), bool)
        place, nth = place[inside], nth[inside]
        alike = np.bincount(place, own.weight[nth], len(distinct))
        back = np.zeros(len(distinct), np.int64)
        back[place[::-1]] = own.back[nth[::-1]]  # newest first, of which the first is to stay
        known = np.bincount(own.owner, minlength=questions)
        if how.cosine:
            norm = np.sqrt(np.maximum(np.bincount(own.owner, own.weight**2, questions), 1e-300))
            alike = alike / norm[owner] / np.sqrt(np.diff(self.starts)[session])
        else:
            alike = alike / known[owner]
        if math.isfinite(how.recency):
            alike = alike * self.fade[session]
        many = np.bincount(owner, minlength=questions) > how.k
        order = np.lexsort((np.where(many[owner], -alike, 0.0), owner))
        order = order[_rank(owner[order]) < how.k]
        return owner[order], session[order], alike[order] * how.decay[back[order]]

    # Files of an index

    def files(self) -> dict[str, bytes]:
        """File → bytes."""
        arrays = zip(ARRAYS, (self.starts, self.item, self.place, self.fade), strict=True)
        return {name: array_bytes(array) for name, array in arrays} | {FILES[-1]: msgspec.json.encode(self.plan)}

    @classmethod
    def read(cls, files: Mapping[str, bytes], rows: int) -> "Sessions | None":
        """From the files of an index, None where it has none. Raises ValueError, KeyError or DecodeError if they are damaged."""
        if not any(name in files for name in FILES):
            return None
        plan = msgspec.json.decode(files[FILES[-1]], type=Plan)
        found = cls(plan, *(read_array(files[name]) for name in ARRAYS), items=rows)
        found._check()
        _ = found._searches
        return found

    def _check(self) -> None:
        types = (self.starts.dtype, self.item.dtype, self.place.dtype, self.fade.dtype)
        if types != (np.int64, np.int32, np.int32, np.float64):
            raise ValueError("the sessions have other types of numbers")
        entries = self.item.shape
        if self.fade.ndim != 1 or self.starts.shape != (len(self) + 1,) or self.place.shape != entries or entries != (self.starts[-1],):
            raise ValueError("the sessions have another shape than their items")
        if self.starts[0] != 0 or (np.diff(self.starts) < 1).any():
            raise ValueError("a session has no items")
        if len(self.item) and not (int(self.item.min()) >= 0 and int(self.item.max()) < self.items):
            raise ValueError("a session names an item that does not exist")
        if len(self.place) and not (int(self.place.min()) >= 1 and int(self.place.max()) <= self.plan.length):
            raise ValueError("a session has an item at a place that it has not")
        if not (np.isfinite(self.fade).all() and (self.fade >= 0).all()):
            raise ValueError("a session's age counts for what is no number")


def newest_sessions(sequence: Ints, item: Ints, ts: Ints, *, items: int, as_of: int, plan: Plan) -> Sessions:
    """The newest sessions in events ordered by (sequence, time).

    Args:
        sequence: (n,): whose event it is, in runs.
        item: (n,): the row of the item.
        ts: (n,): its time, before `as_of`.
    """
    cut = np.ones(len(item) + 1, bool)
    cut[1:-1] = (sequence[1:] != sequence[:-1]) | (ts[1:] - ts[:-1] > plan.gap_us)
    edges = np.flatnonzero(cut) if len(item) else np.zeros(1, np.int64)
    end = edges[1:]
    begin = np.maximum(edges[:-1], end - plan.length)
    at, owner = spread(begin, end - begin)
    last = np.ones(len(at), bool)  # whether an item does not come again in its session
    order = np.lexsort((at, item[at], owner))
    same = (owner[order][1:] == owner[order][:-1]) & (item[at][order][1:] == item[at][order][:-1])
    last[order[:-1][same]] = False
    at, owner = at[last], owner[last]
    distinct = np.bincount(owner, minlength=len(end))
    kept = np.flatnonzero((distinct >= 2) & (ts[end - 1] >= as_of - plan.within_us))
    kept = kept[np.argsort(ts[end[kept] - 1], kind="stable")][-plan.most :]
    size = distinct[kept]
    entry, nth = spread((np.cumsum(distinct) - distinct)[kept], size)
    place = at[entry] - begin[kept][nth] + 1
    fade = np.exp(-(as_of - ts[end[kept] - 1]) / plan.stan.recency_us)
    starts = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
    return Sessions(plan, starts, item[at[entry]].astype(np.int32), place.astype(np.int32), fade, items)


def newest_runs(offsets: Ints, ts: Ints, gap_us: int, length: int) -> tuple[Ints, Rows]:
    """The newest run of each sequence, of at most so many entries: offsets, and where its entries stand.

    Args:
        offsets: (sequences + 1,).
        ts: of the entries, oldest first; empty: none is cut.
    """
    begin, end = offsets[:-1], offsets[1:]
    if len(ts):
        cut = np.zeros(len(ts) + 1, bool)
        cut[1:-1] = ts[1:] - ts[:-1] > gap_us
        cut[begin] = True
        since = np.maximum.accumulate(np.where(cut, np.arange(len(cut)), 0))
        begin = np.where(end > begin, since[np.maximum(end - 1, 0)], begin)
    begin = np.maximum(begin, end - length)
    at, _ = spread(begin, end - begin)
    return np.concatenate(([0], np.cumsum(end - begin))).astype(np.int64), at


@dataclass(frozen=True)
class _Own:
    """The different known items of some contexts, of each the newest first: who asks, row, steps back from the end, weight."""

    owner: Ints
    row: Rows
    back: Ints
    weight: Floats


def _own(offsets: Ints, row: Rows, how: Search, items: int) -> _Own:
    size = np.diff(offsets)
    at, owner = spread(offsets[:-1], size)
    at = offsets[owner + 1] - 1 - (at - offsets[owner])  # the newest first
    known = np.flatnonzero((row[at] >= 0) & (row[at] < items))
    _, first = np.unique(owner[known] * items + row[at[known]], return_index=True)
    known = known[np.sort(first)]
    at, owner = at[known], owner[known]
    back = offsets[owner + 1] - 1 - at
    return _Own(owner, row[at], back, how.weight[size[owner], size[owner] - 1 - back])


def _distinct(key: Ints) -> Ints:
    """Each key once, ascending: several times as fast as `np.unique`, which hashes."""
    ordered = np.sort(key)
    return ordered[np.diff(ordered, prepend=-1) != 0]  # no key is negative


def _rank(owner: Sequence[int] | Ints) -> Ints:
    """The place of each entry among those of its owner, who ascend, from 0."""
    return np.arange(len(owner)) - np.searchsorted(owner, owner)
