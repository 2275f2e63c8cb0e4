"""What a slot asks for beside value, in whole answers: filters, boosts, pins, promotions, caps and
lists, and how these meet.
"""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.serving.pipeline import ResponseRecorder
from tests.support.shops import serving_shop

from tailorbird.events import Context, SimulatedClock
from tailorbird.experiments import Experiment
from tailorbird.ranking import Boost, Cap, Explore, Pin, Promotion, Quota, Slot
from tailorbird.ranking.policy.rule_language import Rule
from tailorbird.serving.messages import RecommendQuery, SearchQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.deadlines import ModelBreakers
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle
from tailorbird.serving.pipeline.rule_costs import (
    ALL_RULES,
    VariantComparer,
    compute_costs,
    slot_without_each_rule,
)
from tailorbird.serving.pipeline.slot_rules import SlotRules

SLOT = Slot(
    "home", size=6, sources={"popular": 10}, rules=["item.stock > 0"], hide_seen=()
)  # the bundle likes dear items


@pytest.fixture
def ask(features, bundle, live):
    def ask(slot, *, recent=None, answers=None, seed=0, text="", **query):
        pipeline = Pipeline(
            slots={"home": slot},
            bundle_selector=FixedBundle(bundle),
            feature_provider=SingleSchema(features, serving_shop.FakeReader(features, recent)),
            response_log=answers,
            clock=SimulatedClock(serving_shop.NOW),
            rng=np.random.default_rng(seed),
            table_provider=live,
        )
        if text:
            return pipeline.search(SearchQuery(slot="home", user_id="u1", query=text, **query))
        return pipeline.answer(RecommendQuery(slot="home", user_id="u1", **query))

    return ask


def shown(answer):
    return [int(item.item_id[1:]) for item in answer.items]


def test_what_is_forbidden_for_all_takes_no_place_among_candidates(ask):
    """Of the ten most popular, half would be left; the source is asked for ten that may be
    shown.
    """
    assert shown(ask(replace(SLOT, rules=["item.price > 20"]))) == [30, 29, 28, 27, 26, 25]
    assert shown(ask(replace(SLOT, rules=[], deny=[f"i{n}" for n in range(30)]))) == [
        39,
        38,
        37,
        36,
        35,
        34,
    ]
    assert shown(ask(replace(SLOT, rules=["item.stock > 0"], allow=["i3", "i4", "i5"]))) == [5, 4]
    assert shown(
        ask(replace(SLOT, sources={"search": 3}, rules=["item.price > 30"]), text="coats")
    ) == [36, 32]


def test_a_slot_whose_rules_leave_nothing_says_so(ask):
    """As after a typing error, or where an attribute is gone from the catalogue: an empty answer is
    no answer like others.
    """
    assert ask(replace(SLOT, rules=["item.stok > 0"])).degraded == ["items"]
    assert ask(replace(SLOT, allow=["no-such-item"])).degraded == ["items"]
    assert (
        ask(SLOT, filters={"category": "coats"}, exclude=[f"i{n}" for n in range(40)]).degraded
        == []
    )


def test_a_slot_that_leaves_nothing_for_this_person_says_so(ask, bundle):
    """Of somebody new a price that is usual for them is missing, and nothing is less than that."""
    usual = "item.price < 2 * user.avg_price"
    empty = ask(replace(SLOT, rules=[usual]))
    assert (empty.items, empty.degraded) == ([], ["items"])
    guarded = ask(replace(SLOT, rules=[f"missing(user.avg_price) or {usual}"]))
    assert (len(guarded.items), guarded.degraded) == (6, [])
    assert ask(
        replace(SLOT, caps=[Cap("recent", 1)], allow=["i1"]), recent={"u1": [(1, "click")]}
    ).degraded == ["items"]
    rules = [
        usual,
        f"missing(user.avg_price) or {usual}",
        "user.avg_price > 3 or context.country == 'NO'",
    ]
    assert SlotRules(replace(SLOT, rules=rules)).rules_unmet_by_strangers(bundle.index) == [
        usual
    ], "in Norway the last one shows something"


