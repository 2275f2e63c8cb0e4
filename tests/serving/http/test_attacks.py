"""What somebody with bad intentions sends: fields of the server's, labels, paths, numbers and
depths beyond sense.
"""

import re
import time

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.support.commands import assert_refused, must, tailorbird
from tests.support.serving.app import CLICK, PromptPipeline

from tailorbird.config import Settings
from tailorbird.console.home import home_routes
from tailorbird.console.shop import shop_routes
from tailorbird.errors import ConfigError
from tailorbird.events import ROUTED, Event, Receipt, RoutePlan, SystemClock, check_body
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.access import require_safe_bind
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.gorse import gorse_routes
from tailorbird.serving.http.handling import Service
from tailorbird.stream import open_reader, raw_path

# What a client may say of an event; all other columns of the routed log are the server's.
CLIENTS = {
    "event_id",
    "type",
    "ts",
    "sent_at",
    "user_id",
    "anonymous_id",
    "session_id",
    "item_id",
    "items",
    "request_id",
    "context",
    "properties",
    "timeless",
}
SERVERS = sorted((set(Event.__struct_fields__) | set(ROUTED.names)) - CLIENTS)
INVENTED = [
    "position",
    "propensity",
    "variant",
    "arm",
    "is_bot",
    "person",
    "counts",
    "partition",
    "commit",
    "__class__",
    "source",
]


@pytest.fixture
def service(tmp_path):
    with EventCollector(tmp_path / "stream", "serve-1", RoutePlan(), SystemClock()) as collector:
        yield Service(PromptPipeline(), collector)


@pytest.fixture
def client(service, tmp_path):
    app = create_app(
        service,
        [
            *gorse_routes(service, "home"),
            *home_routes(service, lambda _: {}, tmp_path),
            *shop_routes(service, "home"),
        ],
    )
    return TestClient(app, base_url="http://127.0.0.1")


@pytest.mark.parametrize("field", sorted({*SERVERS, *INVENTED}))
@pytest.mark.parametrize("value", [1, "2020-01-01T00:00:00Z", True, {"slot": "home"}])
def test_no_field_of_the_servers_is_taken_from_a_client(client, field, value):
    decision = client.post("/v1/events", json={**CLICK, field: value}).json()["events"][0]
    assert not decision["accepted"]
    assert decision["code"] in ("server_owned", "unknown_field", "wrong_type")
    answer = client.post("/v1/recommend", json={"slot": "home", field: value})
    assert answer.status_code == (
        200 if field == "items" or (field == "arm" and isinstance(value, str)) else 400
    )


@pytest.mark.parametrize("kind", ["cloudevents", "segment"])
def test_nor_through_the_formats_of_others(client, tmp_path, kind):
    data = {
        "user_id": "u1",
        "item_id": "i1",
        "received_at": "2020-01-01T00:00:00Z",
        "answer": {"slot": "home"},
        "type": "answer",
    }
    sent = {
        "cloudevents": {
            "specversion": "1.0",
            "id": "1",
            "source": "/shop",
            "type": "click",
            "data": data,
        },
        "segment": {
            "type": "track",
            "messageId": "m1",
            "userId": "u1",
            "event": "answer",
            "properties": data,
            **data,
        },
    }[kind]
    unread = {
        "format": kind,
        "place": "x",
        "code": "made_up",
        "path": "$",
        "message": "m",
        "record": 1,
    }
    client.post(f"/v1/events?format={kind}", json=[sent, {"unread": unread}])
    with open_reader(raw_path(tmp_path / "stream", "serve-1")) as reader:
        blocks = [stored.block for stored in reader.read(0)]
    for block in blocks:
        receipt = msgspec.json.decode(block.receipt, type=Receipt)
        taken, left = check_body(block.payload, receipt, RoutePlan())
        assert all(
            each.event.answer is None
            and each.event.type != "answer"
            and each.received_at == receipt.received_at
            for each in taken
        )
        assert "made_up" not in {each.code for each in left}


