"""Each reason of the contract: the collector's answer and the quarantine name the same code and path,
and the event is kept whole.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.support.serving.app import PromptPipeline

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.events.contract.codes import CODE_DESCRIPTIONS
from tailorbird.lake import Lake, LakeRole
from tailorbird.router import Router
from tailorbird.serving.auth.keyfile import create_key
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.handling import Service

CLICK: dict[str, Any] = {"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1"}
BAD: dict[str, Any] = {
    "malformed_json": b'{"event_id": "e1",',
    "missing": {**CLICK, "item_id": None},
    "wrong_type": {**CLICK, "user_id": 7},
    "unknown_field": {**CLICK, "colour": "red"},
    "unknown_type": {**CLICK, "type": "zoomed"},
    "bad_id": {**CLICK, "item_id": ""},
    "reserved_prefix": {**CLICK, "user_id": "anon:1"},
    "bad_time": {**CLICK, "ts": "2025-11-25T12:00:00"},
    "ts_in_future": {**CLICK, "ts": "2200-01-01T00:00:00Z"},
    "ts_absurd": {**CLICK, "ts": "1970-01-01T00:00:01Z", "sent_at": "2200-01-01T00:00:00Z"},
    "timeless_event": {**CLICK, "timeless": True},
    "bad_country": {**CLICK, "context": {"country": "Norway"}},
    "number_out_of_range": {**CLICK, "properties": {"price": -1}},
    "too_large": {**CLICK, "items": ["i"] * 1_001},
    "server_owned": {**CLICK, "received_at": "2025-11-25T12:00:00Z"},
    "browser_key": {**CLICK, "type": "item"},
    "erased": b'{"erased":true}',
}

# Of a project's own rules and of foreign formats.
OTHERS = {"not_allowed", "unknown_kind", "wrong_width"}


def test_there_is_an_example_of_every_reason() -> None:
    assert BAD.keys() == CODE_DESCRIPTIONS.keys() - OTHERS


@pytest.mark.parametrize("code", BAD)
def test_door_and_quarantine_name_the_same_reason(code: str, tmp_path: Path) -> None:
    body = BAD[code] if isinstance(BAD[code], bytes) else msgspec.json.encode(BAD[code])
    with EventCollector(tmp_path / "stream", "serve-1", RoutePlan(), SystemClock()) as collector:
        service, headers = Service(PromptPipeline(), collector), {}
        if code == "browser_key":
            token, _ = create_key(
                tmp_path / "keys.json", "page", ["write"], 1, origins=["https://shop.example"]
            )
            service = Service(PromptPipeline(), collector, Keys(file=tmp_path / "keys.json"))
            headers = {"authorization": f"Bearer {token}", "origin": "https://shop.example"}
        with TestClient(create_app(service), base_url="http://127.0.0.1:8642") as client:
            answer = client.post("/v1/events", content=body, headers=headers)
    (decision,) = answer.json()["events"]
    assert (answer.status_code, decision["code"]) == (400, code)
    with Router(tmp_path / "stream", RoutePlan(), clock=SystemClock()) as router:
        assert router.step().quarantined == 1
    with LakeRole(tmp_path / "stream", tmp_path / "lake", clock=SystemClock()) as role:
        role.drain()
    (quarantined,) = Lake(tmp_path / "lake").table("quarantine").to_pylist()
    assert (quarantined["code"], quarantined["path"], quarantined["message"]) == (
        code,
        decision["path"],
        decision["message"],
    )
    assert (quarantined["body"], quarantined["source"]) == (
        body,
        "browser" if code == "browser_key" else "collector",
    )
    assert quarantined["received_at"] is not None
