"""The index on a small shop: matches, and items that are added later."""

import numpy as np
import pyarrow as pa
import pytest
from tests.support.shops import retrieval_shop

from tailorbird.errors import BundleError
from tailorbird.events import DAY, HOUR, hash64s
from tailorbird.retrieval import Index, NewItem, TextColumn, build_index, with_items
from tailorbird.retrieval.columns import ATTRIBUTES_MAX, build_column, build_columns, extend_column

ALL = {"coat", "parka", "hat", "cap", "gift", "unlisted"}


def test_items_are_those_with_a_profile_or_an_event(index):
    assert set(index.ids) == ALL
    np.testing.assert_array_equal(index.keys, hash64s(index.ids))
    assert index.find_ids(["nothing"]).tolist() == [-1]
    assert retrieval_shop.item_ids_at(index, index.find_ids(["hat", "coat"])) == ["hat", "coat"]
    assert index.as_of == retrieval_shop.AS_OF


def test_attributes_keep_their_kinds(index):
    def of(name, item):
        row = index.find_ids([item])[0]
        column = index.attributes[name]
        return column.text(row) if isinstance(column, TextColumn) else column[row]

    assert of("price", "parka") == 120.5
    assert of("category", "hat") == "hats"
    assert of("tags", "coat") == "warm|red"
    assert of("brand", "hat") == ""
    assert np.isnan(of("stock", "hat"))
    assert index.title(index.find_ids(["coat"])[0]) == "Rain coat"
    assert index.title(index.find_ids(["unlisted"])[0]) == "unlisted"


def test_bots_late_events_impressions_and_the_future_make_no_item(tmp_path):
    rows = [
        (person, f"{item}-{person}", *more)
        for person, item, *more in retrieval_shop.EVENTS
        if item == "gift"
    ]
    assert {item for _, item, *_ in rows} == {"gift-robot", "gift-late", "gift-w", "gift-future"}
    build_index(
        tmp_path / "index",
        retrieval_shop.make_events_table([*retrieval_shop.EVENTS, *rows]),
        retrieval_shop.make_items_table(),
        as_of=retrieval_shop.AS_OF,
    )
    assert set(Index.open(tmp_path / "index").ids) == ALL


def test_first_seen_is_the_first_dated_version_or_event(tmp_path, index):
    first_seen = dict(zip(index.ids, index.first_seen.tolist(), strict=True))
    # The hat is timeless: its first event dates it. The unlisted item came with its event, as old
    # as the parka's and the cap's.
    assert first_seen["hat"] == retrieval_shop.AS_OF - 5 * HOUR
    assert (first_seen["coat"], first_seen["gift"]) == (
        retrieval_shop.T0,
        retrieval_shop.T0 + 9 * DAY,
    )
    assert (
        first_seen["parka"]
        == first_seen["cap"]
        == first_seen["unlisted"]
        == retrieval_shop.T0 + DAY
    )
    build_index(
        tmp_path / "index",
        retrieval_shop.make_events_table().slice(0, 0),
        retrieval_shop.make_items_table(),
        as_of=retrieval_shop.AS_OF,
    )
    quiet = Index.open(tmp_path / "index")
    assert quiet.first_seen[quiet.find_ids(["hat"])[0]] == 0, (
        "there from the beginning, for all that is known"
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("rain coat", ["coat", "parka"]),
        ("RAIN AND coats", ["coat", "parka"]),
        ("hats", ["hat", "cap"]),
        ("parkka", ["parka"]),
        ("wniter", ["parka"]),
        ("nord", ["coat"]),
        ("warm", ["coat"]),
        ('"(', []),
        ("title:coat^", None),
        ("", []),
        ("zzzz", []),
        ("a" * 10_000, []),
        ("* NOT (( ] [ TO", []),
    ],
)
def test_search_by_words_as_people_type_them(index, query, expected):
    matches = retrieval_shop.item_ids_at(index, index.search(query, 10).rows)
    if expected is not None:
        assert set(matches) == set(expected)
        assert matches[:1] == expected[:1]
    assert (np.diff(index.search(query, 10).scores) <= 0).all()


def test_a_later_version_replaces_attributes_and_a_future_one_does_not(tmp_path):
    versions = [
        ("coat", retrieval_shop.T0 + 2 * DAY, {"title": "Storm coat", "price": 60}),
        ("coat", retrieval_shop.AS_OF, {"title": "Never"}),
    ]
    build_index(
        tmp_path / "index",
        retrieval_shop.make_events_table(),
        retrieval_shop.make_items_table(versions),
        as_of=retrieval_shop.AS_OF,
    )
    index = Index.open(tmp_path / "index")
    row = index.find_ids(["coat"])[0]
    assert index.title(row) == "Storm coat"
    assert index.first_seen[row] == retrieval_shop.T0
    assert index.attributes["price"][row] == 60


