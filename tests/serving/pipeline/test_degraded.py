"""Answers while parts are late, failing or gone, and how they say so."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.serving.pipeline import ResponseRecorder, item_numbers
from tests.support.shops import serving_shop

from tailorbird.errors import NotReadyError
from tailorbird.events import SECOND, SimulatedClock
from tailorbird.experiments import Experiment
from tailorbird.ranking import Diversity, Slot
from tailorbird.retrieval import Index
from tailorbird.serving.load_shedding import OverloadedError, Shedder
from tailorbird.serving.messages import RankQuery, RecommendQuery, SearchQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.deadlines import ROWS_MIN, Budgets, ModelBreakers
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle
from tailorbird.serving.pipeline.stale_cache import AGE_MAX_S, REFRESH_AFTER_S, StaleFeatureCache

QUERY = RecommendQuery(slot="home", user_id="u1")


class Store(serving_shop.FakeReader):
    """A store that goes away and comes back."""

    is_down = False
    reads = 0

    def read(self, request, items, item_keys=None):
        self.reads += 1
        if self.is_down:
            raise NotReadyError("there is no state")
        return super().read(request, items, item_keys)


class Model:
    """A bundle whose model does as it is told; everything else is the real one's."""

    def __init__(self, bundle, version: str, *, gives=None) -> None:
        self._bundle, self.version, self.gives, self.calls = bundle, version, gives, 0

    def __getattr__(self, name):
        return getattr(self._bundle, name)

    def with_index(self, index):
        return self

    def score(self, rows, keys, *, objective, user_query=None, live_columns=None):
        self.calls += 1
        if isinstance(self.gives, Exception):
            raise self.gives
        scores = self._bundle.score(
            rows, keys, objective=objective, user_query=user_query, live_columns=live_columns
        )
        return (
            scores if self.gives is None else replace(scores, value=np.full(len(keys), self.gives))
        )


@pytest.fixture
def make(features, bundle, live):
    def make(
        *, bundles=None, reader=None, slots=None, budgets=None, tables=live, response_log=None
    ) -> Pipeline:
        return Pipeline(
            slots=slots or serving_shop.slots(),
            bundle_selector=bundles or FixedBundle(bundle),
            feature_provider=SingleSchema(features, reader or serving_shop.FakeReader(features)),
            response_log=response_log,
            clock=SimulatedClock(serving_shop.NOW),
            rng=np.random.default_rng(0),
            budgets=budgets or Budgets(),
            table_provider=tables,
        )

    return make


def test_without_the_store_a_person_is_scored_by_what_was_read_last(make, features):
    store, response_log = Store(features), ResponseRecorder()
    pipeline = make(reader=store, response_log=response_log)
    before = pipeline.answer(QUERY)
    store.is_down = True
    after = pipeline.answer(QUERY)
    assert item_numbers(after) == item_numbers(before)
    assert (after.degraded, after.model) == (["last_known"], before.model)
    assert response_log.records[1].numeric == [], (
        "features that no state has now are never logged as such"
    )
    stranger = pipeline.answer(RecommendQuery(slot="home"))
    assert (stranger.degraded, item_numbers(stranger)) == (["features"], [0, 1, 2, 4, 5, 6])
    store.is_down = False
    assert pipeline.answer(QUERY).degraded == []


def test_what_was_known_long_ago_is_not_used(features):
    moment = [0.0]
    cache, reader = (
        StaleFeatureCache(people_max=2, read_clock_s=lambda: moment[0]),
        serving_shop.FakeReader(features),
    )
    keys = np.arange(1, 4, dtype=np.uint64)

    def keep(person: str) -> None:
        request = serving_shop.ReadRequest(person=person, now=serving_shop.NOW)
        cache.store(features, person, reader.read(request, [""]), None)
        cache.store(features, person, reader.read(request, ["i1", "i2", "i3"]), keys)

    keep("u1")
    rows = cache.lookup(features, "u1", keys, serving_shop.NOW)
    assert rows is not None
    assert rows.numeric[:, features.numeric.index("price")].tolist() == [1, 2, 3]
    assert (
        cache.lookup(features, "u1", np.arange(10, 20, dtype=np.uint64), serving_shop.NOW) is None
    ), "too few of the items are known"
    for person in ("u2", "u3"):
        keep(person)
    assert cache.lookup(features, "u1", None, serving_shop.NOW) is None, (
        "as many people as there is room for"
    )
    moment[0] = AGE_MAX_S + 1
    assert cache.lookup(features, "u3", None, serving_shop.NOW) is None


