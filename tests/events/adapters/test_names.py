"""Names of events are whatever somebody on a page says: none of them makes a profile, a login, a
merge or an answer.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.events.adapters import test_ga4, test_snowplow
from tests.support.adapters import convert_lines

NAMES = ("Item", "user", "MERGE", "Identify", "answer")
EVENT = {
    "type": "track",
    "messageId": "m",
    "anonymousId": "x",
    "userId": "u",
    "timestamp": "2026-11-20T10:00:00Z",
}
AT = 1_795_000_000


def _segment(name: str) -> str:
    return json.dumps(
        {**EVENT, "event": name, "properties": {"product_id": "i1", "merged_into": "w"}}
    )


def _ga4(name: str) -> str:
    return json.dumps(
        test_ga4._row(
            name, test_ga4._param("merged_into", string_value="w"), items=[{"item_id": "i1"}]
        )
    )


def _gorse(name: str) -> str:
    return json.dumps(
        {"FeedbackType": name, "UserId": "u", "ItemId": "i1", "Timestamp": "2026-11-20T10:00:00Z"}
    )


def _personalize(name: str) -> str:
    return f"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\nu,i1,{AT},{name}\n"


def _metarank(name: str) -> str:
    record = {
        "event": "interaction",
        "id": "m",
        "timestamp": AT * 1000,
        "ranking": "r",
        "user": "u",
        "session": "s",
        "type": name,
        "item": "i1",
    }
    return json.dumps(record)


FORMS: dict[str, tuple[str, Callable[[str], str]]] = {
    "segment": ("e.jsonl", _segment),
    "ga4": ("e.json", _ga4),
    "gorse": ("e.jsonl", _gorse),
    "personalize": ("interactions.csv", _personalize),
    "metarank": ("e.jsonl", _metarank),
    "snowplow": (
        "e.tsv",
        lambda name: test_snowplow._line(event="struct", se_category="c", se_action=name),
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format_", FORMS)
def test_an_event_that_is_called_like_a_profile_is_something_that_was_done(
    tmp_path: Path, format_: str, name: str
) -> None:
    file, form = FORMS[format_]
    (tmp_path / file).write_text(form(name))
    converted: list[dict[str, Any]] = [
        json.loads(line) for line in convert_lines(format_, tmp_path / file)
    ]
    assert [one["type"].lower() for one in converted] == [f"{name.lower()}_event"]


def test_a_mapping_needs_an_explicit_translation_to_a_profile_type(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("event,user,item\nItem,u,i1\nitem,u,i1\nclick,u,i1\n")
    mapping = (
        '[[source]]\nfile = "e.csv"\ntype = { column = "event", values = { Item = "item" } '
        '}\nuser_id = "user"\nitem_id = "item"\n'
    )
    assert [one["type"] for one in _mapped(tmp_path, mapping)] == ["item", "item_event", "click"]


def _mapped(folder: Path, mapping: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in convert_lines("mapping", folder, mapping=mapping, mapping_name="mapping.toml")
    ]


def test_a_small_message_does_not_become_a_very_large_one(tmp_path: Path) -> None:
    """Ids and context stand in each of its products' events, and the contract bounds them only
    there.
    """
    products = [{"product_id": f"i{number}"} for number in range(1_000)]
    for extra in (
        {"userId": "u" * 100_000},
        {"context": {"page": {"url": "https://shop/" + "x" * 2_000}}},
    ):
        message = {
            **EVENT,
            "event": "Product Viewed",
            "properties": {"products": products},
            **extra,
        }
        (tmp_path / "e.jsonl").write_text(json.dumps(message))
        body = b"".join(convert_lines("segment", tmp_path / "e.jsonl"))
        assert b"so many products with" in body
        assert len(body) < 3 * len(json.dumps(message))
