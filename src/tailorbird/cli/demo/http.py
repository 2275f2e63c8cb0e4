"""The demo's visitors over HTTP: real requests to measure latency and freshness."""

import http.client
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from tailorbird.cli.output import ReportProgress
from tailorbird.errors import NotReadyError

FRESHNESS_TIMEOUT_S = 10.0


@dataclass
class HttpFigures:
    """The measured figures of the HTTP requests.

    Attributes:
        latency_ms: time from sending a request to having read its response.
        freshness_ms: time from the acknowledgement of a click to having read the first response
            that it changed.
        unchanged_count: clicks that changed no response within `FRESHNESS_TIMEOUT_S` seconds.
        failed_count: requests without status 200 and items.
    """

    latency_ms: list[float] = field(default_factory=list)
    freshness_ms: list[float] = field(default_factory=list)
    unchanged_count: int = 0
    failed_count: int = 0

    def summary(self, values: list[float]) -> dict[str, float]:
        p50, p99 = np.percentile(values, [50, 99]) if values else (float("nan"), float("nan"))
        return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "n": len(values)}


class Client:
    """One persistent connection, as a site's backend would use."""

    def __init__(self, url: str) -> None:
        url_parts = urlsplit(url)
        assert url_parts.hostname is not None
        self._connection = http.client.HTTPConnection(
            url_parts.hostname, url_parts.port, timeout=30
        )

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self._connection.request(
            "POST", path, msgspec.json.encode(body), {"content-type": "application/json"}
        )
        response = self._connection.getresponse()
        return response.status, msgspec.json.decode(response.read())

    def get(self, path: str) -> tuple[int, bytes]:
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self._connection.close()


def wait_until_ready(url: str, timeout_s: float) -> None:
    """Wait until `/readyz` reports ready; raises NotReadyError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        client = Client(url)
        try:
            status, text = client.get("/readyz")
            if status == 200 and text.strip() == b"ready":
                return
        except OSError:
            pass
        finally:
            client.close()
        time.sleep(0.05)
    raise NotReadyError(
        f"the server was not ready within {timeout_s:.0f} s",
        where=url,
        fix="look at data/run/up.log",
    )


def measure(
    url: str, users: list[str], requests: int, *, progress: ReportProgress, seed: int = 1
) -> HttpFigures:
    """Send `requests` requests; a fifth of them follow a click and await its effect."""
    figures = HttpFigures()
    client = Client(url)
    rng = np.random.default_rng(seed)
    sent_count = 0
    try:
        while sent_count < requests:
            user = users[int(rng.integers(len(users)))]
            response = _recommend(client, user, f"http-{sent_count}", figures)
            sent_count += 1
            if response is not None and sent_count % 5 == 0 and response["items"]:
                sent_count += _measure_freshness(
                    client,
                    user,
                    f"http-{sent_count}",
                    response,
                    int(rng.integers(len(response["items"]))),
                    figures,
                )
            progress("HTTP", min(sent_count, requests), requests)
    finally:
        client.close()
    return figures


def _recommend(
    client: Client, user: str, session: str, figures: HttpFigures
) -> dict[str, Any] | None:
    start = time.perf_counter()
    status, response = client.post(
        "/v1/recommend", {"slot": "front", "user_id": user, "session_id": session}
    )
    figures.latency_ms.append((time.perf_counter() - start) * 1e3)
    if status != 200 or not response["items"]:
        figures.failed_count += 1
        return None
    return response


def _measure_freshness(
    client: Client,
    user: str,
    session: str,
    clicked_response: dict[str, Any],
    clicked_index: int,
    figures: HttpFigures,
) -> int:
    """Click an item and repeat the request until the response changes; return the request count."""
    first_response = _recommend(client, user, session, figures)
    click = {
        "event_id": f"{clicked_response['request_id']}-{clicked_index}",
        "type": "click",
        "user_id": user,
        "session_id": session,
        "item_id": clicked_response["items"][clicked_index]["item_id"],
        "request_id": clicked_response["request_id"],
    }
    status, receipts = client.post("/v1/events", click)
    accepted_at = time.perf_counter()
    if status != 200 or receipts["accepted"] != 1 or first_response is None:
        figures.failed_count += 1
        return 1
    request_count = 1
    while time.perf_counter() - accepted_at < FRESHNESS_TIMEOUT_S:
        response = _recommend(client, user, session, figures)
        request_count += 1
        if response is not None and _items_and_scores(response) != _items_and_scores(
            first_response
        ):
            figures.freshness_ms.append((time.perf_counter() - accepted_at) * 1e3)
            return request_count
    figures.unchanged_count += 1
    return request_count


def _items_and_scores(response: dict[str, Any]) -> list[tuple[str, float | None]]:
    """Return the items and scores of a response.

    The slot does not explore, so they change only with features, items or the model.
    """
    return [(item["item_id"], item["score"]) for item in response["items"]]
