"""A broker that came back without its topics: they are begun anew behind router and lake, and
everything goes on, loss told.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.kit import must_json
from tests.faults.roles import make_project, until
from tests.stream.brokers import OPTIONS, broker, needs_kafka

from tailorbird import faults
from tailorbird.config import Project, open_project
from tailorbird.config.lost_topics import begin_lost_anew, find_lost
from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events import SystemClock
from tailorbird.lake import Lake, verify
from tailorbird.platform.roles import Roles
from tailorbird.serving.catalogue import Catalogue
from tailorbird.serving.door import Door
from tailorbird.stream import open_reader

pytestmark = needs_kafka
CLOCK = SystemClock()


@pytest.fixture(params=[1, 2])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    with broker(tmp_path) as servers:
        root = make_project(tmp_path / "shop").root
        client = json.dumps([f"{name}={value}" for name, value in OPTIONS.items()])
        url = f"kafka://{servers}/{tmp_path.name.lower()}"
        more = f'\n[stream]\nurl = "{url}"\nclient = {client}\npartitions = {request.param}\n'
        (root / "tailorbird.toml").write_text((root / "tailorbird.toml").read_text() + more)
        yield open_project(root)


def views(first: str, count: int) -> list[dict]:
    return [
        {"event_id": f"{first}{n}", "type": "view", "user_id": f"u{n}", "item_id": f"i{n % 3}"}
        for n in range(count)
    ]


def door(project: Project) -> Door:
    return Door(project.stream, "serve-1", project.plan, CLOCK, lake=project.paths.lake)


def send(project: Project, events: list[dict]) -> None:
    with door(project) as one:
        for event in events:
            assert all(decision.accepted for decision in one.submit(json.dumps([event]).encode()))


def drain(project: Project) -> None:
    with Roles(project, CLOCK) as roles:
        roles.drain()


def topics(project: Project) -> list[str]:
    cluster = project.stream.cluster
    return [
        name
        for name in cluster.admin().list_topics(timeout=10).topics
        if name.startswith(f"{cluster.prefix}.")
    ]


def lose(project: Project, *kinds: str) -> None:
    """Delete the topics, or those of some kinds, as a disk does that is gone."""
    cluster = project.stream.cluster
    gone = [
        name
        for name in topics(project)
        if not kinds or name.removeprefix(f"{cluster.prefix}.").partition(".")[0] in kinds
    ]
    for done in cluster.admin().delete_topics(gone, operation_timeout=10).values():
        done.result(10)
    until(lambda: not set(gone) & set(topics(project)), 10, "the topics stay")


def in_lake(project: Project) -> list[str]:
    return sorted(Lake(project.paths.lake).events(["event_id"])["event_id"].to_pylist())


def items(project: Project) -> tuple[dict, set]:
    """What a server that starts now knows of items."""
    found = Catalogue(project.routed)
    while found.refresh():
        pass
    found.stop()
    return dict(found._items), set(found._seen.ids)


@pytest.mark.slow
def test_a_cluster_without_its_disk_is_gone_on_with(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = [
        {
            "event_id": f"p{n}",
            "type": "item",
            "item_id": f"i{n}",
            "properties": {"title": f"title {n}"},
        }
        for n in range(3)
    ]
    send(project, [*catalogue, *views("old", 12)])
    drain(project)
    assert find_lost(project).all == ()
    before, known = in_lake(project), items(project)
    lose(project)
    with pytest.raises(DamageError, match="begin-anew"):
        send(project, views("refused", 1))
    told = must_json("-C", project.root, "stream", "begin-anew")
    assert {each["topic"] for each in told["topics"]} >= {"raw.serve-1", "routed"}
    assert not told["done"]
    raw = next(each for each in told["topics"] if each["topic"] == "raw.serve-1")
    assert sum(raw["begins"]) == 15

    places = [
        "anew.items",
        "anew.topic",
        "anew.routed",
        *(["anew.order"] if project.stream.count > 1 else []),
    ]

    def die(place: str) -> None:
        if places and place == places[0]:
            places.pop(0)
            raise OSError("died")

    with monkeypatch.context() as patched:
        patched.setattr(faults, "at", die)
        while places:
            with pytest.raises(OSError, match="died"):
                begin_lost_anew(project, CLOCK)
    done = must_json("-C", project.root, "stream", "begin-anew", "--yes")
    assert done["done"]
    assert done["routed_rows_not_in_lake"] == 0
    again = find_lost(project)
    assert (again.all, again.unfinished) == ((), False)
    assert items(project) == known, "a server that starts now knows all items"

    send(project, [*views("old", 3), *views("new", 9)])
    drain(project)
    assert in_lake(project) == sorted([*before, *(f"new{n}" for n in range(9))]), (
        "repeats are known, and nothing new is skipped"
    )
    assert verify(project.paths.lake).clean
    assert items(project) == known


@pytest.mark.slow
def test_what_was_routed_and_not_loaded_is_told_and_counted(project: Project) -> None:
    send(project, views("old", 6))
    drain(project)
    send(project, views("more", 4))
    with Roles(project, CLOCK) as roles:
        while roles.step():
            pass  # routed, and in no lake
    lose(project)
    found = begin_lost_anew(project, CLOCK)
    assert found.routed is not None
    assert (found.routed.behind > 0) == (project.stream.count == 1)
    send(project, views("new", 9))
    drain(project)
    assert in_lake(project) == sorted([f"old{n}" for n in range(6)] + [f"new{n}" for n in range(9)])
    report = verify(project.paths.lake)
    assert not report.clean, "what is lost is named"


@pytest.mark.slow
def test_a_door_alone_that_lost_its_topic(project: Project) -> None:
    send(project, views("old", 6))
    drain(project)
    lose(project, "raw", "answers")
    lost = begin_lost_anew(project, CLOCK)
    assert [one.was.topic for one in lost.all] == ["raw.serve-1"]
    send(project, views("new", 5))
    drain(project)
    assert in_lake(project) == sorted([f"old{n}" for n in range(6)] + [f"new{n}" for n in range(5)])
    assert verify(project.paths.lake).clean


def test_rows_that_nobody_has_read_are_not_thrown_away(project: Project) -> None:
    if project.stream.count == 1:
        pytest.skip("a topic of one partition is lost, or not")
    send(project, views("old", 8))
    drain(project)
    send(project, views("more", 8))
    with open_reader(project.stream.raw_parts("serve-1")[0]) as reader:
        assert reader.end()
    folder = project.paths.lake
    positions = json.loads((folder / "positions.json").read_text())
    positions["archive"]["raw-serve-1.0"] += 100  # as if this partition alone had lost rows
    del positions["checksum"]
    (folder / "positions.json").write_text(json.dumps(positions))
    with pytest.raises(NotReadyError, match="not read yet"):
        begin_lost_anew(project, CLOCK)
