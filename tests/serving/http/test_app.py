"""The HTTP side with a pipeline that answers at once: scopes, limits, errors, and what stands in
the headers.
"""

import gzip
import threading
import time
from hashlib import sha256
from urllib.parse import unquote

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.support.serving.app import (
    CLICK,
    PromptChurn,
    PromptFormulas,
    PromptPipeline,
    PromptScores,
)

from tailorbird.errors import BundleError, ConfigError
from tailorbird.events import RoutePlan, SystemClock
from tailorbird.serving.auth.keys import AccessError, Keys
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http import access
from tailorbird.serving.http.access import Perimeter, require_safe_bind
from tailorbird.serving.http.app import create_app, create_route
from tailorbird.serving.http.handling import Service
from tailorbird.serving.http.routes import ROUTES
from tailorbird.stream import open_reader, raw_path

READ_KEY = "read-key-0123456789"


@pytest.fixture
def service(tmp_path):
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        yield Service(
            PromptPipeline(),
            collector,
            churn=PromptChurn(),
            formulas=PromptFormulas(),
            scores=PromptScores(),
            body_bytes_max=4_096,
            body_deadline_s=0.5,
        )


@pytest.fixture
def client(service):
    with TestClient(create_app(service), base_url="http://127.0.0.1:8642") as client:
        yield client


def test_where_a_project_scores_nobody_there_are_no_scores(service, client):
    assert client.get("/v1/scores").status_code == 200
    service.scores = None
    answer = client.get("/v1/scores")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_scores")
    assert "scores.py" in answer.json()["fix"]
    assert "404" in client.get("/openapi.json").json()["paths"]["/v1/scores"]["get"]["responses"]


BODIES = {
    "/v1/events": CLICK,
    "/v1/recommend": {"slot": "home"},
    "/v1/rank": {"slot": "home", "items": ["i1"]},
    "/v1/search": {"query": "coat"},
    "/v1/formulas/{slot}": {"formula": "click", "why": "a test"},
}


def call(client: TestClient, path: str, method: str, **more):
    body = msgspec.json.encode(BODIES[path]) if path in BODIES else None
    return client.request(
        method, path.replace("{id}", "i1").replace("{slot}", "home"), content=body, **more
    )


def test_churn_says_why_where_it_is_asked(client):
    assert client.get("/v1/users/u1/churn").json() == {
        "user_id": "u1",
        "name": "churn",
        "model": "v0001",
        "gone": 0.5,
        "purchases": None,
        "known": True,
        "as_of": 1,
    }
    answer = client.get("/v1/users/u%201/churn", params={"explain": "true"}).json()
    assert (answer["user_id"], answer["reasons"][0]["column"]) == ("u 1", "since")
    assert client.get("/v1/users/u1/churn", params={"model": "x"}).json()["code"] == "unknown_model"


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_every_route_answers(client, path, method):
    answer = call(client, path, method)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_route_without_a_scope_is_not_built(service):
    bare = create_route("/debug", "GET", ROUTES["/healthz", "GET"][0], "open", service)
    del bare.endpoint.scope
    with pytest.raises(ValueError, match="declares no scope"):
        create_app(service, [bare])


def test_a_public_address_needs_a_key():
    with pytest.raises(ConfigError, match="no key is set"):
        require_safe_bind("0.0.0.0", Keys())
    with pytest.raises(ConfigError, match="fewer than 16"):
        Keys(write=["secret"])
    require_safe_bind("127.0.0.1", Keys())
    require_safe_bind("0.0.0.0", Keys(read=[READ_KEY]))


def test_a_key_may_be_given_by_its_hash_and_two_may_have_a_scope():
    keys = Keys(read=["sha256:" + sha256(READ_KEY.encode()).hexdigest(), "another-key-0123456789"])
    for key in (READ_KEY, "another-key-0123456789"):
        keys.require("read", f"Bearer {key}")
    for wrong in (
        "Bearer sha256:" + sha256(READ_KEY.encode()).hexdigest(),
        f"Basic {READ_KEY}",
        "Bearer ",
        None,
    ):
        with pytest.raises(AccessError):
            keys.require("read", wrong)
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        Keys(read=["sha256:abc"])


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", ""]
)
def test_a_foreign_host_is_refused_on_this_machine(client, host):
    assert client.get("/v1/items/i1", headers={"host": host}).status_code == 421


