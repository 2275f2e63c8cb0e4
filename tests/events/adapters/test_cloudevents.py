"""CloudEvents, single and in batches, around our own events and others'."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from tests.support.adapters import convert_events, read_refusals

OURS = {"user_id": "u", "item_id": "i", "properties": {"dwell_ms": 5}}
ENVELOPE = {
    "specversion": "1.0",
    "type": "com.example.shop.click",
    "source": "/shop",
    "id": "A234-1234-1234",
    "time": "2018-04-05T17:31:00Z",
    "datacontenttype": "application/json",
    "comexampleextension1": "value",
    "subject": None,
}


def _convert(folder: Path, *envelopes: dict[str, Any]) -> list[dict[str, Any]]:
    (folder / "e.jsonl").write_text("\n".join(json.dumps(each) for each in envelopes))
    return convert_events("cloudevents", folder / "e.jsonl")


def test_the_envelope_fills_in_what_our_event_leaves_out(tmp_path: Path) -> None:
    (event,) = _convert(tmp_path, {**ENVELOPE, "data": OURS})
    assert event == {
        "event_id": "/shop#A234-1234-1234",
        "type": "click",
        "ts": 1_522_949_460_000_000,
        **OURS,
    }


def test_fields_of_native_data_take_precedence(tmp_path: Path) -> None:
    (event,) = _convert(
        tmp_path, {**ENVELOPE, "data": {**OURS, "event_id": "e1", "ts": "2018-04-05T17:00:00Z"}}
    )
    assert (event["event_id"], event["ts"]) == ("e1", "2018-04-05T17:00:00Z")


@pytest.mark.parametrize(
    "data_type", ["view", "item", "user", "merge", "identify", "answer", 7, None]
)
def test_the_envelope_decides_the_event_type(tmp_path: Path, data_type: Any) -> None:
    (event,) = _convert(tmp_path, {**ENVELOPE, "data": {**OURS, "type": data_type}})
    assert event["type"] == "click"


@pytest.mark.parametrize("name", ["item", "user", "merge", "identify"])
def test_an_envelope_that_names_a_profile_or_a_merge_is_one(tmp_path: Path, name: str) -> None:
    data = {"user_id": "u", "anonymous_id": "v", "item_id": "i", "properties": {"merged_into": "w"}}
    for type_ in (f"com.example.{name}", f"com.example.{name}.v2", name):
        (event,) = _convert(tmp_path, {**ENVELOPE, "type": type_, "data": data})
        assert event["type"] == name


ALIAS = {
    "type": "alias",
    "messageId": "m",
    "previousId": "a",
    "userId": "b",
    "timestamp": ENVELOPE["time"],
}
IDENTIFY = {
    "type": "identify",
    "messageId": "m",
    "anonymousId": "v",
    "userId": "b",
    "traits": {"age": 7},
    "timestamp": ENVELOPE["time"],
}
PROFILE = {"ItemId": "i", "IsHidden": True, "Timestamp": "2018-04-05"}
TRACK = {
    "type": "track",
    "messageId": "m",
    "userId": "u",
    "event": "Product Viewed",
    "properties": {"sku": "i"},
    "timestamp": "2018-04-05",
}


@pytest.mark.parametrize("named", ["shop.click", "shop.video_played", "shop.message"])
@pytest.mark.parametrize(
    "data",
    [ALIAS, IDENTIFY, PROFILE, {"UserId": "u", "Labels": ["x"]}],
    ids=["alias", "identify", "item", "user"],
)
def test_data_in_anothers_shape_make_no_profile_login_or_merge_that_the_envelope_does_not_name(
    tmp_path: Path, named: str, data: dict[str, Any]
) -> None:
    (tmp_path / "e.jsonl").write_text(json.dumps({**ENVELOPE, "type": named, "data": data}))
    accepted, refused = read_refusals("cloudevents", tmp_path / "e.jsonl")
    assert (accepted, [(code, path) for code, path, _, _ in refused]) == (
        0,
        [("unknown_kind", "$.type")],
    )


def test_data_of_another_type_than_the_envelope_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(json.dumps({**ENVELOPE, "type": "shop.click", "data": TRACK}))
    accepted, refused = read_refusals("cloudevents", tmp_path / "e.jsonl")
    assert (accepted, [(code, path) for code, path, _, _ in refused]) == (
        0,
        [("unknown_kind", "$.type")],
    )
    (event,) = _convert(tmp_path, {**ENVELOPE, "type": "shop.view", "data": TRACK})
    assert event["type"] == "view"


@pytest.mark.parametrize(
    ("named", "data", "types"),
    [
        ("com.segment.identify", IDENTIFY, ["identify", "user"]),
        ("com.segment.alias", ALIAS, ["identify", "merge"]),
        ("gorse.item", PROFILE, ["item"]),
    ],
)
def test_what_the_envelope_names_is_made(
    tmp_path: Path, named: str, data: dict[str, Any], types: list[str]
) -> None:
    assert [
        made["type"] for made in _convert(tmp_path, {**ENVELOPE, "type": named, "data": data})
    ] == types


def test_a_batch_and_binary_data(tmp_path: Path) -> None:
    binary = {**ENVELOPE, "id": "B", "data_base64": b64encode(json.dumps(OURS).encode()).decode()}
    (tmp_path / "batch.json").write_text(json.dumps([{**ENVELOPE, "data": OURS}, binary], indent=1))
    assert [one["event_id"] for one in convert_events("cloudevents", tmp_path / "batch.json")] == [
        "/shop#A234-1234-1234",
        "/shop#B",
    ]


def test_around_the_events_of_other_systems(tmp_path: Path) -> None:
    track = {
        "type": "track",
        "messageId": "m1",
        "userId": "u",
        "event": "Product Clicked",
        "properties": {"sku": "i"},
        "timestamp": ENVELOPE["time"],
    }
    read = {"FeedbackType": "read", "UserId": "u", "ItemId": "i", "Timestamp": "2018-04-05"}
    row = {
        "event_name": "view_item",
        "event_timestamp": 1522949460000000,
        "user_pseudo_id": "v",
        "items": [{"item_id": "i"}],
    }
    clicked, was_read, viewed = _convert(
        tmp_path,
        *({**ENVELOPE, "type": "shop.message", "data": data} for data in (track, read, row)),
    )
    assert (clicked["event_id"], clicked["type"]) == ("m1", "click")
    assert (was_read["event_id"][:6], was_read["type"]) == ("gorse:", "view")
    assert (viewed["anonymous_id"], viewed["type"]) == ("v", "view")


def test_ids_that_are_numbers_are_their_digits(tmp_path: Path) -> None:
    (event,) = _convert(
        tmp_path,
        {**ENVELOPE, "data": {**OURS, "user_id": 42, "item_id": 7.0, "session_id": 2**60 + 1}},
    )
    assert (event["user_id"], event["item_id"], event["session_id"]) == (
        "42",
        "7",
        "1152921504606846977",
    )


def test_a_very_long_identity_is_hashed(tmp_path: Path) -> None:
    (event,) = _convert(tmp_path, {**ENVELOPE, "source": "s" * 300, "data": OURS})
    assert len(event["event_id"]) == 64


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"specversion": "2.0"}, "unknown_kind", "$.specversion"),
        ({"id": ""}, "missing", "$.id"),
        ({"data": "text"}, "wrong_type", "$.data"),
        ({"data": None}, "wrong_type", "$.data"),
        (
            {"data": "<much wow='xml'/>", "datacontenttype": "application/xml"},
            "malformed_json",
            "$.data",
        ),
        ({"data_base64": "no"}, "malformed_json", "$.data_base64"),
        ({"data": {**OURS, "colour": 1}}, "unknown_field", "$.data.colour"),
        ({"data": {**OURS, "user_id": True}}, "wrong_type", "$.data.user_id"),
        ({"data": {**OURS, "item_id": 7.5}}, "wrong_type", "$.data.item_id"),
        ({"data": {**OURS, "context": {"country": 7}}}, "wrong_type", "$.data.context.country"),
        ({"data": {**OURS, "received_at": 7}}, "server_owned", "$.data.received_at"),
        ({"time": "soon"}, "bad_time", "$.time"),
        ({"data": {"user_id": "u"}}, "missing", "$.item_id"),
    ],
)
def test_unreadable_records_are_quarantined_with_the_reason(
    tmp_path: Path, change: dict[str, Any], code: str, path: str
) -> None:
    (tmp_path / "e.jsonl").write_text(json.dumps({**ENVELOPE, "data": OURS, **change}))
    accepted, refused = read_refusals("cloudevents", tmp_path / "e.jsonl")
    assert accepted == 0
    assert [(actual, where) for actual, where, _, _ in refused] == [(code, path)]
