"""Whatever comes in is accepted, quarantined or refused: no 5xx, no crash, by Hypothesis over
bodies and queries.
"""

import gzip
import json
import os
from urllib.parse import quote

import msgspec
import numpy as np
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests.support.serving.bodies import VALID_EVENTS
from tests.support.shops import serving_shop

from tailorbird.events import Receipt, RoutePlan, SystemClock, check_body
from tailorbird.events.contract.codes import CODE_DESCRIPTIONS
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.handling import Service
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle
from tailorbird.stream import open_reader, raw_path

FUZZ = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
IDS = st.text(max_size=8) | st.sampled_from(
    ["i1", "u1", "anon:1", "a\x00b", "\ud800x", "' OR 1=1 --", "../../etc/passwd", "x" * 300]
)
CONTEXTS = st.dictionaries(
    st.sampled_from(["device", "country", "page", "user_agent", "utc_offset_min", "x"]),
    JSON,
    max_size=3,
)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "slot": st.sampled_from(["home", "search", "tried", "nope"]) | IDS,
        "user_id": IDS,
        "anonymous_id": IDS,
        "session_id": IDS,
        "query": st.text(max_size=40)
        | st.sampled_from(['"(', "AND OR NOT", "title:*", "rain^9", "\x00"]),
        "items": st.lists(IDS, max_size=5),
        "size": st.integers(-1, 300) | JSON,
        "context": CONTEXTS,
        "exclude": st.lists(IDS, max_size=3) | JSON,
        "filters": st.dictionaries(
            st.sampled_from(["price", "category", "nope"]), JSON, max_size=2
        ),
        "attributes": st.lists(st.sampled_from(["title", "price", "nope"]), max_size=3) | JSON,
        "explain": st.booleans() | JSON,
    },
)
FOREIGN = st.sampled_from(
    [
        "type",
        "event",
        "messageId",
        "userId",
        "timestamp",
        "properties",
        "specversion",
        "id",
        "source",
        "data",
        "batch",
    ]
)
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "event_id": IDS,
        "type": st.sampled_from(["click", "view", "item", "user", "identify", "answer", "nope"]),
        "ts": st.integers()
        | st.text(max_size=30)
        | st.sampled_from(["0000-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00", 1e300]),
        "user_id": IDS,
        "anonymous_id": IDS,
        "item_id": IDS,
        "context": CONTEXTS,
        "properties": JSON,
        "received_at": JSON,
        "answer": JSON,
    },
)


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def client(stream, features, bundle):
    clock = SystemClock()
    with EventCollector(stream, "serve-1", RoutePlan(), clock) as collector:
        pipeline = Pipeline(
            slots=serving_shop.slots(),
            bundle_selector=FixedBundle(bundle),
            feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
            response_log=collector,
            clock=clock,
            rng=np.random.default_rng(0),
            table_provider=serving_shop.LiveTables(),
        )
        with TestClient(
            create_app(Service(pipeline, collector)), base_url="http://localhost"
        ) as client:
            yield client


def dump(value: object) -> bytes:
    """JSON as a careless client writes it: NaN, infinities and lone surrogates included."""
    return json.dumps(value).encode()


@FUZZ
@given(
    st.binary(max_size=200),
    st.sampled_from(["application/json", "application/x-ndjson", "text/plain", ""]),
)
def test_any_bytes_as_events(client, body, kind):
    answer = client.post("/v1/events", content=body, headers={"content-type": kind})
    assert answer.status_code in (200, 400)
    assert len(answer.json()["events"]) >= 1


@FUZZ
@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_any_events_are_decided_one_by_one(client, events):
    answer = client.post("/v1/events", content=dump(events))
    assert answer.status_code in (200, 400)
    decisions = answer.json()["events"]
    if len(decisions) == len(events):
        assert all(
            decision["accepted"] or (decision["code"] and decision["message"])
            for decision in decisions
        )
        assert not any(
            decision["accepted"] and {"received_at", "answer"} & set(filter_none(event))
            for decision, event in zip(decisions, events, strict=True)
        )
    else:
        assert len(decisions) == 1, "a body that is no JSON is one row"


