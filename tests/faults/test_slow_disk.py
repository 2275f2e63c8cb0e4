"""A disk that takes two seconds for each sync: senders of events wait for it, answers do not."""

import json
import statistics
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.support.roles import Up, make_project

pytestmark = pytest.mark.slow
REQUESTS = 60
SYNC_S = 2.0


def _post(port: int, path: str, body: dict[str, Any]) -> tuple[int, float]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    started = time.monotonic()
    with urllib.request.urlopen(request, timeout=30) as response:
        response.read()
        return response.status, time.monotonic() - started


def test_events_wait_for_a_slow_disk_and_answers_do_not(tmp_path: Path) -> None:
    up = Up(
        make_project(tmp_path / "shop"), faults=f"collector.before_sync=stall:{SYNC_S}@1+"
    ).wait()
    try:
        status, waited = _post(
            up.port,
            "/v1/events",
            {"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1"},
        )
        assert (status, waited >= SYNC_S) == (200, True)
        # Each response is logged after its reply, so the log's syncs go on all the time.
        responses = [
            _post(up.port, "/v1/recommend", {"user_id": "u1", "slot": "home", "size": 3})
            for _ in range(REQUESTS)
        ]
        assert {status for status, _ in responses} == {200}
        assert statistics.median(seconds for _, seconds in responses) < SYNC_S / 2, "half a sync"
        assert sum(seconds for _, seconds in responses) < REQUESTS * SYNC_S / 2, (
            "they waited for syncs"
        )
    finally:
        up.stop()
