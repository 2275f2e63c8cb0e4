"""Texts of items that came or changed after an index was built: found as if it had been built with
them, whatever else fails.
"""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.shops import retrieval_shop

from tailorbird.errors import BundleError
from tailorbird.events import HOUR
from tailorbird.retrieval import Index, NewItem, build_index, with_items
from tailorbird.retrieval.synonyms import Synonyms
from tailorbird.retrieval.text import TextIndex, write_text_index

WORDS = (
    "wool",
    "rain",
    "coat",
    "coats",
    "winter",
    "red",
    "keyboard",
    "keybord",
    "mouse",
    "nord",
    "x12",
)
QUERIES = (
    "rain coat",
    "wool",
    "red winter coat",
    "keybord",
    "keyborad mouse",
    "muose",
    "nord x12",
    "x21",
    "jacket",
    "winter",
)
TEXT = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
DOCUMENT = st.fixed_dictionaries(
    {"title": TEXT, "category": st.sampled_from(("coats", "mice", "")), "brand": TEXT, "text": TEXT}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("later")
    build_index(
        folder / "index",
        retrieval_shop.make_events_table(),
        retrieval_shop.make_items_table(),
        as_of=retrieval_shop.AS_OF,
    )
    return folder / "index"


def by_field(documents):
    return {
        name: [each[name] for each in documents] for name in ("title", "category", "brand", "text")
    }


def built_of(folder: Path, documents) -> TextIndex:
    write_text_index(folder, by_field(documents))
    return TextIndex.load({path.name: path.read_bytes() for path in folder.iterdir()})


@settings(max_examples=12)
@given(before=st.lists(DOCUMENT, max_size=30), later=st.lists(DOCUMENT, min_size=1, max_size=60))
def test_added_items_score_as_in_a_rebuilt_index(tmp_path_factory, before, later):
    folder = tmp_path_factory.mktemp("texts")
    rebuilt = built_of(folder / "whole", before + later)
    grown = built_of(folder / "before", before).with_documents(
        np.arange(len(before), len(before) + len(later)), by_field(later)
    )
    synonyms = Synonyms.from_groups([["jacket", "coat"]])
    for query in QUERIES:
        expected, actual = (
            index.search(query, 100, synonyms.phrases_for(query)) for index in (rebuilt, grown)
        )
        assert sorted(actual[0]) == sorted(expected[0])
        np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6)
        scores = dict(zip(*expected, strict=True))
        np.testing.assert_allclose(actual[1], [scores[row] for row in actual[0]], rtol=1e-6)


def test_many_new_items_that_share_a_word_rank_among_the_old_ones_that_have_it(tmp_path):
    """What is rare among the new ones alone is not what is rare."""
    old = [{"title": "linen shirt" if n < 4 else "cotton shirt"} for n in range(40)]
    index = built_of(
        tmp_path / "texts", [{"category": "", "brand": "", "text": "", **each} for each in old]
    )
    new = {"title": ["linen shirt", *["linen trousers"] * 20]}
    rows, scores = index.with_documents(np.arange(40, 61), new).search("linen shirt", 5)
    assert sorted(rows) == [0, 1, 2, 3, 40]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-6)


