"""Columns: which rows a source takes out of a block, with which value."""

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events.keys import combine_keys, hash64
from tailorbird.features import FeatureSet, count, entity, last, sequence, total
from tailorbird.features.event_columns.columns import Frame, entity_key
from tailorbird.features.event_columns.extracts import extract, extract_profiles
from tailorbird.features.event_columns.fields import TextHashCache, text_keys
from tailorbird.features.layout.sources import source_of
from tailorbird.features.online.apply import HOT_KEYS_OF_ONE_ROW, HotKeys
from tailorbird.features.state.tiles import NEVER_TS

user, item, category = entity("user"), entity("item"), entity("item.category")


def taken(kit, feature, *events):
    return extract(source_of(feature), Frame(kit.table(kit.routed(events))))


def shown(kit, type: str, **columns):
    return kit.event(type, kit.T0, user_id="u1", items=["i1", "i2", "i3"], **columns)


@pytest.mark.parametrize(
    ("about", "type", "rows"),
    [
        (item, "impression", 3),
        (user, "impression", 3),
        (user, "answer", 3),
        (item, "purchase", 3),
        (user, "purchase", 1),
        (entity(), "purchase", 1),
    ],
)
def test_what_was_shown_counts_for_each_item_and_other_events_only_where_it_is_about_items(
    kit, about, type, rows
):
    assert len(taken(kit, count("n", about, type), shown(kit, type, price=9.0))) == rows


def test_a_purchase_of_several_items_is_spent_once_and_stands_in_a_sequence_for_each(kit):
    assert taken(
        kit, total("s", user, "purchase", of="price"), shown(kit, "purchase", price=9.0)
    ).value.tolist() == [900]
    in_sequence = taken(kit, sequence("r", user, "purchase"), shown(kit, "purchase"))
    assert in_sequence.item.tolist() == [hash64(one) for one in ("i1", "i2", "i3")]
    assert np.diff(in_sequence.id).tolist() == [
        1,
        1,
    ]  # in the order in which they stand in the event


def test_an_event_with_an_item_of_its_own_counts_for_that(kit):
    extract = taken(kit, count("n", item, "impression"), shown(kit, "impression", item_id="i9"))
    assert extract.key.tolist() == [hash64("i9")]


def test_profiles_of_shown_items_are_in_a_parallel_list(kit):
    extract = taken(
        kit,
        count("n", category, "impression"),
        shown(kit, "impression", item_profile='[{"category":"c1"},null,{"category":["c2"]}]'),
    )
    assert extract.key.tolist() == [hash64("c1"), hash64("c2")]
    shorter = taken(
        kit,
        count("n", category, "impression"),
        shown(kit, "impression", item_profile='[{"category":"c1"}]'),
    )
    assert shorter.key.tolist() == [hash64("c1")]


def test_what_does_not_count_or_has_no_time_is_left_out(kit):
    events = (
        kit.event("click", kit.T0, item_id="i1", counts=False),
        kit.event("item", 0, item_id="i1", timeless=True),
    )
    assert len(taken(kit, count("n", item, ["click", "item"]), *events)) == 0


def test_events_without_the_value_are_left_out(kit):
    profiles = (None, "{}", '{"category":5}')
    clicks = [
        kit.event("click", kit.T0 + n, item_id="i1", user_id="u1", item_profile=profile)
        for n, profile in enumerate(profiles)
    ]
    assert taken(
        kit, last("l", user, "click", of="item.category", kind="categorical"), *clicks
    ).value.view(np.uint64).tolist() == [hash64("5")]


def test_keys_of_composites_differ_by_name_and_order(kit):
    one, other = np.array([1], np.uint64), np.array([2], np.uint64)
    keys = [
        entity_key(user, [one]),
        entity_key(entity("user", "item"), [one, other]),
        entity_key(entity("item", "user"), [one, other]),
        entity_key(entity("user", "session"), [one, other]),
        entity_key(entity("item", "user"), [other, one]),
    ]
    assert keys[0] == 1
    assert len({int(key[0]) for key in keys}) == 5
    assert keys[1] == combine_keys(np.array(hash64("user+item"), np.uint64), one, other)


