"""A collector's log that was lost, or came back older: it goes on behind what router and lake hold,
loudly, and nothing acknowledged is lost.
"""

import json
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.support.roles import make_project, until

from tailorbird.errors import DamageError
from tailorbird.events import SystemClock
from tailorbird.features.state.progress import routed_log_offsets
from tailorbird.lake import Lake, LakeRole, verify
from tailorbird.lake.rebuild import Rebuilder
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import open_reader, raw_path
from tailorbird.stream.importer import import_files
from tailorbird.stream.lag import LagMeter

CLOCK = SystemClock()


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path / "shop")


def view(event_id: str) -> dict:
    return {"event_id": event_id, "type": "view", "user_id": "u1", "item_id": "i1"}


def send(project, *ids: str) -> int:
    """Each in a body of its own, through a collector that is opened and closed; how many files stand
    beside its logs.
    """
    with EventCollector(
        project.paths.stream, "serve-1", project.plan, CLOCK, lake=project.paths.lake
    ) as collector:
        for event_id in ids:
            assert all(
                decision.accepted
                for decision in collector.submit(json.dumps([view(event_id)]).encode())
            )
        return collector.figures().set_aside


def route(project) -> None:
    with Router(project.paths.stream, project.plan, clock=CLOCK) as router:
        while router.step().rows:
            pass


def load(project) -> None:
    with LakeRole(project.paths.stream, project.paths.lake, clock=CLOCK) as role:
        role.drain()


def in_lake(project) -> list[str]:
    return sorted(Lake(project.paths.lake).events(["event_id"]).column("event_id").to_pylist())


def lose(project) -> None:
    for path in project.paths.stream.glob("raw-serve-1.db*"):
        path.unlink()


def names(first: str, count: int) -> list[str]:
    return [f"{first}{number}" for number in range(1, count + 1)]


def test_a_lost_log_goes_on_behind_what_was_read_of_it(project, caplog):
    send(project, *names("old", 6))
    route(project)
    load(project)
    lose(project)
    with LagMeter(
        project.stream, project.paths.lake, lambda: routed_log_offsets(project.paths.state, 1)
    ) as meter:
        assert {
            (lag.reader, lag.log): lag.lost_rows for lag in meter.measure() if lag.lost_rows
        } == {("router", "raw-serve-1"): 6}
    with caplog.at_level(logging.CRITICAL):
        assert send(project, *names("new", 9)) == 1
    assert "is not there, but was read up to 6" in caplog.text
    route(project)
    load(project)
    assert in_lake(project) == sorted(names("old", 6) + names("new", 9))
    assert verify(project.paths.lake).is_clean
    assert send(project, "last") == 1, "and it is begun anew once"
    route(project)
    load(project)
    assert len(in_lake(project)) == 16


def test_an_older_copy_is_kept_beside_the_log_that_goes_on(project, caplog):
    path = raw_path(project.paths.stream, "serve-1")
    send(project, *names("old", 3))
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    send(project, *names("more", 3))
    route(project)
    load(project)
    lose(project)
    copy.rename(path)
    with caplog.at_level(logging.CRITICAL):
        assert send(project, *names("new", 9)) == 1
    assert "ends at 3, but was read up to 6" in caplog.text
    with open_reader(path.with_name("raw-serve-1.db.damaged-3")) as old_reader:
        assert old_reader.end() == 3
    route(project)
    load(project)
    assert in_lake(project) == sorted(names("old", 3) + names("more", 3) + names("new", 9))


def test_a_running_router_finds_the_new_log(project):
    send(project, *names("old", 3))
    with Router(project.paths.stream, project.plan, clock=CLOCK) as router:
        assert router.step().accepted == 3
        router.has_changed()
        lose(project)
        send(project, *names("new", 5))
        until(router.has_changed, 5, "the new log was not seen")
        assert router.step().accepted == 5


def test_the_lake_alone_tells_how_far_a_log_was(project):
    """The router never came as far: what it did not take is missing, and is named."""
    send(project, *names("old", 6))
    load(project)
    route(project)
    load(project)
    lose(project)
    for path in project.paths.stream.glob("routed.db*"):
        path.unlink()
    send(project, *names("new", 2))
    with open_reader(raw_path(project.paths.stream, "serve-1")) as log:
        assert log.end() == 8


def test_what_the_archive_alone_had_of_a_lost_log_is_named_as_missing(project):
    send(project, *names("old", 3))
    route(project)
    send(project, *names("more", 2))
    load(project)
    lose(project)
    send(project, *names("new", 9))
    route(project)
    load(project)
    assert in_lake(project) == sorted(names("old", 3) + names("new", 9))
    report = verify(project.paths.lake)
    assert not report.is_clean
    assert any("serve-1" in str(fault) for fault in report.faults), report


@pytest.mark.parametrize("routed", [True, False], ids=["routed", "in part"])
def test_a_log_that_was_lost_before_the_archive_has_a_file_of_it_goes_on(project, caplog, routed):
    send(project, *names("old", 4))
    route(project)
    if not routed:
        send(project, *names("more", 2))
    with LakeRole(project.paths.stream, project.paths.lake, clock=CLOCK) as role:
        assert role.step().archived == 0
    lose(project)
    send(project, *names("new", 3))
    route(project)
    with caplog.at_level(logging.CRITICAL):
        load(project)
    assert "rows 0 to 3 were lost before any of them was archived" in caplog.text
    assert in_lake(project) == sorted(names("old", 4) + names("new", 3)), (
        "what was routed of it is in the lake"
    )
    report = verify(project.paths.lake)
    assert [str(fault) for fault in report.faults] == [
        "archive/serve-1: rows 0 to 3 were lost before they were archived; what was routed "
        "of them is in the tables"
    ]
    rebuilder = Rebuilder(
        project.stream,
        project.paths.lake,
        clock=CLOCK,
        route_again=lambda folder: nullcontext(lambda: None),
    )
    (unrecoverable,) = rebuilder.plan().unrecoverable
    assert "rows 0 to 3 were lost" in unrecoverable.what
    send(project, "last")
    route(project)
    load(project)
    assert "last" in in_lake(project)


def test_an_archive_that_was_lost_is_not_begun_anew_behind_a_lost_log(project):
    send(project, *names("old", 4))
    route(project)
    load(project)
    lose(project)
    shutil.rmtree(project.paths.lake / "archive")
    send(project, "new")
    with pytest.raises(DamageError, match="restore the archive"):
        load(project)


def test_positions_that_cannot_be_read_stop_no_door(project):
    project.paths.lake.mkdir(parents=True)
    (project.paths.lake / "positions.json").write_text("{")
    assert send(project, "e1") == 0


def test_a_lost_log_of_imports_goes_on_too(project, tmp_path):
    def history(name: str, count: int) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text(
            "".join(
                json.dumps({**view(each), "ts": "2025-01-01T00:00:00Z"}) + "\n"
                for each in names(name, count)
            )
        )
        return path

    def run(path: Path) -> list[str]:
        paths = project.paths
        report = import_files(
            paths.stream, "tailorbird", path, plan=project.plan, clock=CLOCK, lake=paths.lake
        )
        route(project)
        load(project)
        return report.set_aside

    project.paths.stream.mkdir(parents=True, exist_ok=True)
    assert run(history("old", 4)) == []
    raw_path(project.paths.stream, "import").unlink()
    assert len(run(history("new", 6))) == 1
    assert in_lake(project) == sorted(names("old", 4) + names("new", 6))
