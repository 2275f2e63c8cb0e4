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
from pathlib import Path

import msgspec
import numpy as np

from tailorbird.events import Clock, hash64s
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
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
from tailorbird.serving.pipeline.interleaving import Ranking, interleave
from tailorbird.serving.pipeline.lists import list_items, similar_items
from tailorbird.serving.pipeline.opening import RequestOpener
from tailorbird.serving.pipeline.protocols import (
    Assignments,
    Bundles,
    EditorialLists,
    FeatureAccess,
    FeatureProvider,
    Formulas,
    NoLiveTables,
    NoOverlay,
    NullWatcher,
    Overlay,
    ResponseLog,
    Tables,
    Watcher,
)
from tailorbird.serving.pipeline.record import (
    FALLBACK,
    build_response,
    log_response,
    read_attributes,
    to_facets,
)
from tailorbird.serving.pipeline.request import Candidates, Request, require_facets, search_values
from tailorbird.serving.pipeline.rule_costs import VariantComparer, VariantOutcome
from tailorbird.serving.pipeline.shadow import ShadowScorer
from tailorbird.serving.pipeline.stages import STALE_US, Stages

SEARCH_CANDIDATES = 200
Find = Callable[[Request], Candidates]


class Pipeline:
    """Answers queries; the module's docstring has its guarantees.

    Args:
        slots: by name.
        bundles: selects the bundle that serves; `bundles.BundleHolder`, or `FixedBundle`.
        feature_provider: opens the features and state of a bundle; `schemas.Schemas`, or
            `SingleSchema`.
        response_log: where answers are logged; `collector.EventCollector`. None logs nothing: for
            evaluation.
        clock: for `now`; the answer's own time is the t of its features.
        rng: for exploration and request ids; the same seed and calls give the same answers.
        catalogue: lays later items over the bundle's index; `catalogue.Catalogue`.
        pseudonyms: hides the people of queries under the same pseudonyms as the collector's.
        watcher: counts stages, faults and degradations.
        formulas: the value of an item to each slot; by default, as slots declare it.
        experiments: assigns arms; by default those of the slots alone.
        stale_us: age of feature copies beyond which an answer names `freshness` as missing.
        budgets: how long each stage may take; unbounded by default.
        tables: opens the published candidate tables; `serving.models.candidates.LiveTables`.
        editorial_lists: has the editorial lists.
    Raises:
        DeclarationError: a slot's rule is not of the language.
    """

    def __init__(
        self,
        *,
        slots: Mapping[str, Slot],
        bundles: Bundles,
        feature_provider: FeatureProvider,
        response_log: ResponseLog | None,
        clock: Clock,
        rng: np.random.Generator,
        catalogue: Overlay | None = None,
        watcher: Watcher | None = None,
        pseudonyms: Pseudonyms | None = None,
        formulas: Formulas | None = None,
        experiments: Assignments | None = None,
        stale_us: int = STALE_US,
        budgets: Budgets = UNBOUNDED,
        tables: Tables | None = None,
        editorial_lists: EditorialLists | None = None,
    ) -> None:
        self._slots, self._bundles, self._feature_provider = slots, bundles, feature_provider
        self._responses, self.clock = response_log, clock
        self._catalogue: Overlay = catalogue or NoOverlay()
        self._watcher: Watcher = watcher or NullWatcher()
        self.pseudonyms = pseudonyms
        self.breakers = Breakers(budgets)
        self._shadows = ShadowScorer(feature_provider, self._watcher)
        self._tables: Tables = tables or NoLiveTables()
        self._stages = Stages(
            slots,
            clock,
            rng,
            self._watcher,
            stale_us,
            breakers=self.breakers,
            ages=self._tables.ages,
            editorial_lists=editorial_lists,
        )
        self._opener = RequestOpener(
            bundles,
            feature_provider,
            self._tables,
            self._catalogue,
            formulas or DeclaredFormulas(),
            self._stages,
            slots,
            experiments or DeclaredExperiments(),
            clock=clock,
            pseudonyms=pseudonyms,
        )

    def answer(self, query: RecommendQuery) -> RecommendResponse:
        """Fill a slot from its own candidate sources."""

        def fill(request: Request) -> RecommendResponse:
            size = query.size or request.slot.size
            return self._finish(
                request, lambda arm: self._stages.find(arm, arm.slot.sources, size), size
            )

        return self._opener.run(query, self._find_slot(query.slot), fill)

    def rank(self, query: RankQuery) -> RecommendResponse:
        """Order the caller's own items, all of them unless `size` is smaller.

        The caller knows what may be shown, so no rule is applied.
        """
        excluded = set(query.exclude)
        ids = [item for item in dict.fromkeys(query.items) if item not in excluded]
        keys = hash64s(ids)

        def order(request: Request) -> RecommendResponse:
            rows = (
                request.index.find(keys)
                if request.index is not None
                else np.full(len(ids), -1, np.intp)
            )
            candidates = Candidates(rows, ids, keys, ["given"] * len(ids), np.zeros(len(ids)))
            size = query.size or len(ids)
            return self._finish(request, lambda arm: candidates, size, score_all=True)

        return self._opener.run(query, self._find_slot(query.slot), order)

    def search(self, query: SearchQuery) -> RecommendResponse:
        """Find items by words, scored by text and by the ranker for this person."""
        slot = self._find_slot(query.slot or "search")

        def find(request: Request) -> RecommendResponse:
            request.text = query.query
            require_facets(request, query.facets)
            size = query.size or request.slot.size
            sources = {"search": request.slot.sources.get("search", SEARCH_CANDIDATES)}
            response = self._finish(
                request, lambda arm: self._stages.find(arm, sources, size), size
            )
            if not query.facets:
                return response
            with self._stages.timed("facets"):
                return msgspec.structs.replace(
                    response, facets=to_facets(self._stages.facets(request, query.facets))
                )

        return self._opener.run(query, slot, find)

    def candidates(self, query: RecommendQuery) -> list[str]:
        """Return the items among which a slot chooses for a query, at most `CANDIDATES_MAX`,
        without logging.
        """
        slot = self._find_slot(query.slot)
        return self._opener.run(
            query,
            slot,
            lambda request: list(
                self._stages.find(request, slot.sources, query.size or slot.size).ids
            ),
        )

    def compare_variants(
        self, query: RecommendQuery, comparer: VariantComparer
    ) -> dict[str, VariantOutcome] | None:
        """Return the outcome of each variant of a slot for a query, see `rule_costs`, without
        logging.

        None where no model can score.
        """
        slot = self._find_slot(query.slot)
        return self._opener.run(
            query,
            slot,
            lambda request: comparer.compare(request, slot.sources, query.size or slot.size),
        )

    def similar(self, item_id: str, size: int, slot: str = "") -> Similar | None:
        """Return the items related to an item: the same for everybody, and not logged.

        None if the live index does not know the item. Rules of `slot` that hold for everybody
        apply.
        """
        bundle, index = self._opener.current()
        model = bundle.version if bundle else FALLBACK
        if index is None:
            return Similar(item_id=item_id, items=[], model=model, degraded=["model"])
        if index.find_ids([item_id])[0] < 0:
            return None
        with self._tables.tables() as tables:
            items = similar_items(
                self._slot_view(slot, index), tables, item_id, size
            )  # the item itself may be hidden in the slot
        return Similar(
            item_id=item_id, items=items, model=model, degraded=[] if bundle else ["model"]
        )

    def item(self, item_id: str) -> Item | None:
        """Return an item's attributes from the live index, or None if it does not know the item."""
        _, index = self._opener.current()
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
        _, index = self._opener.current()
        with self._tables.tables() as tables:
            return (
                []
                if index is None
                else list_items(self._slot_view(slot, index), tables, source, size, category)
            )

    def _slot_view(self, slot: str, index: Index) -> Index:
        return self._stages.view(self._find_slot(slot), index) if slot else index

    def prepare(self, index: Index) -> None:
        """Compute each slot's view of an index before a request needs it."""
        self._stages.prepare(index)

    def missing(self) -> list[str]:
        """Return what an answer would lack now, as `degraded` would name it."""
        bundle = self._bundles.current()
        features = self._feature_provider.ready(bundle)
        return [
            name
            for name, is_available in (("model", bundle is not None), ("features", features))
            if not is_available
        ]

    @contextmanager
    def feature_access(self) -> Iterator[FeatureAccess]:
        """Open the features of the current bundle, for pages that show them."""
        with self._feature_provider.access(self._bundles.current()) as access:
            yield access

    def _finish(
        self, request: Request, find: Find, size: int, *, score_all: bool = False
    ) -> RecommendResponse:
        """Find and score the candidates, choose, give reasons and log.

        `score_all` scores all candidates, whatever the cost.

        Raises:
            ModelUnavailableError: the bundle's model fails; nothing was logged.
        """
        arms = self._opener.open_arms(request)
        rankings = [self._rank(arm, find(arm), size, score_all=score_all) for arm in arms]
        with self._stages.timed("policy"):
            if len(arms) > 1:
                ranking, slate, reasons = interleave(request, arms, rankings, self._stages, size)
            else:
                ranking, reasons = rankings[0], None
                slate = self._stages.choose(request, ranking.candidates, ranking.values, size)
                ranking = ranking.select(slate.items)
                request.live = ranking.live
        shown, rows, scores = ranking.candidates, ranking.rows, ranking.scores
        if rows is None and len(shown):
            with self._stages.timed("features"):
                rows = self._stages.features.read_features(request, shown.ids, shown.keys)
        shadow = self._bundles.shadow()
        if shadow is not None and rows is not None:
            with self._stages.timed(
                "shadow"
            ):  # over its own index, whose vectors belong to its tower
                self._shadows.score(
                    shadow,
                    request,
                    shown,
                    rows,
                    self._catalogue.overlay_for(shadow.index) or shadow.index,
                    champion=request.bundle if scores is not None else None,
                )
        if request.has_stale_features:
            # Logged features, and the time of an answer, must be those of the state.
            rows = None
        with self._stages.timed("tell"):
            adjustments = (
                self._stages.adjustments(request, shown, ranking.model_values, ranking.text_values)
                if request.query.explain
                else ()
            )
            response = build_response(
                request, shown, ranking.values, slate, rows, scores, adjustments, reasons
            )
        with self._stages.timed("log"):
            log_response(
                self._responses, self.breakers.log, request, response, shown, slate, rows, scores
            )
        self._watcher.degraded(request.degraded)
        return response

    def _rank(
        self, request: Request, candidates: Candidates, size: int, *, score_all: bool
    ) -> Ranking:
        """Return the candidates with the values by which the request's arm orders them."""
        rows = scores = None
        if (
            request.policy == "model"
            and request.bundle is not None
            and request.bundle.heads
            and request.may_score
            and len(candidates)
        ):
            candidates = (
                candidates if score_all else self._stages.limit_to_budget(request, candidates, size)
            )
            with self._stages.timed("features"):
                rows = self._stages.features.read_features(request, candidates.ids, candidates.keys)
            with self._stages.timed("score"):
                scores = self._stages.score(request, candidates, rows)
        model_values = (
            scores.value if scores is not None else self._stages.baseline(request, candidates)
        )
        text_values = (
            model_values if request.text is None else search_values(candidates.scores, model_values)
        )
        values = self._stages.apply_boosts(request, candidates, text_values)
        live = request.live if scores is not None else None
        return Ranking(candidates, model_values, text_values, values, rows, scores, live)

    def _find_slot(self, name: str) -> Slot:
        slot = self._slots.get(name)
        if slot is None:
            raise QueryError(
                f"there is no slot {name[:60]!r}",
                path="$.slot",
                code="unknown_slot",
                fix=f"use one of {', '.join(self._slots)}",
            )
        return slot


def load_bundle(folder: Path, *, schema_hash: str | None = None) -> Bundle:
    """Load a bundle for serving: checked, golden rows compared, orders computed."""
    return Bundle.load(folder, schema_hash=schema_hash)
