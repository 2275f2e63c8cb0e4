"""A broker that came back without a server's topics: writes under the old name are refused, and the
runbook's way out, another name, works.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.network.brokers import CLIENT_OPTIONS, broker, needs_kafka
from tests.support.roles import make_project, until

from tailorbird.config import Project, open_project
from tailorbird.errors import DamageError
from tailorbird.events import SystemClock
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.serving.collector.collector import EventCollector

pytestmark = needs_kafka
CLOCK = SystemClock()
RUNBOOK = "When topics are lost for good"


@pytest.fixture(params=[1, 2])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    with broker(tmp_path) as servers:
        root = make_project(tmp_path / "shop").root
        client = json.dumps([f"{name}={value}" for name, value in CLIENT_OPTIONS.items()])
        url = f"kafka://{servers}/{tmp_path.name.lower()}"
        stream = f'\n[stream]\nurl = "{url}"\nclient = {client}\npartitions = {request.param}\n'
        (root / "tailorbird.toml").write_text((root / "tailorbird.toml").read_text() + stream)
        yield open_project(root)


def send_views(project: Project, producer: str, event_ids: list[str]) -> None:
    with EventCollector(
        project.stream, producer, project.plan, CLOCK, lake=project.paths.lake
    ) as collector:
        for number, event_id in enumerate(event_ids):
            view = {"event_id": event_id, "type": "view", "user_id": f"u{number}", "item_id": "i1"}
            assert all(
                decision.accepted for decision in collector.submit(json.dumps([view]).encode())
            )


def drain(project: Project) -> None:
    with InProcessRoles(open_project(project.root), CLOCK) as roles:  # a fresh listing of topics
        roles.drain()


def delete_topics_of(project: Project, producer: str) -> None:
    """Delete a server's topics, as a broker does that lost its disk."""
    cluster = project.stream.cluster
    admin = cluster.admin()
    names = {f"{cluster.prefix}.{kind}.{producer}" for kind in ("raw", "answers")}
    names &= set(admin.list_topics(timeout=10).topics)
    for deletion in admin.delete_topics(list(names), operation_timeout=10).values():
        deletion.result(10)
    until(lambda: not names & set(admin.list_topics(timeout=10).topics), 10, "the topics stay")


def test_the_runbook_has_the_section_that_errors_name() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "kafka.md"
    assert f"## {RUNBOOK}\n" in page.read_text()


def test_a_server_under_another_name_goes_on(project: Project) -> None:
    send_views(project, "serve-1", [f"old{n}" for n in range(6)])
    drain(project)
    delete_topics_of(project, "serve-1")
    with pytest.raises(DamageError, match=RUNBOOK):
        send_views(project, "serve-1", ["refused"])
    delete_topics_of(project, "serve-1")  # opening the log made an empty topic
    send_views(project, "serve-2", [*(f"old{n}" for n in range(3)), *(f"new{n}" for n in range(5))])
    drain(project)
    event_ids = Lake(project.paths.lake).events(["event_id"])["event_id"].to_pylist()
    assert sorted(event_ids) == sorted(
        [f"old{n}" for n in range(6)] + [f"new{n}" for n in range(5)]
    )
    assert verify(project.paths.lake).is_clean
