"""Events of people to erase."""

import json
from collections import Counter
from pathlib import Path

from tests.support.people import CLOCK
from tests.support.roles import make_project

from tailorbird.config import Project, open_project
from tailorbird.lake import Lake
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.serving.collector.collector import EventCollector


def make_project_with_events(folder: Path, events: list[dict], settings: str = "") -> Project:
    """A project that got these events."""
    root = make_project(folder / "shop").root
    if settings:
        (root / "tailorbird.toml").write_text(settings)
    project = open_project(root)
    with EventCollector(
        project.paths.stream, "serve-1", project.plan, CLOCK, pseudonyms=project.pseudonyms()
    ) as collector:
        results = collector.submit(json.dumps(events).encode())
        assert all(decision.accepted for decision in results), results
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
    return project


def make_click(
    event_id: str, user: str | None = None, visitor: str | None = None, **more: object
) -> dict:
    event = {
        "event_id": event_id,
        "type": "click",
        "item_id": "i1",
        "user_id": user,
        "anonymous_id": visitor,
        **more,
    }
    return {name: value for name, value in event.items() if value is not None}


def count_events_by_person(project: Project) -> Counter:
    return Counter(Lake(project.paths.lake).events(["person"])["person"].to_pylist())
