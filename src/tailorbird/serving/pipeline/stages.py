"""The stages of an answer: find candidates, filter, read features, score, choose an order.

Each takes a `Request` and the output of earlier stages, and names in `degraded` what it had to do
without. `serving.pipeline.pipeline` defines their order, and what an answer is.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np

from tailorbird.candidates.contract import SERVED_KINDS
from tailorbird.candidates.query import source_of
from tailorbird.errors import BundleError
from tailorbird.events import SECOND, Clock
from tailorbird.features import Rows
from tailorbird.ranking import Slot
from tailorbird.ranking.baseline import FALLBACK as FALLBACK_BASELINE
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.bundle import NotFiniteError, Scores
from tailorbird.ranking.policy.diversity import SlateConstraints
from tailorbird.ranking.policy.exploration import draw_slate, draw_uniform_slate
from tailorbird.ranking.policy.interleaving import TeamDraft
from tailorbird.ranking.policy.policy import apply_boosts, arrange_slate
from tailorbird.ranking.policy.slate_distribution import Slate
from tailorbird.ranking.slot import SOURCES
from tailorbird.retrieval import NO_RESULT, Index, SearchResult
from tailorbird.retrieval.facets import Facet, facet_of
from tailorbird.retrieval.synonyms import Phrase, Synonyms
from tailorbird.serving.pipeline.deadlines import Breakers
from tailorbird.serving.pipeline.explain import Adjustment
from tailorbird.serving.pipeline.feature_reads import FallbackReader
from tailorbird.serving.pipeline.protocols import EditorialLists, Watcher
from tailorbird.serving.pipeline.request import (
    NO_CANDIDATES,
    Candidates,
    Floats,
    Mask,
    Request,
    RowIndices,
)
from tailorbird.serving.pipeline.retrieval import (
    CandidateFinder,
    check_tables,
    sources_for,
    with_newest,
)
from tailorbird.serving.pipeline.slot_rules import SlotRules

FACET_HITS = 1_000  # hits over which facets are counted
STALE_US = 30 * SECOND
NEWEST_MAX = 200  # items shown where nothing else is known
log = logging.getLogger(__name__)


class ModelUnavailableError(Exception):
    """A bundle cannot score now: `version` and `reason`. Never leaves the pipeline."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"{version}: {reason}")
        self.version, self.why = version, reason