@st.composite
def damaged(draw) -> tuple[bytes, str]:
    """A good body of events in which a few bytes were changed, dropped or doubled, and how it is
    divided.
    """
    encoding = draw(st.sampled_from(["json", "ndjson"]))
    body = bytearray(
        dump(VALID_EVENTS)
        if encoding == "json"
        else b"\n".join(dump(event) for event in VALID_EVENTS)
    )
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(body) - 1))
        piece = draw(
            st.binary(max_size=3)
            | st.sampled_from(
                [b'"', b"\n", b"{", b"}", b"[", b"\\", b"\x00", b"\\ud800", b"-", b"1e999", b"null"]
            )
        )
        body[place : place + draw(st.integers(0, 3))] = piece
        body = body or bytearray(b" ")
    return bytes(body), encoding


@settings(FUZZ, max_examples=EXAMPLES)
@given(damaged())
def test_each_row_of_a_damaged_body_is_accepted_or_refused_for_a_reason(sent):
    body, encoding = sent
    accepted, refused = check_body(
        body, Receipt(1_795_000_000_000_000, encoding=encoding), RoutePlan()
    )
    assert sorted(each.row for each in (*accepted, *refused)) == list(
        range(len(accepted) + len(refused))
    )
    assert accepted or refused
    assert {refusal.code for refusal in refused} <= CODE_DESCRIPTIONS.keys()
    assert all(refusal.path.startswith("$") and refusal.message for refusal in refused)


@settings(FUZZ, max_examples=EXAMPLES)
@given(damaged(), st.sampled_from(["gzip", "zstd"]), st.data())
def test_a_damaged_packed_body_is_read_or_refused(client, sent, packing, data):
    body, encoding = sent
    packed = bytearray((gzip if packing == "gzip" else zstd).compress(body))
    for _ in range(data.draw(st.integers(0, 2))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    headers = {
        "content-encoding": packing,
        "content-type": "application/x-ndjson" if encoding == "ndjson" else "application/json",
    }
    assert client.post("/v1/events", content=bytes(packed), headers=headers).status_code in (
        200,
        400,
        413,
    )


@settings(FUZZ, max_examples=EXAMPLES)
@given(
    st.sampled_from(["segment", "cloudevents"]),
    JSON
    | st.lists(st.dictionaries(FOREIGN, JSON, max_size=5), max_size=3)
    | st.binary(max_size=60),
)
def test_whatever_a_webhook_sends_is_taken_or_refused(client, format_, sent):
    body = sent if isinstance(sent, bytes) else dump(sent)
    assert client.post(f"/v1/events?format={format_}", content=body).status_code in (200, 400)


def filter_none(event: dict) -> list[str]:
    return [name for name, value in event.items() if value is not None]


@FUZZ
@given(st.sampled_from(["/v1/recommend", "/v1/rank", "/v1/search"]), QUERIES)
def test_any_query_is_answered_or_refused_with_its_path(client, path, query):
    answer = client.post(path, content=dump(query))
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["code"]
    else:
        answer_fields = answer.json()
        assert answer_fields["degraded"] == []
        assert len({item["item_id"] for item in answer_fields["items"]}) == len(
            answer_fields["items"]
        )


@FUZZ
@given(IDS.filter(lambda text: text and "\ud800" not in text))
def test_any_item_id_is_known_or_not(client, item_id):
    answer = client.get(f"/v1/items/{quote(item_id, safe='')}")
    assert answer.status_code in (200, 404, 307)
    similar = client.get(f"/v1/items/{quote(item_id, safe='')}/similar")
    assert similar.status_code in (200, 404)


def test_what_a_client_may_not_set_is_never_in_a_routed_answer(client):
    sent = {
        "event_id": "x",
        "type": "answer",
        "user_id": "u1",
        "items": ["i1"],
        "request_id": "r",
        "answer": {"slot": "home"},
    }
    answer = client.post("/v1/events", content=msgspec.json.encode(sent))
    assert answer.json()["events"][0]["code"] == "server_owned"


def test_every_answer_in_the_log_keeps_the_contract(client, stream):
    # The generated queries may all be invalid, so send one that is answered.
    assert client.post("/v1/recommend", json={"slot": "home"}).status_code == 200
    client.post("/v1/events", json={})  # its commit includes waiting answers
    with open_reader(raw_path(stream, "serve-1")) as reader:
        blocks = [stored.block for stored in reader.read(0, bytes_max=1 << 30)]
    receipts = [msgspec.json.decode(block.receipt, type=Receipt) for block in blocks]
    answers = [
        check_body(block.payload, receipt, RoutePlan())
        for block, receipt in zip(blocks, receipts, strict=True)
        if receipt.source == "server"
    ]
    assert answers
    assert [refused for _, refused in answers if refused] == []