def test_only_listed_origins_may_call_from_a_browser(service):
    service.perimeter = Perimeter(access.LOCAL_HOSTS, frozenset(["https://shop.example"]))
    preflight = {"access-control-request-method": "POST"}
    with TestClient(create_app(service), base_url="http://localhost") as client:
        good = client.options("/v1/events", headers={"origin": "https://shop.example", **preflight})
        bad = client.options("/v1/events", headers={"origin": "https://evil.example", **preflight})
        unlisted = client.get("/healthz", headers={"origin": "https://shop.example"})
    assert (good.status_code, good.headers["access-control-allow-origin"]) == (
        204,
        "https://shop.example",
    )
    assert BINARY.keys() < set(good.headers["access-control-allow-headers"].split(", "))
    assert "access-control-allow-origin" not in bad.headers
    assert unlisted.headers["access-control-allow-origin"] == "https://shop.example"


def test_events_are_decided_one_by_one(client):
    answer = client.post("/v1/events", json=[CLICK, {**CLICK, "context": {"country": "Norway"}}])
    assert answer.status_code == 200
    assert answer.json()["accepted"] == 1
    assert answer.json()["events"][1]["path"] == "$.context.country"


def test_events_by_line(client):
    lines = b"\n".join([msgspec.json.encode(CLICK)] * 3)
    answer = client.post(
        "/v1/events", content=lines, headers={"content-type": "application/x-ndjson"}
    )
    assert answer.json()["accepted"] == 3


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b"[" * 4_000, b"\xff\xfe\x00", b'{"event_id": 1}', b"null", b"1" * 4_000, b"[]"],
)
def test_a_malformed_body_is_a_400_and_kept(client, service, body):
    answer = client.post("/v1/events", content=body)
    assert answer.status_code == 400
    assert answer.json()["events"][0]["code"]
    assert sum(service.collector.figures().refused.values()) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[" * 4_000,
        b"\xff\xfe\x00",
        b"null",
        b'{"slot": 1}',
        b'{"slot": "home", "sise": 2}',
    ],
)
def test_a_malformed_query_is_a_400_with_its_path(client, body):
    answer = client.post("/v1/recommend", content=body)
    assert answer.status_code == 400
    assert answer.json()["path"].startswith("$")


def test_an_error_names_code_message_and_path(client):
    answer = client.post("/v1/recommend", json={"slot": "hom"})
    assert answer.status_code == 400
    fault = answer.json()
    assert fault.pop("request_id") == answer.headers["x-request-id"]
    assert fault == {
        "code": "unknown_slot",
        "message": "there is no slot of that name",
        "path": "$.slot",
    }


def test_a_body_above_the_limit_is_a_413(client):
    assert client.post("/v1/events", content=b"x" * 5_000).status_code == 413


def test_a_body_of_unknown_length_is_cut_off_while_it_comes(client):
    assert client.post("/v1/events", content=(b"x" * 1_000 for _ in range(100))).status_code == 413


def test_gzip_is_unpacked_within_the_limit(client):
    packed = {"content-encoding": "gzip"}
    assert (
        client.post(
            "/v1/events", content=gzip.compress(msgspec.json.encode(CLICK)), headers=packed
        ).status_code
        == 200
    )
    assert (
        client.post(
            "/v1/events", content=gzip.compress(b" " * 3_000_000), headers=packed
        ).status_code
        == 413
    )
    assert client.post("/v1/events", content=b"no gzip", headers=packed).status_code == 400
    assert (
        client.post("/v1/events", content=gzip.compress(b"{}")[:-4], headers=packed).status_code
        == 400
    )
    assert (
        client.post("/v1/events", content=b"x", headers={"content-encoding": "br"}).status_code
        == 415
    )


