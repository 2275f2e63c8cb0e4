"""Reasons name what led to an item, in words of the shop."""

import dataclasses

import numpy as np
from tests.ranking import world

from tailorbird.events import hash64
from tailorbird.ranking.reasons import CODES, Reason, reasons


def recent(*items, kind="click"):
    sequence = world.make_rows([], recent=items).sequences["recent"]
    return dataclasses.replace(sequence, type=np.full(len(items), hash64(kind), np.uint64))


def test_an_item_that_goes_with_a_recent_one_says_so(index):
    shown = index.item_to_item(world.keys_of([4]), 3).rows
    looked = reasons(index, shown, ["item_to_item"] * 3, recent=recent(4))
    assert looked[0] == Reason("related", "Because you looked at Thing 4 rain coat", "i4")
    bought = reasons(index, shown, ["item_to_item"] * 3, recent=recent(4, kind="purchase"))
    assert bought[0].text == "Because you bought Thing 4 rain coat"


def test_the_strongest_of_several_recent_items_is_named(index):
    past, shown = [4, 9, 30], index.find_ids(["i1", "i2", "i3"])
    pull = np.array([index.item_item.lookup(np.repeat(index.find_ids([f"i{item}"]), 3), shown) for item in past])
    strongest = np.argmax(pull * np.array([[0.64], [0.8], [1.0]]), axis=0)
    told = reasons(index, shown, ["item_to_item"] * 3, recent=recent(*past))
    assert [each.item_id for each in told] == [f"i{past[place]}" for place in strongest]


def test_without_a_past_the_source_gives_the_reason(index):
    rows = index.find_ids(["i0", "i1", "i2", "i3", "i4", "i5"])
    sources = ["popular_in_category", "popular", "fresh", "search", "given", "popular"]
    told = reasons(index, rows, sources, query="warm", explored=(6,))
    assert [each.code for each in told] == ["popular_in_category", "popular", "new", "search", "for_you", "explore"]
    assert [each.text for each in told[:4]] == ["Popular in coats this week", "Popular this week", "New in shoes", "Matches “warm”"]
    more = reasons(index, rows[:3], ["trending", "sessions", "stan"])
    assert [(each.code, each.item_id) for each in more] == [("popular", ""), ("related", ""), ("related", "")]
    assert {each.code for each in (*told, *more)} <= set(CODES)


def test_nothing_shown_needs_no_reason(index):
    assert reasons(index, np.zeros(0, np.intp), [], recent=recent(1)) == []
