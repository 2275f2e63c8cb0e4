"""Erasing people where the logs are topics of a real broker: nothing of them is left in any
message, and everything goes on.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.commands import environment, tailorbird
from tests.support.network.brokers import CLIENT_OPTIONS, MISSING_REASON, broker, needs_kafka
from tests.support.people import (
    CANARY,
    CLOCK,
    Site,
    find_ids,
    find_in_files,
    make_collected_events,
    make_site,
    read_all_topics,
    read_impersonal_states,
    rebuild_impersonal_states,
)
from tests.support.privacy.events import make_click
from tests.support.privacy.merged import make_merge
from tests.support.privacy.topics import find_canaries, make_topic_site, topic_settings

from tailorbird.config import Project, open_project
from tailorbird.config.erasures import apply_remote_erasures
from tailorbird.errors import LockedError, NotReadyError
from tailorbird.events import HOUR
from tailorbird.events.suppression import SuppressionList
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase, export_person, is_unfinished
from tailorbird.router import open_router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.stream import Block, open_writer, sqlite
from tailorbird.stream.kafka import marker, topic_reset

pytestmark = [pytest.mark.slow, needs_kafka]


@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.nightly), 3])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with make_topic_site(tmp_path, request.param, canaries=3, others=24) as made:
        yield made


def catalogue(project: Project) -> tuple[dict, set]:
    """What a server that starts now knows of items."""
    found = Catalogue(project.routed)
    while found.refresh():
        pass
    found.stop()
    return found._items, set(found._seen_items.ids)


def test_no_message_holds_anything_of_them_and_everything_goes_on(
    site: Site, tmp_path: Path
) -> None:
    project = site.project
    assert project.stream.is_remote
    elsewhere = (
        tmp_path / "elsewhere" / "shop"
    )  # another machine with the same topics and, as from a bucket, the same lake
    shutil.copytree(site.root, elsewhere, ignore=shutil.ignore_patterns("lake", "*.lock"))
    items, count = catalogue(project), Lake(project.paths.lake).count("events")
    assert any(CANARY in data for _, data in read_all_topics(project))

    for user in site.users:
        told = Counter(record["source"] for record in export_person(project, [user], CLOCK))
        expected = {"event": 6 + 1 + 7 + 2, "profile": 2, "answer": 1, "refused": 1, "repeat": 7}
        assert {source: told[source] for source in expected} == expected
        assert told["feature"] > 3

    done = erase(project, site.users, CLOCK)

    assert done.is_clean, done.searched.matches
    assert {record["source"] for record in export_person(project, site.users[:1], CLOCK)} == {
        "person",
        "erased",
    }
    assert find_canaries(site) == []
    known, interests = catalogue(project)
    assert interests == items[1]
    assert known.keys() == items[0].keys()
    assert {id_ for id_ in known if known[id_] != items[0][id_]} == {
        f"flat-{user[-3:]}" for user in site.users
    }, "their seller"
    assert verify(project.paths.lake).is_clean
    assert Lake(project.paths.lake).count("events") == count
    assert read_impersonal_states(project) == rebuild_impersonal_states(project)

    with (
        EventCollector(
            project.stream,
            "serve-1",
            project.plan,
            CLOCK,
            suppression_list=project.suppression_list(),
        ) as collector,
        InProcessRoles(project, CLOCK) as roles,
    ):
        old = [
            {**event, "ts": event.get("ts", 1)} for event in make_collected_events(site.users[0])
        ]
        collector.submit(json.dumps(old).encode())
        assert collector.figures().refused == {"erased": len(old)}
        others = [
            event
            for number in (17, 18)
            for event in make_collected_events(f"other-user-{number:03d}")
        ]
        again = [{**event, "event_id": f"{event['event_id']}-new"} for event in others]
        assert all(
            told.accepted for told in collector.submit(json.dumps([*others, *again]).encode())
        )
        roles.drain()
        assert (roles.accepted, roles.duplicates) == (len(again), len(others)), (
            "the router knows what it had before"
        )
    assert Lake(project.paths.lake).count("events") == count + len(again)
    assert verify(project.paths.lake).is_clean
    assert find_ids(project, site.users).matches == []

    other = open_project(elsewhere)
    assert apply_remote_erasures(other)
    assert not apply_remote_erasures(other)
    assert find_in_files(elsewhere / "data" / "stream", *site.hashes) == []
    assert not list((elsewhere / "data" / "state").glob("*/data.mdb"))
    assert SuppressionList.load(other.paths.data).encode() == project.suppression_list().encode()
    open_router(other.stream, other.plan, clock=CLOCK).close()
    marker.set_marker(project.stream.cluster, "here")
    with pytest.raises(NotReadyError, match="cut short"):
        apply_remote_erasures(other)
    with pytest.raises(NotReadyError, match="another erasure"):
        marker.set_marker(project.stream.cluster, "there")
    assert marker.clear_marker(project.stream.cluster, "here")
    ours, theirs = (sorted(map(tables, each.stream.index_paths())) for each in (project, other))
    assert ours == theirs, "a router that starts elsewhere has the same tables"


@pytest.mark.nightly
def test_users_who_are_one_are_erased_from_all_partitions(tmp_path: Path) -> None:
    """A chain of former accounts, each with events where its own browser's key leads; one of them
    names the person.
    """
    with make_topic_site(tmp_path, 3, canaries=1, others=24) as site:
        project, (last,) = site.project, site.users
        assert project.stream.is_remote
        former = [f"canary-former-{number}" for number in range(8)]
        chain = [
            make_merge(f"canary-m{number}", one, next_)
            for number, (one, next_) in enumerate(pairwise([*former, last]))
        ]
        guest, other = "guest-of-many", "other-user-003"
        with (
            EventCollector(project.stream, "serve-1", project.plan, CLOCK) as collector,
            InProcessRoles(project, CLOCK) as roles,
        ):
            for number, events in enumerate(
                (
                    [
                        make_click(f"canary-c{user}", user, f"canary-phone-{user}")
                        for user in former
                    ],
                    [*chain, make_merge("m-guest", guest, last), make_click("guest-1", guest)],
                    [
                        make_click(f"canary-d{user}", user, f"canary-phone-{user}")
                        for user in former
                    ],
                    [make_merge("m-other", guest, other), make_click("guest-2", guest)],
                )
            ):
                assert all(
                    told.accepted for told in collector.submit(json.dumps(events).encode())
                ), number
                roles.drain()
        said = [user.encode() for user in former]
        held = {
            where.rpartition("@")[0]
            for where, data in read_all_topics(project)
            if any(user in data for user in said)
        }
        rows = Lake(project.paths.lake).events(["event_id", "person", "raw_partition"])
        of = dict(zip(rows["event_id"].to_pylist(), rows["person"].to_pylist(), strict=True))
        assert {of[f"canary-d{user}"] for user in former} == {last} == {of["guest-1"]}
        assert of["guest-2"] == other
        assert (
            len({project.stream.partition_of(user) for user in former}) == 3
            if hasattr(project.stream, "partition_of")
            else held
        )
        count = Lake(project.paths.lake).count("events")

        done = erase(project, [former[3]], CLOCK)

        assert done.is_clean, done.searched.matches
        assert find_canaries(site) == []
        assert verify(project.paths.lake).is_clean
        assert Lake(project.paths.lake).count("events") == count
        assert read_impersonal_states(project) == rebuild_impersonal_states(project)
        with (
            EventCollector(
                project.stream,
                "serve-1",
                project.plan,
                CLOCK,
                suppression_list=project.suppression_list(),
            ) as collector,
            InProcessRoles(project, CLOCK) as roles,
        ):
            collector.submit(
                json.dumps(
                    [*chain, {**make_click("canary-late", former[0]), "ts": CLOCK.now() - HOUR}]
                ).encode()
            )
            assert all(
                told.accepted
                for told in collector.submit(json.dumps([make_click("guest-3", guest)]).encode())
            )
            roles.drain()
        rows = Lake(project.paths.lake).events(["event_id", "person"])
        assert (
            dict(zip(rows["event_id"].to_pylist(), rows["person"].to_pylist(), strict=True))[
                "guest-3"
            ]
            == other
        )
        assert find_canaries(site) == []


def tables(index: Path) -> str:
    connection = sqlite.connect_reader(index)
    names = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        if name != "routed_position"
    ]
    found = {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in names}
    connection.close()
    return json.dumps(found, sort_keys=True)


def test_who_writes_elsewhere_is_stopped_and_kept_out(tmp_path: Path) -> None:
    with broker(tmp_path) as servers:
        site = make_site(
            tmp_path, canaries=1, others=12, settings=topic_settings(servers, tmp_path, 1)
        )
        project = site.project
        stream = type(project.stream)(project.stream.cluster, tmp_path / "other-machine")
        stream.folder.mkdir()
        with EventCollector(stream, "serve-1", project.plan, CLOCK) as collector:
            assert collector.submit(json.dumps(make_collected_events("other-user-001")).encode())
            with pytest.raises(NotReadyError, match="not yet in the lake"):
                erase(project, site.users, CLOCK)
            assert not is_unfinished(project.paths.data)
        with InProcessRoles(project, CLOCK) as roles:
            roles.drain()
        log = stream.raw("serve-1")
        writer = open_writer(log, partition="serve-1")  # it is at work, and says nothing meanwhile
        erase(project, site.users, CLOCK)
        with pytest.raises(LockedError):
            writer.append([Block("body", 1, b"{}")])
        writer.close()
        assert find_canaries(site) == []


_KILLS = """
import os, sys
from pathlib import Path
from tests.support.people import CLOCK
from tailorbird import faults
from tailorbird.config import open_project
from tailorbird.privacy import erase

