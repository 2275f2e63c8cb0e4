"""A table of the newest sessions, and its search by V-SkNN and STAN (see `similarity`).

A session is a run of one user's events without a pause of more than `gap_us`, with at least two
items. A table numbers sessions by the time of their last event. It stores neither users nor times,
only how much STAN discounts their age:

    keys     uint64 (items,)     keys of the items that any session holds, ascending
    starts   int64 (m + 1,)      session s has the entries starts[s]:starts[s + 1]
    item     int32 (entries,)    positions in `keys`; an item once in a session, at its last place
    place    int32 (entries,)    places, from 1
    age_weight  float64 (m,)     exp(−(newest event of the table − last event of the session) / λ2)

A context is the newest run of a user's sequence, split in the same way. Sums run in float64 in a
fixed order, so the result is bit-identical for any number of simultaneous queries: a replay runs
thousands, a server one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.ragged import expand_ranges
from tailorbird.candidates.session_knn.similarity import CONTEXT_MAX, STAN, Search, VSkNN

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

# As far as the newest 500 with an item: more cost a request more than they were worth on the sets
# in docs/results.md.
DEFAULT_V_SKNN = VSkNN(k=500, sample=500, weighting="quadratic", weighting_score="quadratic")
DEFAULT_STAN = STAN(k=500, sample=500)
SEARCHES = {"session_knn": DEFAULT_V_SKNN.search(), "stan": DEFAULT_STAN.search()}
_AT_ONCE = 200  # contexts per step, which bounds memory


@dataclass(frozen=True)
class SimilarItems:
    """Continuations of similar sessions, without a context's own items.

    Sorted by context and key.

    Attributes:
        offsets: (contexts + 1,): context c has the entries offsets[c]:offsets[c + 1].
        keys: (n,): of the items.
        scores: (n,), above 0.
    """

    offsets: Ints
    keys: Keys
    scores: Floats


@dataclass(frozen=True)
class Sessions:
    """The newest sessions.

    Immutable, and safe to query from several threads.

    Attributes:
        keys, starts, item, position, age_weight: see the module.
        gap_us: a longer pause ends a run.
    """

    keys: Keys
    starts: Ints
    item: Int32s
    position: Int32s
    age_weight: Floats
    gap_us: int
    _last: dict[str, tuple[bytes, SimilarItems]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.age_weight)

    @cached_property
    def postings(self) -> tuple[Ints, Int32s]:
        """The sessions that hold each item, ascending: list offsets, and the lists."""
        lists = np.concatenate(
            ([0], np.cumsum(np.bincount(self.item, minlength=len(self.keys))))
        ).astype(np.int64)
        query_index = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.starts))
        return lists, query_index[_argsort_stable(self.item, len(self.keys))]

    @cached_property
    def _searches(self) -> dict[str, tuple[Search, Floats, Floats]]:
        """The tables by source: search settings, idf factors, and decays by distance."""
        session_counts = np.diff(self.postings[0])
        distances = np.arange(int(self.position.max(initial=0)) + 1)
        return {
            name: (
                search,
                search.idf_factors(session_counts, len(self)),
                np.exp(-distances / search.closeness),
            )
            for name, search in SEARCHES.items()
        }

    def prepare(self) -> None:
        """Compute the tables that the first query would wait for."""
        assert self._searches is not None

    def find_similar(self, method: str, offsets: Ints, keys: Keys, ts: Ints) -> SimilarItems:
        """Find the continuations of sessions similar to the newest run of each sequence.

        Args:
            method: `session_knn` or `stan`.
            offsets: (contexts + 1,): context c has keys[offsets[c]:offsets[c + 1]], oldest first.
            keys: item keys; those that no session holds are skipped, but keep their positions.
            ts: their times, microseconds; empty: each sequence is one run.
        """
        offsets, positions = newest_runs(offsets, ts, self.gap_us, CONTEXT_MAX)
        rows = self._rows_of_keys(keys[positions])
        if len(offsets) > 2:
            parts = [
                self._query(method, offsets[low : low + _AT_ONCE + 1], rows)
                for low in range(0, len(offsets) - 1, _AT_ONCE)
            ]
            sizes = np.concatenate([np.diff(part.offsets) for part in parts])
            joined = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
            return SimilarItems(
                joined,
                np.concatenate([part.keys for part in parts]),
                np.concatenate([part.scores for part in parts]),
            )
        cache_key = rows.tobytes()  # A request needs the same result for candidates and columns.
        cached_query = self._last.get(method)
        if cached_query is None or cached_query[0] != cache_key:
            cached_query = self._last[method] = cache_key, self._query(method, offsets, rows)
        return cached_query[1]

    def _rows_of_keys(self, keys: Keys) -> Ints:
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where((self.keys[rows] == keys) & (keys != 0), rows, -1)

    def _query(self, method: str, offsets: Ints, rows: Ints) -> SimilarItems:
        search, lift, distance_decay = self._searches[method]
        offsets = np.asarray(offsets)
        base = int(offsets[0])
        offsets, rows = offsets - base, rows[base : int(offsets[-1])]
        contexts, items = len(offsets) - 1, max(len(self.keys), 1)
        context = _context_items(offsets, rows, search, items)
        if not len(context.row) or not len(self):
            return SimilarItems(
                np.zeros(contexts + 1, np.int64), np.zeros(0, np.uint64), np.zeros(0)
            )
        query_index, session, scores = self._find_neighbours(context, search, contexts)
        size = self.starts[session + 1] - self.starts[session]
        entries, neighbour_of_entry = expand_ranges(self.starts[session], size)
        item, scores = self.item[entries], scores[neighbour_of_entry]
        bounds = np.concatenate(([0], np.cumsum(size)))
        ends = bounds[np.searchsorted(query_index, np.arange(contexts + 1))]
        is_own = _is_in_context(context, item, ends, items)
        if math.isfinite(search.closeness):
            anchor_place = np.maximum.reduceat(
                np.where(is_own, self.position[entries], 0), bounds[:-1]
            )
            scores = (
                scores
                * distance_decay[np.abs(self.position[entries] - anchor_place[neighbour_of_entry])]
            )
        return self._sum_scores(item, np.where(is_own, 0.0, scores * lift[item]), ends)

    def _sum_scores(self, item: Int32s, scores: Floats, ends: Ints) -> SimilarItems:
        """Sum each context's scores by item, in the order of the entries."""
        rows, sums = [], []
        for low, high in pairwise(ends.tolist()):
            score_sums = np.bincount(
                item[low:high], scores[low:high]
            )  # by item: several times as fast as to sort them
            rows.append(np.flatnonzero(score_sums > 0))
            sums.append(score_sums[rows[-1]])
        offsets = np.concatenate(([0], np.cumsum([len(items) for items in rows]))).astype(np.int64)
        return SimilarItems(
            offsets, self.keys[np.concatenate(rows)], np.concatenate(sums).astype(np.float64)
        )

    def _find_neighbours(
        self, context: "_ContextItems", search: Search, contexts: int
    ) -> tuple[Ints, Ints, Floats]:
        """Find the nearest sessions of each context: context, session, and score of its items.

        They are ordered by recency, or by similarity where there are more than k.
        """
        lists, posting_sessions = self.postings
        low = np.maximum(
            lists[context.row], lists[context.row + 1] - search.sample
        )  # No older session can be among the newest `sample`.
        postings, context_item = expand_ranges(low, lists[context.row + 1] - low)
        count = max(len(self), 1)
        key = context.owner[context_item] * count + (count - 1 - posting_sessions[postings])
        distinct = _sort_distinct(key)
        distinct = distinct[_rank_within_owner(distinct // count) < search.sample]
        query_index, session = distinct // count, count - 1 - distinct % count
        session_index = np.minimum(np.searchsorted(distinct, key), max(len(distinct) - 1, 0))
        inside = distinct[session_index] == key if len(distinct) else np.zeros(len(key), bool)
        session_index, context_item = session_index[inside], context_item[inside]
        similarity = np.bincount(session_index, context.weight[context_item], len(distinct))
        steps_back = np.zeros(len(distinct), np.int64)
        # Reversed, so that the newest item wins.
        steps_back[session_index[::-1]] = context.steps_back[context_item[::-1]]
        item_counts = np.bincount(context.owner, minlength=contexts)
        if search.cosine:
            norm = np.sqrt(
                np.maximum(np.bincount(context.owner, context.weight**2, contexts), 1e-300)
            )
            similarity = similarity / norm[query_index] / np.sqrt(np.diff(self.starts)[session])
        else:
            similarity = similarity / item_counts[query_index]
        if math.isfinite(search.recency):
            similarity = similarity * self.age_weight[session]
        exceeds_k = np.bincount(query_index, minlength=contexts) > search.k
        order = np.lexsort((np.where(exceeds_k[query_index], -similarity, 0.0), query_index))
        order = order[_rank_within_owner(query_index[order]) < search.k]
        return (
            query_index[order],
            session[order],
            similarity[order] * search.decay[steps_back[order]],
        )


def newest_runs(offsets: Ints, ts: Ints, gap_us: int, length: int) -> tuple[Ints, Rows]:
    """Return the newest run of each sequence, at most `length` entries: offsets and positions.

    Args:
        offsets: (sequences + 1,).
        ts: of the entries, oldest first; empty: none is cut.
    """
    starts, ends = offsets[:-1], offsets[1:]
    if len(ts):
        is_run_start = np.zeros(len(ts) + 1, bool)
        is_run_start[1:-1] = ts[1:] - ts[:-1] > gap_us
        is_run_start[starts] = True
        run_start = np.maximum.accumulate(np.where(is_run_start, np.arange(len(is_run_start)), 0))
        starts = np.where(ends > starts, run_start[np.maximum(ends - 1, 0)], starts)
    starts = np.maximum(starts, ends - length)
    positions, _ = expand_ranges(starts, ends - starts)
    return np.concatenate(([0], np.cumsum(ends - starts))).astype(np.int64), positions


@dataclass(frozen=True)
class _ContextItems:
    """Distinct indexed items of contexts, newest first: context, row, steps back, weight."""

    owner: Ints
    row: Rows
    steps_back: Ints
    weight: Floats


def _is_in_context(
    context: _ContextItems, item: Int32s, ends: Ints, items: int
) -> npt.NDArray[np.bool_]:
    """Return whether the item of each session entry is in the context it is compared with."""
    in_context, is_there = np.zeros(len(item), bool), np.zeros(items, bool)
    for (entry_start, entry_stop), (context_start, context_stop) in zip(
        pairwise(ends.tolist()),
        pairwise(np.searchsorted(context.owner, np.arange(len(ends)))),
        strict=True,
    ):
        rows = context.row[context_start:context_stop]
        is_there[rows] = True
        in_context[entry_start:entry_stop] = is_there[item[entry_start:entry_stop]]
        is_there[rows] = False
    return in_context


def _context_items(offsets: Ints, row: Rows, search: Search, items: int) -> _ContextItems:
    size = np.diff(offsets)
    positions, query_index = expand_ranges(offsets[:-1], size)
    positions = (
        offsets[query_index + 1] - 1 - (positions - offsets[query_index])
    )  # the newest first
    indexed_positions = np.flatnonzero((row[positions] >= 0) & (row[positions] < items))
    _, newest = np.unique(
        query_index[indexed_positions] * items + row[positions[indexed_positions]],
        return_index=True,
    )
    indexed_positions = indexed_positions[np.sort(newest)]
    positions, query_index = positions[indexed_positions], query_index[indexed_positions]
    steps_back = offsets[query_index + 1] - 1 - positions
    return _ContextItems(
        query_index,
        row[positions],
        steps_back,
        search.weight[size[query_index], size[query_index] - 1 - steps_back],
    )


def _sort_distinct(key: Ints) -> Ints:
    """Return the distinct keys, ascending; several times as fast as `np.unique`, which hashes."""
    ordered = np.sort(key)
    return ordered[np.diff(ordered, prepend=-1) != 0]  # no key is negative


def _argsort_stable(number: Int32s, below: int) -> Rows:
    """Return `np.argsort(number, kind="stable")` of numbers from 0, a third of the time: NumPy
    sorts 16 bits by radix.
    """
    order = np.argsort((number & 0xFFFF).astype(np.uint16), kind="stable")
    if below > 1 << 16:
        order = order[np.argsort((number >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _rank_within_owner(query_index: Sequence[int] | Ints) -> Ints:
    """Return the position of each entry among those of its owner, from 0; owners ascend."""
    return np.arange(len(query_index)) - np.searchsorted(query_index, query_index)
