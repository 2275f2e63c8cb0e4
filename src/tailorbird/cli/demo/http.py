"""The demo's visitors over HTTP: real requests to the real server, for latency, and clicks whose
answers are awaited, for freshness.
"""

import http.client
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from tailorbird.cli.output import Report
from tailorbird.errors import NotReadyError

WAIT_S = 10.0


@dataclass
class HttpFigures:
    """What was measured.

    Attributes:
        latency_ms: from sending a request for a list to having read its answer.
        freshness_ms: from the moment that a click was acknowledged to having read the first answer
            that differs because of it.
        unchanged: clicks after which no answer changed within `WAIT_S` seconds.
        failed: requests that were not answered with items and status 200.
    """

    latency_ms: list[float] = field(default_factory=list)
    freshness_ms: list[float] = field(default_factory=list)
    unchanged: int = 0
    failed: int = 0

    def summary(self, values: list[float]) -> dict[str, float]:
        p50, p99 = np.percentile(values, [50, 99]) if values else (float("nan"), float("nan"))
        return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "n": len(values)}


class Client:
    """One connection that is kept open, as a site's backend would."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)

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


def wait_until_ready(url: str, deadline_s: float) -> None:
    """Return once `/readyz` says yes. Raises NotReadyError after `deadline_s`."""
    give_up = time.monotonic() + deadline_s
    while time.monotonic() < give_up:
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
        f"the server was not ready within {deadline_s:.0f} s",
        where=url,
        fix="look at data/run/up.log",
    )


def measure(
    url: str, users: list[str], requests: int, *, progress: Report, seed: int = 1
) -> HttpFigures:
    """Send `requests` requests for lists, a fifth of which follow a click of the same person and
    wait for its effect.
    """
    figures = HttpFigures()
    client = Client(url)
    rng = np.random.default_rng(seed)
    sent = 0
    try:
        while sent < requests:
            user = users[int(rng.integers(len(users)))]
            answer = _ask(client, user, f"http-{sent}", figures)
            sent += 1
            if answer is not None and sent % 5 == 0 and answer["items"]:
                sent += _click_and_wait(
                    client,
                    user,
                    f"http-{sent}",
                    answer,
                    int(rng.integers(len(answer["items"]))),
                    figures,
                )
            progress("HTTP", min(sent, requests), requests)
    finally:
        client.close()
    return figures


def _ask(client: Client, user: str, session: str, figures: HttpFigures) -> dict[str, Any] | None:
    start = time.perf_counter()
    status, answer = client.post(
        "/v1/recommend", {"slot": "front", "user_id": user, "session_id": session}
    )
    figures.latency_ms.append((time.perf_counter() - start) * 1e3)
    if status != 200 or not answer["items"]:
        figures.failed += 1
        return None
    return answer


def _click_and_wait(
    client: Client,
    user: str,
    session: str,
    answer: dict[str, Any],
    place: int,
    figures: HttpFigures,
) -> int:
    """Click an item and ask until the answer differs from the one before; how many requests that
    took.
    """
    before = _ask(client, user, session, figures)
    click = {
        "event_id": f"{answer['request_id']}-{place}",
        "type": "click",
        "user_id": user,
        "session_id": session,
        "item_id": answer["items"][place]["item_id"],
        "request_id": answer["request_id"],
    }
    status, receipts = client.post("/v1/events", click)
    accepted = time.perf_counter()
    if status != 200 or receipts["accepted"] != 1 or before is None:
        figures.failed += 1
        return 1
    asked = 1
    while time.perf_counter() - accepted < WAIT_S:
        after = _ask(client, user, session, figures)
        asked += 1
        if after is not None and _content(after) != _content(before):
            figures.freshness_ms.append((time.perf_counter() - accepted) * 1e3)
            return asked
    figures.unchanged += 1
    return asked


def _content(answer: dict[str, Any]) -> list[tuple[str, float | None]]:
    """What is shown and how it scored; the slot explores nothing, so it changes only when features,
    items or the model do.
    """
    return [(item["item_id"], item["score"]) for item in answer["items"]]
