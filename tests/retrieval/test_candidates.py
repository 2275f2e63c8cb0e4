"""Sources merged: each item once, owned by the first source that had it, with what each contributed."""

import numpy as np
import pytest
from tests.retrieval import shop

from tailorbird.ranking import slot
from tailorbird.retrieval import SOURCES, candidates


def test_the_first_source_owns_what_several_found(index):
    found = candidates(index, {"item_to_item": 10, "popular": 3, "fresh": 2}, recent=shop.keys("coat"))
    assert shop.ids(index, found.rows) == ["parka", "coat", "hat", "gift"]
    assert found.source_names() == ["item_to_item", "popular", "popular", "fresh"]
    assert found.contributed == {"item_to_item": 1, "popular": 2, "fresh": 1}
    bits = [{name for code, name in enumerate(SOURCES) if also >> code & 1} for also in found.also.tolist()]
    assert bits == [{"item_to_item", "popular"}, {"popular"}, {"popular", "fresh"}, {"fresh"}]


def test_the_category_asked_for_else_the_favourite_one(index):
    asked = candidates(index, {"popular_in_category": 5}, category="hats", recent=shop.keys("coat"))
    assert shop.ids(index, asked.rows) == ["hat", "cap"]
    favourite = candidates(index, {"popular_in_category": 5}, recent=shop.keys("hat", "coat", "parka"))
    assert shop.ids(index, favourite.rows) == ["coat", "parka"]
    assert candidates(index, {"popular_in_category": 5}).rows.size == 0


def test_search_needs_a_query(index):
    assert shop.ids(index, candidates(index, {"search": 5}, query="rain coat").rows) == ["coat", "parka"]
    assert candidates(index, {"search": 5}).rows.size == 0


def test_given_items_come_first_and_stay(index):
    given = index.find_ids(["gift", "coat"])
    found = candidates(index, {"popular": 2}, given=given)
    assert shop.ids(index, found.rows) == ["gift", "coat", "parka"]
    assert found.contributed == {"given": 2, "popular": 1}


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
