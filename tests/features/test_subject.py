"""One of any entity, asked for by its fields: state and reference say the same of it, and its
events are its own.
"""

import numpy as np
import pytest
from tests.support.drawn.events import ITEMS, START, Step
from tests.support.drawn.three_readings import float_bits, play_stream

from tailorbird.errors import UsageError
from tailorbird.events import HOUR, ROUTED
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    attribute,
    count,
    derived,
    entity,
    last,
    mean,
    ratio,
    seen,
    sequence,
    session,
    share,
    time_since,
)
from tailorbird.features.explain import explain
from tailorbird.features.online.read import Reader
from tailorbird.features.reference.point_in_time import routed_events
from tailorbird.features.subject import Subject

user, item, category, visit, query = (
    entity(name) for name in ("user", "item", "item.category", "session", "query")
)
FEATURES = FeatureSet.from_declarations(
    [
        count("everyone_clicks", entity(), "click"),
        count("item_clicks", item, "click"),
        ratio("category_ctr", category, "click", "view", window="1d", prior=entity(), weight=2),
        mean("category_price", category, "click", of="price", max=100),
        count("visit_clicks", visit, "click", window="1d"),
        share("visit_mix", entity("session", "item.category"), "click", within=visit, window="1d"),
        count("searches", query, ["search", "click"]),
        ratio("query_item", entity("query", "item"), "click", "view", prior=item, weight=1),
        count("mine_of_category", entity("user", "item.category"), "click"),
        share("day_share", entity("user", "weekday"), "click", within=user),
        count("hour_clicks", entity("local_hour"), "click"),
        count("segment_clicks", entity("user.segment", "country"), "click"),
        time_since("since_click", user, "click"),
        last("last_price", item, "click", of="price"),
        session("session_clicks", "click"),
        seen("seen_item", user, "click"),
        attribute("price", item, "price", kind="numeric"),
        sequence("recent", user, "click", length=4),
        derived("twice", "category_ctr * 2"),
        derived("mixed", "category_ctr + item_clicks"),
    ]
)


def events(n: int = 120, seed: int = 3) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        at = START + int(rng.random() * 3 * HOUR)
        kind, who = (
            ("click", "view", "search", "item", "user")[min(rng.integers(12), 4)],
            f"u{rng.integers(1, 4)}",
        )
        row = dict.fromkeys(ROUTED.names) | {
            "event_id": f"e{number}",
            "ts": at,
            "received_at": at,
            "counts": True,
            "timeless": False,
        }
        row |= {"type": kind, "raw_partition": "d1", "raw_offset": 0, "raw_row": 0}
        thing = f"i{rng.integers(1, 4)}"
        if kind == "item":
            rows.append(
                row
                | {
                    "item_id": thing,
                    "properties": f'{{"category": "{"ab"[rng.integers(2)]}", "price": {number}}}',
                }
            )
        elif kind == "user":
            rows.append(row | {"user_id": who, "person": who, "properties": '{"segment": "s"}'})
        else:
            row |= {
                "user_id": who,
                "person": who,
                "item_id": None if kind == "search" else thing,
                "price": float(number),
            }
            row |= {
                "session_id": f"s{rng.integers(1, 3)}",
                "local_hour": int(rng.integers(4, 7)),
                "country": "NO",
                "agent": "person",
            }
            row |= {
                "item_profile": f'{{"category": "{"ab"[rng.integers(2)]}"}}',
                "user_profile": '{"segment": "s"}',
            }
            rows.append(row | {"query": ("Red  shoes", "red shoes", None)[rng.integers(3)]})
    return rows


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    table, reads = play_stream(
        folder, FEATURES, [Step(events(), False, ReadRequest(person="u1", now=START + 4 * HOUR))]
    )
    assert reads[0].items == ITEMS
    return folder, table