def test_unknown_items_routes_and_methods_are_told_in_json(client):
    assert client.get("/nope").json()["code"] == "no_such_route"
    assert client.get("/v1/events").json()["code"] == "method_not_allowed"
    for path in ("/v1/items/nope", "/v1/items/nope/similar"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_item")


@pytest.mark.parametrize(
    "id_",
    [
        "shoes/42",
        "shoes%2F42",
        "shoes%2f4%252F2",
        "%2F",
        "a%2Fsimilar",
        "a%2Fchurn",
        "a/b%20%C3%B8",
        "a//b",
        "%C3%B8%2F1",
    ],
)
def test_ids_with_a_slash_are_ids(service, monkeypatch, id_):
    item_ids = []
    monkeypatch.setattr(service.pipeline, "item", lambda item: item_ids.append(("item", item)))
    monkeypatch.setattr(
        service.pipeline,
        "similar_items",
        lambda item, size, slot: item_ids.append(("similar", item)),
    )
    monkeypatch.setattr(
        service.churn, "answer", lambda user, name, explain: item_ids.append(("churn", user))
    )
    client = TestClient(create_app(service), base_url="http://127.0.0.1")
    client.get(f"/v1/items/{id_}")
    client.get(f"/v1/items/{id_}/similar")
    client.get(f"/v1/users/{id_}/churn")
    assert item_ids == [(name, unquote(id_)) for name in ("item", "similar", "churn")]


def test_no_id_at_all_is_no_route(client):
    for path in ("/v1/items/", "/v1/items//similar/", "/v1/users//churn"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "size", ["x", "", "0", "-1", "201", "0200999999", "9" * 5_000, "1e1", "\u0663", "\u00b2"]
)
def test_a_size_that_is_none_is_refused_with_its_path(client, size):
    answer = client.get("/v1/items/i1/similar", params={"size": size})
    assert (answer.status_code, answer.json()["path"]) == (400, "size")


@pytest.mark.parametrize(("size", "expected_size"), [("1", 1), ("200", 200), ("007", 7)])
def test_a_size_is_what_the_pipeline_is_asked_for(
    client, service, monkeypatch, size, expected_size
):
    sizes = []
    monkeypatch.setattr(
        service.pipeline, "similar_items", lambda item_id, size, slot: sizes.append((size, slot))
    )
    client.get("/v1/items/i1/similar", params={"size": size})
    client.get("/v1/items/i1/similar", params={"size": size, "slot": "home"})
    assert sizes == [(expected_size, ""), (expected_size, "home")]


def test_a_broken_log_is_a_503_that_says_when_to_come_back(client, service):
    service.collector.close()
    answer = client.post("/v1/events", json=CLICK)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    assert client.post("/v1/recommend", json={"slot": "home"}).status_code == 200


def test_a_draining_server_closes_its_connections(client, service):
    assert client.get("/readyz").status_code == 200
    service.draining = True
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").headers["connection"] == "close"


def test_a_fault_of_ours_tells_no_details(service):
    service.pipeline.search = lambda query: 1 / 0
    service.pipeline.rank = lambda query: (_ for _ in ()).throw(BundleError("secret path"))
    with TestClient(
        create_app(service), base_url="http://localhost", raise_server_exceptions=False
    ) as client:
        bug = client.post("/v1/search", json={"query": "x"})
        fault = client.post("/v1/rank", json=BODIES["/v1/rank"])
    assert (bug.status_code, bug.json()["code"]) == (500, "internal")
    assert fault.status_code == 503
    assert "secret" not in fault.text


def test_too_many_waiting_requests_are_shed(service, monkeypatch):
    monkeypatch.setattr("tailorbird.serving.load_shedding.WAITING_MAX", 2)
    entered = threading.Semaphore(0)
    release = threading.Event()

    def slow(query):
        entered.release()
        release.wait(5)
        return PromptPipeline().answer(query)

    service.pipeline.answer = slow
    with TestClient(create_app(service), base_url="http://localhost") as client:
        threads = [
            threading.Thread(target=lambda: client.post("/v1/recommend", json={"slot": "home"}))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert entered.acquire(timeout=5)
        answer = client.post("/v1/recommend", json={"slot": "home"})
        release.set()
        for thread in threads:
            thread.join()
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")


def test_metrics_count_routes_and_events_without_ids(client):
    client.post("/v1/events", json=[CLICK, {"event_id": "e2"}])
    client.get("/v1/items/a-very-special-id")
    text = client.get("/metrics").text
    assert 'tailorbird_requests_total{route="/v1/events",status="200"} 1.0' in text
    assert "tailorbird_events_accepted_total 1.0" in text
    assert 'tailorbird_events_refused_total{code="missing"} 1.0' in text
    assert "a-very-special-id" not in text


def test_the_document_describes_every_route_and_the_page_shows_them(client):
    spec = client.get("/openapi.json").json()
    assert {
        (path, method.upper()) for path, methods in spec["paths"].items() for method in methods
    } == set(ROUTES)
    assert spec["openapi"] == "3.1.0"
    refs = set(_refs(spec))
    assert refs <= {f"#/components/schemas/{name}" for name in spec["components"]["schemas"]}
    page = client.get("/docs")
    assert "/v1/recommend" in page.text
    assert "<script" not in page.text
    assert "http" not in page.text.replace("httpx", "").split("</style>")[0]


def _refs(part):
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from _refs(value)
    elif isinstance(part, list):
        for value in part:
            yield from _refs(value)


def test_a_slow_body_is_cut_off(service):
    """Straight through ASGI, since the test client sends a body at once."""
    import anyio

    answers = []

    async def receive():
        await anyio.sleep(10)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message):
        answers.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/events",
        "raw_path": b"/v1/events",
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"host", b"localhost")],
    }
    start = time.monotonic()
    anyio.run(create_app(service), scope, receive, send)
    assert answers[0]["status"] == 408
    assert time.monotonic() - start < 5


