"""The contract: each way to be refused with its code and path, times and skew, both encodings, and
that nothing crashes it.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.wire.events import ANSWER, CLICK, EVENTS, NOW, make_click, nest_lists

from tailorbird.events import DAY, HOUR, MINUTE, SECOND, Receipt, RoutePlan, check_body
from tailorbird.events.contract.contract import count_rows, split_body
from tailorbird.events.contract.envelope import PROPERTIES_BOUNDS

PLAN = RoutePlan()


def decide(event, source="collector", plan=PLAN):
    return check_body(json.dumps(event).encode(), Receipt(NOW, source), plan)


def accepted(event, source="collector", plan=PLAN):
    taken, refused = decide(event, source, plan)
    assert refused == []
    return taken[0]


def refusal(event, source="collector"):
    taken, refused = decide(event, source)
    assert taken == []
    return refused[0].code, refused[0].path


@pytest.mark.parametrize(
    ("event", "code", "path"),
    [
        (make_click(event_id=...), "missing", "$.event_id"),
        (make_click(type=...), "missing", "$.type"),
        (make_click(event_id=""), "bad_id", "$.event_id"),
        (make_click(user_id="u" * 257), "bad_id", "$.user_id"),
        (make_click(item_id="a\0b"), "bad_id", "$.item_id"),
        (make_click(items=["i1", ""]), "bad_id", "$.items[1]"),
        (make_click(items=["i"] * 1_001), "too_large", "$.items"),
        (make_click(event_id=7), "wrong_type", "$.event_id"),
        (make_click(colour="red"), "unknown_field", "$.colour"),
        (make_click(context={"colour": "red"}), "unknown_field", "$.context.colour"),
        (make_click(type="clack"), "unknown_type", "$.type"),
        (make_click(user_id="anon:7"), "reserved_prefix", "$.user_id"),
        (make_click(user_id=...), "missing", "$.user_id"),
        (make_click(item_id=...), "missing", "$.item_id"),
        ({"event_id": "e", "type": "item"}, "missing", "$.item_id"),
        ({"event_id": "e", "type": "user"}, "missing", "$.user_id"),
        ({"event_id": "e", "type": "identify", "user_id": "42"}, "missing", "$.anonymous_id"),
        ({"event_id": "e", "type": "identify", "anonymous_id": "c0"}, "missing", "$.user_id"),
        (
            {"event_id": "e", "type": "merge", "user_id": "42"},
            "missing",
            "$.properties.merged_into",
        ),
        (
            {
                "event_id": "e",
                "type": "merge",
                "anonymous_id": "c0",
                "properties": {"merged_into": "42"},
            },
            "missing",
            "$.user_id",
        ),
        (
            make_click(type="merge", properties={"merged_into": 42}),
            "wrong_type",
            "$.properties.merged_into",
        ),
        (
            make_click(type="merge", properties={"merged_into": "anon:42"}),
            "reserved_prefix",
            "$.properties.merged_into",
        ),
        (make_click(timeless=True), "timeless_event", "$.timeless"),
        (make_click(context={"country": "Norway"}), "bad_country", "$.context.country"),
        (make_click(context={"country": "NO\n"}), "bad_country", "$.context.country"),
        (make_click(context={"page": "p" * 2_049}), "too_large", "$.context.page"),
        (
            make_click(context={"utc_offset_min": 841}),
            "number_out_of_range",
            "$.context.utc_offset_min",
        ),
        (make_click(properties={"query": 7}), "wrong_type", "$.properties.query"),
        (make_click(properties={"price": "7"}), "wrong_type", "$.properties.price"),
        (make_click(properties={"price": True}), "wrong_type", "$.properties.price"),
        (make_click(properties={"price": -1}), "number_out_of_range", "$.properties.price"),
        (make_click(properties={"price": 10**400}), "number_out_of_range", "$.properties.price"),
        (
            make_click(properties={"dwell_ms": 86_400_001}),
            "number_out_of_range",
            "$.properties.dwell_ms",
        ),
        (make_click(properties={"text": "x" * 65_536}), "too_large", "$.properties"),
        (make_click(properties={"a": nest_lists(33)}), "too_large", "$.properties.a"),
        (make_click(ts="yesterday"), "bad_time", "$.ts"),
        (make_click(ts="2025-11-25T12:00:00"), "bad_time", "$.ts"),
        (make_click(ts="0000-01-01T00:00:00Z"), "bad_time", "$.ts"),
        (make_click(ts="9999-12-31T23:59:59-14:00"), "bad_time", "$.ts"),
        (make_click(ts=NOW // 1_000), "bad_time", "$.ts"),
        (make_click(ts=-1), "bad_time", "$.ts"),
        (make_click(ts=1 << 61), "bad_time", "$.ts"),
        (make_click(ts=1.5), "wrong_type", "$.ts"),
        (make_click(sent_at="noon"), "bad_time", "$.sent_at"),
        (make_click(properties={"stock": 10**400}), "number_out_of_range", "$.properties.stock"),
        (make_click(properties={"stock": -(10**309)}), "number_out_of_range", "$.properties.stock"),
        (make_click(properties={"a": [{"b": 10**400}]}), "number_out_of_range", "$.properties.a"),
        (make_click(ts=NOW + 5 * MINUTE + 1), "ts_in_future", "$.ts"),
        (make_click(ts="1970-01-01T00:00:00+01:00"), "ts_absurd", "$.ts"),
    ],
)
def test_what_breaks_the_contract_is_refused_with_code_and_path(event, code, path):
    assert refusal(event) == (code, path)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"received_at": NOW}, "$.received_at"),
        ({"answer": {"slot": "home"}}, "$.answer"),
        ({"type": "answer"}, "$.type"),
    ],
)
def test_what_the_server_owns_is_not_taken_from_a_client(fields, path):
    assert refusal(make_click(**fields)) == ("server_owned", path)


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"answer": None}, "missing", "$.answer"),
        ({"items": None}, "missing", "$.items"),
        ({"request_id": None}, "missing", "$.request_id"),
        (
            {"answer": {"slot": "home", "propensities": [1.0]}},
            "wrong_type",
            "$.answer.propensities",
        ),
        (
            {"answer": {"slot": "home", "propensities": [1.0, 0.0]}},
            "number_out_of_range",
            "$.answer.propensities[1]",
        ),
        (
            {"answer": {"slot": "home", "propensities": [1.0, 1.5]}},
            "number_out_of_range",
            "$.answer.propensities[1]",
        ),
    ],
)
def test_our_own_answers_are_checked_too(fields, code, path):
    assert refusal(ANSWER | fields, "server") == (code, path)
    assert accepted(ANSWER, "server").event.items == ["i1", "i2"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[{]",
        b'[{"event_id":',
        b"\xff\xfe",
        b'{"event_id": "\\ud800"}',
        b"[" * 100_000,
        b"NaN",
    ],
)
def test_a_body_that_is_no_json_is_one_refused_row(body):
    taken, refused = check_body(body, Receipt(NOW), PLAN)
    assert taken == []
    assert [(one.row, one.code, one.path, one.body) for one in refused] == [
        (0, "malformed_json", "$", body)
    ]


def test_an_empty_list_is_refused_since_it_holds_no_event():
    assert refusal([]) == ("missing", "$")


def test_one_bad_event_refuses_itself_alone():
    taken, refused = decide([CLICK, {"event_id": "e2"}, 7, CLICK | {"event_id": "e3"}])
    assert [(one.row, one.event.event_id) for one in taken] == [(0, "e1"), (3, "e3")]
    assert [(one.row, one.code, one.path) for one in refused] == [
        (1, "missing", "$.type"),
        (2, "wrong_type", "$"),
    ]
    assert refused[0].body == b'{"event_id": "e2"}'


def test_newline_delimited_events_are_decided_line_by_line():
    lines = [json.dumps(CLICK), "", "{broken", json.dumps(CLICK | {"event_id": "e2"}), ""]
    taken, refused = check_body("\r\n".join(lines).encode(), Receipt(NOW, encoding="ndjson"), PLAN)
    assert [(one.row, one.event.event_id) for one in taken] == [(0, "e1"), (2, "e2")]
    assert [(one.row, one.code) for one in refused] == [(1, "malformed_json")]


def test_without_a_time_an_event_gets_its_arrival_time():
    event = accepted(CLICK)
    assert (event.ts, event.ts_original, event.sent_at, event.received_at) == (NOW, None, None, NOW)
    assert accepted(make_click(sent_at=NOW - HOUR)).ts == NOW


@pytest.mark.parametrize(
    "text",
    [
        "2025-11-25T11:00:00Z",
        "2025-11-25T12:00:00+01:00",
        "2025-11-25T11:00:00.000000Z",
        NOW - HOUR,
    ],
)
def test_times_are_text_with_a_zone_or_microseconds(text):
    assert accepted(make_click(ts=text)).ts == NOW - HOUR


def test_the_client_clock_offset_is_subtracted_and_the_original_stored():
    event = accepted(make_click(ts=NOW + 3 * DAY, sent_at=NOW + 3 * DAY + 10 * SECOND))
    assert (event.ts, event.ts_original, event.sent_at) == (
        NOW - 10 * SECOND,
        NOW + 3 * DAY,
        NOW + 3 * DAY + 10 * SECOND,
    )


def test_imported_times_without_arrival_times_are_trusted() -> None:
    body = json.dumps(make_click(ts=NOW - 2 * HOUR, sent_at=NOW - HOUR)).encode()
    (event,), _ = check_body(body, Receipt(NOW, "import"), RoutePlan())
    assert (event.ts, event.received_at) == (NOW - 2 * HOUR, NOW - 2 * HOUR)
    body = json.dumps(
        make_click(ts=NOW - 2 * HOUR, sent_at=NOW - HOUR, received_at=NOW - HOUR + MINUTE)
    ).encode()
    (event,), _ = check_body(body, Receipt(NOW, "import"), RoutePlan())
    assert (event.ts, event.received_at) == (NOW - 2 * HOUR + MINUTE, NOW - HOUR + MINUTE)


def test_a_time_within_the_allowed_skew_is_taken():
    assert accepted(make_click(ts=NOW + 5 * MINUTE)).ts == NOW + 5 * MINUTE


def test_an_import_arrives_at_its_event_time_unless_stated_otherwise():
    assert accepted(make_click(ts=NOW - 300 * DAY), "import").received_at == NOW - 300 * DAY
    assert (
        accepted(make_click(ts=NOW - 300 * DAY, received_at=NOW - 299 * DAY), "import").received_at
        == NOW - 299 * DAY
    )
    assert accepted(make_click(ts=NOW - DAY), "collector").received_at == NOW


def test_a_timeless_profile_is_valid_from_the_beginning():
    assert accepted({"event_id": "p", "type": "item", "item_id": "i1", "timeless": True}).ts == 0


def test_of_the_types_that_are_named_none_is_the_servers_own():
    _, (refusal,) = decide(make_click(type="clack"))
    message = refusal.message
    assert "click" in message
    assert "answer" not in message


def test_a_project_may_declare_types_of_its_own():
    plan = RoutePlan(event_types=(*PLAN.event_types, "listen"))
    assert accepted(make_click(type="listen"), plan=plan).event.type == "listen"


def every_row_is_accounted_for(body, receipt):
    rows = len(split_body(body, receipt.encoding))
    taken, refused = check_body(body, receipt, PLAN)
    assert sorted(one.row for one in [*taken, *refused]) == list(range(rows))
    assert rows >= 1
    assert count_rows(body, receipt.encoding) == rows
    assert check_body(body, receipt, PLAN) == (taken, refused)


PIECES = st.sampled_from(
    [
        b"[",
        b"]",
        b"{}",
        b'{"a":[1,"},{"]}',
        b",",
        b"\n",
        b"\r\n",
        b" ",
        b"\x0b",
        b"1",
        b'"x',
        b"\xff",
    ]
)


@given(
    st.binary(max_size=200) | st.lists(PIECES, max_size=12).map(b"".join),
    st.sampled_from(["json", "ndjson"]),
    st.sampled_from(["collector", "import", "server"]),
)
def test_no_bytes_crash_it(body, encoding, source):
    every_row_is_accounted_for(body, Receipt(NOW, source, encoding))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=4), st.sampled_from(["collector", "import", "server"]), st.data())
def test_no_event_crashes_it_and_every_row_is_accounted_for(events, source, data):
    body = json.dumps(events).encode()
    every_row_is_accounted_for(body, Receipt(NOW, source))
    cut = data.draw(st.integers(0, len(body)))
    every_row_is_accounted_for(body[:cut], Receipt(NOW, source))
    every_row_is_accounted_for(
        b"\n".join(json.dumps(event).encode() for event in events), Receipt(NOW, source, "ndjson")
    )


def test_properties_are_measured_as_stored_not_as_received():
    body = (
        b'{"event_id": "e", "type": "view", "user_id": "u", "properties": {"a": ['
        + b",".join([b"1e15"] * 4_000)
        + b"]}}"
    )
    assert len(body) < PROPERTIES_BOUNDS.high
    refused = check_body(body, Receipt(received_at=1_764_072_000_000_000), RoutePlan())[1]
    assert [(each.code, each.path) for each in refused] == [("too_large", "$.properties")]
