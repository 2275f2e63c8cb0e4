"""The pipeline in process: what is shown, why, with which probability, what is logged, and what
happens when parts are missing.
"""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.support import routed
from tests.support.serving.pipeline import BrokenReader, ResponseRecorder, item_numbers
from tests.support.shops import serving_shop

from tailorbird.candidates.protocol import CandidateRequest, Epoch, NoTables
from tailorbird.candidates.query import RequestLists
from tailorbird.errors import DeclarationError, StorageError
from tailorbird.events import Context, Receipt, RoutePlan, SimulatedClock, check_body, hash64s
from tailorbird.experiments import Experiment, assign
from tailorbird.features import Sequence
from tailorbird.ranking import Explore, Slot
from tailorbird.retrieval import NewItem, with_items
from tailorbird.serving.messages import QueryError, RankQuery, RecommendQuery, SearchQuery
from tailorbird.serving.models.candidates import FailSafeTables
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import STALE_AFTER_US, Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle


@pytest.fixture
def response_log():
    return ResponseRecorder()


@pytest.fixture
def make(features, bundle, response_log, live):
    def make(
        *,
        slots=None,
        bundles=None,
        reader=None,
        recent=None,
        seed=0,
        answers=response_log,
        tables=live,
    ) -> Pipeline:
        return Pipeline(
            slots=slots or serving_shop.slots(),
            bundle_selector=bundles or FixedBundle(bundle),
            feature_provider=SingleSchema(
                features, reader or serving_shop.FakeReader(features, recent)
            ),
            response_log=answers,
            clock=SimulatedClock(serving_shop.NOW),
            rng=np.random.default_rng(seed),
            table_provider=tables,
        )

    return make


def ids(answer) -> list[str]:
    return [item.item_id for item in answer.items]


class Seen(serving_shop.FakeReader):
    """A person of whom another sequence says what was seen, besides what was clicked on."""

    seen = ((2, "view"), (1, "hide"))

    def read(self, request, items, item_keys=None):
        rows = super().read(request, items, item_keys)
        kinds = hash64s(kind for _, kind in self.seen)
        seen = Sequence(
            hash64s(serving_shop.item_id(number) for number, _ in self.seen),
            kinds,
            np.arange(len(kinds)),
        )
        return replace(rows, sequences={"seen": seen, **rows.sequences})


def test_categories_are_those_of_the_sequence_that_the_model_looks_at(make, features):
    slots = {"home": Slot("home", size=20, sources={"popular:7d:category": 40})}
    reader = Seen(
        features, {"u1": [(4, "click")]}
    )  # a coat was clicked on, a shoe seen, a hat hidden
    answer = make(
        slots=slots, reader=reader, tables=serving_shop.LiveTables(["popular:7d:category"])
    ).answer(RecommendQuery(slot="home", user_id="u1"))
    assert {serving_shop.CATEGORIES[number % 4] for number in item_numbers(answer)} == {"coats"}


def test_what_was_bought_is_hidden_whichever_sequence_keeps_it(make, features):
    class Bought(Seen):
        seen = ((39, "purchase"), (38, "view"))

    for reader in (
        Bought(features, {"u1": [(37, "purchase")]}),
        Bought(features, {"u1": [(37, "click")]}),
    ):
        assert 39 not in (
            shown := item_numbers(
                make(reader=reader).answer(RecommendQuery(slot="home", user_id="u1"))
            )
        )
        assert 38 in shown
        assert (37 in shown) == (reader.recent["u1"][0][1] == "click")


def test_the_model_orders_and_rules_leave_out(make):
    answer = make().answer(RecommendQuery(slot="home", user_id="u1"))
    assert answer.degraded == []
    # The bundle likes dear items; the source of new items holds the newest, which are the dearest;
    # none of them is out of stock.
    assert item_numbers(answer) == [39, 38, 37, 36, 35, 34]
    assert [item.position for item in answer.items] == [1, 2, 3, 4, 5, 6]
    assert all(item.reason and item.reason_code and item.source for item in answer.items)