class Stages:
    """The stages of a pipeline. Thread-safe.

    Args:
        slots: by name.
        rng: for exploration.
        watcher: counts stages, faults and degradations.
        stale_us: age of feature copies beyond which an answer names `freshness` as missing.
        breakers: time budgets and circuit breakers.
        ages: by group of candidate tables, how long it has not been known to be current.
        editorial_lists: has the editorial lists.
    Raises:
        DeclarationError: a slot's rule is not of the language.
    """

    def __init__(
        self,
        slots: Mapping[str, Slot],
        clock: Clock,
        rng: np.random.Generator,
        watcher: Watcher,
        stale_us: int,
        *,
        breakers: Breakers,
        ages: Callable[[], Mapping[str, int]] = dict,
        editorial_lists: EditorialLists | None = None,
    ) -> None:
        self._rng, self._watcher = rng, watcher
        self._breakers, self._ages = breakers, ages
        self.features = FallbackReader(clock, breakers.store, stale_us)
        self._finder = CandidateFinder()
        self._editorial_lists = editorial_lists
        self._rng_lock = threading.Lock()  # a Generator is not thread-safe
        self._slot_rules = {
            name: SlotRules(slot, partial(watcher.fault, "rules")) for name, slot in slots.items()
        }
        self._synonyms = {name: Synonyms.of(slot.synonyms) for name, slot in slots.items()}

    def draw_id(self) -> str:
        """Draw an id for a request."""
        with self._rng_lock:
            return self._rng.bytes(12).hex()

    def view(self, slot: Slot, index: Index) -> Index:
        """Return the items that the slot's rules do not forbid for everybody."""
        return self._slot_rules[slot.name].view(index)

    def prepare(self, index: Index) -> None:
        """Compute each slot's view of an index, so that no request has to."""
        for name, slot_rules in self._slot_rules.items():
            try:
                slot_rules.view(index)
            except Exception:  # a request that needs it will say so
                log.exception("the rules of slot %s failed", name)

    def find(self, request: Request, sources: Mapping[str, int], size: int) -> Candidates:
        """Find candidates that may be shown.

        Sources do not return what rules forbid for everybody; the other forbidden items are
        filtered afterwards. If that leaves fewer than the answer's size, the sources are queried
        again for what this person may see.
        """
        index = request.index
        if index is None or not len(index):
            request.mark_degraded("index")
            return NO_CANDIDATES
        slot_rules = self._slot_rules[request.slot.name]
        with self.timed("retrieve"):
            public_view = slot_rules.view(index)
            if public_view.shown is not None and not public_view.shown.any():
                request.mark_degraded("items")
            candidates = slot_rules.with_pins(
                request, index, self._retrieve(request, public_view, sources), size
            )
        with self.timed("rules"):
            visible_rows = np.flatnonzero(self.visible_mask(request, index, candidates.rows))
        if min(size, len(candidates)) <= visible_rows.size:
            return (
                candidates
                if visible_rows.size == len(candidates)
                else candidates.select(visible_rows)
            )
        with self.timed("retrieve"):
            all_rows = np.arange(len(index))
            view = index.only(self.visible_mask(request, index, all_rows))
            retried = slot_rules.with_pins(
                request, index, self._retrieve(request, view, sources), size
            )
            assert view.shown is not None
            if not view.shown.any() and slot_rules.is_empty_for(request, index):
                request.mark_degraded("items")
            return retried.select(np.flatnonzero(view.shown[retried.rows]))

    def _retrieve(self, request: Request, view: Index, sources: Mapping[str, int]) -> Candidates:
        nearest = self._nearest_search(request, view)
        source_limits = sources_for(request, sources)
        options = {
            "nearest": nearest,
            "search": lambda most: self._search(request, view, most),
            "lists": self._editorial_lists.keys if self._editorial_lists is not None else {},
            "until": time.perf_counter() + self._breakers.budgets.retrieval_s,
        }
        merged = self._finder.find(request, view, source_limits, **options)
        check_tables(
            request,
            self._ages(),
            any(source_of(name).kind in SERVED_KINDS for name in source_limits),
        )
        items_min = (
            -(-(request.query.size or request.slot.size) // 3) if request.text is None else 0
        )
        if merged.rows.size < items_min:
            # A slot whose own sources are nearly empty still shows a list, as after the first event
            # behind a log that ended long ago.
            merged = self._finder.find(request, view, {**source_limits, **SOURCES}, **options)
        request.contributed_counts = {
            source: count for source, count in merged.contributed_counts.items() if count
        }
        rows = merged.rows
        candidates = Candidates(
            rows,
            [view.ids[row] for row in rows.tolist()],
            view.keys[rows],
            merged.source_names(),
            merged.score,
        )
        return candidates if rows.size >= items_min else with_newest(candidates, view, NEWEST_MAX)

    def _search(self, request: Request, view: Index, limit: int) -> SearchResult:
        return (
            view.search(request.text, limit, self._synonyms_of(request))
            if request.text
            else NO_RESULT
        )

    def _synonyms_of(self, request: Request) -> Sequence[Phrase]:
        """Return synonyms of the words in the query."""
        return (
            ()
            if request.text is None
            else self._synonyms[request.slot.name].phrases_for(request.text)
        )

    def facets(self, request: Request, names: Sequence[str]) -> dict[str, Facet]:
        """Count the values of attributes over the hits of a search.

        Only the first `FACET_HITS` hits are counted, less those that may not be shown.
        """
        index = request.index
        if index is None or request.text is None:
            return {}
        hits = index.search(request.text, FACET_HITS, self._synonyms_of(request)).rows
        hits = hits[self.visible_mask(request, index, hits)]
        facets = {name: facet_of(index, hits, name) for name in names}
        return {name: facet for name, facet in facets.items() if facet is not None}

    def _nearest_search(
        self, request: Request, index: Index
    ) -> Callable[[int], SearchResult] | None:
        """Return a search for the items nearest to the person's vector, by the latest events.

        None without a tower, or if it fails.
        """
        space = (
            request.bundle.with_index(index).space
            if request.bundle is not None and request.policy == "model"
            else None
        )
        if space is None or request.text is not None:
            return None
        try:
            with self.timed("vector"):
                if request.vector is None or not request.vector.matches(
                    space.vectors, request.recent
                ):
                    request.vector = space.query(request.recent)
        except BundleError:
            log.exception("the tower of a bundle failed")
            self._watcher.fault("tower")
            request.mark_degraded("vectors")
            return None
        return partial(space.nearest, request.vector)

    def visible_mask(self, request: Request, index: Index, rows: RowIndices) -> Mask:
        """Return which rows may be shown: not excluded by the query, the person's history, or the
        slot's rules.
        """
        return self._slot_rules[request.slot.name].visible_mask(request, index, rows)

    def limit_to_budget(self, request: Request, candidates: Candidates, size: int) -> Candidates:
        """Return as many candidates as the model can score in time; those of the first sources
        stay.
        """
        rows_max = (
            self._breakers.models.rows_max(request.bundle.version)
            if request.bundle is not None
            else len(candidates)
        )
        if len(candidates) <= max(rows_max, size):
            return candidates
        request.mark_degraded("ranking")
        return candidates.select(np.arange(max(int(rows_max), size)))

    def score(self, request: Request, candidates: Candidates, rows: Rows | None) -> Scores | None:
        """Return the bundle's scores, or None without features.

        Raises:
            ModelUnavailableError: the bundle fails, or has failed lately: another one may answer.
        """
        if rows is None or request.bundle is None or request.index is None:
            return None
        version, models = request.bundle.version, self._breakers.models
        if not models.breaker_of(version).allow():
            raise ModelUnavailableError(version, "breaker_open")
        start = time.perf_counter()
        try:
            bundle = request.bundle.with_index(request.index)
            if "vectors" in request.degraded:
                bundle = bundle.without_tower()
            live = bundle.encoder.read_live(request.lists, rows, candidates.keys)
            scores = bundle.score(
                rows,
                candidates.keys,
                objective=request.formula.weights,
                user_query=request.vector,
                live=live,
            )
            if not np.isfinite(scores.value).all():
                raise NotFiniteError(f"{version} gave a value that is no finite number")
        except Exception as error:  # a model that fails at run time must not take the site down
            log.exception("bundle %s failed to score", version)
            self._watcher.fault("model")
            models.breaker_of(version).record(time.perf_counter() - start, failed=True)
            raise ModelUnavailableError(
                version, "not_finite" if isinstance(error, NotFiniteError) else "error"
            ) from error
        models.record_scored(version, len(candidates), time.perf_counter() - start)
        request.live = live
        return scores

    def baseline(self, request: Request, candidates: Candidates) -> Floats:
        """Return values without a model, by the arm's policy.

        Where a model is intended, the baseline that was judged best is used.
        """
        if request.index is None or not len(candidates):
            return np.zeros(len(candidates))
        if request.policy == "recent":
            values = request.index.first_seen[np.maximum(candidates.rows, 0)].astype(np.float64)
        else:
            values = Baseline.parse(request.judged_baseline or FALLBACK_BASELINE).values(
                request.lists, candidates.keys
            )
        return np.where(candidates.rows >= 0, values, 0.0)

    def choose(self, request: Request, candidates: Candidates, values: Floats, size: int) -> Slate:
        """Choose the items and order of an answer."""
        if not len(candidates):
            return Slate(np.zeros(0, np.intp), np.zeros(0))
        if request.policy == "random":
            with self._rng_lock:
                return draw_uniform_slate(len(candidates), size, self._rng)
        order, bounds = self.order(request, candidates, values, size)
        with self._rng_lock:
            return draw_slate(order, size, request.slot.explore, self._rng, values, bounds)

    def order(
        self, request: Request, candidates: Candidates, values: Floats, size: int
    ) -> tuple[RowIndices, SlateConstraints]:
        """Order all candidates as the slot arranges them, and return its constraints."""
        policy, spec = (
            self._breakers.policy,
            self._slot_rules[request.slot.name].slate_spec(request, candidates, size),
        )
        if spec.diversity is not None and not policy.allow():
            request.mark_degraded("policy")
            spec = replace(spec, diversity=None)
        bounds, start = spec.constraints(), time.perf_counter()
        order = arrange_slate(values, size, spec, bounds)
        if spec.diversity is not None:
            policy.record(time.perf_counter() - start)
        return order, bounds

    def draft(self, draft: TeamDraft) -> Slate:
        """Draw a slate from a draft."""
        with self._rng_lock:
            return draft.draft(self._rng)

    def apply_boosts(self, request: Request, candidates: Candidates, values: Floats) -> Floats:
        """Return the values after the slot's boosts."""
        slot_rules = self._slot_rules[request.slot.name]
        return (
            apply_boosts(values, slot_rules.factors(request, candidates))
            if slot_rules.boosts and request.index is not None
            else values
        )

    def adjustments(
        self, request: Request, shown: Candidates, values: Floats, text_values: Floats
    ) -> list[Adjustment]:
        """Return for `explain` what changed the `values` of a model to the scores of an answer.

        `text_values` are the values after the search.
        """
        placements = self._slot_rules[request.slot.name].explain_placement(
            request, shown, text_values
        )
        search_gains = [] if request.text is None else (text_values - values).tolist()
        return [
            Adjustment(
                value,
                {"search": search_gains[position], **moved} if search_gains else moved,
                placed,
            )
            for position, (value, (moved, placed)) in enumerate(
                zip(values.tolist(), placements, strict=True)
            )
        ]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        start = time.perf_counter()
        yield
        self._watcher.stage(stage, time.perf_counter() - start)
