"""Recipes of the docs, on a visit whose values you see at once: the stream's and the backfill's,
which the reference agrees with.
"""

from importlib.resources import as_file, files

import numpy as np
import pytest
from tests.support.drawn.events import ITEMS, START, Step
from tests.support.drawn.three_readings import find_differences, play_stream

from tailorbird.events.clock import HOUR, SECOND
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    attribute,
    context,
    derived,
    entity,
    favourite,
    load_features,
    mean,
    quantile,
    ratio,
    refinements,
    seen,
    session_length,
    share,
    total,
)

USER, ITEM, VISIT = entity("user"), entity("item"), entity("session")
MONDAY = 1_790_553_600 * SECOND  # midnight in UTC


def event(kind: str, after: int, item: str | None = None, **columns: object) -> dict:
    row = dict.fromkeys(ROUTED.names) | {
        "event_id": f"{kind}{after}",
        "type": kind,
        "ts": MONDAY + after * SECOND,
        "counts": True,
    }
    row |= {
        "timeless": False,
        "received_at": START,
        "user_id": "u1",
        "person": "u1",
        "session_id": "s1",
        "item_id": item,
        "local_hour": 2,
    }
    return row | columns


def read(tmp_path, declared: list, events: list[dict], **context: object) -> dict[str, list[float]]:
    """Column → its value for i1, i2 and i3, after all events, for u1 in session s1."""
    features = FeatureSet.from_declarations(declared)
    request = ReadRequest(
        **{"person": "u1", "session_id": "s1", "local_hour": 2, "now": MONDAY + HOUR} | context
    )
    routed, reads = play_stream(tmp_path, features, [Step(events, False, request)])
    assert find_differences(features, routed, reads) == []
    columns = {
        name: reads[0].rows.numeric[:, place].tolist()
        for place, name in enumerate(features.numeric)
    }
    return columns | {
        name: reads[0].rows.categorical[:, place].tolist()
        for place, name in enumerate(features.categorical)
    }


def test_a_visit_has_its_mix_of_categories_dwell_position_and_whether_it_may_bounce(tmp_path, kit):
    profiles = [
        event("item", at, item, user_id=None, person=None, properties=f'{{"category":"{name}"}}')
        for at, item, name in [(-9, "i1", "a"), (-8, "i2", "b")]
    ]
    views = [
        event("view", at, item, dwell_ms=dwell, item_profile=f'{{"category":"{name}"}}')
        for at, item, dwell, name in [
            (1, "i1", 1_000.0, "a"),
            (2, "i1", 500.0, "a"),
            (3, "i3", None, "a"),
            (4, "i2", 250.0, "b"),
        ]
    ]
    declared = [
        share("mix", entity("session", "item.category"), "view", within=VISIT, window="1d"),
        total("dwell", VISIT, "view", of="dwell_ms", unit=1, window="1d"),
        session_length("events"),
        derived("place", "events + 1"),
        derived("may_bounce", "1 if events == 1 else 0"),
        favourite("category", USER, "view", of="item.category"),
        seen("before", USER, "view"),
        seen("of_category", USER, "view", of="item.category"),
    ]
    values = read(tmp_path / "four", declared, [*profiles, *views])
    np.testing.assert_array_equal(values["mix"], [0.75, 0.25, np.nan])  # i3 has no profile
    assert (values["dwell"][0], values["place"][0], values["may_bounce"][0]) == (1_750, 5, 0)
    assert values["category"] == [kit.key("a")] * 3
    assert values["before"] == [2, 1, 1]
    np.testing.assert_array_equal(values["of_category"], [3, 1, np.nan])
    assert read(tmp_path / "one", declared, [*profiles, views[0]])["may_bounce"] == [1, 1, 1]


def test_searches_without_anything_in_between_are_refinements(tmp_path):
    events = [
        event("search", 1, query="shoes"),
        event("click", 2, "i1"),
        event("search", 3, query="boots"),
        event("search", 4, query="red"),
    ]
    assert read(tmp_path, [refinements("looking")], events)["looking"] == [2, 2, 2]


