"""Sources merged: each item once, owned by the first source that had it, with what each contributed."""

import numpy as np
import pytest
from tests.retrieval import shop

from tailorbird.ranking import slot
from tailorbird.retrieval import SOURCES, candidates


def test_the_first_source_owns_what_several_found(index):
    found = candidates(index, {"item_to_item": 1, "popular": 2, "fresh": 2}, recent=shop.keys("coat"))
    assert shop.ids(index, found.rows) == ["parka", "coat", "hat", "gift", "unlisted"]
    assert found.source_names() == ["item_to_item", "popular", "popular", "fresh", "fresh"]
    assert found.contributed == {"item_to_item": 1, "popular": 2, "fresh": 2}
    bits = [{name for code, name in enumerate(SOURCES) if also >> code & 1} for also in found.also.tolist()]
    assert bits == [{"item_to_item", "popular", "fresh"}, {"popular"}, {"popular", "fresh"}, {"fresh"}, {"fresh"}]


def test_a_source_adds_as_many_as_it_may_whatever_others_had(index):
    found = candidates(index, {"popular": 1, "popular_in_category": 1}, recent=shop.keys("coat"))
    assert shop.ids(index, found.rows) == ["coat", "parka"]  # the coat is the best of its category too, and was there
    assert found.contributed == {"popular": 1, "popular_in_category": 1}


def test_what_a_source_lacks_the_next_gives(index):
    found = candidates(index, {"item_to_item": 4, "popular": 1}, recent=shop.keys("coat"))
    assert found.contributed == {"item_to_item": 1, "popular": 4}
    assert len(found.rows) == 5
    assert candidates(index, {"item_to_item": 4, "popular": 0}, recent=shop.keys("coat")).contributed == {"item_to_item": 1, "popular": 3}


def test_the_category_asked_for_else_those_of_the_person(index):
    asked = candidates(index, {"popular_in_category": 5}, category="hats", recent=shop.keys("coat"))
    assert shop.ids(index, asked.rows) == ["hat", "cap"]
    theirs = candidates(index, {"popular_in_category": 5}, recent=shop.keys("hat", "coat", "parka"))
    assert shop.ids(index, theirs.rows) == ["coat", "parka", "hat", "cap"]  # two of three were coats: 1.95, 0.98, 0.90, 0.45
    assert candidates(index, {"popular_in_category": 5}).rows.size == 0


def test_categories_are_those_of_all_that_was_before_the_person(index):
    around = shop.keys("coat", "hat")
    found = candidates(index, {"popular_in_category": 9, "own_history": 9}, recent=shop.keys("hat"), around=around)
    assert shop.ids(index, found.rows) == ["hat", "coat", "cap", "parka"]  # 1, 0.95, 0.5, 0.475
    assert found.contributed == {"popular_in_category": 4, "own_history": 0}


def test_what_the_person_had_newest_first(index):
    had = shop.keys("hat", "coat", "nowhere", "hat", "gift")
    assert shop.ids(index, candidates(index, {"own_history": 9}, recent=had).rows) == ["gift", "hat", "coat"]
    assert shop.ids(index, candidates(index, {"own_history": 1}, recent=had).rows) == ["gift"]
    assert candidates(index, {"own_history": 9}).rows.size == 0
    view = index.only(~np.isin(np.arange(len(index)), index.find_ids(["gift"])))
    assert shop.ids(view, candidates(view, {"own_history": 9}, recent=had).rows) == ["hat", "coat"]


def test_search_needs_a_query(index):
    assert shop.ids(index, candidates(index, {"search": 5}, query="rain coat").rows) == ["coat", "parka"]
    assert candidates(index, {"search": 5}).rows.size == 0


def test_given_items_come_first_and_stay(index):
    given = index.find_ids(["gift", "coat"])
    found = candidates(index, {"popular": 2}, given=given)
    assert shop.ids(index, found.rows) == ["gift", "coat", "parka", "hat"]
    assert found.contributed == {"given": 2, "popular": 2}


def test_no_sources_give_no_candidates(index):
    found = candidates(index, {})
    assert found.rows.size == found.source.size == 0
    assert candidates(index, {"popular": 0, "fresh": 0}).rows.size == 0


def test_some_of_them(index):
    found = candidates(index, {"popular": 4})
    kept = found.take(np.array([True, False, True, False]))
    assert shop.ids(index, kept.rows) == ["coat", "hat"]
    assert kept.contributed == {"popular": 4}


@pytest.mark.parametrize("source", slot.SOURCES)
def test_every_source_that_a_slot_may_declare_has_a_code(source):
    assert source in SOURCES
