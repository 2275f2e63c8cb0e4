"""Candidate retrieval: query a slot's sources one after another and merge their visible items."""

import logging
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.contract import SERVED_KINDS
from tailorbird.candidates.item_knn.query import RECENT_MAX
from tailorbird.candidates.merge import ListMerger, MergedItems, bound_limits
from tailorbird.candidates.protocol import BOARDS, NEIGHBOURS, SESSIONS, RankedList
from tailorbird.candidates.query import source_of
from tailorbird.events import SECOND
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.tower import add_sequence_source
from tailorbird.retrieval import Index, SearchResult
from tailorbird.serving.pipeline.request import Candidates, Request

RowIndices = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
NearestSearch = Callable[[int], SearchResult]

# Ages beyond which an answer is marked as having stale candidates. Session tables are published
# once a minute.
TABLE_AGE_MAX_US = {BOARDS: 30 * SECOND, NEIGHBOURS: 60 * SECOND, SESSIONS: 150 * SECOND}
CLUSTER_DECAY = 0.8  # weight per step back in the person's history
ITEMS_PER_BASELINE_SOURCE = 200  # per source of a baseline
CACHED_LISTS_MAX = 256  # lists whose rows are cached
log = logging.getLogger(__name__)


class CandidateFinder:
    """Queries candidate sources. Thread-safe."""

    def __init__(self) -> None:
        self._row_cache: dict[int, tuple[RankedList, Index, RowIndices, Floats]] = {}

    def find(
        self,
        request: Request,
        view: Index,
        limit_by_source: Mapping[str, int],
        *,
        nearest: NearestSearch | None,
        search: Callable[[int], SearchResult],
        editorial_lists: Mapping[str, npt.NDArray[np.uint64]],
        deadline: float,
    ) -> MergedItems:
        """Query the sources in their order, and merge their visible items.

        Args:
            view: the index; sources return only items that it shows.
            nearest: returns the items nearest to the person's vector; None where there is no
                vector.
            search: returns the items that match the query.
            editorial_lists: item keys by the name of the list.
            deadline: time of `time.perf_counter` after which no further source is queried;
                `degraded` then names `retrieval`.
        """
        merger = ListMerger(len(view))
        for name, limit in limit_by_source.items():
            if merger.merged_count and time.perf_counter() > deadline:
                request.mark_degraded("retrieval")
                break
            rows, scores = self._query_source(
                request, view, name, limit + merger.merged_count, nearest, search, editorial_lists
            )
            merger.add(name, limit, rows, scores)
        if request.ranked_lists.failed_sources:
            request.mark_degraded("retrieval")
        return merger.result()

    def _query_source(
        self,
        request: Request,
        view: Index,
        name: str,
        limit: int,
        nearest: NearestSearch | None,
        search: Callable[[int], SearchResult],
        editorial_lists: Mapping[str, npt.NDArray[np.uint64]],
    ) -> tuple[RowIndices, Floats]:
        source = source_of(name)
        if source.kind in SERVED_KINDS:  # served from the published candidate tables
            return self._visible_rows(request.ranked_lists.get(name), view)
        if source.kind == "editorial":
            keys = editorial_lists.get(source.list_name, np.zeros(0, np.uint64))
            return self._visible_rows(
                RankedList(keys, np.arange(float(len(keys)), 0.0, -1.0)), view, use_cache=False
            )
        if source.kind == "sequence":
            hits = nearest(limit) if nearest is not None else None
        elif source.kind == "clusters":
            hits = _query_clusters(request, view, limit)
        else:
            hits = search(limit)
        return (hits.rows, hits.scores) if hits is not None else (np.zeros(0, np.intp), np.zeros(0))

    def _visible_rows(
        self, ranked_list: RankedList, view: Index, *, use_cache: bool = True
    ) -> tuple[RowIndices, Floats]:
        """Return the visible rows of a list and their scores.

        The rows of leaderboards, which many requests read, are cached.
        """
        cached = self._row_cache.get(id(ranked_list))
        if cached is not None and cached[0] is ranked_list and cached[1] is view:
            return cached[2], cached[3]
        rows = view.find(ranked_list.keys)
        is_visible = rows >= 0
        if view.visible is not None:
            is_visible &= view.visible[np.maximum(rows, 0)]
        rows = rows[is_visible]
        scores = ranked_list.scores[is_visible]
        if use_cache and ranked_list.is_shared:
            if len(self._row_cache) >= CACHED_LISTS_MAX:
                self._row_cache.clear()
            self._row_cache[id(ranked_list)] = ranked_list, view, rows, scores
        return rows, scores


def query_limits(request: Request, limit_by_source: Mapping[str, int]) -> dict[str, int]:
    """Return the sources to query for a request, with those of its bundle's baseline, within
    `CANDIDATES_MAX`.
    """
    limits = dict(limit_by_source)
    bundle = request.bundle
    # A search answers with what matches, whichever bundle orders it.
    if bundle is not None and request.search_text is None and request.policy == "model":
        if bundle.baseline:
            limits = (
                dict.fromkeys(Baseline.parse(bundle.baseline).sources, ITEMS_PER_BASELINE_SOURCE)
                | limits
            )
        if bundle.tower is not None:
            limits = add_sequence_source(limits, bundle.tower.plan.share)
    return bound_limits(limits)


def with_newest(candidates: Candidates, view: Index, limit: int) -> Candidates:
    """Append the newest visible items, for sources that return too little or before anything is
    published.
    """
    rows = np.arange(len(view)) if view.visible is None else np.flatnonzero(view.visible)
    rows = rows[~np.isin(rows, candidates.rows)]
    rows = rows[np.lexsort((view.keys[rows], -view.first_seen[rows]))[:limit]]
    return Candidates(
        np.concatenate([candidates.rows, rows]),
        [*candidates.ids, *(view.ids[row] for row in rows.tolist())],
        np.concatenate([candidates.keys, view.keys[rows]]),
        [*candidates.sources, *["new_items"] * len(rows)],
        np.concatenate([candidates.scores, np.zeros(len(rows))]),
    )


def mark_stale_tables(request: Request, ages: Mapping[str, int], *, reads_tables: bool) -> None:
    """Mark the answer as degraded if no candidate tables are published, or if they are stale."""
    if not reads_tables:
        return
    if not request.ranked_lists.tables.epochs:
        request.mark_degraded("candidates")
    elif any(age > TABLE_AGE_MAX_US[group] for group, age in ages.items()):
        request.mark_degraded("stale_candidates")


def _query_clusters(request: Request, view: Index, limit: int) -> SearchResult:
    """Return items of the clusters of the person's recent items, the week's popular ones first."""
    recent_keys = (
        request.recent_events.item[::-1][:RECENT_MAX]
        if request.recent_events is not None
        else np.zeros(0, np.uint64)
    )
    rows = view.find(recent_keys)
    weekly_counts = np.zeros(len(view), np.int64)
    board = request.ranked_lists.weekly_board()
    board_rows = view.find(board.keys)
    weekly_counts[board_rows[board_rows >= 0]] = board.scores[board_rows >= 0].astype(np.int64)
    is_indexed = rows >= 0
    return view.rank_by_clusters(
        rows[is_indexed],
        np.power(CLUSTER_DECAY, np.arange(float(rows.size)))[is_indexed],
        weekly_counts,
        limit,
    )