def test_the_order_of_the_events_does_not_matter(tmp_path, index):
    shuffled = retrieval_shop.make_events_table().take(
        np.random.default_rng(0).permutation(len(retrieval_shop.EVENTS))
    )
    build_index(
        tmp_path / "index", shuffled, retrieval_shop.make_items_table(), as_of=retrieval_shop.AS_OF
    )
    again = Index.open(tmp_path / "index")
    assert again.ids == index.ids
    np.testing.assert_array_equal(again.first_seen, index.first_seen)


def test_without_items_without_events_and_without_either(tmp_path):
    no_items, no_events = (
        retrieval_shop.make_items_table().slice(0, 0),
        retrieval_shop.make_events_table().slice(0, 0),
    )
    build_index(
        tmp_path / "events",
        retrieval_shop.make_events_table(),
        no_items,
        as_of=retrieval_shop.AS_OF,
    )
    only_events = Index.open(tmp_path / "events")
    assert set(only_events.ids) == ALL - {"gift"}
    assert only_events.category.code("coats") < 0
    assert only_events.search("coat", 3).rows.size == 0
    build_index(
        tmp_path / "items", no_events, retrieval_shop.make_items_table(), as_of=retrieval_shop.AS_OF
    )
    only_items = Index.open(tmp_path / "items")
    assert len(only_items) == 5
    assert retrieval_shop.item_ids_at(only_items, only_items.search("rain coat", 3).rows) == [
        "coat",
        "parka",
    ]
    build_index(tmp_path / "nothing", no_events, no_items, as_of=retrieval_shop.AS_OF)
    nothing = Index.open(tmp_path / "nothing")
    assert len(nothing) == 0
    assert nothing.search("x", 3).rows.size == 0
    assert nothing.find_ids(["coat"]).tolist() == [-1]
    more = with_items(
        nothing, [NewItem("first", {"title": "First thing", "price": 3}, retrieval_shop.AS_OF)]
    )
    assert retrieval_shop.item_ids_at(more, more.search("thing", 3).rows) == ["first"]


def test_an_added_item_matches_by_id_words_and_attributes(index):
    later = with_items(
        index,
        [
            NewItem(
                "scarf",
                {"title": "Wool scarf", "category": "scarves", "price": 30, "eco": True},
                retrieval_shop.AS_OF + HOUR,
            )
        ],
    )
    assert len(later) == len(index) + 1
    assert retrieval_shop.item_ids_at(later, later.search("wool", 5).rows) == ["scarf"]
    assert retrieval_shop.item_ids_at(later, later.search("rain coat", 1).rows) == ["coat"]
    row = later.find_ids(["scarf"])[0]
    assert (later.category.text(row), later.first_seen[row]) == (
        "scarves",
        retrieval_shop.AS_OF + HOUR,
    )
    assert later.attributes["price"][row] == 30
    assert later.attributes["eco"][row] == 1
    assert np.isnan(later.attributes["eco"][0])
    assert "scarf" not in index.ids


def test_a_boolean_attribute_stays_boolean_while_all_values_are(tmp_path):
    versions = [
        ("hat", retrieval_shop.AS_OF - 1, {"eco": True, "stock": 1}),
        ("cap", retrieval_shop.AS_OF - 1, {"eco": False, "sale": True, "stock": 0}),
    ]
    build_index(
        tmp_path / "index",
        retrieval_shop.make_events_table(),
        retrieval_shop.make_items_table(
            [*versions, ("gift", retrieval_shop.AS_OF - 1, {"sale": 1})]
        ),
        as_of=retrieval_shop.AS_OF,
    )
    built = Index.open(tmp_path / "index")
    assert built.boolean_names == {"eco"}
    later = with_items(built, [NewItem("scarf", {"eco": None, "new": True, "stock": False}, 1)])
    assert later.boolean_names == {"eco", "new"}
    assert with_items(later, [NewItem("scarf", {"eco": 1}, 1)]).boolean_names == {"new"}


def test_an_item_that_changed_has_its_new_attributes(index):
    later = with_items(
        index,
        [
            NewItem(
                "coat",
                PROFILE := {"title": "Rain coat", "category": "sale", "price": 40, "stock": 0},
                0,
            )
        ],
    )
    row = later.find_ids(["coat"])[0]
    assert (later.attributes["price"][row], later.category.text(row), later.title(row)) == (
        40,
        "sale",
        PROFILE["title"],
    )
    assert later.first_seen[row] == retrieval_shop.T0
    twice = with_items(later, [NewItem("x1", {}, 1), NewItem("x2", {"title": "Second"}, 2)])
    twice = with_items(twice, [NewItem("x3", {"title": "Third"}, 3)])
    assert retrieval_shop.item_ids_at(twice, twice.search("second", 1).rows) == ["x2"]
    assert retrieval_shop.item_ids_at(twice, twice.search("third", 1).rows) == ["x3"]


