"""Erasing people leaves nothing of them in any byte, and everything else as it was; however often
it is killed.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from tests.cli.kit import must
from tests.privacy.kit import (
    CANARY,
    CLOCK,
    Site,
    erasures,
    left_of,
    make_site,
    rebuilt_states,
    states,
    without_flats,
)
from tests.store.servers import needs_valkey, running

from tailorbird.events import hash64
from tailorbird.features.recompute import parity
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake import Lake, verify
from tailorbird.platform.roles import Roles
from tailorbird.privacy import erase, export_person
from tailorbird.serving.door import Door

pytestmark = pytest.mark.slow

# Where an erasure is killed, and where it leaves something out; the sites of the lake's own commits
# are among the former.
KILLED = (
    "erase.begun",
    "erase.stop_key",
    "erase.after_done.stop",
    "erase.archive_files",
    "erase.archive_manifest",
    "erase.before_done.archive",
    "erase.after_done.archive",
    "erase.table_files",
    "lake.after_data",
    "lake.after_commit",
    "lake.after_ledger",
    "erase.table_commit",
    "erase.before_done.tables",
    "lake.after_checkpoint",
    "vacuum.before_ledger",
    "vacuum.between_deletes",
    "erase.past_of_a_table@3",
    "erase.after_done.past",
    "erase.routed_blocks",
    "erase.routed_tables",
    "erase.routed_file",
    "erase.raw_log",
    "erase.before_done.logs",
    "worker.before_ready",
    "erase.before_done.state",
    "erase.after_done.state",
    "erase.file",
    "erase.receipt",
)
LEFT_OUT = (
    "archive",
    "events",
    "quarantine",
    "duplicates",
    "users",
    "answers",
    "past",
    "router",
    "raw",
    "answer_log",
    "scores",
    "state",
    "files",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A small site with a report that names somebody; tests take copies."""
    site = make_site(tmp_path_factory.mktemp("small"), canaries=3, others=24)
    report = site.project.paths.reports / "signals.html"
    report.parent.mkdir(parents=True)
    report.write_text(f"<p>{site.users[0]} clicked most")
    for lock in site.root.rglob("*.lock"):
        lock.unlink()
    return site


@needs_valkey
def test_a_hundred_canaries_are_nowhere_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    with running(tmp_path / "valkey") as server:
        site = make_site(
            tmp_path, canaries=100, others=24, settings=f'\n[store]\nurl = "{server.url}"\n'
        )
        project = site.project
        with FeatureWorker(
            project.routed,
            project.paths.state,
            project.features,
            clock=CLOCK,
            copies=project.copies(),
        ) as worker:
            assert worker._store.settle(30)
        must("-C", site.root, "features", "backfill", "--out", site.root / "training-set")
        server.ask("SAVE")
        needles = [CANARY, *site.hashes, *(one.encode() for one in site.requests)]
        places = {one.partition(":")[0].split("/")[0] for one in left_of(site.root, *needles)}
        assert places == {"data", "training-set"}
        assert any(
            needle in (tmp_path / "valkey" / "dump.rdb").read_bytes() for needle in site.hashes
        )
        before = states(project)
        for number, user in enumerate(site.users[::9]):
            told = Counter(record["source"] for record in export_person(project, [user], CLOCK))
            assert (told["event"] - told["answer"], told["profile"], told["refused"]) == (
                14 + (number == 0),
                2,
                1,
            ), told
            assert told["mention"] == 2 + 1 + 2, (
                "two versions of an item, a friend's profile, and a friend's profile and click"
            )
        state = project.paths.state.rename(tmp_path / "elsewhere")
        told = Counter(record["source"] for record in export_person(project, site.users[:1], CLOCK))
        assert told["feature"] > 3, "from the copy"
        shutil.rmtree(project.paths.state, ignore_errors=True)
        state.rename(project.paths.state)

        done = erase(project, site.users, CLOCK)

        assert left_of(site.root, *needles) == []
        assert done.clean, done.searched.found
        server.ask("SAVE")
        assert left_of(tmp_path / "valkey", *needles) == []
        after = states(project)
        assert after.keys() == before.keys()
        flats = {
            ("item", hash64(f"flat-{user[-3:]}")) for user in site.users
        }  # their seller was an attribute
        assert {key for key in before if before[key] != after[key]} == flats
        assert after == rebuilt_states(project)
        report = verify(project.paths.lake, deep=True)
        assert report.clean, report
        require_parity(project)


def test_what_was_said_of_somebody_is_in_the_router_no_more(small: Site, tmp_path: Path) -> None:
    root = tmp_path / "shop"
    shutil.copytree(small.root, root)
    site = Site(root, small.users, small.requests)
    user, project = site.users[0], site.project
    told = [
        record for record in export_person(project, [user], CLOCK) if record["source"] == "mention"
    ]
    assert [record["table"] for record in told] == ["items", "items", "users", "events", "events"]
    assert all(
        user in json.dumps(record) and "friend-000" not in json.dumps(record) for record in told
    )
    assert erase(project, [user], CLOCK).clean
    assert left_of(root, user.encode()) == []
    with (
        Door(project.stream, "serve-1", project.plan, CLOCK, stopped=project.stopped()) as door,
        Roles(project, CLOCK) as roles,
    ):
        clicks = [
            {
                "event_id": f"later-{n}",
                "type": "click",
                "user_id": "friend-000",
                "item_id": f"flat-00{n}",
            }
            for n in range(2)
        ]
        assert all(one.accepted for one in door.submit(json.dumps(clicks).encode()))
        roles.drain()
    events = {
        row["event_id"]: row
        for row in Lake(project.paths.lake)
        .events(["event_id", "item_profile", "item_version"])
        .to_pylist()
    }
    assert json.loads(events["later-0"]["item_profile"])["seller"] is None
    assert json.loads(events["later-1"]["item_profile"])["seller"] == site.users[1], (
        "of whom nobody asked"
    )
    assert left_of(root, user.encode()) == []


def require_parity(project) -> None:
    """What was logged for others is what the lake's events make, bit for bit."""
    lake = Lake(project.paths.lake)
    report = parity(project.features, lake.table("events"), lake.table("answers"))
    assert report.answers == 6
    assert report.unequal == 0, report.examples


def test_it_may_be_killed_at_each_step_and_goes_on(small: Site, tmp_path: Path) -> None:
    runs = erasures(
        small,
        tmp_path,
        [(site.replace("@", "=kill@") if "@" in site else f"{site}=kill", True) for site in KILLED],
    )
    for site, run in zip(KILLED, runs, strict=True):
        assert run.ended == [-9, 0], (site, run.ended)
        assert run.clean, (site, run.found)
        assert (
            left_of(run.root, CANARY, *small.hashes, *(one.encode() for one in small.requests))
            == []
        ), site
        project = Site(run.root, small.users).project
        assert verify(project.paths.lake).clean, site
        assert without_flats(states(project)) == without_flats(states(small.project)), site
        assert not (project.paths.data / "erasure" / "journal.json").exists()
        shutil.rmtree(run.root)


def test_a_place_that_is_left_out_is_found(small: Site, tmp_path: Path) -> None:
    runs = erasures(small, tmp_path, [(f"erase.{place}=cut", False) for place in LEFT_OUT])
    for place, run in zip(LEFT_OUT, runs, strict=True):
        assert run.ended == [0], place
        assert not run.clean, f"{place} was left out, and the search did not find it"