def test_an_item_matches_by_its_new_words_and_not_by_its_old_ones(folder):
    index = Index.open(folder)
    coat = {**retrieval_shop.PROFILES["coat"], "title": "Storm jacket", "category": "jackets"}
    later = with_items(
        index,
        [
            NewItem("coat", coat, 0),
            NewItem("scarf", {"title": "Rain scarf"}, retrieval_shop.AS_OF + HOUR),
        ],
    )
    assert retrieval_shop.item_ids_at(later, later.search("rain coat", 9).rows) == [
        "scarf",
        "parka",
    ]
    assert retrieval_shop.item_ids_at(later, later.search("rain coat", 2).rows) == [
        "scarf",
        "parka",
    ], "what was replaced takes no place"
    assert (
        retrieval_shop.item_ids_at(later, later.search("storm", 9).rows)
        == retrieval_shop.item_ids_at(later, later.search("strom", 9).rows)
        == ["coat"]
    )
    assert retrieval_shop.item_ids_at(later, later.search("nord", 9).rows) == ["coat"], (
        "a word that stays"
    )
    hidden = later.restrict(np.array([each != "coat" for each in later.ids]))
    assert retrieval_shop.item_ids_at(hidden, hidden.search("nord storm rain", 9).rows) == [
        "scarf",
        "parka",
    ]
    again = with_items(later, [NewItem("coat", retrieval_shop.PROFILES["coat"], 0)])
    assert retrieval_shop.item_ids_at(again, again.search("rain coat", 9).rows) == [
        "coat",
        "scarf",
        "parka",
    ]
    assert retrieval_shop.item_ids_at(again, again.search("storm", 9).rows) == []
    assert retrieval_shop.item_ids_at(index, index.search("storm jacket", 9).rows) == [], (
        "an index never changes"
    )


def test_where_no_text_changed_nothing_is_indexed_again(folder):
    index = Index.open(folder)
    scarf = NewItem("scarf", {"title": "Wool scarf", "price": 30}, retrieval_shop.AS_OF)
    later = with_items(index, [scarf])
    dearer = with_items(
        index,
        [scarf, NewItem("coat", {**retrieval_shop.PROFILES["coat"], "price": 99, "stock": 0}, 0)],
    )
    assert dearer.text is later.text
    assert (
        with_items(
            index, [NewItem("coat", {**retrieval_shop.PROFILES["coat"], "price": 99}, 0)]
        ).text
        is index.text
    )


def test_without_room_for_temporary_files_all_but_search_knows_what_is_new(
    folder, monkeypatch, caplog
):
    index = Index.open(folder)
    scarf = [NewItem("scarf", {"title": "Wool scarf"}, retrieval_shop.AS_OF + HOUR)]
    with monkeypatch.context() as broken:
        broken.setattr("tailorbird.retrieval.text.tempfile.mkdtemp", no_room)
        later = with_items(index, scarf)
    assert "search does not have new and changed items yet" in caplog.text
    assert later.title(int(later.find_ids(["scarf"])[0])) == "Wool scarf"
    assert retrieval_shop.item_ids_at(later, later.search("rain coat", 1).rows) == ["coat"]
    mended = with_items(index, scarf)
    assert retrieval_shop.item_ids_at(mended, mended.search("wool", 1).rows) == ["scarf"]


def test_where_no_folder_is_in_memory_a_temporary_one_does(folder, monkeypatch):
    monkeypatch.setattr("tailorbird.retrieval.text._MEMORY_FOLDER", "/nowhere")
    later = with_items(
        Index.open(folder), [NewItem("scarf", {"title": "Wool scarf"}, retrieval_shop.AS_OF + HOUR)]
    )
    assert retrieval_shop.item_ids_at(later, later.search("wool", 1).rows) == ["scarf"]


def no_room(**_):
    raise OSError(28, "No space left on device")


def test_a_damaged_text_index_under_later_items_ends_no_process(folder):
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    new_items = [
        NewItem("coat", {"title": "Storm jacket"}, 0),
        NewItem("scarf", {"title": "Rain scarf"}, 1),
    ]
    for name in sorted(name for name in files if name.startswith("text/")):
        for at in range(0, len(files[name]), max(1, len(files[name]) // 12)):
            data = bytearray(files[name])
            data[at] ^= 4
            try:
                later = with_items(Index.load(files | {name: bytes(data)}), new_items)
                later.search("rain coat storm jackte", 9)
            except BundleError:
                continue


@pytest.mark.slow
def test_files_of_an_index_are_closed_with_it(folder):
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    index = Index.open(folder)
    later = with_items(index, [NewItem("scarf", {"title": "Wool scarf"}, 1)])
    assert len(os.listdir("/dev/fd")) > before
    del index
    gc.collect()
    assert retrieval_shop.item_ids_at(later, later.search("wool", 1).rows) == ["scarf"]
    del later
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before
