"""Columns decide as the contract does: the same events, times, codes, paths and sentences, whatever
comes, in whatever company.
"""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.wire.events import ANSWER, CLICK, EVENTS, NOW, make_click, nest_lists

from tailorbird.events import DAY, MINUTE, Receipt, RoutePlan, check_body
from tailorbird.events.contract import columnwise
from tailorbird.events.contract.checked_batch import EventColumns
from tailorbird.events.contract.columnwise import Contract
from tailorbird.events.contract.contract import split_body
from tailorbird.events.contract.envelope import PROPERTIES_BOUNDS, Event
from tailorbird.events.contract.rules import Rule
from tailorbird.events.contract.verdict import Refusal

SOURCES = ["collector", "browser", "browser+identify", "import", "server", "unheard of"]
RULES = (
    Rule("price", required=True, kind="number", low=0.5, high=500),
    Rule("currency", one_of=("EUR", "NOK", 1)),
    Rule("pieces", kind="integer", low=1),
    Rule("note", kind="text"),
    Rule("gift", kind="boolean"),
)
PLANS = [
    RoutePlan(),
    RoutePlan(rules={"purchase": RULES, "answer": RULES[4:]}),
    RoutePlan(event_types=("click", "listen"), skew_us=0),
]
CONTRACTS = [Contract(plan) for plan in PLANS]

ids = st.sampled_from(
    [
        "1",
        "42",
        "anon:1",
        "xanon:",
        "",
        "x" * 256,
        "x" * 257,
        "é" * 256,
        "a\0b",
        "\n",
        "a\nanon:b",
        "日本",
    ]
) | st.integers(0, 3)
usual_id = st.sampled_from([f"u{n}" for n in range(5)])
valid_times = st.integers(NOW - 3 * DAY, NOW + MINUTE)
odd_times = st.sampled_from(
    [
        None,
        0,
        1,
        NOW // 1_000,
        NOW + DAY,
        10**14,
        10**14 - 1,
        253_370_764_799_999_999,
        1 << 63,
        1 << 70,
        -1,
        1.5,
        True,
        "",
        "noon",
        "2025-11-25T11:00:00",
        "2025-11-25T11:00Z",
        "0001-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
        "2025-11-25T12:00:60Z",
        "2025-02-30T12:00:00Z",
        "2025-11-25T12:00:00.1234567Z",
        "2025-11-25t12:00:00Z",
        "2025-11-25 12:00:00Z",
        "2025-11-25T12:00:00+24:00",
        "2025-11-25T24:00:00Z",
        "２025-11-25T12:00:00Z",
        "2025-11-25T12:00:00,123Z",
    ]
)
usual_times = st.tuples(
    st.datetimes(),
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    st.sampled_from(["Z", "+01:00", "-08:30", "+0100", ""]),
).map(lambda parts: parts[0].isoformat(timespec=parts[1]) + parts[2])
times = st.one_of(
    valid_times,
    valid_times,
    odd_times,
    usual_times,
    st.sampled_from(["2025-11-25T11:00:00Z", "2025-11-25T11:00:00.123Z"]),
)
numbers = st.sampled_from(
    [
        0,
        1,
        1.5,
        -0.0,
        499,
        501,
        1e9,
        1e6,
        1_000_000.5,
        -1,
        86_400_000,
        86_400_001,
        10**30,
        True,
        False,
        "7",
        None,
        [1],
    ]
)
values = numbers | st.sampled_from(
    [
        "",
        "coat",
        "EUR",
        "USD",
        {"a": 1},
        {},
        nest_lists(32),
        nest_lists(33),
        "x" * 9_000,
        "x" * 66_000,
    ]
)
NAMES = [
    "query",
    "dwell_ms",
    "price",
    "quantity",
    "rating",
    "currency",
    "pieces",
    "note",
    "gift",
    "more",
]
properties = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
good = (
    st.fixed_dictionaries({"price": st.sampled_from([1, 19.9]), "quantity": st.just(1)})
    | st.just({"query": "coat"})
    | st.just({})
)
odd_texts = st.sampled_from(["", "p", "p" * 2_048, "p" * 2_049, 1, None])
countries = st.sampled_from(["NO", "no", "N", "NOR", "N1", "NO\n", "ÆØ", None, 7])
offsets = st.sampled_from([0, 840, 841, -840, -841, 1.5, None])
contexts = st.fixed_dictionaries(
    {},
    optional={
        "device": odd_texts,
        "page": odd_texts,
        "user_agent": odd_texts,
        "country": countries,
        "utc_offset_min": offsets,
    },
)
merging = st.sampled_from(["u2", "", "anon:u2", 7, None]).map(lambda into: {"merged_into": into})
answers = st.fixed_dictionaries(
    {"slot": st.just("home")},
    optional={
        "propensities": st.sampled_from([[], [1.0, 0.5], [1], [0, 1.0], [1.5, 0.1], [1e-300, 1]])
    },
)
LONG = st.sampled_from(
    [{"stock": 10**400}, {"stock": -(10**309)}, {"a": {"b": 10**310}}, {"a": 10**307, "b": 10**308}]
)
TYPES = [
    "click",
    "view",
    "purchase",
    "search",
    "answer",
    "user",
    "item",
    "identify",
    "merge",
    "listen",
    "clack",
    "rating",
]
usual = st.fixed_dictionaries(
    {
        "event_id": usual_id,
        "type": st.sampled_from(["view", "click", "purchase", "search"]),
        "user_id": usual_id,
        "item_id": usual_id,
    },
    optional={
        "ts": valid_times,
        "context": st.just({"device": "phone", "country": "NO"}),
        "properties": good,
    },
)
odd = st.fixed_dictionaries(
    {"event_id": ids | usual_id, "type": st.sampled_from(TYPES)},
    optional={
        "ts": times,
        "sent_at": times,
        "user_id": ids | usual_id,
        "anonymous_id": ids,
        "session_id": ids,
        "item_id": ids,
        "request_id": ids,
        "items": st.lists(ids, max_size=3) | st.just(["i1", "i2"]) | st.just(["i"] * 1_001),
        "context": contexts,
        "properties": properties | merging | LONG,
        "timeless": st.sampled_from([True, False, None]),
        "received_at": times,
        "answer": answers,
        "colour": st.just("red"),
    },
)
one_off = st.tuples(
    usual,
    odd,
    st.sampled_from(
        ["ts", "sent_at", "properties", "context", "items", "timeless", "item_id", "user_id"]
    ),
).map(lambda parts: parts[0] | ({parts[2]: parts[1][parts[2]]} if parts[2] in parts[1] else {}))
events = st.one_of(usual, usual, one_off, one_off, odd, EVENTS, st.just(ANSWER))