def test_what_slots_show_is_computed_once_for_each_of_several_indexes(bundle):
    """Champion and canary are asked in turn: neither takes the place of the other, and each later
    index takes that of its own.
    """
    slot_rules = SlotRules(replace(SLOT, rules=["item.stock > 0"]))
    champion, canary = bundle.index, replace(bundle.index, as_of=bundle.index.as_of + 1)
    views = slot_rules.public_view(champion), slot_rules.public_view(canary)
    assert views[0] is not views[1]
    assert slot_rules.public_view(champion) is views[0]
    assert slot_rules.public_view(canary) is views[1]
    later = replace(champion)
    assert slot_rules.public_view(later) is not views[0]
    assert slot_rules.public_view(canary) is views[1]
    assert len(slot_rules._views) == 2


def test_where_a_request_leaves_too_few_sources_are_asked_again(ask):
    late = replace(
        SLOT, rules=["item.stock > 0 and item.price > 30 * user.user_clicks + 29"], size=3
    )
    answer = ask(late, recent={"u1": []})
    assert len(answer.items) == 3
    assert min(shown(answer)) > 29
    assert shown(ask(SLOT, filters={"category": "bags"}, size=4)) == [39, 35, 31, 27]
    assert len(ask(SLOT, exclude=[f"i{n}" for n in range(12)]).items) == 6


def test_boosts_move_values_and_pins_stand_where_they_are_put(ask):
    assert shown(ask(replace(SLOT, boosts=[Boost("item.price < 2", 10.0)])))[:2] == [1, 0]
    pinned = ask(replace(SLOT, pins=[Pin("i35", 2), Pin("i36", 1, when="context.country == 'NO'")]))
    assert shown(pinned) == [10, 35, 9, 8, 7, 6]
    assert (pinned.items[1].source, pinned.items[1].reason_code, pinned.items[1].propensity) == (
        "pinned",
        "promoted",
        1.0,
    )


def test_a_pin_is_the_reason_also_where_a_source_had_the_item(ask):
    """It is the ten most popular who are asked, and i4 is of them; an arm without a model tells a
    pin too.
    """
    pinned = replace(SLOT, pins=[Pin("i4", 1), Pin("i35", 2)])
    assert [item.reason_code for item in ask(pinned).items[:2]] == ["promoted", "promoted"]
    popular = replace(pinned, experiment=Experiment("all-popular", arms={"popular": 1.0}))
    answer = ask(popular)
    assert shown(answer)[:2] == [4, 35]
    assert [item.reason_code for item in answer.items[:3]] == ["promoted", "promoted", "popular"]


def test_what_an_arm_draws_by_chance_does_not_say_that_it_is_popular(ask):
    drawn = replace(
        SLOT, pins=[Pin("i35", 1)], experiment=Experiment("all-random", arms={"random": 1.0})
    )
    assert {item.reason_code for item in ask(drawn).items if item.source != "pinned"} == {"explore"}


def test_a_pin_behind_the_end_of_an_answer_is_none(ask):
    pinned = replace(SLOT, pins=[Pin("i9", 8), Pin("i39", 9), Pin("i39", 2)])
    answer = ask(pinned)
    assert shown(answer)[:3] == [10, 39, 9], "by value, but for the pin that has room"
    assert [item.reason_code for item in answer.items[:3]] == ["popular", "promoted", "popular"]
    assert shown(ask(pinned, size=9))[7:] == [9, 39]


def test_an_item_that_several_pins_hold_for_is_shown_once(ask):
    """First in Norway, third elsewhere: in Norway both hold."""
    pins = [Pin("i36", 1, when="context.country == 'NO'"), Pin("i36", 3)]
    assert shown(ask(replace(SLOT, pins=pins), context=Context(country="NO"))) == [
        36,
        10,
        9,
        8,
        7,
        6,
    ]
    assert shown(ask(replace(SLOT, pins=pins), context=Context(country="SE"))) == [
        10,
        9,
        36,
        8,
        7,
        6,
    ]


def test_no_lack_of_time_cuts_a_pin_off(ask, monkeypatch):
    """Whether a source had found it, as the last of ten, or nobody had."""
    monkeypatch.setattr(ModelBreakers, "rows_max", lambda models, version: 6)
    answer = ask(replace(SLOT, pins=[Pin("i10", 1), Pin("i35", 2)]))
    assert shown(answer)[:2] == [10, 35]
    assert answer.degraded == ["ranking"]


def test_no_pin_shows_what_a_filter_forbids(ask):
    pins = [Pin("i33", 1), Pin("i35", 2), Pin("i37", 3)]  # the first is out of stock
    assert shown(ask(replace(SLOT, pins=pins), exclude=["i37"])) == [10, 35, 9, 8, 7, 6]
    assert shown(ask(replace(SLOT, pins=pins, deny=["i35"])))[:3] == [10, 9, 37]


