"""Decisions on a batch equal those on single events, in any order of updates."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailorbird.events import HOUR, MINUTE

NOW = 1_764_072_000_000_000
id_ = st.sampled_from
times = st.integers(-3, 3).map(lambda minutes: NOW + minutes * MINUTE)
people = st.fixed_dictionaries(
    {}, optional={"user_id": id_(["u1", "u2"]), "anonymous_id": id_(["a1", "a2"])}
).filter(bool)
profiles = st.fixed_dictionaries(
    {
        "type": st.just("item"),
        "item_id": id_(["i1", "i2"]),
        "properties": st.fixed_dictionaries({"category": id_("abc"), "x": id_([1, 2])}),
    },
    optional={"timeless": st.just(True), "user_id": st.just("u1"), "anonymous_id": st.just("a1")},
) | st.fixed_dictionaries(
    {
        "type": st.just("user"),
        "user_id": id_(["u1", "anon", "u2"]),
        "properties": st.just({"plan": "pro"}),
    }
)
identifies = st.fixed_dictionaries(
    {"type": st.just("identify"), "user_id": id_(["u1", "u2"]), "anonymous_id": id_(["a1", "a2"])}
)
merges = st.tuples(id_(["u1", "u2", "u3"]), id_(["u1", "u2", "u3"])).map(
    lambda pair: {"type": "merge", "user_id": pair[0], "properties": {"merged_into": pair[1]}}
)
given_answers = st.fixed_dictionaries(
    {
        "type": st.just("answer"),
        "user_id": id_(["u1", "u2"]),
        "request_id": id_(["r1", "r2"]),
        "items": id_([["i1", "i2"], ["i2"]]),
        "answer": st.fixed_dictionaries(
            {"slot": id_(["home", "cart"]), "model": st.just("v1")},
            optional={"query": st.just("coat")},
        ),
    }
)
what = st.fixed_dictionaries(
    {"type": id_(["view", "click", "impression"]), "item_id": id_(["i1", "i2", "i3"])},
    optional={
        "request_id": id_(["r1", "r2", "r3"]),
        "items": id_([["i1", "i2"], ["i3", "i1"], []]),
        "context": id_(
            [
                {"country": "no", "user_agent": "curl/8", "utc_offset_min": -90},
                {"device": "phone", "utc_offset_min": 60},
                {},
            ]
        ),
        "properties": id_(
            [
                {"price": 3, "z": 1, "a": [1]},
                {"query": "coat"},
                {"dwell_ms": 1.5, "rating": None},
                {},
            ]
        ),
    },
)
shown = st.fixed_dictionaries(
    {"type": st.just("impression"), "items": id_([["i1", "i2"], ["i3", "i1"], []])},
    optional={"request_id": id_(["r1", "r2"])},
)
visits = st.tuples(what | shown, people).map(lambda parts: parts[0] | parts[1])
one_event = st.one_of(visits, visits, visits, profiles, identifies, merges, given_answers)
sent = st.lists(st.tuples(one_event, times, st.integers(0, 40)), min_size=1, max_size=40)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent, st.sampled_from([3, 7, 20_000]))
def test_events_routed_together_are_as_those_routed_one_by_one(new_stream, events, rows_max):
    """Ids repeat, so some are dropped; answers, identifies and profiles stand among those that they
    concern, before and behind.
    """
    single, together = new_stream(), new_stream()
    for number, (event, ts, name) in enumerate(events):
        full_event = (
            event | {"event_id": f"e{name}"} | ({} if event.get("timeless") else {"ts": ts})
        )
        source = "server" if event["type"] == "answer" else "collector"
        for stream in (single, together):
            stream.post(full_event, source=source, received_at=NOW + HOUR + number)
    counts = single.route(1)[:3]
    assert together.route(rows_max)[:3] == counts
    decided = [[row | {"p": 0} for row in stream.events()] for stream in (single, together)]
    assert decided[0] == decided[1]
    assert single.rows("duplicates") == together.rows("duplicates")