def test_a_damaged_index_is_refused_with_a_sentence(tmp_path):
    build_index(
        tmp_path / "index",
        retrieval_shop.make_events_table(),
        retrieval_shop.make_items_table(),
        as_of=retrieval_shop.AS_OF,
    )
    files = {
        path.relative_to(tmp_path / "index").as_posix(): path.read_bytes()
        for path in (tmp_path / "index").rglob("*")
        if path.is_file()
    }
    for name in ("meta.json", "items.arrow", "clusters.npy", "clusters_at.npy"):
        for content in (None, b"", files[name][: len(files[name]) // 2]):
            broken = {key: data for key, data in files.items() if key != name} | (
                {} if content is None else {name: content}
            )
            with pytest.raises(BundleError):
                Index.load(broken)
    with pytest.raises(BundleError, match="format 1, expected 2"):
        Index.load(files | {"meta.json": b'{"format":1,"as_of":0}'})
    texts = {key: b"" for key in files if key.startswith("text/")}
    with pytest.raises(BundleError):
        Index.load(files | texts)


def test_columns_of_mixed_values():
    mixed = build_column([1, "two", None, 3.0])
    assert [mixed.text(row) for row in range(4)] == ["1", "two", "", "3"]
    numbers = build_column([True, None, 2.5])
    np.testing.assert_array_equal(numbers, [1.0, np.nan, 2.5])
    np.testing.assert_array_equal(
        extend_column(numbers, 3, {1: 7, 4: "text"}, 5), [1, 7, 2.5, np.nan, np.nan]
    )
    assert [extend_column(mixed, 4, {0: "zero", 4: "two"}, 5).text(row) for row in range(5)] == [
        "zero",
        "two",
        "",
        "3",
        "two",
    ]
    assert build_column([None, None]).codes.tolist() == [-1, -1]


def test_one_bad_row_makes_no_text_of_a_number(caplog):
    """A rule such as item.stock > 0 would hide all items from the next training on."""
    stocks = build_columns(
        [{"stock": float(n), "size": n if n % 3 else "M"} for n in range(30)]
        + [{"stock": "n/a"}, {}]
    )
    np.testing.assert_array_equal(stocks["stock"], [*range(30), np.nan, np.nan])
    assert "attribute stock is a number, and 1 items have a text there" in caplog.text
    assert stocks["size"].text(0) == "M"


def test_made_up_attribute_names_do_not_become_unlimited_columns(index, caplog):
    made_up = [{f"junk{item}_{n}": n for n in range(20)} for item in range(30)]
    columns = build_columns(
        [{"title": f"Item {n}", "price": n, **junk} for n, junk in enumerate(made_up)]
    )
    assert len(columns) == ATTRIBUTES_MAX
    assert {"title", "price"} <= columns.keys()
    assert (
        "602 attributes, and 300 are kept: 302 that few have are left out, such as 'junk"
        in caplog.text
    )

    later = with_items(
        index,
        [
            NewItem(f"n{n}", {"price": n, "colour": "red", **junk}, 1)
            for n, junk in enumerate(made_up)
        ],
    )
    assert len(later.attributes) == ATTRIBUTES_MAX
    assert {*index.attributes, "colour"} <= later.attributes.keys()
    assert later.attributes["price"][later.find_ids(["n7"])[0]] == 7


def test_a_column_that_grew_knows_old_and_new_texts():
    column = build_column(["red", "blue", None])
    same = extend_column(column, 3, {0: "blue"}, 3)
    more = extend_column(column, 3, {2: "green"}, 4)
    assert [same.text(row) for row in range(3)] == ["blue", "blue", ""]
    assert [more.text(row) for row in range(4)] == ["red", "blue", "green", ""]
    assert (column.code("green"), same.code("green"), more.code("green")) == (-2, -2, 2)


def test_an_event_table_with_chunks_and_dictionaries(tmp_path):
    table = retrieval_shop.make_events_table()
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    coded = chunked.set_column(
        chunked.column_names.index("item_id"), "item_id", chunked["item_id"].dictionary_encode()
    )
    build_index(
        tmp_path / "index", coded, retrieval_shop.make_items_table(), as_of=retrieval_shop.AS_OF
    )
    assert set(Index.open(tmp_path / "index").ids) == ALL
