"""Erasing people leaves nothing of them in any byte, and everything else as it was; however often
it is killed.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.support.commands import must
from tests.support.network.stores import needs_valkey, start_server
from tests.support.people import (
    CANARY,
    CLOCK,
    Site,
    erase_copies,
    find_in_files,
    make_site,
    read_impersonal_states,
    read_values,
    rebuild_impersonal_states,
)

from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.parity.recompute import compute_parity
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase, export_person
from tailorbird.serving.collector.collector import EventCollector

pytestmark = pytest.mark.slow
OTHERS = [f"other-user-{number:03d}" for number in range(24)]
ITEMS = [f"i{number}" for number in range(12)]

# Where an erasure is killed, and where it leaves something out; the sites of the lake's own commits
# are among the former.
KILLED = (
    "erase.begun",
    "erase.suppression_key",
    "erase.after_done.suppression",
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
    "erase.after_done.history",
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
def test_a_hundred_canaries_are_nowhere_and_others_keep_their_values(tmp_path: Path) -> None:
    with start_server(tmp_path / "valkey") as server:
        settings = f'\n[store]\nurl = "{server.url}"\n'
        site = make_site(tmp_path, canaries=100, others=24, settings=settings)
        project = site.project
        with FeatureWorker(
            project.routed,
            project.paths.state,
            project.features,
            clock=CLOCK,
            copies=project.copy_target(),
        ) as worker:
            assert worker._store.wait_until_copied(30)
        must("-C", site.root, "features", "backfill", "--out", site.root / "training-set")
        server.ask("SAVE")
        needles = [CANARY, *site.hashes, *(one.encode() for one in site.requests)]
        places = {one.partition(":")[0].split("/")[0] for one in find_in_files(site.root, *needles)}
        assert places == {"data", "training-set"}
        dump = (tmp_path / "valkey" / "dump.rdb").read_bytes()
        assert any(needle in dump for needle in site.hashes)
        now = CLOCK.now()
        before = read_values(project, OTHERS, ITEMS, now)

        done = erase(project, site.users, CLOCK)

        assert find_in_files(site.root, *needles) == []
        assert done.is_clean, done.searched.matches
        server.ask("SAVE")
        assert find_in_files(tmp_path / "valkey", *needles) == []
        assert read_values(project, OTHERS, ITEMS, now) == before
        assert read_impersonal_states(project) == rebuild_impersonal_states(project)
        report = verify(project.paths.lake, deep=True)
        assert report.is_clean, report
        lake = Lake(project.paths.lake)
        compared = compute_parity(project.features, lake.table("events"), lake.table("answers"))
        assert compared.unequal == 0, compared.examples
        assert compared.exempt == done.counts["tables"]["exempt from parity"]


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
    assert erase(project, [user], CLOCK).is_clean
    assert find_in_files(root, user.encode()) == []
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
        clicks = [
            {
                "event_id": f"later-{n}",
                "type": "click",
                "user_id": "friend-000",
                "item_id": f"flat-00{n}",
            }
            for n in range(2)
        ]
        assert all(one.accepted for one in collector.submit(json.dumps(clicks).encode()))
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
    assert find_in_files(root, user.encode()) == []


def test_it_may_be_killed_at_each_step_and_goes_on(small: Site, tmp_path: Path) -> None:
    places = KILLED if os.environ.get("NIGHTLY") else KILLED[::3]
    faults = [site.replace("@", "=kill@") if "@" in site else f"{site}=kill" for site in places]
    runs = erase_copies(small, tmp_path, [(fault, True) for fault in faults])
    now = CLOCK.now()
    expected = read_values(small.project, OTHERS, ITEMS, now)
    for site, run in zip(places, runs, strict=True):
        assert run.exit_codes == [-9, 0], (site, run.exit_codes)
        assert run.is_clean, (site, run.found)
        assert (
            find_in_files(
                run.root, CANARY, *small.hashes, *(one.encode() for one in small.requests)
            )
            == []
        ), site
        project = Site(run.root, small.users).project
        assert verify(project.paths.lake).is_clean, site
        assert read_values(project, OTHERS, ITEMS, now) == expected, site
        assert read_impersonal_states(project) == rebuild_impersonal_states(project), site
        assert not (project.paths.data / "erasure" / "journal.json").exists()
        shutil.rmtree(run.root)