def test_a_promotion_has_its_share_within_quotas(ask):
    slot = replace(SLOT, promotions=[Promotion("item.category == 'coats'", 0.5)])
    assert shown(ask(slot)) == [10, 8, 9, 4, 7, 0]
    assert [
        n
        for n in shown(ask(replace(slot, quotas=[Quota("category", 1, first=4)])))[:4]
        if n % 4 == 0
    ] == [8]


def test_a_cap_hides_what_was_shown_too_often_lately(ask, features):
    recent = {"u1": [(10, "click"), (10, "click"), (9, "click")]}
    assert shown(ask(replace(SLOT, caps=[Cap("recent", 2, within="1d")]), recent=recent)) == [
        9,
        8,
        7,
        6,
        5,
        4,
    ]
    assert shown(ask(replace(SLOT, caps=[Cap("recent", 3, within="1d")]), recent=recent))[0] == 10


@pytest.mark.slow
def test_logged_propensities_are_the_frequencies_with_all_of_it_on(features, bundle, live):
    response_log, draws = ResponseRecorder(), 1_500
    slot = replace(
        SLOT,
        boosts=[Boost("item.category == 'hats'", 1.05)],
        pins=[Pin("i35", 2)],
        promotions=[Promotion("item.category == 'coats'", 0.34)],
        quotas=[Quota("category", 2)],
        explore=Explore(0.5, pool=4, first=1),
    )
    pipeline = Pipeline(
        slots={"home": slot},
        bundle_selector=FixedBundle(bundle),
        feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
        response_log=response_log,
        clock=SimulatedClock(serving_shop.NOW),
        rng=np.random.default_rng(1),
        table_provider=live,
    )
    for _ in range(draws):
        pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
    frequencies: dict[tuple[int, str], tuple[float, int]] = {}
    for record in response_log.records:
        for position, (item, p) in enumerate(zip(record.items, record.propensities, strict=True)):
            before, count = frequencies.get((position, item), (p, 0))
            assert before == p
            frequencies[position, item] = p, count + 1
    for (position, item), (p, count) in frequencies.items():
        assert abs(count / draws - p) <= 5 * np.sqrt(p * (1 - p) / draws) + 1e-12, (position, item)
    assert len(frequencies) > 8
    for record in response_log.records:
        assert record.items[1] == "i35"
        assert max(np.bincount([int(item[1:]) % 4 for item in record.items])) <= 2


def test_each_wish_costs_what_its_answer_is_worth_less(features, bundle, live):
    slot = replace(
        SLOT,
        size=3,
        rules=["item.stock > 0", "item.price < 1000"],
        pins=[Pin("i0", 1)],
        quotas=[Quota("category", 2)],
    )
    clock = SimulatedClock(serving_shop.NOW)
    pipeline = Pipeline(
        slots={"home": slot},
        bundle_selector=FixedBundle(bundle),
        feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
        response_log=None,
        clock=clock,
        rng=np.random.default_rng(1),
        table_provider=live,
    )
    weigher = VariantComparer(slot, clock)
    outcomes = pipeline.compare_variants(RecommendQuery(slot="home", user_id="u1"), weigher)
    assert outcomes is not None
    assert outcomes[ALL_RULES].items == ("i0", "i10", "i9")
    cost_of = {cost.rule: cost for cost in compute_costs([outcomes, outcomes])}
    assert set(cost_of) == {
        "pin i0 at 1",
        "rule item.stock > 0",
        "rule item.price < 1000",
        "quota 2 of a category",
    }
    assert next(iter(cost_of)) == "pin i0 at 1"
    assert outcomes["pin i0 at 1"].items == ("i10", "i9", "i8")
    assert cost_of["pin i0 at 1"].value == pytest.approx(
        outcomes["pin i0 at 1"].value - outcomes[ALL_RULES].value
    )
    assert (cost_of["pin i0 at 1"].changed, cost_of["pin i0 at 1"].low) == (
        1.0,
        cost_of["pin i0 at 1"].high,
    )
    assert (cost_of["quota 2 of a category"].value, cost_of["quota 2 of a category"].changed) == (
        0.0,
        0.0,
    )
    assert slot_without_each_rule(replace(SLOT, rules=[], per_category=2, deny=["i1"])).keys() == {
        "quota 2 of a category",
        "deny",
    }