def test_items_are_taken_in_again_after_a_while_and_new_ones_at_once(features):
    moment = [0.0]
    cache, reader = (
        StaleFeatureCache(read_clock_s=lambda: moment[0]),
        serving_shop.FakeReader(features),
    )
    request, price = (
        serving_shop.ReadRequest(person="u1", now=serving_shop.NOW),
        features.numeric.index("price"),
    )
    keys = np.arange(1, 4, dtype=np.uint64)
    cache.store(features, "u1", reader.read(request, [""]), None)
    cache.store(features, "u1", reader.read(request, ["i1", "i2"]), keys[:2])
    moment[0] = REFRESH_AFTER_S - 1
    cache.store(features, "u1", reader.read(request, ["i7", "i8", "i3"]), keys)
    rows = cache.lookup(features, "u1", keys, serving_shop.NOW)
    assert rows is not None
    assert rows.numeric[:, price].tolist() == [1, 2, 3], "the first two were read a moment ago"
    moment[0] = REFRESH_AFTER_S + 1
    cache.store(features, "u1", reader.read(request, ["i7", "i8", "i9"]), keys)
    rows = cache.lookup(features, "u1", keys, serving_shop.NOW)
    assert rows is not None
    assert rows.numeric[:, price].tolist() == [7, 8, 3]


def test_without_candidate_tables_the_newest_items_are_shown_and_none_is_called_popular(make):
    response_log = ResponseRecorder()
    pipeline = make(tables=None, response_log=response_log)
    assert (item_numbers(answer := pipeline.answer(QUERY)), answer.degraded) == (
        [39, 38, 37, 36, 35, 34],
        ["candidates"],
    )
    assert response_log.records[0].candidate_positions == [0, 0, 0, 0], (
        "of four lists, which were empty"
    )
    experiment = Experiment("e", arms={"a": 1.0}, policies={"a": "popular"})
    without_experiment = make(
        tables=None, slots={"home": Slot("home", experiment=experiment)}
    ).answer(QUERY)
    assert {item.reason_code for item in without_experiment.items} == {"more"}


def test_old_candidate_tables_are_used_and_named(make):
    expected = make().answer(QUERY)
    for age_us, degraded in ((30 * SECOND, []), (31 * SECOND, ["stale_candidates"])):
        answer = make(tables=serving_shop.LiveTables(age_us=age_us)).answer(QUERY)
        assert (item_numbers(answer), answer.degraded) == (item_numbers(expected), degraded)
    searching = make(tables=serving_shop.LiveTables(age_us=31 * SECOND)).search(
        SearchQuery(query="rain")
    )
    assert searching.degraded == [], "a search asks no tables"


@pytest.mark.parametrize(
    ("gives", "failure"), [(RuntimeError("no"), "error"), (float("nan"), "not_finite")]
)
def test_where_the_model_fails_the_version_before_answers(make, bundle, gives, failure):
    response_log = ResponseRecorder()
    failing, before = Model(bundle, "v0002", gives=gives), Model(bundle, "v0001")
    pipeline = make(bundles=FixedBundle(failing, before), response_log=response_log)
    answer = pipeline.answer(QUERY)
    assert (answer.degraded, answer.model, len(answer.items)) == (["previous_model"], "v0001", 6)
    assert (
        response_log.records[0].assigned_version,
        response_log.records[0].failure,
        response_log.records[0].model,
    ) == ("v0002", failure, "v0001")
    assert len(response_log.records) == 1, "an answer that was begun twice is logged once"
    for _ in range(5):
        pipeline.answer(QUERY)
    assert failing.calls == 3, "three failures in a row, then it is left alone for a second"
    before.gives = RuntimeError("this one too")
    nothing = pipeline.answer(QUERY)
    assert (nothing.degraded, nothing.model, item_numbers(nothing)) == (
        ["model"],
        "fallback",
        [0, 1, 2, 4, 5, 6],
    )