@pytest.mark.parametrize(
    ("texts", "columns"),
    [
        (["session:s1"], {"visit_clicks"}),
        (["query:RED shoes"], {"searches"}),
        (["item.category:a"], {"category_ctr", "category_price", "twice"}),
        (
            ["session:s1", "item.category:b"],
            {"visit_clicks", "visit_mix", "category_ctr", "category_price", "twice"},
        ),
        (
            ["query:red shoes", "item:i1"],
            {
                "searches",
                "query_item",
                "item_clicks",
                "last_price",
                "price",
                "category_ctr",
                "category_price",
                "twice",
                "mixed",
            },
        ),
        (
            ["user:u1", "item.category:a"],
            {
                "mine_of_category",
                "category_ctr",
                "category_price",
                "twice",
                "since_click",
                "session_clicks",
            },
        ),
        (["user:u2", "weekday:0"], {"day_share", "since_click", "session_clicks"}),
        (["local_hour:5"], {"hour_clicks"}),
        (["user.segment:s", "country:NO"], {"segment_clicks"}),
        (["item.category:nothing"], {"category_ctr", "category_price", "twice"}),
    ],
)
def test_the_state_equals_the_reference(site, texts, columns):
    folder, table = site
    subject = Subject.parse(texts, FEATURES)
    assert set(subject.columns(FEATURES)) == columns
    reader = Reader(folder / "state", FEATURES)
    rows = reader.read(subject.to_read_request(START + 5 * HOUR), [subject.item])
    reader.close()
    read = dict(zip(FEATURES.numeric, rows.numeric[0].tolist(), strict=True))
    reference_values = subject.values(
        FEATURES, subject.field_values.get("user", ""), rows.t, rows.log_position, table
    )
    assert {name: float_bits(read[name]) for name in columns} == {
        name: float_bits(reference_values[name]) for name in columns
    }


def test_a_value_is_explained_by_the_events_of_the_subject(site):
    _, table = site
    routed = routed_events(table)
    subject = Subject.parse(["item.category:a"], FEATURES)
    explanation = explain(
        FEATURES,
        "category_price",
        subject.to_read_request(START + 5 * HOUR),
        None,
        START + 5 * HOUR,
        10**6,
        routed,
    )
    assert 5 < len(explanation.events) < sum(event["type"] == "click" for event in routed)
    assert {event["item_profile"] for event in explanation.events} == {'{"category": "a"}'}
    assert explanation.value == np.float32(
        np.mean([min(event["price"], 100) for event in explanation.events])
    )


def test_the_newest_events_match_all_parts_of_the_subject(site):
    _, table = site
    ordered = table.sort_by("ts")
    newest = Subject.parse(["query:red shoes", "item:i2"], FEATURES).newest_events([ordered], "", 4)
    assert len(newest) == 4
    assert all(
        event["item_id"] == "i2" and event["query"].casefold().split() == ["red", "shoes"]
        for event in newest
    )
    assert [event["ts"] for event in newest] == sorted(
        (event["ts"] for event in newest), reverse=True
    )
    assert Subject.parse(["item.category:nothing"], FEATURES).newest_events([ordered], "", 4) == []
    mine = Subject.parse(["anonymous:a1", "item.category:a"], FEATURES).newest_events(
        [ordered], "u1", 50
    )
    assert {
        (event["person"], event["item_profile"]) for event in mine if event["type"] == "click"
    } == {("u1", '{"category": "a"}')}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["sesion:s1"], "did you mean session:s1"),
        (["s1"], "expected user:ID, anonymous:ID, item:ID or another FIELD:VALUE, got 's1'"),
        (["session:"], "expected session:VALUE"),
        (["user:u1", "anonymous:a1"], "anonymous is asked for twice"),
        (["weekday:7"], "expected weekday of 0 to 6, got '7'"),
        (["local_hour:noon"], "expected local_hour of 0 to 23, got 'noon'"),
        (["device:phone"], "declares nothing about device"),
    ],
)
def test_invalid_subjects_are_refused(texts, message):
    with pytest.raises(UsageError, match=message):
        Subject.parse(texts, FEATURES)