@pytest.mark.parametrize("arm", ["random", "popular"])
def test_what_a_wish_costs_does_not_hang_on_an_arm_of_an_experiment(features, bundle, live, arm):
    slot = replace(SLOT, size=3, pins=[Pin("i0", 1)])
    all_outcomes = []
    for experiment in (None, Experiment("try", arms={arm: 1.0})):
        clock, declared = SimulatedClock(serving_shop.NOW), replace(slot, experiment=experiment)
        pipeline = Pipeline(
            slots={"home": declared},
            bundle_selector=FixedBundle(bundle),
            feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
            response_log=None,
            clock=clock,
            rng=np.random.default_rng(1),
            table_provider=live,
        )
        all_outcomes.append(
            pipeline.compare_variants(
                RecommendQuery(slot="home", user_id="u1"), VariantComparer(declared, clock)
            )
        )
    assert all_outcomes[1] == all_outcomes[0]


def test_where_a_rule_fails_lists_hold_and_so_do_the_other_rules(ask, monkeypatch):
    original_mask = Rule.mask

    def mask(rule, request):
        if "price" in rule.text:
            raise RuntimeError("broken")
        return original_mask(rule, request)

    monkeypatch.setattr(Rule, "mask", mask)
    slot = replace(
        SLOT,
        rules=["item.price > 0", "item.stock > 0"],
        deny=["i39", "i38"],
        pins=[Pin("i39"), Pin("i38", 2)],
    )
    answer = ask(slot, size=4)
    assert (shown(answer), answer.degraded) == ([10, 9, 8, 7], ["rules"])
    late = replace(
        slot,
        rules=["item.price > user.user_clicks", "not item.category == 'bags'"],
        sources={"popular": 40},
    )
    answer = ask(late, size=4)
    assert (shown(answer), answer.degraded) == ([37, 36, 34, 33], ["rules"])
    only = ask(replace(slot, allow=["i1", "i2", "i4"]), exclude=["i4"])
    assert (shown(only), only.degraded) == ([2, 1], ["rules"])
    nothing = ask(replace(slot, allow=["no-such-item"]))
    assert (shown(nothing), nothing.degraded) == ([], ["items", "rules"])


def test_a_wish_that_fails_does_not_hold(ask, monkeypatch):
    original_mask = Rule.mask

    def mask(rule, request):
        if "price" in rule.text:
            raise RuntimeError("broken")
        return original_mask(rule, request)

    unfiltered = shown(ask(SLOT))
    monkeypatch.setattr(Rule, "mask", mask)
    for wish in (
        {"boosts": [Boost("item.price < 5", 100.0)]},
        {"pins": [Pin("i1", when="item.price > 0")]},
        {"promotions": [Promotion("item.price < 5", 0.5)]},
    ):
        answer = ask(replace(SLOT, **wish))
        assert (shown(answer), answer.degraded) == (unfiltered, ["rules"]), wish


@pytest.mark.parametrize("text", ["", "coats"])
@pytest.mark.parametrize("policy", ["model", "popular"])
def test_an_explanation_adds_up_to_the_score_and_names_boosts_pins_and_promotions(
    ask, text, policy
):
    slot = replace(
        SLOT,
        sources={"popular": 40, "search": 40},
        boosts=[
            Boost("item.price > 20", 2.0),
            Boost("item.stock > 0", 0.5),
            Boost("item.price > 20", 1.5),
            Boost("item.price < 0", 3.0),
        ],
        pins=[Pin("i8", 2), Pin("i1", 1, when="item.price > 5")],
        promotions=[Promotion("item.price < 20", 0.5)],
        experiment=Experiment("one", arms={policy: 1.0}),
    )
    answer = ask(slot, text=text, explain=True)
    assert answer.items
    for item in answer.items:
        explanation, price = item.explanation, int(item.item_id[1:])
        assert explanation.value + sum(explanation.moved.values()) == pytest.approx(
            item.score, rel=1e-9
        )
        boosts = {"boost item.stock > 0", *(["boost item.price > 20"] if price > 20 else [])}
        assert explanation.moved.keys() == boosts | ({"search"} if text else set())
        pinned = ["pin 2"] if item.item_id == "i8" else []
        assert explanation.placed == [
            *pinned,
            *(["promotion item.price < 20"] if price < 20 else []),
        ]
    assert answer.items[1].item_id == "i8"
    assert ask(slot, text=text).items[0].explanation is None
