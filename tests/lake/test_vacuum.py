"""Vacuum deletes files of old versions; rows, ledger and every version of the events stay."""

import pytest

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events import DAY, SimulatedClock
from tailorbird.lake import Lake, LakeRole, verify, version_at, versions_of
from tailorbird.lake.delta import compaction, table
from tailorbird.lake.delta.commits import commit_path

pytestmark = pytest.mark.long_on_s3


@pytest.fixture
def clock(samples, monkeypatch):
    monkeypatch.setattr(table, "CHECKPOINT_EVERY_COMMITS", 4)
    monkeypatch.setattr(compaction, "SMALL_FILES_MIN", 4)
    return SimulatedClock(samples.START)


@pytest.fixture
def lake(home, site, clock):
    """A lake with checkpoints and files that were put together, ten days ago."""
    with role_of(home, clock) as role:
        fill(role, site, 12)
    clock.advance_to(clock.now() + 10 * DAY)
    return home / "lake"


def role_of(home, clock, **options):
    return LakeRole(home / "stream", home / "lake", clock=clock, **options)


def fill(role, site, rounds):
    for _ in range(rounds):
        site.add()
        role.step(flush=True)
        role.upkeep()


def content(lake):
    return sorted(lake.events().to_pylist(), key=lambda row: row["p"])


def on_disk(lake):
    return {path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file()}


def test_a_dry_run_deletes_nothing_and_counts_the_files(home, lake, clock):
    with role_of(home, clock, keep_us=100 * DAY) as role:
        before = on_disk(lake)
        planned = role.vacuum(keep_us=DAY, dry_run=True)
        assert on_disk(lake) == before
        progress = []
        reports = role.vacuum(keep_us=DAY, progress=progress.append)
    assert reports == planned
    assert reports["events"].files > 0
    assert reports["events"].log_files > 0
    deleted = before - on_disk(lake)
    assert (
        len(deleted)
        == len(progress)
        == sum(each.files + each.log_files for each in reports.values())
    )


@pytest.mark.slow
def test_rows_and_ledger_are_intact_and_loading_continues(home, site, lake, clock):
    before = content(Lake(lake))
    with role_of(home, clock) as role:
        assert role.vacuum()["events"].log_files > 0
        assert not commit_path(lake / "events", 0).exists()
        assert Lake(lake).exists("events")
        fill(role, site, 1)
    assert verify(lake).is_clean
    with role_of(home, clock) as role:
        assert role.recoveries == []
        fill(role, site, 6)
        assert role.vacuum() == {}, "what is new is kept"
    again = content(Lake(lake))
    assert again[: len(before)] == before
    assert len(again) == len(before) + 7 * 8
    report = verify(lake)
    assert report.is_clean, str(report)
    assert report.partitions["collector"].missing == report.partitions["collector"].repeated == 0


def test_nothing_is_deleted_early(home, lake, clock):
    with role_of(home, clock, keep_us=11 * DAY) as role:
        before = on_disk(lake)
        assert role.vacuum() == {}
        assert on_disk(lake) == before


@pytest.mark.slow
def test_every_version_of_the_events_is_read_after_compaction_and_vacuum(home, site, clock):
    lake, seen = home / "lake", {}
    with role_of(home, clock) as role:
        for _ in range(10):
            fill(role, site, 1)
            at = versions_of(lake)
            seen[at["events"].version] = (
                at,
                content(Lake(lake)),
                sorted(Lake(lake).responses(["request_id"])["request_id"].to_pylist()),
            )
        clock.advance_to(clock.now() + 10 * DAY)
        role.vacuum()
        fill(role, site, 2)
    assert not commit_path(lake / "events", 0).exists()
    for version, (at, events, answers) in seen.items():
        then = Lake(lake, versions=at)
        assert content(then) == events
        assert then.count("events") == len(events)
        assert sorted(then.responses(["request_id"])["request_id"].to_pylist()) == answers
        assert content(Lake(lake, versions=version_at(lake, "events", version))) == events
    assert len({len(events) for _, events, _ in seen.values()}) == len(seen), "each has other rows"


@pytest.mark.slow
def test_a_version_of_another_table_is_readable_while_its_files_exist(home, lake, clock):
    at = version_at(lake, "quarantine", 2)
    assert Lake(lake, versions=at).count("quarantine") > 0
    with role_of(home, clock) as role:
        role.vacuum()
    with pytest.raises(NotReadyError, match="no longer kept"):
        Lake(lake, versions=at).count("quarantine")


@pytest.mark.slow
def test_a_reader_that_was_pinned_sees_nothing_of_later_loads(home, site, lake, clock):
    then = Lake(lake).pin_versions()
    before = content(then)
    with role_of(home, clock) as role:
        fill(role, site, 5)
    assert content(then) == before
    assert len(content(Lake(lake))) == len(before) + 5 * 8


def test_a_trimmed_log_whose_checkpoints_are_lost_is_named(home, lake, clock):
    with role_of(home, clock) as role:
        role.vacuum()
    for path in (lake / "events" / "_delta_log").glob("*.checkpoint.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamageError, match="no checkpoint"):
        role_of(home, clock)


@pytest.mark.slow
def test_a_log_is_not_trimmed_to_a_checkpoint_that_does_not_read_back(home, lake, clock):
    with role_of(home, clock) as role:
        for path in (lake / "events" / "_delta_log").glob("*.checkpoint.parquet"):
            path.write_bytes(path.read_bytes()[:-20])
        assert "events" not in role.vacuum()
    assert commit_path(lake / "events", 0).exists()