@st.composite
def sent(draw):
    """A body of the most different rows, with its receipt."""
    rows = draw(st.lists(events, max_size=6))
    encoding = draw(st.sampled_from(["json", "json", "ndjson"]))
    encoded = [
        json.dumps(row, ensure_ascii=draw(st.booleans())).encode(errors="replace") for row in rows
    ]
    if draw(st.integers(0, 9)) == 0:
        encoded.insert(
            draw(st.integers(0, len(encoded))),
            draw(st.sampled_from([b"7", b"{", b"\xff", b'{"a":1},{"a":2}', b'"\\ud800"', b"null"])),
        )
    body = b"\n".join(encoded) if encoding == "ndjson" else b"[" + b",".join(encoded) + b"]"
    if draw(st.integers(0, 9)) == 0:
        body = draw(
            st.sampled_from(
                [b"", b" ", b"[]", b"{", b" \n" + body, body[:-1], encoded[0] if encoded else b"1"]
            )
        )
    return body, Receipt(
        NOW + draw(st.integers(0, 3)),
        draw(st.sampled_from(SOURCES)),
        encoding,
        draw(st.sampled_from(["", "segment"])),
    )


def fields_of(event):
    """An event as plain data, whichever class it is of."""
    return msgspec.to_builtins(event)


def by_contract(bodies, plan):
    accepted, refused = [], []
    for number, (body, receipt) in enumerate(bodies):
        taken, broken = check_body(body, receipt, plan)
        accepted += [
            (
                number,
                one.row,
                one.ts,
                one.ts_original,
                one.sent_at,
                one.received_at,
                repr(full(msgspec.structs.astuple(one.event))),
            )
            for one in taken
        ]
        refused += [(number, one) for one in broken]
    return accepted, refused


def full(values):
    """Fields as plain data, with all that have a default written out."""
    return [
        msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else value
        for value in values
    ]


def by_columns(bodies, contract):
    checked = contract.check_bodies(bodies)
    rows = zip(
        checked.body_indexes,
        checked.rows,
        checked.ts,
        checked.ts_original,
        checked.sent_at,
        checked.received_at,
        zip(*checked.fields, strict=True),
        strict=True,
    )
    return [(*rest, repr(full(fields))) for *rest, fields in rows], list(checked.refusals)


