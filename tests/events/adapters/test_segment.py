"""Segment's messages: the examples of its spec, with the common fields that its archive and
webhooks have.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.adapters import NOW, convert_events, convert_lines, read_refusals

from tailorbird.errors import UsageError
from tailorbird.events import Accepted, Receipt, RoutePlan, check_body
from tailorbird.events.adapters.webhook import body_to_lines

COMMON = {
    "anonymousId": "507f191e810c19729de860ea",
    "channel": "browser",
    "context": {
        "ip": "8.8.8.8",
        "userAgent": "Mozilla/5.0 (Macintosh)",
        "locale": "en-US",
        "page": {
            "path": "/academy/",
            "referrer": "https://www.foo.com/",
            "search": "",
            "title": "Analytics",
            "url": "https://segment.com/academy/",
        },
        "device": {"type": "ios"},
        "library": {"name": "analytics.js", "version": "2.11.1"},
    },
    "integrations": {"All": True},
    "messageId": "ajs-f8ca1e4de5024d9430b3928bd8ac6b96",
    "receivedAt": "2015-12-12T19:11:01.266Z",
    "sentAt": "2015-12-12T19:11:01.169Z",
    "timestamp": "2015-12-12T19:11:01.249Z",
    "type": "track",
    "userId": "AiUGstSDIg",
    "originalTimestamp": "2015-12-12T19:11:01.152Z",
    "version": 2,
}
MONOPOLY = {
    "product_id": "507f1f77bcf86cd799439011",
    "sku": "45790-32",
    "name": "Monopoly: 3rd Edition",
    "price": "19",
    "position": 1,
    "category": "Games",
}
UNO = {
    "product_id": "505bd76785ebb509fc183733",
    "sku": "46493-32",
    "name": "Uno Card Game",
    "price": 3,
    "position": 2,
    "category": "Games",
}
TS = 1_449_947_461_249_000


def _convert(folder: Path, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    (folder / "s.jsonl").write_text(
        "\n".join(json.dumps({**COMMON, **message}) for message in messages)
    )
    return convert_events("segment", folder / "s.jsonl")


def _track(event: str, **properties: Any) -> dict[str, Any]:
    return {"event": event, "properties": properties}


def test_the_common_fields(tmp_path: Path) -> None:
    (event,) = _convert(tmp_path, _track("Product Viewed", **MONOPOLY, request_id="r1"))
    assert event == {
        "event_id": "ajs-f8ca1e4de5024d9430b3928bd8ac6b96",
        "type": "view",
        "ts": TS,
        "user_id": "AiUGstSDIg",
        "anonymous_id": "507f191e810c19729de860ea",
        "item_id": "507f1f77bcf86cd799439011",
        "request_id": "r1",
        "context": {
            "device": "ios",
            "page": "https://segment.com/academy/",
            "referrer": "https://www.foo.com/",
            "user_agent": "Mozilla/5.0 (Macintosh)",
        },
        "properties": {
            "sku": "45790-32",
            "name": "Monopoly: 3rd Edition",
            "price": 19,
            "position": 1,
            "category": "Games",
        },
    }


@pytest.mark.parametrize(
    ("event", "type_"),
    [
        ("Product Clicked", "click"),
        ("Product Viewed", "view"),
        ("Product Added", "cart"),
        ("Product Added to Wishlist", "like"),
        ("Product Shared", "share"),
        ("Wishlist Product Added to Cart", "cart"),
        ("Viewed Product", "view"),
    ],
)
def test_events_about_one_product(tmp_path: Path, event: str, type_: str) -> None:
    (made,) = _convert(tmp_path, _track(event, **UNO))
    assert (made["type"], made["item_id"]) == (type_, "505bd76785ebb509fc183733")


def test_an_order_is_a_purchase_a_product(tmp_path: Path) -> None:
    order = _track(
        "Order Completed",
        order_id="50314b8e9bcf000000000000",
        total=27.5,
        currency="USD",
        products=[{**MONOPOLY, "quantity": "1"}, UNO],
    )
    first, second = _convert(tmp_path, order)
    assert (first["item_id"], second["item_id"]) == (
        "507f1f77bcf86cd799439011",
        "505bd76785ebb509fc183733",
    )
    assert (first["event_id"], second["event_id"]) == (
        COMMON["messageId"],
        f"{COMMON['messageId']}#1",
    )
    assert (
        first["properties"]["order_id"]
        == second["properties"]["order_id"]
        == "50314b8e9bcf000000000000"
    )
    assert (first["properties"]["price"], first["properties"]["quantity"]) == (19, 1)


def test_a_product_without_an_id_does_not_cost_the_order(tmp_path: Path) -> None:
    (event,) = _convert(
        tmp_path, _track("Order Completed", order_id="o1", products=[{"name": "x"}, UNO])
    )
    assert (event["item_id"], event["properties"]["products_without_id"]) == (
        "505bd76785ebb509fc183733",
        1,
    )


def test_a_batch_is_its_messages(tmp_path: Path) -> None:
    custom = {
        **COMMON,
        "context": {name: value for name, value in COMMON["context"].items() if name != "device"},
    }
    messages = [
        {**custom, **_track("Product Viewed", **UNO)},
        {**custom, "messageId": "m2", **_track("Product Added", **UNO)},
    ]
    batch = {
        "batch": messages,
        "sentAt": "2015-12-12T19:11:01.249Z",
        "context": {"device": {"type": "ios"}, "userAgent": "theirs"},
    }
    (tmp_path / "s.jsonl").write_text(json.dumps(batch))
    converted = convert_events("segment", tmp_path / "s.jsonl")
    assert [(one["event_id"], one["type"]) for one in converted] == [
        (COMMON["messageId"], "view"),
        ("m2", "cart"),
    ]
    assert {(one["context"]["device"], one["context"]["user_agent"]) for one in converted} == {
        ("ios", COMMON["context"]["userAgent"])
    }
    posted = [json.loads(line) for line in body_to_lines("segment", json.dumps(batch).encode())]
    assert [one["context"] for one in posted] == [one["context"] for one in converted], (
        "as a webhook, too"
    )
    with pytest.raises(UsageError, match="written to each of its 100 messages"):
        body_to_lines(
            "segment",
            json.dumps(
                {**batch, "batch": messages * 50, "context": {"page": "x" * 100_000}}
            ).encode(),
        )


def test_a_list_that_was_shown_and_a_search(tmp_path: Path) -> None:
    shown, search = _convert(
        tmp_path,
        _track("Product List Viewed", list_id="hot_deals_1", products=[MONOPOLY, UNO]),
        _track("Products Searched", query="blue roses"),
    )
    assert (shown["type"], shown["items"]) == (
        "impression",
        ["507f1f77bcf86cd799439011", "505bd76785ebb509fc183733"],
    )
    assert shown["properties"] == {"list_id": "hot_deals_1"}
    assert (search["type"], search["properties"]) == ("search", {"query": "blue roses"})


def test_a_review_is_a_rating(tmp_path: Path) -> None:
    (event,) = _convert(
        tmp_path,
        _track(
            "Product Reviewed",
            product_id="p",
            review_id="kdfjrj39fj39jf3",
            review_body="I love it",
            rating="5",
        ),
    )
    assert (event["type"], event["item_id"], event["properties"]["rating"]) == ("rating", "p", 5)


def test_identify_ties_the_ids_and_its_traits_are_a_profile(tmp_path: Path) -> None:
    tied, profile = _convert(
        tmp_path,
        {"type": "identify", "traits": {"name": "Peter Gibbons", "plan": "premium", "logins": 5}},
    )
    assert (tied["type"], tied["user_id"], tied["anonymous_id"]) == (
        "identify",
        "AiUGstSDIg",
        "507f191e810c19729de860ea",
    )
    assert (profile["type"], profile["properties"]) == (
        "user",
        {"name": "Peter Gibbons", "plan": "premium", "logins": 5},
    )
    assert profile["event_id"] != tied["event_id"]


TRAITS = {"type": "identify", "traits": {"plan": "premium"}}
RECEIVED = TS + 17_000


def _stored(folder: Path, *messages: dict[str, Any]) -> list[Accepted]:
    """Return the events as the router accepts them from an import."""
    (folder / "s.jsonl").write_text(
        "\n".join(json.dumps({**COMMON, **message}) for message in messages)
    )
    accepted, refused = check_body(
        b"\n".join(convert_lines("segment", folder / "s.jsonl")),
        Receipt(NOW, "import", "ndjson"),
        RoutePlan(),
    )
    assert refused == []
    return accepted


@pytest.mark.parametrize(
    ("times", "ts", "received"),
    [
        ({}, TS, RECEIVED),  # the clock of the client is corrected already
        ({"sentAt": "2015-12-12T18:00:00Z"}, TS, RECEIVED),
        ({"receivedAt": "2015-12-12T19:11:01.249Z"}, TS, TS),  # at once, as a server's
        ({"receivedAt": "2015-12-12T18:00:00Z"}, TS, TS),  # nothing comes in before it is
        ({"timestamp": None}, TS, RECEIVED),  # originalTimestamp and sentAt, which correct it now
        ({"timestamp": None, "originalTimestamp": None}, RECEIVED, RECEIVED),
    ],
)
def test_traits_of_an_archive_say_when_segment_received_them(
    tmp_path: Path, times: dict[str, Any], ts: int, received: int
) -> None:
    tied, profile = _stored(tmp_path, {**TRAITS, **times})
    assert (profile.event.type, profile.ts, profile.received_at) == ("user", ts, received)
    assert profile.sent_at is not None, (
        "somebody was there who sent it: it is no table that was dated back"
    )
    assert tied.event.received_at is None


def test_what_was_done_is_believed_at_its_time_as_in_any_file(tmp_path: Path) -> None:
    (stored,) = _stored(
        tmp_path, {**_track("Product Viewed", **UNO), "receivedAt": "2024-01-01T00:00:00Z"}
    )
    assert (stored.ts, stored.received_at) == (TS, TS), (
        "or a history that was loaded into Segment would be years late"
    )


def test_a_client_cannot_set_the_arrival_time_of_traits() -> None:
    message = {**COMMON, **TRAITS, "context": {}}
    for body in (message, [message], {"batch": [message], "receivedAt": "2001-01-01T00:00:00Z"}):
        (_, profile), refused = check_body(
            b"\n".join(body_to_lines("segment", json.dumps(body).encode())),
            Receipt(NOW, "collector", "ndjson", "segment"),
            RoutePlan(),
        )
        assert refused == []
        assert (profile.event.received_at, profile.received_at, profile.ts) == (None, NOW, TS)


def test_alias_ties_what_was_before(tmp_path: Path) -> None:
    tied, merged = _convert(tmp_path, {"type": "alias", "previousId": "old", "anonymousId": None})
    assert (tied["type"], tied["anonymous_id"], tied["user_id"]) == (
        "identify",
        "old",
        "AiUGstSDIg",
    )
    assert (merged["type"], merged["user_id"], merged["properties"]) == (
        "merge",
        "old",
        {"merged_into": "AiUGstSDIg"},
    )
    assert merged["event_id"] != tied["event_id"]


def test_alias_of_the_messages_own_visitor_merges_no_user(tmp_path: Path) -> None:
    (tied,) = _convert(tmp_path, {"type": "alias", "previousId": COMMON["anonymousId"]})
    assert (tied["type"], tied["anonymous_id"], tied["user_id"]) == (
        "identify",
        COMMON["anonymousId"],
        "AiUGstSDIg",
    )


def test_a_page_is_a_view_without_an_item(tmp_path: Path) -> None:
    page = {
        "type": "page",
        "name": "Home",
        "properties": {"title": "Welcome", "url": "http://www.example.com"},
    }
    (event,) = _convert(tmp_path, page)
    assert (event["type"], "item_id" in event, event["properties"]) == (
        "view",
        False,
        {"title": "Welcome", "name": "Home"},
    )


def test_without_a_corrected_time_both_clocks_go_on(tmp_path: Path) -> None:
    (event,) = _convert(tmp_path, {**_track("Product Viewed", **UNO), "timestamp": None})
    assert (event["ts"], event["sent_at"]) == (TS - 97_000, TS - 80_000)


def test_groups_and_empty_identifies_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(
        "\n".join(
            json.dumps({**COMMON, **one})
            for one in ({"type": "group", "groupId": "g"}, {"type": "identify", "userId": None})
        )
    )
    assert convert_lines("segment", tmp_path / "s.jsonl") == []


def test_a_name_of_the_sites_own_is_a_type_to_declare(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps({**COMMON, **_track("Video Played", title="x")}))
    _, ((code, path, message, _),) = read_refusals("segment", tmp_path / "s.jsonl")
    assert (code, path) == ("unknown_type", "$.type")
    assert message.endswith('got "video_played"')


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"messageId": None, **_track("Product Viewed", **UNO)}, "missing", "$.messageId"),
        ({"timestamp": 1449947461, **_track("Product Viewed", **UNO)}, "bad_time", "$.timestamp"),
        (
            {"receivedAt": "yesterday", "type": "identify", "traits": {"plan": "premium"}},
            "bad_time",
            "$.receivedAt",
        ),
        (_track("Product Added"), "missing", "$.properties.product_id"),
        (
            _track("Order Completed", products=[{"name": "x"}]),
            "missing",
            "$.properties.products[0].product_id",
        ),
        (_track("Order Completed", products="none"), "wrong_type", "$.properties.products"),
        ({"type": "delete"}, "unknown_kind", "$.type"),
        ({"type": None}, "missing", "$.type"),
    ],
)
def test_unreadable_records_are_quarantined_with_the_reason(
    tmp_path: Path, change: dict[str, Any], code: str, path: str
) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps({**COMMON, **change}))
    accepted, refused = read_refusals("segment", tmp_path / "s.jsonl")
    assert accepted == 0
    assert [(actual, where) for actual, where, _, _ in refused] == [(code, path)]
    assert refused[0][3]["record"]["channel"] == "browser"


def test_a_small_message_does_not_become_a_very_large_one(tmp_path: Path) -> None:
    order = _track(
        "Order Completed", note="x" * 5_000, products=[{"sku": str(n)} for n in range(900)]
    )
    (tmp_path / "s.jsonl").write_text(json.dumps({**COMMON, **order}))
    assert [code for code, *_ in read_refusals("segment", tmp_path / "s.jsonl")[1]] == ["too_large"]


def test_batches_in_a_list_do_not_become_a_very_large_body() -> None:
    message = {"type": "page", "userId": "u", "timestamp": "2018-04-05T17:31:00Z"}
    batch = {
        "batch": [{**message, "messageId": f"m{number}"} for number in range(5_000)],
        "context": {"page": {"url": "x" * 2_000}},
    }
    with pytest.raises(UsageError, match="send fewer at once"):
        body_to_lines("segment", json.dumps([batch, batch]).encode())