TRACK = {
    "type": "track",
    "messageId": "m1",
    "userId": "u1",
    "event": "Order Completed",
    "timestamp": "2025-11-25T12:00:00Z",
    "properties": {
        "order_id": "o1",
        "products": [{"product_id": "i1", "price": 5}, {"product_id": "i2"}],
    },
}


def test_events_of_segment_are_taken_one_a_product(client):
    answer = client.post("/v1/events?format=segment", json={"batch": [TRACK, {"type": "group"}]})
    assert (answer.status_code, answer.json()["accepted"]) == (200, 2)


@pytest.mark.parametrize("kind", ["batch", "import", "track"])
def test_segments_libraries_work_unchanged(client, kind):
    alone = {name: value for name, value in TRACK.items() if name != "type"}
    body = (
        {"batch": [TRACK], "writeKey": "k", "sentAt": "2025-11-25T12:00:01Z"}
        if kind != "track"
        else alone
    )
    answer = client.post(f"/v1/{kind}", json=body)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 2)


def test_segments_key_is_that_of_basic_authorisation(tmp_path):
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        keys = Keys(write=[READ_KEY])
        with TestClient(
            create_app(Service(PromptPipeline(), collector, keys=keys)),
            base_url="http://127.0.0.1:8642",
        ) as client:
            body = {"batch": [TRACK]}
            assert client.post("/v1/batch", json=body).status_code == 401
            assert client.post("/v1/batch", json=body, auth=("wrong", "")).status_code == 401
            assert client.post("/v1/batch", json=body, auth=(READ_KEY, "")).status_code == 200


def test_what_of_segment_cannot_be_read_is_refused_and_a_wrong_path_names_the_right_one(client):
    assert client.post("/v1/track", json={"messageId": "m1"}).status_code == 400
    assert client.post("/v1/track", content=b"{").status_code == 400
    answer = client.post("/segment/v1/batch/", json={"batch": [TRACK]})
    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_route")
    assert "/v1/batch" in answer.json()["fix"]


@pytest.mark.parametrize(
    "kind", ["application/cloudevents+json", "application/cloudevents-batch+json; charset=utf-8"]
)
def test_cloudevents_are_known_by_their_content_type(client, kind):
    envelope = {
        "specversion": "1.0",
        "id": "1",
        "source": "/shop",
        "type": "shop.click",
        "data": {"user_id": "u1", "item_id": "i1"},
    }
    body = [envelope] if "batch" in kind else envelope
    answer = client.post(
        "/v1/events", headers={"content-type": kind}, content=msgspec.json.encode(body)
    )
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert (
        client.post("/v1/events", headers=BINARY, json={"user_id": 42, "item_id": "i1"}).status_code
        == 200
    )