def test_candidates_hold_what_is_answered_heed_its_rules_and_are_not_logged(make, response_log):
    query = RecommendQuery(slot="home", user_id="u1", exclude=["i5"], size=20)
    item_ids = make().candidates(query)
    assert not response_log.events
    assert len(item_ids) == len(set(item_ids)) > 0
    assert "i5" not in item_ids
    assert set(ids(make().answer(query))) <= set(item_ids)


def test_candidate_tables_out_of_reach_take_the_sources_from_an_answer_and_not_the_answer(make):
    class Unreachable(NoTables):
        """Tables whose store dies with the first read."""

        def leaderboard(self, board, segment=0):
            raise StorageError("the server did not answer lately")

    class Tables:
        @contextmanager
        def tables(self):
            yield FailSafeTables(Unreachable({"boards": Epoch(7, 8)}), lambda problem: None)

        def ages(self):
            return {}

    answer = make(tables=Tables()).answer(RecommendQuery(slot="home", user_id="u1"))
    assert "candidates" in answer.degraded
    assert answer.items


def test_a_slot_whose_sources_have_next_to_nothing_still_shows_a_whole_list(make):
    one = serving_shop.LiveTables(
        ["popular:1h"],
        events=routed.table(
            routed.event("click", serving_shop.NOW - 1, "p1", serving_shop.item_id(3))
        ),
    )
    slots = {"home": replace(serving_shop.slots()["home"], sources={"popular:1h": 10})}
    answer = make(slots=slots, tables=one).answer(RecommendQuery(slot="home", user_id="u1", size=9))
    assert len(answer.items) == 9


def test_seen_bought_excluded_and_filtered_items_are_not_shown(make):
    pipeline = make(recent={"u1": [(39, "purchase"), (38, "click")]})
    query = RecommendQuery(
        slot="home", user_id="u1", filters={"category": ["shoes", "bags"]}, size=20
    )
    assert item_numbers(pipeline.answer(query))[:3] == [38, 35, 34]
    shown = item_numbers(pipeline.answer(msgspec.structs.replace(query, exclude=["i35", "nope"])))
    assert shown[:2] == [38, 34]
    assert 35 not in shown
    assert {number % 4 for number in shown} == {2, 3}
    assert 39 not in shown
    assert not {3, 13, 23} & set(shown), "out of stock"


def test_a_filter_by_number_and_by_an_unknown_attribute(make):
    pipeline = make()
    assert item_numbers(
        pipeline.answer(RecommendQuery(slot="home", user_id="u1", filters={"price": 4}))
    ) == [4]
    some = pipeline.answer(
        RecommendQuery(slot="home", user_id="u1", filters={"price": {"min": 4, "max": 6}})
    )
    assert sorted(item_numbers(some)) == [4, 5, 6]
    for wrong in (
        {"category": {"min": 1}},
        {"price": {"min": "4"}},
        {"price": {"min": None}},
        {"price": {}},
        {"price": {"min": 1, "above": 2}},
        {"category": True},
        {"category": ["shoes", False]},
        {"price": True},
    ):
        with pytest.raises(QueryError) as caught:
            pipeline.answer(RecommendQuery(slot="home", user_id="u1", filters=wrong))
        assert caught.value.code == "bad_query"
    with pytest.raises(QueryError) as caught:
        pipeline.answer(RecommendQuery(slot="home", user_id="u1", filters={"colour": "red"}))
    assert caught.value.path == "$.filters.colour"


@pytest.mark.parametrize(
    ("condition", "expected_message"),
    [
        (
            {"min": "4"},
            "$.filters.price.min: expected a number, got a text\n  fix: write it as a number",
        ),
        (
            {"max": None},
            "$.filters.price.max: expected a number, got null\n  fix: leave max out where "
            "there is no bound",
        ),
        ({"min": True}, "$.filters.price.min: expected a number, got true or false"),
        ({"min": 1, "max": [2]}, "$.filters.price.max: expected a number, got a list"),
        (
            {"min": 1, "above": 2},
            "$.filters.price: a range has min and max, and no 'above'\n  fix: {\"price\": "
            '{"min": 10',
        ),
        ({}, "$.filters.price: expected min, max or both, got an empty object"),
    ],
)
def test_a_range_that_is_none_says_which_part_and_how_to_mend_it(make, condition, expected_message):
    for ask in (make().answer, make().search):
        query = {"user_id": "u1", "filters": {"price": condition}}
        with pytest.raises(QueryError) as caught:
            ask(
                RecommendQuery(slot="home", **query)
                if ask.__name__ == "answer"
                else SearchQuery(query="hats", **query)
            )
        assert expected_message in str(caught.value)


