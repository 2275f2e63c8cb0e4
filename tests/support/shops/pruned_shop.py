"""Events for logs that are pruned."""

import json
from collections.abc import Iterator
from typing import Any

from tailorbird.events import SystemClock
from tailorbird.serving.collector.collector import EventCollector

CLOCK = SystemClock()


BODY_COUNT, ROWS_PER_BODY = 12, 5


def make_bodies(first: int) -> Iterator[list[dict[str, Any]]]:
    for number in range(first, first + BODY_COUNT):
        profile = {
            "event_id": f"p{number}",
            "type": "item",
            "item_id": f"i{number}",
            "properties": {"category": f"c{number}", "price": 5.0},
        }
        clicks = [
            {
                "event_id": f"e{number}-{row}",
                "type": "click",
                "user_id": f"u{row}",
                "item_id": f"i{row}",
            }
            for row in range(ROWS_PER_BODY - 1)
        ]
        yield json.dumps([profile, *clicks]).encode()


def collect_bodies(collector: EventCollector, first: int) -> None:
    for body in make_bodies(first):
        assert all(decision.accepted for decision in collector.submit(body))
