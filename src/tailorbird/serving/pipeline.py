"""From a query to an answer: retrieve, drop what rules forbid, read features, score, choose, give reasons, log.

It knows no HTTP and no files, and may be called from several threads. Whatever is missing makes an answer less personal
and is named in `degraded`, never an error: without features or a model the popular items are shown, by the same rules,
exploration and log. What a query and an answer are stands in `serving.messages`, what a pipeline is made of in
`serving.parts`, each step's own logic in `retrieval` and `ranking`. How much of a request goes where is in
`serving.metrics`, by stage.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from tailorbird.errors import NotReadyError
from tailorbird.events import HOUR, MINUTE, Clock, hash64s
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.experiments.assign import assign
from tailorbird.features import ReadRequest, Rows
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle, Scores
from tailorbird.ranking.policy import Choice, baseline_values, choose, choose_evenly, ranked
from tailorbird.ranking.reasons import reasons
from tailorbird.ranking.rules import Request as RuleAsked
from tailorbird.ranking.rules import Rules, compile_rules, seen_mask
from tailorbird.retrieval import Index, candidates
from tailorbird.serving.explain import explanations, take
from tailorbird.serving.listing import list_items
from tailorbird.serving.messages import (
    Answer,
    Item,
    Query,
    QueryError,
    RankQuery,
    RecommendQuery,
    SearchQuery,
    Shown,
    Similar,
)
from tailorbird.serving.parts import AnswerLog, Bundles, NoOverlay, Overlay, Reading, Readings, Unwatched, Watcher
from tailorbird.serving.record import attributes_of, logged, reasons_for
from tailorbird.serving.request import (
    NO_CANDIDATES,
    Candidates,
    Floats,
    Keys,
    Mask,
    Request,
    filter_mask,
    hidden,
    require_contract,
    require_filters,
    search_values,
)

SEARCH_CANDIDATES = 200
FALLBACK = "fallback"
log = logging.getLogger(__name__)
_NOBODY = np.zeros(1, np.uint64)  # stands for an item where only the person is of interest


class Pipeline:
    """Answers queries. See the module's docstring for what it promises.

    Args:
        slots: by name.
        bundles: gives the bundle that serves; `bundles.BundleHolder`, or `Fixed`.
        readings: says with which features and state a bundle's requests are answered; `schemas.Schemas`, or `OneSchema`.
        answers: where answers are logged; `door.Door`. None logs nothing: for evaluation.
        clock: for `now`; the answer's own time is the t of its features.
        rng: for exploration and request ids; with the same seed and the same calls it gives the same answers.
        catalogue: lays items that came later over the bundle's index; `catalogue.Catalogue`.
        pseudonyms: under which the people of queries are known; the door's.
        watcher: counts stages, faults and what was missing.
    Raises:
        DeclarationError: a slot's rule is not of the language.
    """

    def __init__(
        self,
        *,
        slots: Mapping[str, Slot],
        bundles: Bundles,
        readings: Readings,
        answers: AnswerLog | None,
        clock: Clock,
        rng: np.random.Generator,
        catalogue: Overlay | None = None,
        watcher: Watcher | None = None,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._slots, self._bundles, self._readings = slots, bundles, readings
        self._answers, self.clock, self._rng = answers, clock, rng
        self._catalogue: Overlay = catalogue or NoOverlay()
        self._watcher: Watcher = watcher or Unwatched()
        self.pseudonyms = pseudonyms
        self._drawing = threading.Lock()  # a Generator is not safe to share
        self._rules = {name: compile_rules(slot.rules, where=f"slot {name}") for name, slot in slots.items()}

    def answer(self, query: RecommendQuery) -> Answer:
        """Fill a slot from its own candidate sources."""
        with self._begun(query, self._slot(query.slot, "$.slot")) as request:
            with self._timed("retrieve"):
                found = self._retrieve(request, request.slot.sources)
            return self._finish(request, self._allowed(request, found), query.size or request.slot.size)

    def rank(self, query: RankQuery) -> Answer:
        """Order the caller's own items; all of them unless `size` says less. What may be shown, the caller knows: no rule is applied."""
        with self._begun(query, self._slot(query.slot, "$.slot")) as request:
            ids = [item for item in dict.fromkeys(query.items) if item not in set(query.exclude)]
            keys = hash64s(ids)
            rows = request.index.find(keys) if request.index is not None else np.full(len(ids), -1, np.intp)
            found = Candidates(rows, ids, keys, ["given"] * len(ids), np.zeros(len(ids)))
            return self._finish(request, found, query.size or len(ids))

    def search(self, query: SearchQuery) -> Answer:
        """Find items by words: text score times what the ranker makes of each hit for this person."""
        slot = self._slot(query.slot or "search", "$.slot") if query.slot or "search" in self._slots else next(iter(self._slots.values()))
        with self._begun(query, slot) as request:
            request.text = query.query
            with self._timed("retrieve"):
                found = self._retrieve(request, {"search": slot.sources.get("search", SEARCH_CANDIDATES)})
            return self._finish(request, self._allowed(request, found), query.size or slot.size)

    def similar(self, item_id: str, size: int) -> Similar | None:
        """What goes with an item: the same for everybody, and not logged. None if the live index does not know the item."""
        bundle, index = self._live()
        model = bundle.version if bundle else FALLBACK
        if index is None:
            return Similar(item_id=item_id, items=[], model=model, degraded=["model"])
        if index.find_ids([item_id])[0] < 0:
            return None
        found = index.similar(item_id, size)
        told = reasons(index, found.rows, ["item_to_item"] * found.rows.size)
        items = [
            Shown(
                item_id=index.ids[row],
                position=place,
                score=score,
                reason="Goes with it" if score > 0 else reason.text,
                reason_code="related" if score > 0 else reason.code,
                source="item_to_item" if score > 0 else "popular",
            )
            for place, (row, score, reason) in enumerate(zip(found.rows.tolist(), found.scores.tolist(), told, strict=True), 1)
        ]
        return Similar(item_id=item_id, items=items, model=model, degraded=[] if bundle else ["model"])

    def item(self, item_id: str) -> Item | None:
        """An item's attributes as the live index has them, or None if it does not know the item."""
        _, index = self._live()
        row = -1 if index is None else int(index.find_ids([item_id])[0])
        if index is None or row < 0:
            return None
        return Item(item_id=item_id, attributes=attributes_of(index, row, sorted(index.attributes)))

    def listed(self, source: str, size: int, category: str | None = None) -> list[Shown]:
        """What is `popular` or `fresh`, perhaps of one category: the same for everybody, not logged; empty while there is no index."""
        _, index = self._live()
        return [] if index is None else list_items(index, source, size, category)

    def missing(self) -> list[str]:
        """What an answer would lack now, as `degraded` would name it."""
        bundle = self._bundles.current()
        features = self._readings.ready(bundle)
        return [name for name, there in (("model", bundle is not None), ("features", features)) if not there]

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """What a request would read its features with now: for pages that show them."""
        with self._readings.reading(self._bundles.current()) as reading:
            yield reading

    # The steps

    def _live(self) -> tuple[Bundle | None, Index | None]:
        """The bundle that serves, and the items as they are known now."""
        bundle = self._bundles.current()
        return bundle, self._catalogue.over(bundle.index if bundle else None)

    @contextmanager
    def _begun(self, query: Query, slot: Slot) -> Iterator[Request]:
        """Check the query and take the bundle, whose features are read until the end of the block."""
        now = self.clock.now()
        require_contract(query, now)
        require_filters(query)
        query = hidden(query, self.pseudonyms)
        bundle = self._bundles.current()
        with self._readings.reading(bundle) as reading:
            yield self._begin(query, slot, now, bundle, reading)

    def _begin(self, query: Query, slot: Slot, now: int, bundle: Bundle | None, reading: Reading) -> Request:
        """Find out who asks, and assign the arm."""
        with self._drawing:
            request_id = self._rng.bytes(12).hex()
        index = self._catalogue.over(bundle.index if bundle else None)
        context = query.context
        anonymous_id = query.anonymous_id
        if query.user_id is None and anonymous_id is None:
            anonymous_id = f"stranger-{request_id}"
        hour = (now + (context.utc_offset_min or 0) * MINUTE) // HOUR % 24
        text = query.query if isinstance(query, SearchQuery) else None
        read = ReadRequest(query.user_id, anonymous_id, query.session_id, context.device, context.country, hour, now, text)
        request = Request(request_id, slot, query, bundle, reading, index, now, read, anonymous_id)
        request.person = query.user_id or f"anon:{anonymous_id}"
        with self._timed("person"):
            self._know_person(request)
        if slot.experiment is not None:
            request.arm = assign(slot.experiment, request.person)
            request.policy = slot.experiment.policy_of(request.arm) if request.arm else "model"
        if bundle is None:
            request.lacks("model")
        return request

    def _know_person(self, request: Request) -> None:
        """The person's recent items and own figures, before there are candidates to read features for."""
        rows = self._read(request, [""], _NOBODY)
        if rows is None:
            return
        request.person = rows.person or request.person
        names = list(rows.sequences)
        wanted = request.bundle.encoder.sequence if request.bundle is not None else ""
        if wanted in rows.sequences or names:
            request.recent = rows.sequences[wanted if wanted in rows.sequences else names[0]]
        values = rows.numeric[0].tolist()
        request.user = {name: None if values[place] != values[place] else values[place] for place, name in request.reading.user_columns}

    def _retrieve(self, request: Request, sources: Mapping[str, int]) -> Candidates:
        index = request.index
        if index is None or not len(index):
            request.lacks("index")
            return NO_CANDIDATES
        recent = request.recent.item if request.recent is not None else None
        found = candidates(index, sources, recent=recent, query=request.text)
        if not found.rows.size and request.text is None:
            # A slot whose own sources have nothing for this person still shows something.
            found = candidates(index, {"popular": 200})
        ids = [index.ids[row] for row in found.rows.tolist()]
        return Candidates(found.rows, ids, index.keys[found.rows], found.source_names(), found.score)

    def _allowed(self, request: Request, found: Candidates) -> Candidates:
        """Without what the query excludes, the person has seen, or the slot's rules forbid."""
        index, query, slot = request.index, request.query, request.slot
        if index is None or not len(found):
            return found
        with self._timed("rules"):
            kept = filter_mask(index, found.rows, query)
            if query.exclude:
                kept &= ~np.isin(found.keys, hash64s(query.exclude))
            if slot.hide_seen:
                kept &= ~seen_mask(index, found.rows, request.recent, types=slot.hide_seen)
            kept &= self._rule_mask(request, found)
            return found if kept.all() else found.take(np.flatnonzero(kept))

    def _rule_mask(self, request: Request, found: Candidates) -> Mask:
        assert request.index is not None
        rules: Rules = self._rules[request.slot.name]
        context = msgspec.structs.asdict(request.query.context) | {"local_hour": request.read.local_hour}
        asked = RuleAsked(request.index, found.rows, request.now, request.user, context, request.recent)
        try:
            return rules.mask(asked)
        except Exception:  # a rule is no reason to show nothing; it is counted and named
            log.exception("a rule of slot %s failed", request.slot.name)
            self._watcher.fault("rules")
            request.lacks("rules")
            return np.ones(len(found), bool)

    def _finish(self, request: Request, found: Candidates, size: int) -> Answer:
        """Score the candidates, choose, give reasons, log."""
        rows = scores = None
        if request.policy == "model" and request.bundle is not None and request.bundle.heads and len(found):
            with self._timed("features"):
                rows = self._read(request, found.ids, found.keys)
            with self._timed("score"):
                scores = self._score(request, found, rows)
        values = scores.value if scores is not None else self._baseline(request, found)
        if request.text is not None:
            values = search_values(found.scores, values)
        with self._timed("policy"):
            choice = self._choose(request, found, values, size)
        shown = found.take(choice.items)
        if rows is not None:
            rows = take(rows, choice.items)
        elif len(shown):
            with self._timed("features"):
                rows = self._read(request, shown.ids, shown.keys)
        if scores is not None:
            scores = Scores({name: column[choice.items] for name, column in scores.heads.items()}, scores.value[choice.items])
        answer = self._tell(request, shown, values[choice.items], choice, rows, scores)
        with self._timed("log"):
            self._log(request, answer, shown, choice, rows)
        self._watcher.degraded(request.degraded)
        return answer

    def _read(self, request: Request, items: Sequence[str], keys: Keys) -> Rows | None:
        reader = request.reading.reader
        if reader is None:
            request.lacks("features")
            return None
        try:
            return reader.read(request.read, items, keys)
        except NotReadyError:
            request.lacks("features")
            return None

    def _score(self, request: Request, found: Candidates, rows: Rows | None) -> Scores | None:
        """The bundle's scores, or None where features or model fail: the popular items are then shown."""
        if rows is None or request.bundle is None or request.index is None:
            return None
        try:
            return request.bundle.with_index(request.index).score(rows, found.keys, objective=request.slot.objective)
        except Exception:  # a model that fails at run time must not take the site down
            log.exception("bundle %s failed to score", request.bundle.version)
            self._watcher.fault("model")
            request.lacks("model")
            return None

    def _baseline(self, request: Request, found: Candidates) -> Floats:
        """Values without a model: by the arm's own policy; where a model is wanted, what goes with the person's recent items."""
        if request.index is None or not len(found):
            return np.zeros(len(found))
        policy = "related" if request.policy == "model" else "recent" if request.policy == "recent" else "popular"
        recent = request.recent.item if request.recent is not None else None
        values = baseline_values(policy, request.index, np.maximum(found.rows, 0), recent)
        return np.where(found.rows >= 0, values, 0.0)

    def _choose(self, request: Request, found: Candidates, values: Floats, size: int) -> Choice:
        slot = request.slot
        if not len(found):
            return Choice(np.zeros(0, np.intp), np.zeros(0))
        if request.policy == "random":
            with self._drawing:
                return choose_evenly(len(found), size, self._rng)
        groups = None
        if slot.per_category and request.index is not None:
            groups = np.where(found.rows >= 0, request.index.category.codes[np.maximum(found.rows, 0)], -1)
        order = ranked(values, size, groups=groups, per_group=slot.per_category)
        with self._drawing:
            return choose(order, size, slot.explore, self._rng)

    def _tell(
        self, request: Request, shown: Candidates, values: Floats, choice: Choice, rows: Rows | None, scores: Scores | None
    ) -> Answer:
        index, query = request.index, request.query
        told = reasons_for(request, shown, choice, ranked=scores is not None)
        explained = None
        if query.explain and index is not None:
            with self._timed("explain"):
                bundle = request.bundle if scores is not None else None
                explained = explanations(
                    request.reading.features, bundle, index, shown.rows, shown.keys, rows, scores, request.slot.objective, query.context
                )
        items = []
        for place, item_id in enumerate(shown.ids):
            code, text = told[place]
            row = int(shown.rows[place])
            items.append(
                Shown(
                    item_id=item_id,
                    position=place + 1,
                    score=float(values[place]),
                    reason=text,
                    reason_code=code,
                    source=shown.sources[place],
                    propensity=float(choice.propensities[place]),
                    attributes=attributes_of(index, row, query.attributes) if query.attributes and index is not None and row >= 0 else None,
                    explanation=explained[place] if explained is not None else None,
                )
            )
        return Answer(
            request_id=request.id,
            slot=request.slot.name,
            items=items,
            arm=request.arm,
            model=FALLBACK if request.bundle is None or "model" in request.degraded else request.bundle.version,
            degraded=request.degraded,
            t=rows.t if rows is not None else request.now,
            commit=rows.commit if rows is not None else 0,
        )

    def _log(self, request: Request, answer: Answer, shown: Candidates, choice: Choice, rows: Rows | None) -> None:
        if self._answers is None:
            return
        event, record = logged(request, answer, shown, choice, rows, request.reading.features.schema_hash)
        if not self._answers.record_answer(event, record):
            request.lacks("log")

    def _slot(self, name: str, path: str) -> Slot:
        slot = self._slots.get(name)
        if slot is None:
            raise QueryError(f"there is no slot {name[:60]!r}", path=path, code="unknown_slot", fix=f"use one of {', '.join(self._slots)}")
        return slot

    @contextmanager
    def _timed(self, stage: str):
        start = time.perf_counter()
        yield
        self._watcher.stage(stage, time.perf_counter() - start)


def load_bundle(folder: Path, *, schema_hash: str | None = None) -> Bundle:
    """A bundle that is ready to serve: checked, its golden rows compared, its orders computed."""
    return Bundle.load(folder, schema_hash=schema_hash)