def test_a_truth_in_a_filter_matches_truths_only(make, bundle):
    """A text among truths makes a text of the attribute, and `True` would be found there as a
    word.
    """
    new_items = [
        NewItem("n1", {"sale": True, "stock": 1}, serving_shop.NOW),
        NewItem("n2", {"sale": False, "stock": 1, "word": "True"}, serving_shop.NOW),
    ]
    pipeline = make(bundles=FixedBundle(replace(bundle, index=with_items(bundle.index, new_items))))
    ask = RecommendQuery(slot="home", user_id="u1", filters={"sale": True})
    assert [item.item_id for item in pipeline.answer(ask).items] == ["n1"]
    [shown] = pipeline.answer(msgspec.structs.replace(ask, attributes=["sale", "stock"])).items
    assert [shown.attributes["sale"], shown.attributes["stock"]] == [True, 1.0]
    assert isinstance(shown.attributes["sale"], bool)
    with pytest.raises(QueryError, match="which is not true or false"):
        pipeline.answer(msgspec.structs.replace(ask, filters={"word": True}))


@pytest.mark.parametrize(
    "condition",
    [{"a": 1}, None, [4, None], [[4]], [4, {"a": 1}], "dear", [4, "dear"], 10**400, -(1 << 63)],
)
def test_a_filter_that_nothing_could_match_is_refused(make, condition):
    with pytest.raises(QueryError) as caught:
        make().answer(RecommendQuery(slot="home", user_id="u1", filters={"price": condition}))
    assert (caught.value.code, caught.value.path) == ("bad_query", "$.filters.price")


def test_a_filter_is_checked_also_where_there_is_nothing_to_filter(make):
    with pytest.raises(QueryError):
        make(bundles=FixedBundle(None)).answer(
            RecommendQuery(slot="home", user_id="u1", filters={"price": {"a": 1}})
        )


def test_rules_may_look_at_the_person(make):
    slots = {
        "home": Slot("home", rules=["item.price < 10 * user.user_clicks"], sources={"popular": 40})
    }
    pipeline = make(slots=slots, recent={"u1": [(1, "click")]})
    assert set(
        item_numbers(pipeline.answer(RecommendQuery(slot="home", user_id="u1", size=40)))
    ) == set(range(10))


