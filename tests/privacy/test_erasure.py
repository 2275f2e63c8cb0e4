"""Erasing people leaves nothing of them in any byte, and everything else as it was; however often it is killed."""

import shutil
from pathlib import Path

import pytest
from tests.cli.kit import must
from tests.privacy.kit import CANARY, CLOCK, Site, erasures, left_of, make_site, rebuilt_states, states
from tests.store.servers import needs_valkey, running

from tailorbird.features.recompute import parity
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake import Lake, verify
from tailorbird.privacy import erase

# Where an erasure is killed, and where it leaves something out; the sites of the lake's own commits are among the former.
KILLED = (
    "erase.begun", "erase.stop_key", "erase.after_done.stop", "erase.archive_files", "erase.archive_manifest", "erase.before_done.archive",
    "erase.after_done.archive", "erase.table_files", "lake.after_data", "lake.after_commit", "lake.after_ledger", "erase.table_commit",
    "erase.before_done.tables", "lake.after_checkpoint", "vacuum.before_ledger", "vacuum.between_deletes", "erase.past_of_a_table@3",
    "erase.after_done.past", "erase.routed_blocks", "erase.routed_tables", "erase.routed_file", "erase.raw_log", "erase.before_done.logs",
    "worker.before_ready", "erase.before_done.state", "erase.after_done.state", "erase.file", "erase.receipt",
)  # fmt: skip
LEFT_OUT = (
    "archive", "events", "quarantine", "duplicates", "users", "answers", "past", "router", "raw", "answer_log", "state", "files",
)  # fmt: skip


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
        site = make_site(tmp_path, canaries=100, others=24, settings=f'\n[store]\nurl = "{server.url}"\n')
        project = site.project
        with FeatureWorker(project.routed, project.paths.state, project.features, clock=CLOCK, copies=server.url) as worker:
            assert worker._store.settle(30)
        must("-C", site.root, "features", "backfill", "--out", site.root / "training-set")
        server.ask("SAVE")
        needles = [CANARY, *site.hashes, *(one.encode() for one in site.requests)]
        places = {one.partition(":")[0].split("/")[0] for one in left_of(site.root, *needles)}
        assert places == {"data", "training-set"}
        assert any(needle in (tmp_path / "valkey" / "dump.rdb").read_bytes() for needle in site.hashes)
        before = states(project)

        done = erase(project, site.users, CLOCK)

        assert left_of(site.root, *needles) == []
        assert done.clean, done.searched.found
        server.ask("SAVE")
        assert left_of(tmp_path / "valkey", *needles) == []
        after = states(project)
        assert after.keys() == before.keys()
        assert [key for key in before if before[key] != after[key]] == []
        assert after == rebuilt_states(project)
        report = verify(project.paths.lake)
        assert report.clean, report
        require_parity(project)


def require_parity(project) -> None:
    """What was logged for others is what the lake's events make, bit for bit."""
    lake = Lake(project.paths.lake)
    report = parity(project.features, lake.table("events"), lake.table("answers"))
    assert report.answers == 6
    assert report.unequal == 0, report.examples


def test_it_may_be_killed_at_each_step_and_goes_on(small: Site, tmp_path: Path) -> None:
    runs = erasures(small, tmp_path, [(site.replace("@", "=kill@") if "@" in site else f"{site}=kill", True) for site in KILLED])
    for site, run in zip(KILLED, runs, strict=True):
        assert run.ended == [-9, 0], (site, run.ended)
        assert run.clean, (site, run.found)
        assert left_of(run.root, CANARY, *small.hashes, *(one.encode() for one in small.requests)) == [], site
        project = Site(run.root, small.users).project
        assert verify(project.paths.lake).clean, site
        assert states(project) == states(small.project), site
        assert not (project.paths.data / "erasure" / "journal.json").exists()
        shutil.rmtree(run.root)


def test_a_place_that_is_left_out_is_found(small: Site, tmp_path: Path) -> None:
    runs = erasures(small, tmp_path, [(f"erase.{place}=cut", False) for place in LEFT_OUT])
    for place, run in zip(LEFT_OUT, runs, strict=True):
        assert run.ended == [0], place
        assert not run.clean, f"{place} was left out, and the search did not find it"
