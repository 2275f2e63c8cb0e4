"""The clients of others, as their makers publish them, against a live server: what they send is in the log, or they are told."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from segment.analytics.client import Client
from tests.client.servers import serving

from tailorbird.serving.keys import Keys

KEY = "write-key-0123456789"


@pytest.mark.parametrize("packed", [False, True])
def test_segments_library_reaches_the_log(packed: bool, tmp_path: Path) -> None:
    errors: list[Exception] = []
    with serving(tmp_path, keys=Keys(write=[KEY])) as served:
        client = Client(KEY, host=served.url, on_error=lambda error, _: errors.append(error), gzip=packed, max_retries=1)
        client.identify("u1", {"plan": "gold"})
        client.track("u1", "Product Viewed", {"product_id": "i1"})
        client.page("u1", properties={"url": "https://shop.example/"})
        client.shutdown()
        lines = [json.loads(line) for body in served.bodies() for line in body.splitlines()]
    assert errors == []
    assert {"user", "view"} <= {line["type"] for line in lines}
    assert {line.get("item_id") for line in lines if line["type"] == "view"} == {"i1", None}, "a product and a page"


def test_segments_library_is_told_of_a_wrong_key_and_a_wrong_host(tmp_path: Path) -> None:
    with serving(tmp_path, keys=Keys(write=[KEY])) as served:
        for key, host in (("wrong", served.url), (KEY, f"{served.url}/segment")):
            errors: list[Exception] = []
            client = Client(key, host=host, on_error=lambda error, _, errors=errors: errors.append(error), max_retries=0)
            client.track("u1", "Product Viewed", {"product_id": "i1"})
            client.shutdown()
            assert len(errors) == 1, "never flushed in silence"
        assert served.bodies() == []


@pytest.mark.parametrize("bound", [to_binary_event, to_structured_event])
def test_cloudevents_are_taken_as_their_library_binds_them_to_http(bound: object, tmp_path: Path) -> None:
    event = CloudEvent({"type": "shop.click", "source": "/shop", "id": "e1"}, {"user_id": "u1", "item_id": "i1"})
    with serving(tmp_path) as served:
        message = bound(event)  # type: ignore[operator]
        request = urllib.request.Request(f"{served.url}/v1/events", message.body, dict(message.headers))
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["accepted"] == 1
