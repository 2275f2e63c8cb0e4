"""Finding candidates: the slot's sources one after another, of live tables and of the index, merged
into items that may be shown.
"""

import logging
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.item_knn.query import RECENT_MAX
from tailorbird.candidates.merge import Merge, Merged, bounded
from tailorbird.candidates.protocol import BOARDS, NEIGHBOURS, SESSIONS, RankedList
from tailorbird.candidates.query import LIVE, source_of
from tailorbird.events import SECOND
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.tower import with_sequence
from tailorbird.retrieval import Found, Index
from tailorbird.serving.request import Candidates, Request

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Near = Callable[[int], Found]

# Beyond which an answer says that its candidates are not up to date; tables of sessions come once a
# minute.
LATE_US = {BOARDS: 30 * SECOND, NEIGHBOURS: 60 * SECOND, SESSIONS: 150 * SECOND}
CLUSTER_DECAY = 0.8  # of what a person had, near whose clusters something is looked for
BASELINE_ITEMS = 200  # of each of a baseline's sources
PLACES_KEPT = 256  # lists whose rows are remembered
log = logging.getLogger(__name__)


class Finder:
    """Asks sources. Safe to use from several threads."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[RankedList, Index, Rows, Floats]] = {}

    def find(
        self,
        request: Request,
        view: Index,
        sources: Mapping[str, int],
        *,
        near: Near | None,
        search: Callable[[int], Found],
        lists: Mapping[str, npt.NDArray[np.uint64]],
        until: float,
    ) -> Merged:
        """Ask the sources in their order, and merge what they give of the items that may be shown.

        Args:
            view: the index, of which sources give what it shows.
            near: gives the items nearest to the person's vector; None where nobody has one.
            search: gives the items that match the query.
            lists: editorial lists.
            until: when to ask no further source, as `time.perf_counter` has it; named as
                `retrieval` in what the answer lacks.
        """
        merge = Merge(len(view))
        for name, limit in sources.items():
            if merge.size and time.perf_counter() > until:
                request.lacks("retrieval")
                break
            rows, scores = self._ask(request, view, name, limit + merge.size, near, search, lists)
            merge.add(name, limit, rows, scores)
        return merge.all()

    def _ask(
        self,
        request: Request,
        view: Index,
        name: str,
        most: int,
        near: Near | None,
        search: Callable[[int], Found],
        lists: Mapping[str, npt.NDArray[np.uint64]],
    ) -> tuple[Rows, Floats]:
        source = source_of(name)
        if source.kind in LIVE:
            return self._shown(request.lists.of(name), view)
        if source.kind == "editorial":
            keys = lists.get(source.list, np.zeros(0, np.uint64))
            return self._shown(
                RankedList(keys, np.arange(float(len(keys)), 0.0, -1.0)), view, remember=False
            )
        if source.kind == "sequence":
            found = near(most) if near is not None else None
        elif source.kind == "clusters":
            found = _clusters(request, view, most)
        else:
            found = search(most)
        return (
            (found.rows, found.scores) if found is not None else (np.zeros(0, np.intp), np.zeros(0))
        )

    def _shown(
        self, listed: RankedList, view: Index, *, remember: bool = True
    ) -> tuple[Rows, Floats]:
        """The rows of a list that the index shows; those of leaderboards, which many requests read,
        are remembered.
        """
        kept = self._rows.get(id(listed))
        if kept is not None and kept[0] is listed and kept[1] is view:
            return kept[2], kept[3]
        rows = view.find(listed.keys)
        there = rows >= 0
        if view.shown is not None:
            there &= view.shown[np.maximum(rows, 0)]
        rows, scores = rows[there], listed.scores[there]
        if (
            remember and "ordered" in listed.__dict__
        ):  # it was looked up before: it is not one person's own
            if len(self._rows) >= PLACES_KEPT:
                self._rows.clear()
            self._rows[id(listed)] = listed, view, rows, scores
        return rows, scores


def sources_for(request: Request, sources: Mapping[str, int]) -> dict[str, int]:
    """Return the sources of a slot as a request asks them: with those that its bundle orders by,
    within `CANDIDATES_MAX`.
    """
    found = dict(sources)
    bundle = request.bundle
    if (
        bundle is not None
        and bundle.baseline
        and request.text is None  # a search answers with what matches, whoever orders it
        and request.policy == "model"
    ):
        found = dict.fromkeys(Baseline.parse(bundle.baseline).sources, BASELINE_ITEMS) | found
    if (
        bundle is not None
        and bundle.tower is not None
        and request.text is None
        and request.policy == "model"
    ):
        found = with_sequence(found, bundle.tower.plan.share)
    return bounded(found)


def with_newest(found: Candidates, view: Index, most: int) -> Candidates:
    """Add the newest items that may be shown: what is left where sources have too little, or
    nothing is published yet.
    """
    rows = np.arange(len(view)) if view.shown is None else np.flatnonzero(view.shown)
    rows = rows[~np.isin(rows, found.rows)]
    rows = rows[np.lexsort((view.keys[rows], -view.first_seen[rows]))[:most]]
    return Candidates(
        np.concatenate([found.rows, rows]),
        [*found.ids, *(view.ids[row] for row in rows.tolist())],
        np.concatenate([found.keys, view.keys[rows]]),
        [*found.sources, *["new_items"] * len(rows)],
        np.concatenate([found.scores, np.zeros(len(rows))]),
    )


def check_tables(request: Request, ages: Mapping[str, int], live: bool) -> None:
    """Say what an answer lacks where nothing is published, or what is published is old."""
    if not live:
        return
    if not request.lists.tables.epochs:
        request.lacks("candidates")
    elif any(age > LATE_US[group] for group, age in ages.items()):
        request.lacks("stale_candidates")


def _clusters(request: Request, view: Index, most: int) -> Found:
    recent = (
        request.recent.item[::-1][:RECENT_MAX]
        if request.recent is not None
        else np.zeros(0, np.uint64)
    )
    rows = view.find(recent)
    counts = np.zeros(len(view), np.int64)
    board = request.lists.board_counts()
    at = view.find(board.keys)
    counts[at[at >= 0]] = board.scores[at >= 0].astype(np.int64)
    known = rows >= 0
    return view.clusters(
        rows[known], np.power(CLUSTER_DECAY, np.arange(float(rows.size)))[known], counts, most
    )