def test_what_is_logged_is_what_was_shown(make, response_log, features):
    context = Context(device="phone", country="NO", utc_offset_min=60)
    answer = make().answer(
        RecommendQuery(slot="home", user_id="u1", session_id="s1", context=context)
    )
    [event], [record] = response_log.events, response_log.records
    assert (event.type, event.request_id, event.items, event.ts) == (
        "answer",
        answer.request_id,
        ids(answer),
        answer.t,
    )
    assert (record.request_id, record.items, record.ts, record.p, record.commit) == (
        answer.request_id,
        ids(answer),
        answer.t,
        42,
        7,
    )
    assert record.schema_hash == features.schema_hash
    numeric = np.array(record.numeric, np.float32).reshape(6, -1)
    assert numeric[:, features.numeric.index("price")].tolist() == item_numbers(answer)
    assert len(record.categorical) == 6 * len(features.categorical)
    assert (record.device, record.country, record.local_hour) == (
        "phone",
        "NO",
        (serving_shop.NOW // 3_600_000_000 + 1) % 24,
    )
    assert list(msgspec.msgpack.decode(record.sequences)) == ["recent"]
    accepted, refused = check_body(
        msgspec.json.encode(event), Receipt(serving_shop.NOW, "server"), RoutePlan()
    )
    assert (len(accepted), refused) == (1, [])


def test_what_each_source_gave_is_logged(make, response_log):
    slots = {"home": Slot("home", size=3, sources={"popular": 4, "new_items": 2})}
    make(slots=slots).answer(RecommendQuery(slot="home", user_id="u1"))
    [record] = response_log.records
    assert dict(zip(record.candidate_sources, record.candidate_counts, strict=True)) == {
        "popular": 4,
        "new_items": 2,
    }
    assert set(record.sources) <= set(record.candidate_sources)


def test_which_lists_were_read_and_as_of_where_in_the_log_is_logged(make, response_log, live):
    make(recent={"u1": [(4, "click")]}).answer(
        RecommendQuery(slot="home", user_id="u1", context=Context(referrer="https://a.example/x"))
    )
    [record] = response_log.records
    assert record.candidate_lists == ["item_knn", "popular", "new_items"]
    with live.tables() as tables:
        lists = RequestLists(
            tables, CandidateRequest(hash64s(["i4"]), np.array([serving_shop.NOW]))
        )
        assert record.candidate_digests == [
            lists.get(name).digest for name in record.candidate_lists
        ]
    assert record.candidate_positions == [live.fold.position] * 3
    assert (record.referrer, record.live) == ("https://a.example/x", [])


def test_a_bundle_without_a_model_orders_by_its_baseline(make, bundle):
    baseline = replace(
        bundle,
        manifest=msgspec.structs.replace(bundle.manifest, heads=(), baseline="repeat+popular:24h"),
    )
    pipeline = make(
        bundles=FixedBundle(baseline), recent={"u1": [(7, "click"), (38, "click"), (7, "click")]}
    )
    answer = pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
    assert item_numbers(answer) == [7, 38, 0, 1, 2, 4]
    assert (answer.degraded, answer.model) == ([], baseline.version)
    assert [item.reason_code for item in answer.items] == [
        "again",
        "again",
        "popular",
        "popular",
        "popular",
        "popular",
    ]


def test_a_search_ordered_by_a_baseline_answers_with_what_matches(make, bundle):
    manifest = msgspec.structs.replace(bundle.manifest, heads=(), baseline="popular:24h")
    pipeline = make(bundles=FixedBundle(replace(bundle, manifest=manifest)))
    answer = pipeline.search(SearchQuery(query="rain", user_id="u1"))
    assert {item.source for item in answer.items} == {"search"}
    assert pipeline.search(SearchQuery(query="zzzz", user_id="u1")).items == []


def test_a_stranger_is_answered_and_logged_as_nobody_else(make, response_log):
    pipeline = make()
    first, second = (pipeline.answer(RecommendQuery(slot="home")) for _ in range(2))
    assert ids(first) == ids(second)
    assert response_log.events[0].anonymous_id != response_log.events[1].anonymous_id
    assert (
        check_body(
            msgspec.json.encode(response_log.events[0]),
            Receipt(serving_shop.NOW, "server"),
            RoutePlan(),
        )[1]
        == []
    )


@pytest.mark.parametrize(
    ("query", "path"),
    [
        (RecommendQuery(slot="nope"), "$.slot"),
        (RecommendQuery(slot="home", user_id="anon:1"), "$.user_id"),
        (RecommendQuery(slot="home", context=Context(country="Norway")), "$.context.country"),
        (RecommendQuery(slot="home", session_id="a\x00b"), "$.session_id"),
    ],
)
def test_what_could_not_be_logged_is_refused_with_its_path(make, response_log, query, path):
    with pytest.raises(QueryError) as caught:
        make().answer(query)
    assert caught.value.path == path
    assert not response_log.events


def test_arms_are_sticky_and_the_popular_one_orders_by_popularity(make, response_log):
    pipeline = make(
        slots=serving_shop.slots() | {"tried": replace(serving_shop.slots()["tried"], explore=None)}
    )
    answers = {
        f"u{number}": pipeline.answer(RecommendQuery(slot="tried", user_id=f"u{number}"))
        for number in range(40)
    }
    experiment = Experiment("home-model", arms={"popular": 0.5, "model": 0.5})
    assert {user: answer.arm for user, answer in answers.items()} == {
        user: assign(experiment, user) for user in answers
    }
    orders = {
        arm: {tuple(item_numbers(answer)) for answer in answers.values() if answer.arm == arm}
        for arm in ("popular", "model")
    }
    assert orders == {"popular": {(0, 1, 2, 3, 4, 5)}, "model": {(39, 38, 37, 36, 35, 34)}}
    assert {event.answer.experiment for event in response_log.events} == {"home-model"}
    assert all(len(record.numeric) == 6 * 3 for record in response_log.records), (
        "a baseline's answers are training data too"
    )


@pytest.mark.parametrize("policy", ["popular", "recent", "random", "model"])
def test_each_policy_answers_by_the_same_rules(make, policy):
    experiment = Experiment("e", arms={"a": 1.0}, policies={"a": policy})
    pipeline = make(
        slots={
            "home": Slot(
                "home",
                size=30,
                rules=["item.stock > 0"],
                sources={"popular": 40},
                experiment=experiment,
            )
        }
    )
    shown = item_numbers(pipeline.answer(RecommendQuery(slot="home", user_id="u1")))
    assert len(set(shown)) == 30
    assert not {3, 13, 23, 33} & set(shown)
    order = {
        "popular": sorted(shown),
        "recent": sorted(shown, reverse=True),
        "model": sorted(shown, reverse=True),
    }
    assert shown == order.get(policy, shown)


def test_a_share_of_answers_is_drawn_and_logs_both_probabilities(make, response_log):
    explore = Explore(method="plackett_luce", first=1, share=0.5, temperature=1.0)
    slots = {"home": Slot("home", size=4, sources={"popular": 40}, explore=explore)}
    pipeline = make(slots=slots)
    for _ in range(30):
        pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
    first = set()
    for record in response_log.records:
        joint, marginal = np.array(record.joint_propensities), np.array(record.propensities)
        assert joint.shape == marginal.shape == (4,)
        assert joint[0] == pytest.approx(marginal[0], abs=1e-6)
        assert (np.diff(joint) <= 0).all()
        assert (joint <= marginal + 1e-6).all()
        first.add(bool(marginal[0] > 0.5))
    assert first == {True, False}


@pytest.mark.slow
def test_logged_propensities_are_the_frequencies(make, response_log):
    slots = {
        "home": Slot(
            "home", size=4, sources={"popular": 40}, explore=Explore(rate=0.6, pool=5, first=2)
        )
    }
    pipeline = make(slots=slots)
    draws = 3_000
    for _ in range(draws):
        pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
    shown = Counter()
    propensities: dict[tuple[int, str], float] = {}
    for event in response_log.events:
        for position, (item, propensity) in enumerate(
            zip(event.items, event.answer.propensities, strict=True)
        ):
            shown[position, item] += 1
            propensities[position, item] = propensity
    for place, propensity in propensities.items():
        spread = 4.5 * (propensity * (1 - propensity) / draws) ** 0.5
        assert abs(shown[place] / draws - propensity) <= spread + 1e-9, place
    assert sum(
        propensity for (position, _), propensity in propensities.items() if position == 2
    ) == pytest.approx(1.0)


def test_a_seed_repeats_the_answers(make):
    def ask():
        pipeline = make(seed=5)
        return [
            pipeline.answer(RecommendQuery(slot="tried", user_id=f"u{number}"))
            for number in range(10)
        ]

    assert ask() == ask()


def test_rank_orders_the_callers_items_and_knows_strangers_among_them(make, response_log):
    answer = make().rank(
        RankQuery(slot="home", user_id="u1", items=["i3", "i20", "unknown", "i5", "i20"])
    )
    assert ids(answer) == ["i20", "i5", "i3", "unknown"]
    assert {item.source for item in answer.items} == {"given"}
    assert response_log.records[0].items == ids(answer)


def test_an_answer_without_a_model_never_says_that_it_was_picked_for_somebody(make):
    query = RankQuery(slot="home", user_id="u1", items=["i3", "unknown"])
    for pipeline, degraded in (
        (make(bundles=FixedBundle(None)), "model"),
        (make(reader=BrokenReader()), "features"),
    ):
        answer = pipeline.rank(query)
        assert degraded in answer.degraded
        assert {item.reason_code for item in answer.items} <= {"popular", "more"}
    assert {item.item_id: item.reason_code for item in answer.items} == {
        "i3": "popular",
        "unknown": "more",
    }
    assert {item.reason_code for item in make().rank(query).items} == {"for_you"}


def test_search_finds_words_and_lifts_what_the_person_likes(make):
    answer = make().search(SearchQuery(query="rain", user_id="u1"))
    assert len(answer.items) == 5
    assert all(number % 2 for number in item_numbers(answer))
    assert item_numbers(answer)[0] > 20, "among equal hits the dearest, which the model likes"
    assert answer.items[0].reason_code == "search"
    nothing = make().search(SearchQuery(query='"(zzzz', user_id="u1"))
    assert nothing.items == []


def test_facets_count_all_hits_and_only_those_that_may_be_shown(make, response_log):
    slots = {"search": replace(serving_shop.slots()["search"], rules=["item.stock > 0"])}
    answer = make(slots=slots).search(
        SearchQuery(query="rain", user_id="u1", size=1, facets=["category", "price"])
    )
    assert len(answer.items) == 1
    assert set(answer.facets) == {"category", "price"}
    rainy = [
        number
        for number in range(serving_shop.ITEM_COUNT)
        if number % 2 and serving_shop.item_profile(number)["stock"]
    ]
    assert answer.facets["category"].counts == Counter(
        serving_shop.CATEGORIES[number % 4] for number in rainy
    )
    assert (answer.facets["price"].low, answer.facets["price"].high) == (min(rainy), max(rainy))
    assert make().search(SearchQuery(query="rain", user_id="u1")).facets is msgspec.UNSET
    with pytest.raises(QueryError, match="no item has an attribute 'nothing'") as refused:
        make().search(SearchQuery(query="rain", facets=["category", "nothing"]))
    assert (refused.value.code, refused.value.path) == ("unknown_attribute", "$.facets")
    assert len(response_log.records) == 2, "what is refused is not logged as an answer"


def test_without_a_slot_of_its_own_search_asks_for_one_and_takes_no_others_pins(make):
    pipeline = make(slots={"home": serving_shop.slots()["home"]})
    with pytest.raises(QueryError, match="there is no slot 'search'") as refused:
        pipeline.search(SearchQuery(query="rain"))
    assert refused.value.code == "unknown_slot"
    assert pipeline.search(SearchQuery(query="rain", slot="home")).items


def test_a_slot_knows_what_else_a_thing_is_called(make):
    slots = {
        name: replace(slot, synonyms=[["drizzle", "rain"]])
        for name, slot in serving_shop.slots().items()
    }
    assert ids(make(slots=slots).search(SearchQuery(query="drizzle"))) == ids(
        make().search(SearchQuery(query="rain"))
    )
    with pytest.raises(DeclarationError, match="synonyms"):
        Slot("search", synonyms=[["alone"]])


def test_similar_items_and_an_items_attributes(make):
    pipeline = make()
    similar = pipeline.similar_items("i5", 4)
    assert len(similar.items) == 4
    assert "i5" not in ids(similar)
    assert pipeline.similar_items("nope", 4) is None
    codes = {item.reason_code for item in pipeline.similar_items("i5", 39).items}
    assert codes <= {
        "related",
        "popular",
    }  # it is the same for everybody, and does not say "picked for you"
    allowed = make(
        slots={"home": Slot("home", rules=["item.stock > 0"], deny=["i6"])}
    ).similar_items("i5", 39, "home")
    assert {"i6", "i13"} <= set(ids(pipeline.similar_items("i5", 39)))
    assert not {"i6", "i13"} & set(ids(allowed))
    item = pipeline.item("i5")
    assert item is not None
    assert item.attributes == {
        "category": "hats",
        "price": 5.0,
        "stock": 5.0,
        "title": "Rain hats 5",
    }
    assert pipeline.item("nope") is None


@pytest.mark.parametrize("source", ["popular", "new_items"])
@pytest.mark.parametrize("category", [None, "shoes"])
def test_lists_for_everybody_heed_the_rules_and_lists_of_a_slot(make, source, category):
    tables = serving_shop.LiveTables(["popular:7d:category"])
    pipeline = make(
        slots={"home": Slot("home", rules=["item.stock > 0"], deny=["i6", "i22"])}, tables=tables
    )
    everything = {item.item_id for item in pipeline.top_items(source, 40, category)}
    shown = {item.item_id for item in pipeline.top_items(source, 40, category, "home")}
    forbidden = {"i6", "i22", *(f"i{n}" for n in range(40) if n % 10 == 3)}
    assert shown == everything - forbidden
    assert {"i6", "i22"} < everything


def test_explain_tells_features_heads_and_contributions(make):
    query = RecommendQuery(
        slot="home",
        user_id="u1",
        explain=True,
        attributes=["title", "price"],
        context=Context(device="phone"),
    )
    first = make().answer(query).items[0]
    assert first.attributes == {"title": "Rain bags 39", "price": 39.0}
    explanation = first.explanation
    assert explanation is not None
    assert explanation.features == {
        "item_clicks": 1.0,
        "user_clicks": 0.0,
        "price": 39.0,
        "category": "bags",
        "device": "phone",
    }
    assert explanation.heads["click"] == pytest.approx(first.score)
    [(name, moved)] = explanation.contributions.items()
    assert name == "price"
    assert moved == pytest.approx(explanation.heads["click"] - 0.5, abs=1e-6)


def test_without_a_store_the_popular_items_are_shown(make, response_log):
    answer = make(reader=BrokenReader()).answer(RecommendQuery(slot="home", user_id="u1"))
    assert item_numbers(answer) == [0, 1, 2, 4, 5, 6]
    assert answer.degraded == ["features"]
    assert response_log.records[0].degraded == ["features"]
    assert response_log.records[0].numeric == []


def test_without_a_bundle_there_is_an_answer_that_says_so(make, response_log):
    answer = make(bundles=FixedBundle(None)).answer(RecommendQuery(slot="home", user_id="u1"))
    assert answer.items == []
    assert set(answer.degraded) == {"model", "index"}
    assert answer.model == "fallback"
    assert len(response_log.events) == 1


def test_a_model_that_fails_leaves_the_popular_items(make, bundle):
    class Failing:
        version = "v0009"
        index, encoder, heads, space, tower, baseline = (
            bundle.index,
            bundle.encoder,
            bundle.heads,
            None,
            None,
            "",
        )

        def with_index(self, index):
            return self

        def score(self, rows, keys, *, objective, asked, live):
            raise RuntimeError("segfault, nearly")

    answer = make(bundles=FixedBundle(Failing())).answer(RecommendQuery(slot="home", user_id="u1"))
    assert item_numbers(answer) == [0, 1, 2, 4, 5, 6]
    assert (answer.degraded, answer.model) == (["model"], "fallback")


def test_a_full_log_does_not_stop_answers(make):
    answer = make(answers=ResponseRecorder(room=0)).answer(
        RecommendQuery(slot="home", user_id="u1")
    )
    assert answer.items
    assert answer.degraded == ["log"]


def test_a_person_known_by_alias_is_the_person(make, response_log, features):
    class Aliased(serving_shop.FakeReader):
        def read(self, request, items, item_keys=None):
            return replace(super().read(request, items, item_keys), person="u9")

    make(reader=Aliased(features)).answer(RecommendQuery(slot="home", anonymous_id="a1"))
    assert response_log.records[0].person == "u9"
    assert (response_log.events[0].user_id, response_log.events[0].anonymous_id) == (None, "a1")


def test_features_whose_copies_nobody_keeps_up_are_used_and_named(make, features):
    class Copied(serving_shop.FakeReader):
        at = serving_shop.NOW - STALE_AFTER_US

        def read(self, request, items, item_keys=None):
            return replace(super().read(request, items, item_keys), published_at=self.at)

    reader = Copied(features)
    query = RecommendQuery(slot="home", user_id="u1")
    fresh = make(reader=reader).answer(query)
    reader.at -= 1
    old = make(reader=reader).answer(query)
    assert (fresh.degraded, old.degraded) == ([], ["freshness"])
    assert ids(old) == ids(fresh)
    assert old.model == fresh.model