def test_events_of_cloudevents_are_taken(client):
    envelope = {
        "specversion": "1.0",
        "id": "1",
        "source": "/shop",
        "type": "shop.click",
        "data": {"user_id": "u1", "item_id": "i1"},
    }
    answer = client.post("/v1/events?format=cloudevents", json=[envelope])
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)


BINARY = {
    "ce-specversion": "1.0",
    "ce-type": "com.shop.click",
    "ce-source": "/caf%C3%A9",
    "ce-id": '"A-1"',
    "ce-time": "2026-01-02T03:04:05Z",
}


def test_a_cloudevent_whose_attributes_are_headers_is_taken(client, tmp_path):
    answer = client.post(
        "/v1/events?format=cloudevents", headers=BINARY, json={"user_id": 42, "item_id": "i1"}
    )
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    with open_reader(raw_path(tmp_path, "serve-1")) as reader:
        (stored,) = reader.read(reader.start())
    taken = msgspec.json.decode(stored.block.payload)
    assert (taken["event_id"], taken["user_id"], taken["type"]) == ("/café#A-1", "42", "click")
    for raw in ("%ff", "%fe"):  # no UTF-8: two events, and not twice the same
        response = client.post(
            "/v1/events?format=cloudevents",
            headers={**BINARY, "ce-id": raw},
            json={"user_id": 42, "item_id": "i1"},
        )
        assert response.json()["accepted"] == 1
    with open_reader(raw_path(tmp_path, "serve-1")) as reader:
        written = [
            msgspec.json.decode(each.block.payload)["event_id"]
            for each in reader.read(reader.start())
        ]
    assert written == ["/café#A-1", "/café#%ff", "/café#%fe"]
    structured = {**BINARY, "content-type": "application/cloudevents+json", "ce-specversion": "9"}
    envelope = {
        "specversion": "1.0",
        "id": "1",
        "source": "/shop",
        "type": "shop.click",
        "data": {"user_id": "u1", "item_id": "i1"},
    }
    assert (
        client.post(
            "/v1/events?format=cloudevents",
            headers=structured,
            content=msgspec.json.encode(envelope),
        ).status_code
        == 200
    )


@pytest.mark.parametrize(
    ("headers", "body", "code", "path"),
    [
        ({}, b'{"user_id": "u1"', "malformed_json", "$.data"),
        (
            {"content-type": "application/json"},
            b'{"user_id": "\\ud800"}',
            "malformed_json",
            "$.data",
        ),
        ({}, b"\xff\xfe", "malformed_json", "$.data_base64"),
        ({}, b"", "wrong_type", "$.data"),
        ({"ce-id": ""}, b"{}", "missing", "$.id"),
        ({"ce-specversion": "3.0"}, b"{}", "unknown_kind", "$.specversion"),
        ({"ce-data": "x"}, b'[{"user_id": "u1", "item_id": "i1"}]', "wrong_type", "$.data"),
    ],
)
def test_a_cloudevent_in_headers_that_cannot_be_read_says_why_and_is_kept(
    client, service, headers, body, code, path
):
    answer = client.post(
        "/v1/events?format=cloudevents", headers={**BINARY, **headers}, content=body
    )
    (event,) = answer.json()["events"]
    assert (answer.status_code, event["code"], event["path"]) == (400, code, path)
    assert service.collector.figures().refused == {code: 1}


def test_what_a_webhook_cannot_be_read_says_so_and_is_kept(client, service):
    answer = client.post("/v1/events?format=segment", json={**TRACK, "messageId": None})
    assert answer.status_code == 400
    assert answer.json()["events"] == [
        {
            "accepted": False,
            "code": "missing",
            "path": "$.messageId",
            "message": "expected messageId",
        }
    ]
    assert service.collector.figures().refused == {"missing": 1}


def test_a_webhook_that_says_nothing_about_items_is_answered(client):
    answer = client.post("/v1/events?format=segment", json={"type": "group", "messageId": "m"})
    assert (answer.status_code, answer.json()) == (200, {"accepted": 0, "refused": 0, "events": []})


def test_an_unknown_format_is_a_wrong_use(client):
    answer = client.post("/v1/events?format=ga5", json=TRACK)
    assert (answer.status_code, answer.json()["path"]) == (400, "format")
