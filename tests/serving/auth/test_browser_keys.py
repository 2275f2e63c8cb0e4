"""A key that every visitor can read: it tells what people do, never what an item or a person is,
and who somebody is only if told so.
"""

import json
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.support.serving.app import PromptPipeline

from tailorbird.errors import UsageError
from tailorbird.events import EVENT_TYPES, RoutePlan, SystemClock
from tailorbird.lake import Lake, LakeRole
from tailorbird.lake.write.replay import QuarantineFilter, replay
from tailorbird.router import Router
from tailorbird.serving.auth.keyfile import create_key, read_keys
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.gorse import gorse_routes
from tailorbird.serving.http.handling import Service

ORIGIN = "https://shop.example"
PLAN = RoutePlan(event_types=(*EVENT_TYPES, "quiz_taken"))
BROWSERS = ("page", "login")
TYPES = [*(name for name in PLAN.event_types if name != "answer"), "timeless item", "timeless user"]
NEVER = {"item", "user", "merge", "timeless item", "timeless user"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A client, and the headers of a key for pages, of one for pages with `identify`, and of a
    write key.
    """
    folder = tmp_path_factory.mktemp("site")
    file = folder / "keys.json"
    keys = {
        "page": create_key(file, "page", ["write"], 1, origins=[ORIGIN]),
        "login": create_key(file, "login", ["write"], 1, origins=[ORIGIN], identify=True),
        "write": create_key(file, "backend", ["write"], 1),
    }
    headers = {
        name: {"authorization": f"Bearer {token}"}
        | ({"origin": ORIGIN} if name in BROWSERS else {})
        for name, (token, _) in keys.items()
    }
    with EventCollector(folder / "stream", "serve-1", PLAN, SystemClock()) as collector:
        service = Service(PromptPipeline(), collector, Keys(file=file))
        app = create_app(service, gorse_routes(service, "home"))
        with TestClient(app, base_url="http://127.0.0.1") as client:
            yield client, headers


def event(kind: str, number: int = 0) -> dict[str, Any]:
    timeless, _, type_ = kind.rpartition(" ")
    sent: dict[str, Any] = {
        "event_id": f"{kind}-{number}",
        "type": type_,
        "user_id": "victim",
        "anonymous_id": "a1",
        "item_id": "i1",
    }
    merging = {"properties": {"merged_into": "attacker"}} if type_ == "merge" else {}
    return {**sent, **merging, "timeless": True} if timeless else {**sent, **merging}


def allowed(kind: str, holder: str) -> bool:
    return holder == "write" or (kind not in NEVER and (kind != "identify" or holder == "login"))


@pytest.mark.parametrize("holder", [*BROWSERS, "write"])
@pytest.mark.parametrize("kind", TYPES)
def test_each_key_sends_its_types_of_events_only(site, kind, holder):
    client, headers = site
    answer = client.post("/v1/events", json=event(kind), headers=headers[holder])
    (decision,) = answer.json()["events"]
    if allowed(kind, holder):
        assert (answer.status_code, decision["accepted"]) == (200, True)
        return
    assert (answer.status_code, decision["accepted"], decision["code"], decision["path"]) == (
        400,
        False,
        "browser_key",
        "$.type",
    )


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("holder", BROWSERS)
def test_of_a_body_only_the_rows_that_it_may_not_send_are_refused(site, holder, kind):
    client, headers = site
    events = [event(name, 1) for name in TYPES]
    body = (
        msgspec.json.encode(events)
        if kind == "application/json"
        else b"\n".join(map(msgspec.json.encode, events))
    )
    answer = client.post(
        "/v1/events", content=body, headers=headers[holder] | {"content-type": kind}
    )
    assert answer.status_code == 200
    assert [decision["accepted"] for decision in answer.json()["events"]] == [
        allowed(name, holder) for name in TYPES
    ]
    assert {
        decision["code"] for decision in answer.json()["events"] if not decision["accepted"]
    } == {"browser_key"}


def test_no_browser_records_answers_or_says_when_an_event_arrived(site):
    client, headers = site
    for more in ({"type": "answer"}, {"received_at": "2025-11-25T12:00:00Z"}):
        for holder in (*BROWSERS, "write"):
            answer = client.post(
                "/v1/events", json={**event("click"), **more}, headers=headers[holder]
            )
            assert answer.json()["events"][0]["code"] == "server_owned"


@pytest.mark.parametrize(
    ("holder", "taken"), [("page", []), ("login", ["identify"]), ("write", ["identify", "user"])]
)
def test_the_formats_of_others_are_no_way_around(site, holder, taken):
    client, headers = site
    sent = {
        "type": "identify",
        "messageId": f"m-{holder}",
        "userId": "victim",
        "anonymousId": "a1",
        "traits": {"plan": "gold"},
    }
    answer = client.post("/v1/events?format=segment", json=sent, headers=headers[holder])
    decisions = answer.json()["events"]
    assert len(decisions) == 2
    assert sum(each["accepted"] for each in decisions) == len(taken)
    assert {each["code"] for each in decisions if not each["accepted"]} <= {"browser_key"}


@pytest.mark.parametrize("holder", [*BROWSERS, "write"])
@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/user", {"UserId": "victim"}), ("/api/items", [{"ItemId": "i1", "Labels": {"a": "b"}}])],
)
def test_nor_are_the_routes_of_gorse(site, holder, path, body):
    client, headers = site
    answer = client.post(path, json=body, headers=headers[holder])
    if holder == "write":
        assert (answer.status_code, answer.json()) == (200, {"RowAffected": 1})
    else:
        assert (answer.status_code, answer.json()["code"]) == (400, "browser_key")


def test_what_was_refused_is_kept_and_no_replay_lets_it_in(tmp_path):
    stream, lake = tmp_path / "stream", tmp_path / "lake"
    rows = [event(name) for name in TYPES]
    with EventCollector(stream, "serve-1", PLAN, SystemClock()) as collector:
        collector.submit(msgspec.json.encode(rows), source="browser")
    with Router(stream, PLAN, clock=SystemClock()) as router:
        assert router.step().quarantined == len(NEVER) + 1
    with LakeRole(stream, lake, clock=SystemClock()) as role:
        role.drain()
    quarantined = Lake(lake).table("quarantine").to_pylist()
    assert {row["code"] for row in quarantined} == {"browser_key"}
    assert {row["source"] for row in quarantined} == {"browser"}
    assert {json.loads(row["body"])["event_id"] for row in quarantined} == {
        f"{name}-0" for name in (*NEVER, "identify")
    }
    report = replay(
        lake, stream, QuarantineFilter(reasons=("browser_key",)), plan=PLAN, clock=SystemClock()
    )
    assert (report.examined, report.sent, report.refused) == (
        len(NEVER) + 1,
        0,
        {"browser_key": len(NEVER) + 1},
    )


def test_a_key_file_from_before_allows_no_identify(tmp_path):
    file = tmp_path / "keys.json"
    token, _ = create_key(file, "page", ["write"], 1, origins=[ORIGIN])
    assert "identify" not in file.read_text()
    assert Keys(file=file).require("write", f"Bearer {token}", ORIGIN).source == "browser"


def test_only_a_key_for_browsers_is_told_whether_it_may_identify(tmp_path):
    with pytest.raises(UsageError, match="only a key for browsers"):
        create_key(tmp_path / "keys.json", "backend", ["write"], 1, identify=True)
    assert read_keys(tmp_path / "keys.json") == []
