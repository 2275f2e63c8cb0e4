"""Metarank's records, by the field list of its documentation."""

import json
from pathlib import Path
from typing import Any

from tests.support.adapters import convert_events, convert_lines, read_refusals
from tests.support.wire.metarank import CLICK, ITEM, RANKING, USER


def _write(folder: Path, *records: dict[str, Any]) -> Path:
    file = folder / "events.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records))
    return file


def test_each_kind_of_record(tmp_path: Path) -> None:
    item, user, answer, impression, click = convert_events(
        "metarank", _write(tmp_path, ITEM, USER, RANKING, CLICK), slot="front"
    )
    properties = {
        "title": "Nice jeans",
        "price": 25.0,
        "sizes": [30, 32],
        "tags": ["blue", "denim"],
        "on_sale": True,
    }
    assert item == {
        "event_id": "e1",
        "type": "item",
        "ts": 1599391467000000,
        "item_id": "product1",
        "properties": properties,
    }
    assert user == {
        "event_id": "e2",
        "type": "user",
        "ts": 1599391467001000,
        "user_id": "u1",
        "properties": {"age": 33},
    }
    shown = {
        "ts": "2020-09-06T11:24:27.002Z",
        "user_id": "u1",
        "session_id": "s1",
        "items": ["p3", "product1", "p2"],
        "request_id": "r1",
        "properties": {
            "query": "jeans",
            "tenant": "shop-a",
            "of_items": {"p3": {"relevancy": 0.7, "score": 2.0}, "product1": {"label": 1}},
        },
    }
    assert answer == {
        "event_id": "r1",
        "type": "answer",
        "answer": {"slot": "front", "query": "jeans"},
        **shown,
    }
    assert impression == {"event_id": "r1#impression", "type": "impression", **shown}
    assert click == {
        "event_id": "e4",
        "type": "click",
        "ts": 1599391467003000,
        "user_id": "u1",
        "session_id": "s1",
        "item_id": "product1",
        "request_id": "r1",
        "properties": {"quantity": 1},
    }


def test_the_optional_fields_may_be_absent(tmp_path: Path) -> None:
    ranking = {"event": "ranking", "id": "r1", "timestamp": 1599391467000, "items": [{"id": "a"}]}
    click = {
        "event": "interaction",
        "id": "e",
        "timestamp": 1599391467000.5,
        "type": "click",
        "item": "a",
        "ranking": "r1",
    }
    answer, impression, clicked = convert_events("metarank", _write(tmp_path, ranking, click))
    # Nobody is named, so the ranking stands for the person: its clicks are then the same person's.
    assert answer["anonymous_id"] == impression["anonymous_id"] == clicked["anonymous_id"] == "r1"
    assert clicked["ts"] == 1599391467000500


def test_a_session_stands_for_a_person_without_a_user(tmp_path: Path) -> None:
    click = {
        "event": "interaction",
        "id": "e",
        "timestamp": "2020-09-06T11:24:27",
        "session": "s9",
        "type": "click",
        "item": "a",
    }
    (event,) = convert_events("metarank", _write(tmp_path, click))
    assert (event["anonymous_id"], event["ts"]) == ("s9", "2020-09-06T11:24:27Z")


def test_unreadable_records_are_quarantined_with_the_reason(tmp_path: Path) -> None:
    wrong = [
        b'{"event": "item"}',
        b'{"event": "item", "id": "x", "timestamp": "soon"}',
        b"nonsense",
        b'{"event": "ranking", "id": "x", "timestamp": 1, "items": [{"id": 7}]}',
    ]
    (tmp_path / "events.json").write_bytes(b"\n".join(wrong))
    accepted, refused = read_refusals("metarank", tmp_path)
    assert accepted == 0
    assert [(code, path) for code, path, _, _ in refused] == [
        ("missing", "$.id"),
        ("bad_time", "$.timestamp"),
        ("malformed_json", "$"),
        ("wrong_type", "$.items[0].id"),
    ]
    assert [unread["record"] for *_, unread in refused] == [
        json.loads(wrong[0]),
        json.loads(wrong[1]),
        "nonsense",
        json.loads(wrong[3]),
    ]


def test_a_record_of_another_kind_keeps_its_name_for_the_contract_to_refuse(tmp_path: Path) -> None:
    (line,) = convert_lines(
        "metarank", _write(tmp_path, {**CLICK, "event": "feedback", "type": None})
    )
    assert json.loads(line)["type"] == "feedback"
