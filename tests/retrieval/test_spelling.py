"""Typing errors in a query of several words: the mistyped one finds what was meant, below what was
typed, and nothing else changes.
"""

import numpy as np
import pytest
from tests.support.shops import retrieval_shop

from tailorbird.retrieval import Index, NewItem, build_index, with_items
from tailorbird.retrieval.text import TextIndex

TITLES = [
    *[f"wireless mouse {n}" for n in range(8)],
    *[f"wireless keyboard {n}" for n in range(60)],
    "wireless keybord",
    "black mouse x1234",
]


@pytest.fixture(scope="module")
def index():
    return TextIndex.from_documents(
        {"title": TITLES, "text": ["scart" if n == 3 else "" for n in range(len(TITLES))]}
    )


def titles_of(index, query, limit=5):
    return [TITLES[row] for row in index.search(query, limit)[0].tolist()]


@pytest.mark.parametrize(
    "query",
    ["wireless mouze", "wireless muose", "wireless mose", "wireless mousee", "WIRELESS Mouze"],
)
def test_one_mistyped_word_is_corrected_although_the_others_match(index, query):
    assert titles_of(index, query) == titles_of(index, "wireless mouse")
    assert all("mouse" in title for title in titles_of(index, query))


def test_a_rare_word_is_corrected_too_but_ranks_first(index):
    titles = titles_of(index, "wireless keybord")
    assert titles[0] == "wireless keybord"
    assert all("keyboard" in title for title in titles[1:])


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("wireless x1235", "a part number"),
        ("wireless mou", "short"),
        ("wireless scart", "in some text"),
        ("wireless qwertz", "no neighbour"),
        ("wireless mouse keyboards", "stems"),
    ],
)
def test_what_is_no_error_stays(index, query, why):
    typed = index.search(query, 100, (), ())
    for place, part in enumerate(index.search(query, 100)):
        assert np.array_equal(part, typed[place]), why


def test_a_word_of_an_added_item_is_no_error(tmp_path):
    build_index(
        tmp_path / "index",
        retrieval_shop.make_events_table(),
        retrieval_shop.make_items_table(),
        as_of=retrieval_shop.AS_OF,
    )
    built = Index.open(tmp_path / "index")
    assert "hat" in retrieval_shop.item_ids_at(built, built.search("rain gift cap belt", 9).rows), (
        "felt was meant"
    )
    later = with_items(built, [NewItem("belt", {"title": "Leather belt"}, retrieval_shop.AS_OF)])
    assert sorted(
        retrieval_shop.item_ids_at(later, later.search("rain gift cap belt", 9).rows)
    ) == ["belt", "cap", "coat", "gift", "parka"]


def test_a_word_of_a_letter_or_two_is_no_error_of_another():
    index = TextIndex.from_documents({"title": ["A lamp of oak", "Hat 7"]})
    for query in ("x", "ß", "8", "0.5", "if"):
        assert index.search(query, 5)[0].size == 0
    assert index.search("7", 5)[0].tolist() == [1]
    assert index.search("x lump", 5)[0].tolist() == [0]
