"""The pipeline from a query to an answer: retrieve, filter, read features, score, choose, give
reasons, log.

It depends on neither HTTP nor files, and is thread-safe. Whatever is missing makes an answer less
personal and is named in `degraded`, but is never an error (docs/reference/degraded.md). Without
features, the last known ones are used. Where the model fails, the previous version answers. Without
either, popular items are shown, by the same rules, exploration and log.

`serving.messages` defines queries and answers, `serving.pipeline.protocols` the parts of a
pipeline, `serving.pipeline.stages` its stages, and `retrieval` and `ranking` their logic.
`serving.metrics` measures the time of each stage.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import numpy as np

from tailorbird.events import Clock, hash64s
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.features import Rows
from tailorbird.ranking import Slot
from tailorbird.retrieval import Index
from tailorbird.serving.experiments import DeclaredExperiments
from tailorbird.serving.messages import (
    Item,
    QueryError,
    RankQuery,
    RecommendQuery,
    RecommendResponse,
    SearchQuery,
    ShownItem,
    Similar,
)
from tailorbird.serving.pipeline.deadlines import UNBOUNDED, Breakers, Budgets
from tailorbird.serving.pipeline.formulas import DeclaredFormulas
from tailorbird.serving.pipeline.interleaving import interleave
from tailorbird.serving.pipeline.lists import list_items, list_similar_items
from tailorbird.serving.pipeline.opening import RequestOpener
from tailorbird.serving.pipeline.protocols import (
    ArmAssigner,
    BundleSelector,
    EditorialLists,
    FeatureAccess,
    FeatureProvider,
    FormulaProvider,
    IndexOverlay,
    NullMetrics,
    NullOverlay,
    NullTableProvider,
    PipelineMetrics,
    ResponseLog,
    TableProvider,
)
from tailorbird.serving.pipeline.record import (
    FALLBACK,
    build_response,
    log_response,
    read_attributes,
    to_facet_counts,
)
from tailorbird.serving.pipeline.request import (
    Candidates,
    Ranking,
    Request,
    lift_text_scores,
    require_facets,
)
from tailorbird.serving.pipeline.rule_costs import VariantComparer, VariantOutcome
from tailorbird.serving.pipeline.shadow import ShadowScorer
from tailorbird.serving.pipeline.stages import STALE_AFTER_US, Stages

SEARCH_CANDIDATES = 200
FindCandidates = Callable[[Request], Candidates]  # of the request as one arm sees it


class Pipeline:
    """Answers queries; the module's docstring has its guarantees.

    Args:
        slots: by name.
        bundle_selector: selects the bundle that serves; `bundles.BundleHolder`, or `FixedBundle`.
        feature_provider: opens features and state of a bundle; `schemas.LiveFeatureProvider`, or
            `SingleSchema`.
        response_log: where answers are logged; `collector.EventCollector`. None logs nothing: for
            evaluation.
        clock: for `now`; the answer's own time is the t of its features.
        rng: for exploration and request ids; the same seed and calls give the same answers.
        index_overlay: lays later items over the bundle's index; `catalogue.Catalogue`.
        pseudonyms: hides the people of queries under the same pseudonyms as the collector's.
        metrics: counts stages, faults and degradations.
        formula_provider: the value of an item to each slot; by default, as slots declare it.
        arm_assigner: assigns arms; by default those of the slots alone.
        stale_after_us: age of feature copies beyond which an answer names `freshness` as missing.
        budgets: how long each stage may take; unbounded by default.
        table_provider: opens the published candidate tables; `models.candidates.LiveTables`.
        editorial_lists: has the editorial lists.
    Raises:
        DeclarationError: a slot's rule is not of the language.
    """

    def __init__(
        self,
        *,
        slots: Mapping[str, Slot],
        bundle_selector: BundleSelector,
        feature_provider: FeatureProvider,
        response_log: ResponseLog | None,
        clock: Clock,
        rng: np.random.Generator,
        index_overlay: IndexOverlay | None = None,
        metrics: PipelineMetrics | None = None,
        pseudonyms: Pseudonyms | None = None,
        formula_provider: FormulaProvider | None = None,
        arm_assigner: ArmAssigner | None = None,
        stale_after_us: int = STALE_AFTER_US,
        budgets: Budgets = UNBOUNDED,
        table_provider: TableProvider | None = None,
        editorial_lists: EditorialLists | None = None,
    ) -> None:
        self._slots = slots
        self._bundle_selector = bundle_selector
        self._feature_provider = feature_provider
        self._response_log = response_log
        self.clock = clock
        self._index_overlay: IndexOverlay = index_overlay or NullOverlay()
        self._metrics: PipelineMetrics = metrics or NullMetrics()
        self.pseudonyms = pseudonyms
        self.breakers = Breakers(budgets)
        self._shadow_scorer = ShadowScorer(feature_provider, self._metrics)
        self._table_provider: TableProvider = table_provider or NullTableProvider()
        self._stages = Stages(
            slots,
            clock,
            rng,
            self._metrics,
            stale_after_us,
            breakers=self.breakers,
            read_table_ages=self._table_provider.ages,
            editorial_lists=editorial_lists,
        )
        self._opener = RequestOpener(
            bundle_selector,
            feature_provider,
            self._table_provider,
            self._index_overlay,
            formula_provider or DeclaredFormulas(),
            self._stages,
            slots,
            arm_assigner or DeclaredExperiments(),
            clock=clock,
            pseudonyms=pseudonyms,
        )

    def answer(self, query: RecommendQuery) -> RecommendResponse:
        """Fill a slot from its own candidate sources."""

        def fill(request: Request) -> RecommendResponse:
            size = query.size or request.slot.size
            return self._answer_request(
                request, lambda arm: self._stages.find_candidates(arm, arm.slot.sources, size), size
            )

        return self._opener.run_query(query, self._find_slot(query.slot), fill)

    def rank(self, query: RankQuery) -> RecommendResponse:
        """Order the caller's own items, all of them unless `size` is smaller.

        The caller knows what may be shown, so no rule is applied.
        """
        excluded = set(query.exclude)
        ids = [item for item in dict.fromkeys(query.items) if item not in excluded]
        keys = hash64s(ids)

        def order(request: Request) -> RecommendResponse:
            index_rows = np.full(len(ids), -1, np.intp)
            if request.index is not None:
                index_rows = request.index.find(keys)
            candidates = Candidates(index_rows, ids, keys, ["given"] * len(ids), np.zeros(len(ids)))
            size = query.size or len(ids)
            return self._answer_request(request, lambda arm: candidates, size, score_all=True)

        return self._opener.run_query(query, self._find_slot(query.slot), order)

    def search(self, query: SearchQuery) -> RecommendResponse:
        """Find items by words, scored by text and by the ranker for this person."""
        slot = self._find_slot(query.slot or "search")

        def find(request: Request) -> RecommendResponse:
            request.search_text = query.query
            require_facets(request, query.facets)
            size = query.size or request.slot.size
            sources = {"search": request.slot.sources.get("search", SEARCH_CANDIDATES)}
            response = self._answer_request(
                request, lambda arm: self._stages.find_candidates(arm, sources, size), size
            )
            if not query.facets:
                return response
            with self._stages.time_stage("facets"):
                facets = to_facet_counts(self._stages.count_facets(request, query.facets))
            return msgspec.structs.replace(response, facets=facets)

        return self._opener.run_query(query, slot, find)

    def candidates(self, query: RecommendQuery) -> list[str]:
        """Return the items among which a slot chooses for a query, at most `CANDIDATES_MAX`,
        without logging.
        """
        slot = self._find_slot(query.slot)
        size = query.size or slot.size

        def find(request: Request) -> list[str]:
            return list(self._stages.find_candidates(request, slot.sources, size).ids)

        return self._opener.run_query(query, slot, find)

    def compare_variants(
        self, query: RecommendQuery, comparer: VariantComparer
    ) -> dict[str, VariantOutcome] | None:
        """Return the outcome of each variant of a slot for a query, see `rule_costs`, without
        logging.

        None where no model can score.
        """
        slot = self._find_slot(query.slot)
        return self._opener.run_query(
            query,
            slot,
            lambda request: comparer.compare(request, slot.sources, query.size or slot.size),
        )

    def similar_items(self, item_id: str, size: int, slot: str = "") -> Similar | None:
        """Return the items related to an item: the same for everybody, and not logged.

        None if the live index does not know the item. Rules of `slot` that hold for everybody
        apply.
        """
        bundle, index = self._opener.current_bundle_and_index()
        model = bundle.version if bundle else FALLBACK
        if index is None:
            return Similar(item_id=item_id, items=[], model=model, degraded=["model"])
        if index.find_ids([item_id])[0] < 0:
            return None
        with self._table_provider.tables() as tables:
            # The item itself may be hidden in the slot.
            items = list_similar_items(self._slot_view(slot, index), tables, item_id, size)
        degraded = [] if bundle else ["model"]
        return Similar(item_id=item_id, items=items, model=model, degraded=degraded)

    def item(self, item_id: str) -> Item | None:
        """Return an item's attributes from the live index, or None if it does not know the item."""
        _, index = self._opener.current_bundle_and_index()
        row = -1 if index is None else int(index.find_ids([item_id])[0])
        if index is None or row < 0:
            return None
        return Item(
            item_id=item_id, attributes=read_attributes(index, row, sorted(index.attributes))
        )

    def top_items(
        self, source: str, size: int, category: str | None = None, slot: str = ""
    ) -> list[ShownItem]:
        """Return `popular` or `new_items`, optionally of one category: the same for everybody,
        and not logged.

        Empty while there is no index. Rules of `slot` that hold for everybody apply.
        """
        _, index = self._opener.current_bundle_and_index()
        if index is None:
            return []
        with self._table_provider.tables() as tables:
            return list_items(self._slot_view(slot, index), tables, source, size, category)

    def _slot_view(self, slot: str, index: Index) -> Index:
        return self._stages.public_view(self._find_slot(slot), index) if slot else index

    def prepare_views(self, index: Index) -> None:
        """Compute each slot's view of an index before a request needs it."""
        self._stages.prepare_views(index)

    def missing_parts(self) -> list[str]:
        """Return what an answer would lack now, as `degraded` would name it."""
        bundle = self._bundle_selector.current()
        missing = [] if bundle is not None else ["model"]
        return missing if self._feature_provider.is_ready(bundle) else [*missing, "features"]

    @contextmanager
    def feature_access(self) -> Iterator[FeatureAccess]:
        """Open the features of the current bundle, for pages that show them."""
        with self._feature_provider.open_features(self._bundle_selector.current()) as access:
            yield access

    def _answer_request(
        self,
        request: Request,
        find_candidates: FindCandidates,
        size: int,
        *,
        score_all: bool = False,
    ) -> RecommendResponse:
        """Find and score the candidates, choose, give reasons and log.

        `score_all` scores all candidates, whatever the cost.

        Raises:
            ModelUnavailableError: the bundle's model fails; nothing was logged.
        """
        arm_requests = self._opener.open_arm_requests(request)
        rankings = [
            self._rank(arm_request, find_candidates(arm_request), size, score_all=score_all)
            for arm_request in arm_requests
        ]
        reasons = None
        with self._stages.time_stage("policy"):
            if len(arm_requests) > 1:
                ranking, slate, reasons = interleave(
                    request, arm_requests, rankings, self._stages, size
                )
            else:
                ranking = rankings[0]
                slate = self._stages.choose_slate(request, ranking.candidates, ranking.values, size)
                ranking = ranking.select(slate.items)
                request.live_columns = ranking.live_columns
        if ranking.feature_rows is None and len(ranking.candidates):
            feature_rows = self._read_features(request, ranking.candidates)
            ranking = replace(ranking, feature_rows=feature_rows)
        self._score_shadow(request, ranking)
        if request.has_stale_features:
            # Logged features, and the time of an answer, must be those of the state.
            ranking = replace(ranking, feature_rows=None)
        with self._stages.time_stage("tell"):
            adjustments = (
                self._stages.explain_adjustments(request, ranking) if request.query.explain else ()
            )
            response = build_response(request, ranking, slate, adjustments, reasons)
        with self._stages.time_stage("log"):
            log_response(self._response_log, self.breakers.log, request, response, ranking, slate)
        self._metrics.count_degraded(request.degraded)
        return response

    def _read_features(self, request: Request, candidates: Candidates) -> Rows | None:
        with self._stages.time_stage("features"):
            return self._stages.features.read_features(request, candidates.ids, candidates.keys)

    def _score_shadow(self, request: Request, ranking: Ranking) -> None:
        """Score the shown items by the shadow bundle, if there is one.

        It scores over its own index, whose vectors belong to its tower.
        """
        shadow_bundle = self._bundle_selector.shadow()
        if shadow_bundle is None or ranking.feature_rows is None:
            return
        with self._stages.time_stage("shadow"):
            self._shadow_scorer.score(
                shadow_bundle,
                request,
                ranking.candidates,
                ranking.feature_rows,
                self._index_overlay.overlay_for(shadow_bundle.index) or shadow_bundle.index,
                champion=request.bundle if ranking.scores is not None else None,
            )

    def _rank(
        self, request: Request, candidates: Candidates, size: int, *, score_all: bool
    ) -> Ranking:
        """Return the candidates with the values by which the request's arm orders them."""
        feature_rows = scores = None
        if (
            request.policy == "model"
            and request.bundle is not None
            and request.bundle.heads
            and request.may_score
            and len(candidates)
        ):
            if not score_all:
                candidates = self._stages.limit_to_budget(request, candidates, size)
            feature_rows = self._read_features(request, candidates)
            with self._stages.time_stage("score"):
                scores = self._stages.score(request, candidates, feature_rows)
        if scores is not None:
            model_values = scores.value
        else:
            model_values = self._stages.baseline_values(request, candidates)
        text_values = model_values
        if request.search_text is not None:
            text_values = lift_text_scores(candidates.scores, model_values)
        values = self._stages.apply_boosts(request, candidates, text_values)
        live_columns = request.live_columns if scores is not None else None
        return Ranking(
            candidates, model_values, text_values, values, feature_rows, scores, live_columns
        )

    def _find_slot(self, name: str) -> Slot:
        slot = self._slots.get(name)
        if slot is None:
            fix = f"use one of {', '.join(self._slots)}"
            raise QueryError(
                f"there is no slot {name[:60]!r}", path="$.slot", code="unknown_slot", fix=fix
            )
        return slot
