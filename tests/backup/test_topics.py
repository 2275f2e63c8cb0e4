"""A project whose logs are topics: the lake comes back, and its roles go on in the topics."""

from pathlib import Path

import pytest
from tests.support.network.brokers import broker, needs_kafka, on_kafka
from tests.support.network.deleting_proxy import deleting_broker
from tests.support.oracle import find_unequal_state
from tests.support.roles import make_project, until
from tests.support.shops.backup_shop import CLOCK, collect_events, make_clicks

import tailorbird as tb
from tailorbird.config import Project, open_project
from tailorbird.errors import TailorbirdError
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import drain
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.pruning import Pruner
from tailorbird.stream import open_reader, open_writer

pytestmark = [pytest.mark.slow, needs_kafka]


def events_of(project: Project) -> list[str]:
    return sorted(Lake(project.paths.lake).events(["event_id"])["event_id"].to_pylist())


def test_a_restored_project_goes_on_in_its_topics(tmp_path: Path) -> None:
    with broker(tmp_path) as servers:
        shop = on_kafka(make_project(tmp_path / "shop"), servers)
        collect_events(shop, make_clicks("ann", 20))
        report = tb.Project(shop.root).backup(tmp_path / "vault")
        assert servers in report.cluster
        collect_events(shop, make_clicks("ben", 20))
        collect_events(shop, make_clicks("cyd", 5), route=False)

        restored = tb.restore(tmp_path / "vault", tmp_path / "back")
        assert servers in repr(restored)
        back = open_project(tmp_path / "back")
        assert verify(back.paths.lake, stream=back.stream).is_clean
        assert events_of(back) == sorted(f"ann-{number}" for number in range(20))

        drain(back, CLOCK, progress=lambda *_: None)
        expected = [*make_clicks("ann", 20), *make_clicks("ben", 20), *make_clicks("cyd", 5)]
        assert events_of(back) == sorted(event["event_id"] for event in expected)
        assert verify(back.paths.lake, stream=back.stream, deep=True).is_clean
        assert find_unequal_state(back) == []


def test_topics_keep_what_the_backup_lacks_and_a_gap_is_named(tmp_path: Path) -> None:
    with deleting_broker(tmp_path) as servers:
        shop = on_kafka(make_project(tmp_path / "shop"), servers)
        collect_events(shop, make_clicks("ann", 20))
        tb.Project(shop.root).backup(tmp_path / "vault")
        collect_events(shop, make_clicks("ben", 20))
        collect_events(shop, make_clicks("cyd", 5))
        raw = shop.stream.raw("serve-1")
        with (
            EventCollector(shop.stream, "serve-1", shop.plan, CLOCK) as collector,
            open_reader(raw) as reader,
        ):
            Pruner(collector, shop.paths.lake).tick()
            until(lambda: reader.start() > 0, 30, "nothing was pruned")
            assert reader.start() == 20, "the backup has the rows before"
        assert tb.restore(tmp_path / "vault", tmp_path / "back").deleted == {}
        back = open_project(tmp_path / "back")
        drain(back, CLOCK, progress=lambda *_: None)
        assert len(events_of(back)) == 45

        with open_writer(raw, partition="serve-1") as log:
            assert log.prune(log.end())
        late = tb.restore(tmp_path / "vault", tmp_path / "late")
        assert late.deleted == {"raw-serve-1": 25}
        assert "raw-serve-1 25" in repr(late)
        with pytest.raises(TailorbirdError, match=r"pruned|deleted"):
            drain(open_project(tmp_path / "late"), CLOCK, progress=lambda *_: None)
        assert len(events_of(open_project(tmp_path / "late"))) == 20