def test_an_index_without_items_leaves_those_that_were_known(make, bundle):
    complete = FixedBundle(bundle)
    pipeline = make(bundles=(holder := Swapped(complete)))
    pipeline.answer(QUERY)
    holder.now = FixedBundle(replace(bundle, index=Index.from_ids(())))
    answer = pipeline.answer(QUERY)
    assert answer.degraded == ["index"]
    assert len(answer.items) == 6


class Swapped:
    """Bundles that are replaced."""

    def __init__(self, now: FixedBundle) -> None:
        self.now = now

    def __getattr__(self, name):
        return getattr(self.now, name)


def test_sources_that_there_is_no_time_for_are_left_out(make):
    response_log = ResponseRecorder()
    answer = make(budgets=Budgets(retrieval_s=0.0), response_log=response_log).answer(QUERY)
    assert answer.degraded == ["retrieval"]
    assert {item.source for item in answer.items} == {"popular"}, (
        "of the sources that found something the first is asked in any case"
    )
    assert response_log.records[0].candidate_lists == ["item_knn", "popular"]


def test_no_more_candidates_are_scored_than_there_is_time_for(make):
    models = ModelBreakers(budget_s=0.1)
    assert models.rows_max("v1") == float("inf")
    models.record_scoring("v1", 1_000, 0.5)
    assert models.rows_max("v1") == pytest.approx(200)
    models.record_scoring("v2", 1_000, 50.0)
    assert models.rows_max("v2") == ROWS_MIN
    slots = {"home": Slot("home", size=3, sources={"popular": 40})}
    pipeline = make(slots=slots)
    pipeline.breakers.model_breakers.record_scoring(
        "", 1_000, 1e9
    )  # the bundle of these tests has no version
    pipeline.breakers.model_breakers._budget_s = 1e-9
    assert (
        len(
            pipeline.rank(
                RankQuery(slot="home", user_id="u1", items=[f"i{n}" for n in range(40)])
            ).items
        )
        == 40
    ), "the caller's own stay"


def test_diversity_is_left_out_when_it_takes_too_long(make):
    slots = {
        "home": Slot("home", size=3, sources={"popular": 40}, diversity=Diversity(by=["category"]))
    }
    pipeline = make(slots=slots, budgets=Budgets(policy_s=0.0))
    degraded = [pipeline.answer(QUERY).degraded for _ in range(5)]
    assert degraded == [[], [], [], ["policy"], ["policy"]]


def test_a_log_that_makes_answers_wait_is_left_alone(make):
    response_log = ResponseRecorder()
    pipeline = make(response_log=response_log, budgets=Budgets(log_s=0.0))
    degraded = [pipeline.answer(QUERY).degraded for _ in range(5)]
    assert degraded == [[], [], [], ["log"], ["log"]]
    assert len(response_log.records) == 3


def test_a_store_that_is_late_is_left_alone_and_asked_again(make, features):
    store = Store(features)
    pipeline = make(reader=store, budgets=Budgets(features_s=0.0))
    first, second = pipeline.answer(QUERY), pipeline.answer(QUERY)
    assert (first.degraded, second.degraded) == ([], ["last_known"]), (
        "what came late is used; after three the next is not waited for"
    )
    assert store.reads == 3
    [state] = [state for state in pipeline.breakers.states() if state.name == "store"]
    assert (state.open, state.open_count, state.late_count) == (True, 1, 3)


def test_questions_are_refused_by_what_waits_and_what_it_costs():
    moment = [0.0]
    shedder = Shedder(threads=2, wait_s=0.1, read_clock_s=lambda: moment[0])
    for kind, seconds in (("dear", 1.0), ("cheap", 0.001)):
        for _ in range(100):
            shedder.finish(shedder.admit(kind), seconds)
    taken = [shedder.admit("cheap") for _ in range(150)]
    assert shedder.expected_wait_s() == pytest.approx(0.075, rel=0.01)
    with pytest.raises(OverloadedError):
        shedder.admit("cheap", is_primary=False)
    taken += [shedder.admit("dear")]
    with pytest.raises(OverloadedError) as caught:
        shedder.admit("cheap")
    assert caught.value.retry_after_s == 1
    moment[0] = 0.3
    with pytest.raises(OverloadedError):
        shedder.start(taken[0])
    for turn in taken:
        shedder.finish(turn, None)
    assert (shedder.expected_wait_s(), shedder.waiting) == (0.0, 0)
