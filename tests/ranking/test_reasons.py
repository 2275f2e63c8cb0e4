"""Reasons name what led to an item, in words of the shop."""

import dataclasses

import numpy as np
from tests.support.shops import ranking_world

from tailorbird.events import hash64
from tailorbird.ranking.reasons import REASON_CODES, Reason, explain_items


def recent(*items, kind="click"):
    sequence = ranking_world.make_rows([], recent=items).sequences["recent"]
    return dataclasses.replace(sequence, type=np.full(len(items), hash64(kind), np.uint64))


def rare(lists):
    """The lists of a world in which nobody meets these items but together."""
    lists.traffic_shares = lambda keys: np.zeros(len(keys))
    return lists


def nearest(tables, item, n):
    return tables.neighbours(ranking_world.keys_of([item])).keys[:n]


def test_an_item_related_to_a_recent_one_names_it(index, tables):
    shown, lists = index.find(nearest(tables, 4, 3)), rare(ranking_world.lists_of(tables, [4]))
    viewed = explain_items(index, shown, ["item_knn"] * 3, lists, recent_events=recent(4))
    assert viewed[0] == Reason("related", "Because you looked at Thing 4 rain coat", "i4")
    bought = explain_items(
        index, shown, ["item_knn"] * 3, lists, recent_events=recent(4, kind="purchase")
    )
    assert bought[0].text == "Because you bought Thing 4 rain coat"


def test_ubiquitous_items_relate_to_nothing(index, tables):
    shown, lists = (
        index.find(nearest(tables, 4, 3)),
        ranking_world.lists_of(tables, [4]),
    )  # popular items, which come with each other by chance
    assert {
        each.code
        for each in explain_items(index, shown, ["item_knn"] * 3, lists, recent_events=recent(4))
    } == {"for_you"}
    popular = explain_items(index, shown, ["popular"] * 3, lists, recent_events=recent(4))
    assert {each.text for each in popular} == {"Popular this week"}


def test_a_repeated_item_has_only_that_reason(index, tables):
    shown, lists = index.find_ids(["i4", "i9"]), rare(ranking_world.lists_of(tables, [4, 9]))
    explanations = explain_items(
        index, shown, ["item_knn", "repeat"], lists, recent_events=recent(4, kind="purchase")
    )
    assert explanations == [
        Reason("again", "You bought it before"),
        Reason("again", "You chose it before"),
    ]
    two_events = dataclasses.replace(
        recent(4, 4), type=np.array([hash64("purchase"), hash64("cart")], np.uint64)
    )
    assert (
        explain_items(index, shown[:1], ["popular"], lists, recent_events=two_events)[0].text
        == "You bought it before"
    )


def test_the_strongest_of_several_recent_items_is_named(index, tables):
    past, shown = [4, 9, 30], index.find_ids(["i1", "i2", "i3"])
    pull = np.zeros((3, 3))
    for row, item in enumerate(past):
        neighbours = tables.neighbours(ranking_world.keys_of([item]))
        pull[row] = [neighbours.weights[neighbours.keys == key].sum() for key in index.keys[shown]]
    strongest = np.argmax(pull * np.array([[0.64], [0.8], [1.0]]), axis=0)
    assert pull.max(axis=0).all()
    explanations = explain_items(
        index,
        shown,
        ["item_knn"] * 3,
        rare(ranking_world.lists_of(tables, past)),
        recent_events=recent(*past),
    )
    assert [each.item_id for each in explanations] == [f"i{past[place]}" for place in strongest]


def test_without_a_past_the_source_gives_the_reason(index, tables):
    lists = ranking_world.lists_of(tables)
    rows = index.find_ids(["i0", "i1", "i2", "i3", "i4", "i5"])
    sources = ["popular:7d:category", "popular", "new_items", "search", "given", "popular"]
    explanations = explain_items(index, rows, sources, lists, query="warm", explored_positions=(6,))
    assert [each.code for each in explanations] == [
        "popular_in_category",
        "popular",
        "new",
        "search",
        "for_you",
        "explore",
    ]
    assert [each.text for each in explanations[:4]] == [
        "Popular in coats this week",
        "Popular this week",
        "New in shoes",
        "Matches “warm”",
    ]
    later = explain_items(
        index,
        rows,
        ["trending", "session_knn", "stan", "repeat", "popular:24h", "popular:24h:device"],
        lists,
    )
    assert [(each.code, each.item_id) for each in later] == [
        ("popular", ""),
        ("related", ""),
        ("related", ""),
        ("again", ""),
        ("popular", ""),
        ("popular", ""),
    ]
    assert [later[at].text for at in (0, 4, 5)] == [
        "Popular right now",
        "Popular today",
        "Popular today",
    ], "of a device that is not known"
    assert {each.code for each in (*explanations, *later)} <= set(REASON_CODES)


def test_nothing_shown_needs_no_reason(index, tables):
    assert (
        explain_items(
            index,
            np.zeros(0, np.intp),
            [],
            ranking_world.lists_of(tables, [1]),
            recent_events=recent(1),
        )
        == []
    )
