"""A small project whose roles ran in this process, and a server of S3's protocol."""

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.support.network.bucket import BUCKET, s3_server
from tests.support.roles import make_project

from tailorbird.config import Project, open_project
from tailorbird.events import SystemClock
from tailorbird.platform.runtime.roles import Roles
from tailorbird.serving.collector.collector import EventCollector

CLOCK = SystemClock()


def send(project: Project, events: Sequence[dict], *, route: bool = True) -> None:
    """Accept events as a server does, and bring them into the lake unless `route` is false."""
    with EventCollector(project.stream, "serve-1", project.plan, CLOCK) as door:
        door.submit(json.dumps(list(events)).encode())
    if route:
        with Roles(project, CLOCK) as roles:
            roles.drain()


def clicks(user_id: str, count: int, first: int = 0) -> list[dict]:
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


@pytest.fixture
def shop(tmp_path: Path) -> Project:
    """A project with the clicks of three people in its lake."""
    project = open_project(make_project(tmp_path / "shop").root)
    send(project, [event for user in ("ann", "ben", "cyd") for event in clicks(user, 20)])
    return project


@pytest.fixture
def bucket_uri() -> Iterator[str]:
    with s3_server():
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"
