"""A table of the newest sessions, and its search by V-SkNN and STAN (see `similarity`).

A session is a run of one user's events without a pause of more than `gap_us`, with at least two
items. A table numbers sessions by the time of their last event. It stores neither users nor times,
only how much STAN discounts their age:

    item_keys    uint64 (items,)    keys of the items that any session holds, ascending
    offsets      int64 (m + 1,)     session s has the entries offsets[s]:offsets[s + 1]
    item_index   int32 (entries,)   indexes into `item_keys`; an item is in a session once, at its
                                    last position
    positions    int32 (entries,)   from 1
    age_weights  float64 (m,)       exp(−(newest event of the table − last one of the session) / λ2)

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
from tailorbird.candidates.session_knn.similarity import CONTEXT_MAX, STAN, SessionSearch, VSkNN

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

# As far as the newest 500 with an item: more cost a request more than they were worth on the sets
# in docs/results.md.
DEFAULT_V_SKNN = VSkNN(k=500, sample=500, weighting="quadratic", weighting_score="quadratic")
DEFAULT_STAN = STAN(k=500, sample=500)
SEARCH_BY_SOURCE = {"session_knn": DEFAULT_V_SKNN.to_search(), "stan": DEFAULT_STAN.to_search()}
_CONTEXTS_PER_STEP = 200  # contexts per step, which bounds memory


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
        item_keys, offsets, item_index, positions, age_weights: see the module.
        gap_us: a longer pause ends a run.
    """

    item_keys: Keys
    offsets: Ints
    item_index: Int32s
    positions: Int32s
    age_weights: Floats
    gap_us: int
    _last_result_by_method: dict[str, tuple[bytes, SimilarItems]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.age_weights)

    @cached_property
    def postings(self) -> tuple[Ints, Int32s]:
        """The sessions that hold each item, ascending: list offsets, and the lists."""
        list_offsets = np.concatenate(
            ([0], np.cumsum(np.bincount(self.item_index, minlength=len(self.item_keys))))
        ).astype(np.int64)
        session_index = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))
        return list_offsets, session_index[_argsort_stable(self.item_index, len(self.item_keys))]

    @cached_property
    def _searches(self) -> dict[str, tuple[SessionSearch, Floats, Floats]]:
        """The tables by source: search settings, idf factors, and decays by distance."""
        session_counts = np.diff(self.postings[0])
        distances = np.arange(int(self.positions.max(initial=0)) + 1)
        return {
            name: (
                search,
                search.idf_factors(session_counts, len(self)),
                np.exp(-distances / search.position_scale),
            )
            for name, search in SEARCH_BY_SOURCE.items()
        }

    def precompute(self) -> None:
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
        item_rows = self._rows_of_keys(keys[positions])
        if len(offsets) > 2:
            parts = [
                self._query(
                    method,
                    offsets[first_context : first_context + _CONTEXTS_PER_STEP + 1],
                    item_rows,
                )
                for first_context in range(0, len(offsets) - 1, _CONTEXTS_PER_STEP)
            ]
            sizes = np.concatenate([np.diff(part.offsets) for part in parts])
            joined_offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
            return SimilarItems(
                joined_offsets,
                np.concatenate([part.keys for part in parts]),
                np.concatenate([part.scores for part in parts]),
            )
        cache_key = (
            item_rows.tobytes()
        )  # A request needs the same result for candidates and columns.
        cached_result = self._last_result_by_method.get(method)
        if cached_result is None or cached_result[0] != cache_key:
            cached_result = self._last_result_by_method[method] = (
                cache_key,
                self._query(method, offsets, item_rows),
            )
        return cached_result[1]

    def _rows_of_keys(self, keys: Keys) -> Ints:
        if not len(self.item_keys):
            return np.full(len(keys), -1, np.int64)
        rows = np.minimum(np.searchsorted(self.item_keys, keys), len(self.item_keys) - 1)
        return np.where((self.item_keys[rows] == keys) & (keys != 0), rows, -1)

    def _query(self, method: str, offsets: Ints, item_rows: Ints) -> SimilarItems:
        search, idf_factors, distance_decay = self._searches[method]
        offsets = np.asarray(offsets)
        first_entry = int(offsets[0])
        offsets, item_rows = offsets - first_entry, item_rows[first_entry : int(offsets[-1])]
        context_count = len(offsets) - 1
        item_count = max(len(self.item_keys), 1)
        context = _context_items(offsets, item_rows, search, item_count)
        if not len(context.item_rows) or not len(self):
            return SimilarItems(
                np.zeros(context_count + 1, np.int64), np.zeros(0, np.uint64), np.zeros(0)
            )
        context_index, neighbour_sessions, scores = self._find_neighbours(
            context, search, context_count
        )
        entry_counts = self.offsets[neighbour_sessions + 1] - self.offsets[neighbour_sessions]
        entries, neighbour_of_entry = expand_ranges(self.offsets[neighbour_sessions], entry_counts)
        entry_items = self.item_index[entries]
        scores = scores[neighbour_of_entry]
        entry_offsets = np.concatenate(([0], np.cumsum(entry_counts)))
        context_entry_ends = entry_offsets[
            np.searchsorted(context_index, np.arange(context_count + 1))
        ]
        is_own = _is_in_context(context, entry_items, context_entry_ends, item_count)
        if math.isfinite(search.position_scale):
            # Where the last item that the context shares stands in each session.
            anchor_position = np.maximum.reduceat(
                np.where(is_own, self.positions[entries], 0), entry_offsets[:-1]
            )
            scores = (
                scores
                * distance_decay[
                    np.abs(self.positions[entries] - anchor_position[neighbour_of_entry])
                ]
            )
        return self._sum_scores(
            entry_items,
            np.where(is_own, 0.0, scores * idf_factors[entry_items]),
            context_entry_ends,
        )

    def _sum_scores(
        self, entry_items: Int32s, scores: Floats, context_entry_ends: Ints
    ) -> SimilarItems:
        """Sum each context's scores by item, in the order of the entries."""
        rows = []
        sums = []
        for entry_start, entry_stop in pairwise(context_entry_ends.tolist()):
            score_sums = np.bincount(
                entry_items[entry_start:entry_stop], scores[entry_start:entry_stop]
            )  # by item: several times as fast as to sort them
            rows.append(np.flatnonzero(score_sums > 0))
            sums.append(score_sums[rows[-1]])
        offsets = np.concatenate(([0], np.cumsum([len(items) for items in rows]))).astype(np.int64)
        return SimilarItems(
            offsets, self.item_keys[np.concatenate(rows)], np.concatenate(sums).astype(np.float64)
        )

    def _find_neighbours(
        self, context: "_ContextItems", search: SessionSearch, context_count: int
    ) -> tuple[Ints, Ints, Floats]:
        """Find the nearest sessions of each context: context, session, and score of its items.

        They are ordered by recency, or by similarity where there are more than k.
        """
        list_offsets, posting_sessions = self.postings
        list_starts = np.maximum(
            list_offsets[context.item_rows], list_offsets[context.item_rows + 1] - search.sample
        )  # No older session can be among the newest `sample`.
        postings, context_item = expand_ranges(
            list_starts, list_offsets[context.item_rows + 1] - list_starts
        )
        session_count = max(len(self), 1)
        # One number for each pair of a context and a session, the newest session first.
        pair_keys = context.context_index[context_item] * session_count + (
            session_count - 1 - posting_sessions[postings]
        )
        distinct_pairs = _sort_distinct(pair_keys)
        distinct_pairs = distinct_pairs[
            _rank_within_context(distinct_pairs // session_count) < search.sample
        ]
        context_index = distinct_pairs // session_count
        session_number = session_count - 1 - distinct_pairs % session_count
        pair_index = np.minimum(
            np.searchsorted(distinct_pairs, pair_keys), max(len(distinct_pairs) - 1, 0)
        )
        is_distinct_pair = (
            distinct_pairs[pair_index] == pair_keys
            if len(distinct_pairs)
            else np.zeros(len(pair_keys), bool)
        )
        pair_index = pair_index[is_distinct_pair]
        context_item = context_item[is_distinct_pair]
        similarity = np.bincount(pair_index, context.weights[context_item], len(distinct_pairs))
        steps_back = np.zeros(len(distinct_pairs), np.int64)
        # Reversed, so that the newest item wins.
        steps_back[pair_index[::-1]] = context.steps_back[context_item[::-1]]
        item_counts = np.bincount(context.context_index, minlength=context_count)
        if search.uses_cosine:
            context_norms = np.sqrt(
                np.maximum(
                    np.bincount(context.context_index, context.weights**2, context_count), 1e-300
                )
            )
            similarity = (
                similarity
                / context_norms[context_index]
                / np.sqrt(np.diff(self.offsets)[session_number])
            )
        else:
            similarity = similarity / item_counts[context_index]
        if math.isfinite(search.recency_us):
            similarity = similarity * self.age_weights[session_number]
        exceeds_k = np.bincount(context_index, minlength=context_count) > search.k
        order = np.lexsort((np.where(exceeds_k[context_index], -similarity, 0.0), context_index))
        order = order[_rank_within_context(context_index[order]) < search.k]
        return (
            context_index[order],
            session_number[order],
            similarity[order] * search.step_decay[steps_back[order]],
        )


def newest_runs(offsets: Ints, ts: Ints, gap_us: int, length_max: int) -> tuple[Ints, Rows]:
    """Return the newest run of each sequence, at most `length_max` entries: offsets and positions.

    Args:
        offsets: (sequences + 1,).
        ts: of the entries, oldest first; empty: none is cut.
    """
    starts = offsets[:-1]
    ends = offsets[1:]
    if len(ts):
        is_run_start = np.zeros(len(ts) + 1, bool)
        is_run_start[1:-1] = ts[1:] - ts[:-1] > gap_us
        is_run_start[starts] = True
        run_start = np.maximum.accumulate(np.where(is_run_start, np.arange(len(is_run_start)), 0))
        starts = np.where(ends > starts, run_start[np.maximum(ends - 1, 0)], starts)
    starts = np.maximum(starts, ends - length_max)
    positions, _ = expand_ranges(starts, ends - starts)
    return np.concatenate(([0], np.cumsum(ends - starts))).astype(np.int64), positions


@dataclass(frozen=True)
class _ContextItems:
    """Distinct indexed items of contexts, newest first: context, row, steps back, weight."""

    context_index: Ints
    item_rows: Rows
    steps_back: Ints
    weights: Floats


def _is_in_context(
    context: _ContextItems, entry_items: Int32s, context_entry_ends: Ints, item_count: int
) -> npt.NDArray[np.bool_]:
    """Return whether the item of each session entry is in the context it is compared with."""
    in_context = np.zeros(len(entry_items), bool)
    is_context_item = np.zeros(item_count, bool)
    for (entry_start, entry_stop), (context_start, context_stop) in zip(
        pairwise(context_entry_ends.tolist()),
        pairwise(np.searchsorted(context.context_index, np.arange(len(context_entry_ends)))),
        strict=True,
    ):
        rows = context.item_rows[context_start:context_stop]
        is_context_item[rows] = True
        in_context[entry_start:entry_stop] = is_context_item[entry_items[entry_start:entry_stop]]
        is_context_item[rows] = False
    return in_context


def _context_items(
    offsets: Ints, item_rows: Rows, search: SessionSearch, item_count: int
) -> _ContextItems:
    context_sizes = np.diff(offsets)
    positions, context_index = expand_ranges(offsets[:-1], context_sizes)
    positions = (
        offsets[context_index + 1] - 1 - (positions - offsets[context_index])
    )  # the newest first
    indexed_positions = np.flatnonzero(
        (item_rows[positions] >= 0) & (item_rows[positions] < item_count)
    )
    _, newest_positions = np.unique(
        context_index[indexed_positions] * item_count + item_rows[positions[indexed_positions]],
        return_index=True,
    )
    indexed_positions = indexed_positions[np.sort(newest_positions)]
    positions = positions[indexed_positions]
    context_index = context_index[indexed_positions]
    steps_back = offsets[context_index + 1] - 1 - positions
    return _ContextItems(
        context_index,
        item_rows[positions],
        steps_back,
        search.position_weights[
            context_sizes[context_index], context_sizes[context_index] - 1 - steps_back
        ],
    )


def _sort_distinct(key: Ints) -> Ints:
    """Return the distinct keys, ascending; several times as fast as `np.unique`, which hashes."""
    ordered = np.sort(key)
    return ordered[np.diff(ordered, prepend=-1) != 0]  # no key is negative


def _argsort_stable(number: Int32s, number_limit: int) -> Rows:
    """Return `np.argsort(number, kind="stable")` of numbers from 0, a third of the time: NumPy
    sorts 16 bits by radix.
    """
    order = np.argsort((number & 0xFFFF).astype(np.uint16), kind="stable")
    if number_limit > 1 << 16:
        order = order[np.argsort((number >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _rank_within_context(context_index: Sequence[int] | Ints) -> Ints:
    """Return the position of each entry among those of its context, from 0; contexts ascend."""
    return np.arange(len(context_index)) - np.searchsorted(context_index, context_index)
