"""Gorse's users, items and feedback, as it exports and takes them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.adapters import convert_events, read_refusals


def _write(folder: Path, *records: Any, name: str = "data.jsonl") -> Path:
    (folder / name).write_text("\n".join(json.dumps(record) for record in records))
    return folder / name


USER = {"UserId": "bob", "Labels": ["male", "engineer"], "Subscribe": None, "Comment": "zhenghaoz"}
ITEM = {
    "ItemId": "vuejs:vue",
    "IsHidden": False,
    "Categories": ["framework", "frontend"],
    "Timestamp": "2022-02-24T00:00:00Z",
    "Labels": {"language": "TypeScript", "topics": ["vue", "web"]},
    "Comment": "The progressive framework",
}
STAR = {"FeedbackType": "star", "UserId": "bob", "ItemId": "vuejs:vue", "Timestamp": "2022-02-24"}


def test_each_kind_of_record(tmp_path: Path) -> None:
    user, item, star = convert_events("gorse", _write(tmp_path, USER, ITEM, STAR))
    assert user["properties"] == {"labels": ["male", "engineer"], "comment": "zhenghaoz"}
    assert user["timeless"] is True
    assert (item["item_id"], item["ts"]) == ("vuejs:vue", 1_645_660_800_000_000)
    assert item["properties"] == {
        "language": "TypeScript",
        "topics": ["vue", "web"],
        "comment": "The progressive framework",
        "categories": ["framework", "frontend"],
        "category": "framework",
    }
    assert (star["type"], star["user_id"], star["item_id"], star["ts"]) == (
        "like",
        "bob",
        "vuejs:vue",
        1_645_660_800_000_000,
    )


@pytest.mark.parametrize(
    ("change", "type_", "properties"),
    [
        ({"FeedbackType": "read"}, "view", None),
        ({"FeedbackType": "rating", "Value": 3.5}, "rating", {"rating": 3.5}),
        ({"FeedbackType": "read", "Value": 0.8}, "view", {"value": 0.8}),
        ({"FeedbackType": "click", "Value": 0, "Comment": "good"}, "click", {"comment": "good"}),
    ],
)
def test_types_and_values_of_feedback(
    tmp_path: Path, change: dict[str, Any], type_: str, properties: Any
) -> None:
    (event,) = convert_events("gorse", _write(tmp_path, {**STAR, **change}))
    assert (event["type"], event.get("properties")) == (type_, properties)


@pytest.mark.parametrize(
    "time", ["2022-02-24 00:00:00.000000001 +0000 UTC", "2022-02-24 08:00:00 +0800 CST m=+0.01"]
)
def test_a_time_as_go_prints_it_is_the_same_time(tmp_path: Path, time: str) -> None:
    (event,) = convert_events("gorse", _write(tmp_path, {**STAR, "Timestamp": time}))
    (same,) = convert_events("gorse", _write(tmp_path, STAR))
    assert (event["ts"], event["event_id"]) == (same["ts"], same["event_id"])


def test_an_item_without_a_time_is_timeless_and_a_hidden_one_is_flagged(tmp_path: Path) -> None:
    (item,) = convert_events(
        "gorse",
        _write(
            tmp_path,
            {
                "ItemId": "a",
                "IsHidden": True,
                "Categories": [],
                "Timestamp": "0001-01-01T00:00:00Z",
            },
        ),
    )
    assert (item["timeless"], item["properties"]) == (True, {"is_hidden": True})


def test_a_list_is_read_like_lines(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([USER, STAR], indent=2))
    assert [one["type"] for one in convert_events("gorse", tmp_path / "list.json")] == [
        "user",
        "like",
    ]


def test_unreadable_records_are_quarantined_with_the_reason(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        {**STAR, "Timestamp": "soon"},
        {**STAR, "ItemId": ["a"]},
        {"Id": 1},
        {"FeedbackType": "star", "UserId": "u"},
        7,
    )
    file.write_text(file.read_text() + "\nnot JSON\n")
    accepted, refused = read_refusals("gorse", file)
    assert accepted == 0
    assert [(code, path) for code, path, _, _ in refused] == [
        ("bad_time", "$.Timestamp"),
        ("wrong_type", "$.ItemId"),
        ("missing", "$.UserId"),
        ("missing", "$.ItemId"),
        ("wrong_type", "$"),
        ("malformed_json", "$"),
    ]
    assert refused[-1][3]["record"] == "not JSON"
