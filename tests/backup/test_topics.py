"""A project whose logs are topics: the lake comes back, and its roles go on in the topics."""

from pathlib import Path

import pytest
from tests.backup.conftest import CLOCK, clicks, send
from tests.support.network.brokers import broker, needs_kafka, on_kafka
from tests.support.oracle import unequal_state
from tests.support.roles import make_project

import tailorbird as tb
from tailorbird.config import Project, open_project
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import drain

pytestmark = [pytest.mark.slow, needs_kafka]


def events_of(project: Project) -> list[str]:
    return sorted(Lake(project.paths.lake).events(["event_id"])["event_id"].to_pylist())


def test_a_restored_project_goes_on_in_its_topics(tmp_path: Path) -> None:
    with broker(tmp_path) as servers:
        shop = on_kafka(make_project(tmp_path / "shop"), servers)
        send(shop, clicks("ann", 20))
        report = tb.Project(shop.root).backup(tmp_path / "vault")
        assert servers in report.cluster
        send(shop, clicks("ben", 20))
        send(shop, clicks("cyd", 5), route=False)

        restored = tb.restore(tmp_path / "vault", tmp_path / "back")
        assert servers in repr(restored)
        back = open_project(tmp_path / "back")
        assert verify(back.paths.lake, stream=back.stream).clean
        assert events_of(back) == sorted(f"ann-{number}" for number in range(20))

        drain(back, CLOCK, progress=lambda *_: None)
        expected = [*clicks("ann", 20), *clicks("ben", 20), *clicks("cyd", 5)]
        assert events_of(back) == sorted(event["event_id"] for event in expected)
        assert verify(back.paths.lake, stream=back.stream, deep=True).clean
        assert unequal_state(back) == []
