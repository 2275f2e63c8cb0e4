"""Candidates as serving would draw them: nothing of the request's own moment or after it, and the truth told apart."""

import numpy as np
import pytest

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR
from tailorbird.models.baselines import History
from tailorbird.training.clicks import Scheme, choices, guess_scheme, with_candidates
from tailorbird.training.coding import Codes, interactions
from tailorbird.training.happened import Happened
from tailorbird.training.item_to_item import roll


def draw(events, scheme, ts_from, ts_to, *, moments=(), negatives=0):
    people, items = Codes.of(events["person"]), Codes.of(events["item_id"])
    history = History(interactions(events, people, items, (scheme.type,)))
    data = choices(events, people, items, scheme, ts_from=ts_from, ts_to=ts_to)
    return with_candidates(data, history, scheme, rolling=roll(history, moments) if moments else None, negatives=negatives)


def lists(data):
    items = data.items.decode(data.item)
    return [sorted(items[a:b]) for a, b in zip(data.offsets, data.offsets[1:], strict=False)]


def truths(data, type_="click"):
    items = data.items.decode(data.item)
    return [[items[row] for row in range(a, b) if data.labels[type_][row]] for a, b in zip(data.offsets, data.offsets[1:], strict=False)]


def test_the_pool_is_that_of_the_day_before_the_last_full_hour(routed):
    e = routed.event
    events = routed.table(
        e("click", 1 * HOUR, "a", "old"),
        e("click", 9 * HOUR, "b", "x"),
        e("click", 20 * HOUR, "b", "y"),
        e("click", 28 * HOUR + 5, "b", "z"),  # within the request's hour: not counted yet
        e("click", 28 * HOUR + 9, "c", "truth"),
    )
    data = draw(events, Scheme(popular=10, item_to_item=0), 28 * HOUR + 9, 30 * HOUR)
    assert lists(data) == [["truth", "x", "y"]]
    assert truths(data) == [["truth"]]
    assert data.scheme["found"] == 0
    weights = dict(zip(data.items.decode(data.item), data.weight, strict=True))
    assert weights == {"truth": 0, "x": 0, "y": 0}, "of a request of which no source found the truth only lists are judged"
    assert data.p.tolist() == [4]  # all but the request's own event


def test_what_the_person_had_before_is_no_candidate_unless_people_repeat(routed):
    e = routed.event
    events = routed.table(
        e("click", 1 * HOUR, "a", "x"), e("click", 2 * HOUR, "b", "y"), e("click", 5 * HOUR, "a", "y"), e("click", 6 * HOUR, "a", "x")
    )
    once = draw(events, Scheme(popular=10, item_to_item=0), 5 * HOUR, DAY)
    assert lists(once) == [["y"]]  # the second request chose x again: no question where nobody repeats
    again = draw(events, Scheme(popular=10, item_to_item=0, repeats=True), 5 * HOUR, DAY)
    assert lists(again) == [["x", "y"], ["x", "y"]]
    assert truths(again) == [["y"], ["x"]]
    assert again.scheme["found"] == 1


def test_probabilities_are_judged_by_what_was_found_of_requests_where_something_was(routed):
    e = routed.event
    baskets = [e("purchase", 30 * HOUR + n, "c", item, session_id="s1") for n, item in enumerate(["x", "unheard-of"])]
    events = routed.table(e("purchase", 9 * HOUR, "a", "x"), e("purchase", 9 * HOUR, "b", "y"), *baskets)
    data = draw(events, Scheme(type="purchase", truth="session", popular=10, item_to_item=0, repeats=True), 30 * HOUR, 2 * DAY)
    assert truths(data, "purchase") == [["x", "unheard-of"]] or truths(data, "purchase") == [["unheard-of", "x"]]
    assert dict(zip(data.items.decode(data.item), data.weight, strict=True)) == {"x": 1, "y": 1, "unheard-of": 0}


def test_where_nothing_is_left_to_ask_it_is_told_why(routed):
    """Nobody repeats, and either everything was had before, or nothing was ever chosen before by anybody."""
    e = routed.event
    again = routed.table(e("click", 1 * HOUR, "a", "x"), e("click", 5 * HOUR, "a", "x"))
    with pytest.raises(NotReadyError, match="after what people had before was taken out"):
        draw(again, Scheme(popular=10, item_to_item=0), 5 * HOUR, DAY)
    rare = routed.table(*(e("click", n * HOUR, f"u{n}", f"i{n}") for n in range(30)))
    with pytest.raises(NotReadyError, match=r"holds any of the 20 things that people chose \(click\), 20 items all in all"):
        draw(rare, Scheme(popular=10, item_to_item=0), 10 * HOUR, 2 * DAY, negatives=5)