os.environ["TAILORBIRD_FAULTS"] = sys.argv[2]
done = erase(open_project(Path(sys.argv[1])), sys.argv[3:], CLOCK)
assert done.is_clean, done.searched.matches
"""


@pytest.mark.slow
def test_it_may_be_killed_and_goes_on(tmp_path: Path) -> None:
    """One after the other on the same topics, since nobody can copy a broker; each time somebody
    else is erased.
    """
    nightly = bool(os.environ.get("NIGHTLY"))
    places = ["erase.topic=kill@2", *(["erase.snapshot=kill"] if nightly else [])]
    with broker(tmp_path) as servers:
        settings = topic_settings(servers, tmp_path, 2)
        site = make_site(tmp_path, canaries=len(places), others=12, settings=settings)
        project = site.project
        assert project.stream.is_remote
        before = Lake(project.paths.lake).count("events")
        for user, place in zip(site.users, places, strict=True):
            ended = [run(project, place, user)]
            with pytest.raises(NotReadyError, match="erased, or their erasure was cut short"):
                open_writer(project.stream.response_log("serve-2"), partition="serve-2")
            ended.append(run(project, "", user))
            assert ended == [-9, 0], place
            assert [
                where for where, data in read_all_topics(project) if user.encode() in data
            ] == [], place
            with InProcessRoles(project, CLOCK) as roles:
                roles.drain()
        assert verify(project.paths.lake).is_clean, place
        assert read_impersonal_states(project) == rebuild_impersonal_states(project)
        assert Lake(project.paths.lake).count("events") == before


@pytest.mark.nightly
def test_one_that_died_before_it_changed_anything_is_forgotten_by_the_command(
    tmp_path: Path,
) -> None:
    """It has no journal to go on with, and its marker keeps all roles out; which a plain call of
    the library takes for its own.
    """
    with make_topic_site(tmp_path, 1, canaries=1, others=3) as site:
        project, (user,) = site.project, site.users
        assert project.stream.is_remote
        assert run(project, "erase.marked=kill", user) == -9
        with pytest.raises(NotReadyError, match="erased, or their erasure was cut short"):
            open_writer(project.stream.response_log("serve-2"), partition="serve-2")
        told = erase_command(project, "")
        assert (told.returncode, "expected the id of a user" in told.stderr) == (2, True)
        assert "was cut short before it changed anything" in " ".join(told.stdout.split())
        open_writer(project.stream.response_log("serve-2"), partition="serve-2").close()
        assert (
            run(project, "erase.marker=kill", user) == -9
        )  # it made the topic, and had not said yet that it is its own
        told = erase_command(project, "")
        assert "was cut short before it changed anything" in " ".join(told.stdout.split())
        open_writer(project.stream.response_log("serve-2"), partition="serve-2").close()
        assert run(project, "erase.marked=kill", user) == -9
        told = erase_command(project, user)
        assert told.returncode == 0, told.stderr
        assert [where for where, data in read_all_topics(project) if user.encode() in data] == []
        with InProcessRoles(project, CLOCK) as roles:
            roles.drain()
        assert verify(project.paths.lake).is_clean


@pytest.mark.nightly
def test_one_that_died_leaves_the_marker_of_another(tmp_path: Path) -> None:
    """Its machine was given up, its marker deleted by hand, and another machine erases when it
    comes back.
    """
    with make_topic_site(tmp_path, 1, canaries=1, others=3) as site:
        project, (user,) = site.project, site.users
        assert project.stream.is_remote
        cluster = project.stream.cluster
        assert run(project, "erase.marked=kill", user) == -9
        topic_reset.delete_topic(cluster, cluster.marker_topic)
        marker.set_marker(cluster, "another")
        for _ in range(2):
            told = erase_command(project, user)
            assert (
                told.returncode != 0,
                "on the machine where it was begun" in " ".join(told.stderr.split()),
            ) == (True, True), told.stderr
            assert "before it changed anything" not in " ".join(told.stdout.split())
        with pytest.raises(NotReadyError, match="erased, or their erasure was cut short"):
            open_writer(project.stream.response_log("serve-2"), partition="serve-2")
        assert marker.clear_marker(cluster, "another")
        assert erase_command(project, user).returncode == 0


@pytest.mark.nightly
@pytest.mark.slow
def test_rows_that_the_broker_tells_of_late_are_brought_in_by_the_command(tmp_path: Path) -> None:
    """The one of our tests does so where the client may put several messages into one batch; the
    next that is written shows them all.
    """
    if MISSING_REASON:
        pytest.skip(MISSING_REASON)
    with broker(tmp_path) as servers:
        settings = topic_settings(servers, tmp_path, 4).replace(
            json.dumps([f"{name}={value}" for name, value in CLIENT_OPTIONS.items()]), "[]"
        )
        site = make_site(tmp_path, canaries=1, others=12, settings=settings)
        told = erase_command(site.project, site.users[0])
        assert told.returncode == 0, told.stderr
        assert find_canaries(site) == []


def erase_command(project: Project, leavers: str) -> subprocess.CompletedProcess[str]:
    words = ("lake", "erase", "--from", "-", "--yes")
    return tailorbird("-C", project.root, *words, stdin=leavers, timeout=300)


def run(project: Project, armed: str, user: str) -> int:
    command = [sys.executable, "-c", _KILLS, str(project.root), armed, user]
    done = subprocess.run(
        command, env=environment(), timeout=120, capture_output=True, text=True, check=False
    )
    assert done.returncode != 1, done.stderr
    return done.returncode