def test_profiles_are_taken_with_their_attributes(kit):
    table = kit.table(
        kit.routed(
            [
                kit.event(
                    "item",
                    0,
                    item_id="i1",
                    properties='{"price": 3, "category": true}',
                    timeless=True,
                )
            ]
        )
    )
    profiles = extract_profiles(
        "item",
        (("category", "categorical"), ("price", "numeric"), ("stock", "numeric")),
        Frame(table),
    )
    assert profiles.key.tolist() == [hash64("i1")]
    assert profiles.values[:, 0].view(np.uint64).tolist() == [hash64("true")]
    np.testing.assert_array_equal(profiles.values[0, 1:].view(np.float64), [3, np.nan])


def test_a_block_without_events_gives_nothing(kit):
    frame = Frame(kit.table([]))
    for feature in kit.every_kind().features:
        if hasattr(feature, "types") and hasattr(feature, "entity"):
            assert len(extract(source_of(feature), frame)) == 0
    assert len(extract_profiles("item", (("price", "numeric"),), frame).key) == 0


def test_attributes_of_expressions_and_entities_are_stored_with_each_event():
    features = FeatureSet.from_declarations(
        [
            count(
                "a",
                entity("user", "item.category"),
                "click",
                where="user.plan == 'paid' and item.stock > 0",
            )
        ]
    )
    assert features.item_attributes == ("category", "stock")
    assert features.user_attributes == ("plan",)


def test_a_query_is_the_same_however_it_is_typed_and_is_that_of_the_answer_where_the_event_has_none(
    kit,
):
    typed = [
        ("Red  Shoes", None),
        (None, "red shoes "),
        ("ＲＥＤ shoes", "boots"),
        (" ", "RED SHOES"),
        (None, None),
        ("", " "),
    ]
    events = [
        kit.event(
            "click", kit.T0 + row, item_id="i1", user_id="u1", query=own, answer_query=answered
        )
        for row, (own, answered) in enumerate(typed)
    ]
    key, has = Frame(kit.table(kit.routed(events))).key(entity("query"))
    assert has.tolist() == [True, True, True, True, False, False]
    assert set(key[has].tolist()) == {kit.key("red shoes")}


def test_recurring_texts_have_the_same_keys_however_small_the_cache():
    columns = [["a", "b", None, "a"], ["b", "c"], ["d", "e", "f"], ["a", "f", None]]
    for size_max in (2, 3, 100):
        cache = TextHashCache(size_max)
        for column in columns:
            array = pa.chunked_array([pa.array(column, pa.string())])
            np.testing.assert_array_equal(cache(array), text_keys(array))


def test_a_reading_that_was_noted_again_is_due_when_it_was_noted_last():
    hot = HotKeys(HOT_KEYS_OF_ONE_ROW)
    keys = np.array([1, 2, 3], np.uint64)
    hot.record(keys, np.array([10, 20, NEVER_TS]))
    hot.record(keys[:1], np.array([30]))
    hot.record(keys[1:2], np.array([NEVER_TS]))
    assert hot.pop_due(20).tolist() == []
    hot.record(keys[2:], np.array([25]))
    assert hot.pop_due(30).tolist() == [1, 3]
    assert hot.pop_due(1_000).tolist() == []
    many = np.arange(5 * HOT_KEYS_OF_ONE_ROW, dtype=np.uint64)
    for some in np.array_split(many, 7):
        hot.record(some, some.astype(np.int64))
    assert (
        hot.pop_due(10 * HOT_KEYS_OF_ONE_ROW).tolist() == many[-HOT_KEYS_OF_ONE_ROW:].tolist()
    )  # those of longest ago are renewed when they are read