def test_habits_are_of_the_hour_and_the_day_where_the_person_is(tmp_path):
    clicks = [
        event("click", 1, "i1", local_hour=2),
        event("click", 2, "i1", local_hour=2),
        event("click", 3, "i1", local_hour=20),
    ]
    declared = [
        context("weekday"),
        share("hour", entity("user", "local_hour"), "click", within=USER),
        share("day", entity("user", "weekday"), "click", within=USER),
    ]
    values = read(tmp_path / "monday", declared, clicks)
    assert values["weekday"][0] == 0
    assert values["hour"][0] == pytest.approx(2 / 3)
    assert values["day"][0] == pytest.approx(2 / 3)  # at 20 o'clock it was still Sunday there
    west = read(tmp_path / "sunday", declared, clicks, local_hour=20)
    assert (west["weekday"][0], round(west["day"][0], 3)) == (6, 0.333)


def test_a_request_is_read_as_if_all_were_shown_first(tmp_path):
    seen_at = [
        event("impression", at, item, position=position)
        for at, item, position in [(1, "i1", 1), (2, "i1", 1), (3, "i1", 2)]
    ]
    clicks = [event("click", 4, "i1", position=1), event("click", 5, "i1", position=2)]
    declared = [ratio("ctr", entity("item", "position"), "click", "impression", window="1d")]
    assert read(tmp_path / "first", declared, [*seen_at, *clicks])["ctr"][0] == 0.5
    assert read(tmp_path / "second", declared, [*seen_at, *clicks], position=2)["ctr"][0] == 1


def test_a_price_is_compared_with_the_usual_one(tmp_path):
    price = event("item", -5, ITEMS[0], user_id=None, person=None, properties='{"price":30}')
    bought = [
        event("purchase", at, "i2", price=float(value))
        for at, value in enumerate((10, 10, 20, 40), start=1)
    ]
    declared = [
        attribute("price", ITEM, "price", kind="numeric"),
        mean("usual", USER, "purchase", of="price"),
        quantile("median", USER, "purchase", of="price", edges=[0, 10, 20, 40]),
        derived("to_habit", "price / usual"),
    ]
    values = read(tmp_path, declared, [price, *bought])
    assert (values["to_habit"][0], values["median"][0]) == (1.5, 10)


def test_what_init_declares_knows_what_people_alike_click_and_does_without_a_profile(tmp_path):
    with as_file(files("tailorbird.platform") / "templates" / "features.py") as path:
        features = load_features(path)
    category = {"i1": "a", "i2": "b"}
    profiles = [
        event(
            "item",
            -9 + at,
            item,
            user_id=None,
            person=None,
            properties=f'{{"category":"{category[item]}","price":5}}',
        )
        for at, item in enumerate(category)
    ]
    neighbours = {
        "u2": ("NO", "young", "i1"),
        "u3": ("SE", "old", "i2"),
    }  # who they are, and what they click of both
    shown = [
        event(
            kind,
            10 * at + place,
            item,
            user_id=who,
            person=who,
            session_id=who,
            country=country,
            item_profile=f'{{"category":"{category[item]}"}}',
            user_profile=f'{{"age_group":"{age}"}}',
        )
        for at, (who, (country, age, liked)) in enumerate(neighbours.items())
        for place, (kind, item) in enumerate(
            [("impression", "i1"), ("impression", "i2"), ("click", liked)]
        )
    ]
    young = event("user", -20, user_id="u1", properties='{"age_group":"young"}')

    def lifts(*more: dict) -> dict[str, list[float]]:
        request = ReadRequest(
            person="u1", session_id="s1", local_hour=2, country="NO", now=MONDAY + HOUR
        )
        routed, reads = play_stream(
            tmp_path / str(len(more)), features, [Step([*more, *profiles, *shown], False, request)]
        )
        assert find_differences(features, routed, reads) == []
        return {
            name: reads[0].rows.numeric[:2, place].tolist()
            for place, name in enumerate(features.numeric)
        }

    with_profile, without_profile = lifts(young), lifts()
    for name in ("country_lift", "age_lift"):
        assert with_profile[name][0] > 1 > with_profile[name][1], "who is alike likes a, and not b"
    assert without_profile["age_lift"] == [1.0, 1.0]
    assert without_profile["country_lift"] == with_profile["country_lift"]
    for lift in (with_profile, without_profile):
        product = np.prod(
            [lift[name] for name in ("item_ctr_28d", "user_lift", "country_lift", "age_lift")],
            axis=0,
        )
        np.testing.assert_allclose(lift["expected_ctr"], product, rtol=1e-6)