def agree(bodies, plan_index):
    assert by_columns(bodies, CONTRACTS[plan_index]) == by_contract(bodies, PLANS[plan_index])


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(sent(), min_size=1, max_size=4), st.sampled_from([0, 1, 2]))
def test_columns_and_contract_say_the_same(bodies, plan_index):
    agree(bodies, plan_index)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(one_off, st.integers(0, 39), st.sampled_from(SOURCES), st.sampled_from([0, 1]))
def test_one_odd_row_among_many(event, position, source, plan_index):
    rows = [
        CLICK
        | {"event_id": f"e{number}", "ts": NOW - number, "properties": {"price": 2, "gift": True}}
        for number in range(40)
    ]
    rows[position] = event
    agree([(json.dumps(rows).encode(), Receipt(NOW, source))], plan_index)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        usual_times | odd_times.filter(lambda value: isinstance(value, str)), min_size=2, max_size=6
    )
)
def test_times_as_text_are_read_alike(texts):
    agree(
        [
            (
                json.dumps([make_click(ts=text) for text in texts] + [CLICK] * 40).encode(),
                Receipt(NOW),
            )
        ],
        0,
    )


@given(st.binary(max_size=200), st.sampled_from(["json", "ndjson"]), st.sampled_from(SOURCES))
def test_any_bytes(body, encoding, source):
    agree([(body, Receipt(NOW, source, encoding)), (body[1:], Receipt(NOW, source, encoding))], 0)


@pytest.mark.parametrize(
    "size",
    [
        PROPERTIES_BOUNDS.high // 8,
        PROPERTIES_BOUNDS.high - 10,
        PROPERTIES_BOUNDS.high - 9,
        PROPERTIES_BOUNDS.high,
    ],
)
def test_the_size_of_properties_is_bounded_for_each_event(size):
    rows = [
        make_click(properties={"text": "x" * size}),
        make_click(properties={"text": [1e15] * (size // 18)}),
        *[CLICK] * 40,
    ]
    agree([(json.dumps(rows).replace("1000000000000000.0", "1e15").encode(), Receipt(NOW))], 0)


def test_ordinary_events_are_cleared_without_checking_any_row(monkeypatch):
    def fail_on_row_check(*_):
        raise AssertionError("a row was looked at by itself")

    rows = [
        {
            "event_id": f"e{n}",
            "type": type_,
            "ts": "2025-11-25T11:00:00.123Z",
            "user_id": "u1",
            "item_id": "i1",
            "items": ["i1", "i2"],
            "context": {"country": "NO", "page": "/"},
            "properties": {"price": 19.9, "note": "x", "tags": ["a", {"b": 1}]},
        }
        for n, type_ in enumerate(
            ["view", "click", "purchase", "impression", "identify", "user", "item"] * 20
        )
    ]
    for row in rows:
        row["anonymous_id"] = "a1"
    monkeypatch.setattr(columnwise, "check_row", fail_on_row_check)
    assert len(CONTRACTS[1].check_bodies([(json.dumps(rows).encode(), Receipt(NOW))])) == len(rows)
    monkeypatch.undo()
    agree([(json.dumps(rows).encode(), Receipt(NOW))], 1)


def test_columns_have_the_fields_of_events_in_their_order():
    assert EventColumns._fields == Event.__struct_fields__
    checked = CONTRACTS[0].check_bodies(
        [(json.dumps([CLICK, 7, CLICK | {"event_id": "e2"}] * 20).encode(), Receipt(NOW))]
    )
    assert checked.fields.event_id == ("e1", "e2") * 20
    assert [(number, one.row, one.code) for number, one in checked.refusals] == [
        (0, row, "wrong_type") for row in range(1, 60, 3)
    ]
    assert isinstance(checked.refusals[0][1], Refusal)


def test_at_no_depth_is_a_body_taken_apart_in_one_place_and_not_in_another() -> None:
    """The decodable depth depends on the call stack, which differs between the two code paths."""

    def body(levels: int) -> bytes:
        deep = b'{"d":' * levels + b"1" + b"}" * levels
        rows = [json.dumps(make_click(event_id=f"e{number}")).encode() for number in range(3)]
        rows.insert(
            1,
            json.dumps(make_click(event_id="deep")).encode()[:-1]
            + b', "properties": '
            + deep
            + b"}",
        )
        return b"[" + b",".join(rows) + b"]"

    receipt = Receipt(NOW, "collector", "json")
    until = next(
        levels for levels in range(200, 20_000) if len(split_body(body(levels), "json")) == 1
    )
    for levels in range(until - 40, until + 40):
        checked = CONTRACTS[0].check_bodies([(body(levels), receipt)])
        assert (len(checked), len(checked.refusals)) in ((3, 1), (0, 1))
