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
from tailorbird.retrieval.facets import Facet, compute_facet
from tailorbird.retrieval.synonyms import Phrase, Synonyms
from tailorbird.serving.pipeline.deadlines import Breakers
from tailorbird.serving.pipeline.explain import Adjustment
from tailorbird.serving.pipeline.feature_reads import FallbackReader
from tailorbird.serving.pipeline.protocols import EditorialLists, PipelineMetrics
from tailorbird.serving.pipeline.request import (
    NO_CANDIDATES,
    Candidates,
    Floats,
    Mask,
    Ranking,
    Request,
    RowIndices,
)
from tailorbird.serving.pipeline.retrieval import (
    CandidateFinder,
    mark_stale_tables,
    query_limits,
    with_newest,
)
from tailorbird.serving.pipeline.slot_rules import SlotRules

FACET_HITS_MAX = 1_000  # hits over which facets are counted
STALE_AFTER_US = 30 * SECOND
NEWEST_MAX = 200  # items shown where nothing else is known
log = logging.getLogger(__name__)


class ModelUnavailableError(Exception):
    """A bundle cannot score now: `version` and `reason`. Never leaves the pipeline."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"{version}: {reason}")
        self.version = version
        self.reason = reason


class Stages:
    """The stages of a pipeline. Thread-safe.

    Args:
        slots: by name.
        rng: for exploration.
        metrics: counts stages, faults and degradations.
        stale_after_us: age of feature copies beyond which an answer names `freshness` as missing.
        breakers: time budgets and circuit breakers.
        read_table_ages: by group of candidate tables, how long it has not been known to be current.
        editorial_lists: has the editorial lists.
    Raises:
        DeclarationError: a slot's rule is not of the language.
    """

    def __init__(
        self,
        slots: Mapping[str, Slot],
        clock: Clock,
        rng: np.random.Generator,
        metrics: PipelineMetrics,
        stale_after_us: int,
        *,
        breakers: Breakers,
        read_table_ages: Callable[[], Mapping[str, int]] = dict,
        editorial_lists: EditorialLists | None = None,
    ) -> None:
        self._rng = rng
        self._metrics = metrics
        self._breakers = breakers
        self._read_table_ages = read_table_ages
        self.features = FallbackReader(clock, breakers.store, stale_after_us)
        self._finder = CandidateFinder()
        self._editorial_lists = editorial_lists
        self._rng_lock = threading.Lock()  # a Generator is not thread-safe
        self._slot_rules = {
            name: SlotRules(slot, partial(metrics.count_fault, "rules"))
            for name, slot in slots.items()
        }
        self._synonyms = {name: Synonyms.from_groups(slot.synonyms) for name, slot in slots.items()}

    def draw_id(self) -> str:
        """Draw an id for a request."""
        with self._rng_lock:
            return self._rng.bytes(12).hex()

    def public_view(self, slot: Slot, index: Index) -> Index:
        """Return the items that the slot's rules do not forbid for everybody."""
        return self._slot_rules[slot.name].public_view(index)

    def prepare_views(self, index: Index) -> None:
        """Compute each slot's view of an index, so that no request has to."""
        for name, slot_rules in self._slot_rules.items():
            try:
                slot_rules.public_view(index)
            except Exception:  # a request that needs it will say so
                log.exception("the rules of slot %s failed", name)

    def find_candidates(
        self, request: Request, limit_by_source: Mapping[str, int], size: int
    ) -> Candidates:
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
        with self.time_stage("retrieve"):
            public_view = slot_rules.public_view(index)
            if public_view.visible is not None and not public_view.visible.any():
                request.mark_degraded("items")
            candidates = slot_rules.with_pins(
                request, index, self._retrieve(request, public_view, limit_by_source), size
            )
        with self.time_stage("rules"):
            visible_rows = np.flatnonzero(self.visible_mask(request, index, candidates.rows))
        if min(size, len(candidates)) <= visible_rows.size:
            all_visible = visible_rows.size == len(candidates)
            return candidates if all_visible else candidates.select(visible_rows)
        with self.time_stage("retrieve"):
            all_rows = np.arange(len(index))
            view = index.restrict(self.visible_mask(request, index, all_rows))
            retried_candidates = slot_rules.with_pins(
                request, index, self._retrieve(request, view, limit_by_source), size
            )
            assert view.visible is not None
            if not view.visible.any() and slot_rules.is_empty_for(request, index):
                request.mark_degraded("items")
            return retried_candidates.select(np.flatnonzero(view.visible[retried_candidates.rows]))

    def _retrieve(
        self, request: Request, view: Index, limit_by_source: Mapping[str, int]
    ) -> Candidates:
        nearest = self._nearest_search(request, view)
        query_limit_by_source = query_limits(request, limit_by_source)
        find_arguments = {
            "nearest": nearest,
            "search": lambda limit: self._search(request, view, limit),
            "editorial_lists": self._editorial_lists.keys_by_list
            if self._editorial_lists is not None
            else {},
            "deadline": time.perf_counter() + self._breakers.budgets.retrieval_s,
        }
        merged_items = self._finder.find(request, view, query_limit_by_source, **find_arguments)
        mark_stale_tables(
            request,
            self._read_table_ages(),
            reads_tables=any(
                source_of(name).kind in SERVED_KINDS for name in query_limit_by_source
            ),
        )
        items_min = (
            -(-(request.query.size or request.slot.size) // 3) if request.search_text is None else 0
        )
        if merged_items.rows.size < items_min:
            # A slot whose own sources are nearly empty shows a list from the default `SOURCES`, as
            # after the first event behind a log that ended long ago.
            merged_items = self._finder.find(
                request, view, {**query_limit_by_source, **SOURCES}, **find_arguments
            )
        request.contributed_counts = {
            source: count for source, count in merged_items.contributed_counts.items() if count
        }
        rows = merged_items.rows
        candidates = Candidates(
            rows,
            [view.ids[row] for row in rows.tolist()],
            view.keys[rows],
            merged_items.item_source_names(),
            merged_items.scores,
        )
        return candidates if rows.size >= items_min else with_newest(candidates, view, NEWEST_MAX)

    def _search(self, request: Request, view: Index, limit: int) -> SearchResult:
        if not request.search_text:
            return NO_RESULT
        return view.search(request.search_text, limit, self._synonyms_of(request))

    def _synonyms_of(self, request: Request) -> Sequence[Phrase]:
        """Return synonyms of the words in the query."""
        if request.search_text is None:
            return ()
        return self._synonyms[request.slot.name].phrases_for(request.search_text)

    def count_facets(self, request: Request, names: Sequence[str]) -> dict[str, Facet]:
        """Count the values of attributes over the hits of a search.

        Only the first `FACET_HITS_MAX` hits are counted, less those that may not be shown.
        """
        index = request.index
        if index is None or request.search_text is None:
            return {}
        hits = index.search(request.search_text, FACET_HITS_MAX, self._synonyms_of(request)).rows
        hits = hits[self.visible_mask(request, index, hits)]
        facets = {name: compute_facet(index, hits, name) for name in names}
        return {name: facet for name, facet in facets.items() if facet is not None}

    def _nearest_search(
        self, request: Request, index: Index
    ) -> Callable[[int], SearchResult] | None:
        """Return a search for the items nearest to the person's vector, by the latest events.

        None without a tower, or if it fails.
        """
        vector_space = (
            request.bundle.with_index(index).space
            if request.bundle is not None and request.policy == "model"
            else None
        )
        if vector_space is None or request.search_text is not None:
            return None
        try:
            with self.time_stage("vector"):
                if request.user_query is None or not request.user_query.matches(
                    vector_space.vectors, request.recent_events
                ):
                    request.user_query = vector_space.query(request.recent_events)
        except BundleError:
            log.exception("the tower of a bundle failed")
            self._metrics.count_fault("tower")
            request.mark_degraded("vectors")
            return None
        return partial(vector_space.nearest, request.user_query)

    def visible_mask(self, request: Request, index: Index, rows: RowIndices) -> Mask:
        """Return which rows may be shown: not excluded by the query, the person's history, or the
        slot's rules.
        """
        return self._slot_rules[request.slot.name].visible_mask(request, index, rows)

    def limit_to_budget(self, request: Request, candidates: Candidates, size: int) -> Candidates:
        """Return as many candidates as the model can score in time; those of the first sources
        stay.
        """
        rows_max = float(len(candidates))
        if request.bundle is not None:
            rows_max = self._breakers.model_breakers.rows_max(request.bundle.version)
        if len(candidates) <= max(rows_max, size):
            return candidates
        request.mark_degraded("ranking")
        return candidates.select(np.arange(max(int(rows_max), size)))

    def score(
        self, request: Request, candidates: Candidates, feature_rows: Rows | None
    ) -> Scores | None:
        """Return the bundle's scores, or None without features.

        Raises:
            ModelUnavailableError: the bundle fails, or has failed lately: another one may answer.
        """
        if feature_rows is None or request.bundle is None or request.index is None:
            return None
        version = request.bundle.version
        model_breakers = self._breakers.model_breakers
        if not model_breakers.dependency_for(version).allow():
            raise ModelUnavailableError(version, "breaker_open")
        start = time.perf_counter()
        try:
            bundle = request.bundle.with_index(request.index)
            if "vectors" in request.degraded:
                bundle = bundle.without_tower()
            live_columns = bundle.encoder.read_live_columns(
                request.ranked_lists, feature_rows, candidates.keys
            )
            scores = bundle.score(
                feature_rows,
                candidates.keys,
                objective=request.formula.weights,
                user_query=request.user_query,
                live_columns=live_columns,
            )
            if not np.isfinite(scores.value).all():
                raise NotFiniteError(f"{version} gave a value that is no finite number")
        except Exception as error:  # a model that fails at run time must not take the site down
            log.exception("bundle %s failed to score", version)
            self._metrics.count_fault("model")
            model_breakers.dependency_for(version).record(time.perf_counter() - start, failed=True)
            raise ModelUnavailableError(
                version, "not_finite" if isinstance(error, NotFiniteError) else "error"
            ) from error
        model_breakers.record_scoring(version, len(candidates), time.perf_counter() - start)
        request.live_columns = live_columns
        return scores

    def baseline_values(self, request: Request, candidates: Candidates) -> Floats:
        """Return values without a model, by the arm's policy.

        Where a model is intended, the baseline that was judged best is used.
        """
        if request.index is None or not len(candidates):
            return np.zeros(len(candidates))
        if request.policy == "recent":
            values = request.index.first_seen[np.maximum(candidates.rows, 0)].astype(np.float64)
        else:
            values = Baseline.parse(request.judged_baseline or FALLBACK_BASELINE).values(
                request.ranked_lists, candidates.keys
            )
        return np.where(candidates.rows >= 0, values, 0.0)

    def choose_slate(
        self, request: Request, candidates: Candidates, values: Floats, size: int
    ) -> Slate:
        """Choose the items and order of an answer."""
        if not len(candidates):
            return Slate(np.zeros(0, np.intp), np.zeros(0))
        if request.policy == "random":
            with self._rng_lock:
                return draw_uniform_slate(len(candidates), size, self._rng)
        order, constraints = self.order_candidates(request, candidates, values, size)
        with self._rng_lock:
            return draw_slate(order, size, request.slot.explore, self._rng, values, constraints)

    def order_candidates(
        self, request: Request, candidates: Candidates, values: Floats, size: int
    ) -> tuple[RowIndices, SlateConstraints]:
        """Order all candidates as the slot arranges them, and return its constraints."""
        diversity_dependency = self._breakers.policy
        slate_spec = self._slot_rules[request.slot.name].slate_spec(request, candidates, size)
        if slate_spec.diversity is not None and not diversity_dependency.allow():
            request.mark_degraded("policy")
            slate_spec = replace(slate_spec, diversity=None)
        constraints = slate_spec.constraints()
        start = time.perf_counter()
        order = arrange_slate(values, size, slate_spec, constraints)
        if slate_spec.diversity is not None:
            diversity_dependency.record(time.perf_counter() - start)
        return order, constraints

    def draw_drafted_slate(self, team_draft: TeamDraft) -> Slate:
        """Draw a slate from a draft."""
        with self._rng_lock:
            return team_draft.draft(self._rng)

    def apply_boosts(self, request: Request, candidates: Candidates, values: Floats) -> Floats:
        """Return the values after the slot's boosts."""
        slot_rules = self._slot_rules[request.slot.name]
        if not slot_rules.boosts or request.index is None:
            return values
        return apply_boosts(values, slot_rules.boost_masks(request, candidates))

    def explain_adjustments(self, request: Request, ranking: Ranking) -> list[Adjustment]:
        """Return for `explain` what changed a model's values to the scores of an answer."""
        model_values = ranking.model_values
        text_values = ranking.text_values
        effects_and_placements = self._slot_rules[request.slot.name].explain_placement(
            request, ranking.candidates, text_values
        )
        search_gains = [] if request.search_text is None else (text_values - model_values).tolist()
        return [
            Adjustment(
                value,
                {"search": search_gains[position], **rule_effects}
                if search_gains
                else rule_effects,
                placements,
            )
            for position, (value, (rule_effects, placements)) in enumerate(
                zip(model_values.tolist(), effects_and_placements, strict=True)
            )
        ]

    @contextmanager
    def time_stage(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        start = time.perf_counter()
        yield
        self._metrics.record_stage(stage, time.perf_counter() - start)