def test_a_basket_is_one_question_before_its_first_item(routed):
    e = routed.event
    events = routed.table(
        e("purchase", 1 * HOUR, "a", "milk", session_id="s1"),
        e("purchase", 1 * HOUR + 1, "a", "bread", session_id="s1"),
        e("purchase", 5 * HOUR, "a", "milk", session_id="s2"),
        e("purchase", 5 * HOUR + 1, "a", "eggs", session_id="s2"),
        e("purchase", 5 * HOUR + 2, "a", "milk", session_id="s2"),
    )
    scheme = Scheme(type="purchase", truth="session", popular=0, item_to_item=0, own_history=5, repeats=True)
    data = draw(events, scheme, 4 * HOUR, DAY)
    assert lists(data) == [["bread", "eggs", "milk"]]
    assert sorted(truths(data, "purchase")[0]) == ["eggs", "milk"]
    assert data.t.tolist() == [5 * HOUR]


def test_sampled_negatives_keep_the_prior_by_weight(routed):
    e = routed.event
    events = routed.table(
        *(e("click", n, f"b{n}", f"i{n}") for n in range(1, 101)), *(e("click", 2 * HOUR + n, f"a{n}", f"i{n}") for n in range(1, 51))
    )
    full = draw(events, Scheme(popular=1_000, item_to_item=0), 2 * HOUR, DAY)
    some = draw(events, Scheme(popular=1_000, item_to_item=0), 2 * HOUR, DAY, negatives=7)
    assert full.rows == 50 * 100
    assert some.rows == pytest.approx(50 * 8, rel=0.1)
    assert some.weight.sum() == pytest.approx(full.rows, rel=0.15)
    assert some.labels["click"].sum() == 50
    assert np.all(some.weight[some.labels["click"]] == 1)
    assert some.weight.min() >= 1


def test_item_to_item_candidates_come_from_a_table_of_the_past(routed):
    e = routed.event
    pairs = [e("click", HOUR + 10 * n + k, f"p{n}", item) for n in range(20) for k, item in enumerate("xy")]
    events = routed.table(*pairs, e("click", 3 * DAY, "me", "x"), e("click", 3 * DAY + 5, "me", "q"))
    data = draw(events, Scheme(popular=10, item_to_item=5), 3 * DAY + 1, 4 * DAY, moments=[2 * DAY])
    assert lists(data) == [["q", "y"]]


def test_a_log_tells_how_it_wants_to_be_asked(routed):
    news = routed.table(*(routed.event("click", n * HOUR, f"u{n % 9}", f"i{n}") for n in range(1, 100)))
    assert not guess_scheme(news, "click").repeats
    shop = routed.table(*(routed.event("purchase", n * HOUR, "u", f"i{n % 5}", session_id=f"s{n // 9}") for n in range(1, 100)))
    guessed = guess_scheme(shop, "purchase")
    assert guessed.repeats
    assert guessed.truth == "session"
    assert guessed.own_history > 0


def test_further_labels_are_of_what_the_person_did_with_the_item_soon_after(routed):
    e = routed.event
    events = routed.table(
        e("click", 1 * HOUR, "a", "x"),
        e("click", 1 * HOUR, "a", "y"),
        e("purchase", 10 * HOUR - 1, "b", "x"),  # before
        e("click", 10 * HOUR, "b", "y"),
        e("purchase", 10 * HOUR + 5, "b", "y"),
        e("purchase", 10 * HOUR + 5, "c", "x"),  # somebody else
        e("purchase", 11 * HOUR, "b", "x"),  # too late
    )
    data = draw(events, Scheme(item_to_item=0), 10 * HOUR, 11 * HOUR)
    bought = Happened(interactions(events, data.people, data.items, ("purchase",)))
    assert lists(data) == [["x", "y"]]
    named = data.items.decode(data.item)
    assert [item for item, label in zip(named, bought.within(data, HOUR), strict=True) if label] == ["y"]
    assert bought.within(data, HOUR + 1).all()
    assert not bought.within(data, 5).any()
    shared = Happened(interactions(events, data.people, data.items, ("share",)))
    assert not len(shared)
    assert not shared.within(data, HOUR).any()
