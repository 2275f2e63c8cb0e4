"""Clicks for projects that are backed up."""

import json
from collections.abc import Sequence

from tailorbird.config import Project
from tailorbird.events import SystemClock
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.serving.collector.collector import EventCollector

CLOCK = SystemClock()


def collect_events(
    project: Project, events: Sequence[dict], *, route: bool = True, producer: str = "serve-1"
) -> None:
    """Accept events as a server does, and bring them into the lake unless `route` is false."""
    with EventCollector(project.stream, producer, project.plan, CLOCK) as collector:
        collector.submit(json.dumps(list(events)).encode())
    if route:
        with InProcessRoles(project, CLOCK) as roles:
            roles.drain()


def make_clicks(user_id: str, count: int, first: int = 0) -> list[dict]:
    return [
        {
            "event_id": f"{user_id}-{number}",
            "type": "click",
            "user_id": user_id,
            "anonymous_id": f"device-of-{user_id}",
            "item_id": f"i{number % 7}",
            "context": {"page": f"/of/{user_id}"},
        }
        for number in range(first, first + count)
    ]