def test_nothing_that_is_sent_becomes_a_label(client):
    def labels() -> set[str]:
        return set(
            re.findall(r"^(tailorbird_\w+\{[^}]*\})", client.get("/metrics").text, re.MULTILINE)
        )

    def send(number: int) -> None:
        client.post(
            "/v1/events",
            json={
                **CLICK,
                "event_id": f"e{number}",
                "type": f"kind{number}",
                "user_id": f"u{number}",
            },
        )
        client.post("/v1/events", json={**CLICK, f"field{number}": 1})
        client.post(f"/v1/events?format=f{number}", json=CLICK)
        client.post("/v1/recommend", json={"slot": f"slot{number}"})
        client.get(f"/v1/items/{number}")
        client.get(f"/nope/{number}")
        client.request(f"METHOD{number}", "/v1/events")
        client.get(f"/api/non-personalized/x{number}")

    client.get("/metrics")  # whose own label comes with the first scrape
    send(0)
    before = labels()
    for number in range(1, 30):
        send(number)
    assert labels() == before


@pytest.mark.parametrize(
    "path",
    [
        "/keys.json",
        "/../keys.json",
        "/shop/../../keys.json",
        "/shop/..%2f..%2fkeys.json",
        "/shop/%2e%2e/%2e%2e/tailorbird.toml",
        "/shop/shop.js/..%2f..%2f..%2fpyproject.toml",
        "/v1/items/..%2f..%2f..%2fetc%2fpasswd",
        "/shop/picture/..%2f..%2fx.svg",
        "//etc/passwd",
        "/%00",
        "/shop/shop.html%00.js",
    ],
)
def test_no_path_leads_out_of_what_is_served(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 200)
    assert answer.status_code == 404 or answer.headers["content-type"].startswith("image/svg"), (
        "a picture drawn from no attributes"
    )
    assert b"root:" not in answer.content
    assert b"[project]" not in answer.content


@pytest.mark.parametrize(
    "body",
    [
        b'{"event_id": "e", "type": "click", "user_id": "u", "item_id": "i", "properties": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}",
        b"[" * 500_000,
        b'{"a":' * 150_000,
        b"{" + b",".join(b'"k%d":1' % number for number in range(80_000)) + b"}",
        b'{"event_id": "e", "type": "rating", "user_id": "u", "item_id": "i", "properties": {"rating": '
        + b"9" * 900_000
        + b"}}",
        b'{"event_id": "e", "type": "rating", "user_id": "u", "item_id": "i", "ts": '
        + b"9" * 900_000
        + b"}",
        b'{"event_id": "' + b"\\u0000" * 100_000 + b'", "type": "click"}',
    ],
    ids=[
        "deep list",
        "open lists",
        "open objects",
        "many keys",
        "long number",
        "long time",
        "long id",
    ],
)
def test_depth_length_and_numbers_beyond_sense_are_refused_at_once(client, body):
    started_at = time.process_time()
    answer = client.post("/v1/events", content=body)
    assert (answer.status_code, answer.json()["refused"]) == (400, 1)
    assert len(answer.content) < 1_000, "what was sent is not sent back"
    assert time.process_time() - started_at < 2, (
        "a tenth of that on a machine that has nothing else to do"
    )


LOCAL, PUBLIC = (
    ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"],
    ["0.0.0.0", "::", "10.0.0.1", "shop.example", "", "*"],
)


@pytest.mark.parametrize("host", [*LOCAL, *PUBLIC])
@pytest.mark.parametrize(
    "keys", [Keys(), Keys(read=["read-key-0123456789"])], ids=["open", "keyed"]
)
def test_only_this_machine_is_served_without_a_key(host, keys):
    if host in LOCAL or keys:
        require_safe_bind(host, keys)
        return
    with pytest.raises(ConfigError, match="no key is set"):
        require_safe_bind(host, keys)


def test_the_default_is_this_machine_and_a_public_start_without_a_key_is_refused(tmp_path):
    assert Settings().serve.host == "127.0.0.1"
    fresh = tmp_path / "fresh"
    must("init", fresh)
    assert_refused(
        tailorbird("-C", fresh, "run", "serve", "--host", "0.0.0.0", "--port", "0", timeout=60),
        "no key is set",
        "keys create",
        status=2,
    )
