"""Explanations: a value and exactly the events that made it; without them it would be another."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tailorbird.events import SECOND
from tailorbird.features import FeatureSet, ReadRequest, count, entity, share
from tailorbird.features.explain import explain


def test_a_count_names_the_events_within_its_window(kit):
    events = kit.routed(
        [
            kit.event("click", kit.T0, item_id="i1", user_id="u1"),
            kit.event("click", kit.T0 + 40 * SECOND, item_id="i1", user_id="u2"),
            kit.event("click", kit.T0 + 41 * SECOND, item_id="i1", user_id="u2", agent="bot"),
            kit.event("click", kit.T0 + 42 * SECOND, item_id="i2", user_id="u2"),
        ]
    )
    explanation = explain(
        kit.every_kind(),
        "clicks_1m",
        ReadRequest(person="u1"),
        "i1",
        kit.T0 + 70 * SECOND,
        9,
        events,
    )
    assert (explanation.value, [event["p"] for event in explanation.events]) == (1.0, [2])


def test_a_derived_column_shows_what_it_read(kit):
    events = kit.routed(
        [kit.event("purchase", kit.T0, item_id="i1", user_id="u1", price=20.0, quantity=2)]
    )
    explanation = explain(
        kit.every_kind(), "habit", ReadRequest(person="u1"), "i1", kit.T0 + 1, 9, events
    )
    assert [read.name for read in explanation.inputs] == [
        "age",
        "clicks_2m",
        "price_mean",
        "spend",
        "stock",
    ]
    assert {read.name: read.value for read in explanation.inputs}["spend"] == 40.0


def test_what_a_missing_value_lacks_is_reported(kit):
    by_hour = share(
        "by_hour", entity("user", "local_hour"), "click", within=entity("user"), window="1d"
    )
    features = FeatureSet.from_declarations(
        [by_hour, count("of_category", entity("item.category"), "click")]
    )
    events = kit.routed([kit.event("click", kit.T0, item_id="i1", user_id="u1", local_hour=9)])

    def lacks(name, hour):
        explanation = explain(
            features, name, ReadRequest(person="u1", local_hour=hour), "i1", kit.T0 + 1, 9, events
        )
        return (
            explanation.value == explanation.value,
            explanation.entity_fields,
            explanation.missing_fields,
        )

    assert lacks("by_hour", None) == (False, ("user", "local_hour"), ("local_hour",))
    assert lacks("by_hour", 9) == (True, ("user", "local_hour"), ())
    assert lacks("of_category", 9) == (False, ("item.category",), ("item.category",))


def test_an_unknown_column_is_refused(kit):
    with pytest.raises(KeyError):
        explain(kit.every_kind(), "nothing", ReadRequest(), None, kit.T0, 1, [])


@settings(max_examples=15, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(data=st.data())
def test_the_named_events_alone_give_the_same_value(kit, data):
    features = kit.every_kind()
    events = kit.routed(data.draw(st.lists(kit.events(), min_size=10, max_size=30)))
    request = ReadRequest(
        person="u1",
        session_id=data.draw(st.sampled_from([None, "s1"])),
        device="phone",
        local_hour=3,
    )
    profiles = [event for event in events if event["type"] in ("item", "user")]
    t = kit.T0 + 60 * SECOND
    for name in (*features.numeric, *features.categorical, *features.sequences):
        explanation = explain(features, name, request, "i1", t, len(events), events)
        if not explanation.inputs and not name.startswith("session"):
            alone = [*(event for event in explanation.events if event not in profiles), *profiles]
            again = explain(features, name, request, "i1", t, len(events), alone)
            assert again.value == explanation.value or again.value != again.value
