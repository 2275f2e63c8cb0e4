"""The clients of others, as their makers publish them, against a live server: what they send is in
the log, or they are told.
"""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from gorse import Gorse, GorseException
from segment.analytics.client import Client
from tests.support.network.servers import serving
from tests.support.wire.metarank import CLICK, ITEM, RANKING, USER

from tailorbird.serving.auth.keys import Keys

KEY = "write-key-0123456789"


@pytest.mark.parametrize("packed", [False, True])
def test_segments_library_reaches_the_log(packed: bool, tmp_path: Path) -> None:
    errors: list[Exception] = []
    with serving(tmp_path, keys=Keys(write=[KEY])) as served:
        client = Client(
            KEY,
            host=served.url,
            on_error=lambda error, _: errors.append(error),
            gzip=packed,
            max_retries=1,
        )
        client.identify("u1", {"plan": "gold"})
        client.track("u1", "Product Viewed", {"product_id": "i1"})
        client.page("u1", properties={"url": "https://shop.example/"})
        client.shutdown()
        lines = [json.loads(line) for body in served.bodies() for line in body.splitlines()]
    assert errors == []
    assert {"user", "view"} <= {line["type"] for line in lines}
    assert {line.get("item_id") for line in lines if line["type"] == "view"} == {"i1", None}, (
        "a product and a page"
    )


def test_segments_library_is_told_of_a_wrong_key_and_a_wrong_host(tmp_path: Path) -> None:
    with serving(tmp_path, keys=Keys(write=[KEY])) as served:
        for key, host in (("wrong", served.url), (KEY, f"{served.url}/segment")):
            errors: list[Exception] = []
            client = Client(
                key,
                host=host,
                on_error=lambda error, _, errors=errors: errors.append(error),
                max_retries=0,
            )
            client.track("u1", "Product Viewed", {"product_id": "i1"})
            client.shutdown()
            assert len(errors) == 1, "never flushed in silence"
        assert served.bodies() == []


@pytest.mark.parametrize("bound", [to_binary_event, to_structured_event])
def test_cloudevents_are_taken_as_their_library_binds_them_to_http(
    bound: object, tmp_path: Path
) -> None:
    event = CloudEvent(
        {"type": "shop.click", "source": "/shop", "id": "e1"}, {"user_id": "u1", "item_id": "i1"}
    )
    with serving(tmp_path) as served:
        message = bound(event)  # type: ignore[operator]
        request = urllib.request.Request(
            f"{served.url}/v1/events", message.body, dict(message.headers)
        )
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["accepted"] == 1


def test_gorses_client_is_answered_or_raises(tmp_path: Path) -> None:
    with serving(tmp_path, keys=Keys(write=[KEY], read=[KEY]), gorse_slot="home") as served:
        client = Gorse(served.url, KEY)
        assert client.insert_user({"UserId": "u1", "Labels": {"plan": "gold"}})["RowAffected"] == 1
        assert client.insert_users([{"UserId": "u2"}])["RowAffected"] == 1
        assert client.insert_item({"ItemId": "i1", "Categories": ["hats"]})["RowAffected"] == 1
        assert (
            client.insert_feedback("star", "u1", "i1", "2026-02-24T00:00:00Z")["RowAffected"] == 1
        )
        assert [one.id for one in client.get_recommend("u1", n=2)] == ["i1"]
        assert client.get_recommend("u1", category="hats", write_back_type="read")
        assert client.get_neighbors("i1")
        assert (
            client.session_recommend(
                [
                    {
                        "FeedbackType": "star",
                        "UserId": "u1",
                        "ItemId": "i1",
                        "Timestamp": "2026-02-24",
                    }
                ]
            )
            == []
        )
        assert client.get_item("i1")["ItemId"] == "i1"
        bodies = served.bodies()
        for unanswered in (
            lambda: client.list_feedbacks("star", "u1"),
            lambda: client.get_feedbacks(10),
            lambda: client.delete_feedback("u1", "i1"),
            lambda: client.get_items(10),
            lambda: client.search_items("hat"),
            lambda: client.update_item("i1", is_hidden=True),
            lambda: client.delete_item("i1"),
            lambda: client.get_user("u1"),
            lambda: client.get_users(10),
            lambda: client.delete_user("u1"),
        ):
            with pytest.raises(GorseException) as refused:
                unanswered()
            assert refused.value.status_code in (404, 405)
        assert served.bodies() == bodies
    events = [json.loads(line) for body in bodies for line in body.splitlines()]
    assert {(one["type"], one.get("user_id"), one.get("item_id")) for one in events} >= {
        ("user", "u1", None),
        ("like", "u1", "i1"),
    }


def test_metaranks_records_are_taken_with_all_that_they_say(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        body = "\n".join(json.dumps(record) for record in (ITEM, USER, RANKING, CLICK)).encode()
        request = urllib.request.Request(
            f"{served.url}/v1/events?format=metarank",
            body,
            {"content-type": "application/x-ndjson"},
        )
        with urllib.request.urlopen(request) as response:
            receipts = json.load(response)
        assert (receipts["accepted"], receipts["refused"]) == (4, 0)
        lines = [json.loads(line) for body in served.bodies() for line in body.splitlines()]
    shown = next(line for line in lines if line["type"] == "impression")
    assert shown["items"] == ["p3", "product1", "p2"]
    assert shown["properties"]["tenant"] == "shop-a"
    assert shown["properties"]["of_items"] == {
        "p3": {"relevancy": 0.7, "score": 2.0},
        "product1": {"label": 1},
    }
