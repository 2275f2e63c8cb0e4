"""Compaction makes few files of many; no row changes, and earlier readers are not disturbed."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tailorbird.events import DAY, SimulatedClock
from tailorbird.lake import Lake, LakeRole, verify
from tailorbird.lake.delta import compaction
from tailorbird.lake.delta import table as delta

pytestmark = pytest.mark.long_on_s3


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(delta, "CHECKPOINT_EVERY_COMMITS", 6)
    monkeypatch.setattr(compaction, "SMALL_FILES_MIN", 4)


def fill(home, site, rounds, clock, **options):
    with LakeRole(home / "stream", home / "lake", clock=clock, **options) as role:
        for _ in range(rounds):
            site.add()
            role.step()
            role.upkeep()
        role.drain()


def rows(lake):
    return sorted(lake.events().to_pylist(), key=lambda row: row["p"])


def test_rows_stay_while_files_become_few(home, site, samples, small):
    clock = SimulatedClock(samples.START)
    fill(home, site, 14, clock)
    lake = Lake(home / "lake")
    assert [row["event_id"] for row in rows(lake)] == [
        f"e{10 * r + k}" for r in range(17) for k in range(8)
    ]
    assert len(lake.row_counts_by_file("events", lake.version("events"))) < 15
    report = verify(home / "lake")
    assert report.is_clean, str(report)
    assert report.rows["events"] == 17 * 8
    counted = lake.sql("SELECT sum(rows) AS n FROM commits WHERE \"table\" = 'events'").to_pylist()
    assert counted == [{"n": 17 * 8}]


@pytest.mark.slow
def test_old_files_stay_for_readers_and_go_after_a_week(home, site, samples, small):
    clock = SimulatedClock(samples.START)
    fill(home, site, 2, clock)
    lake = Lake(home / "lake")
    early = lake.row_counts_by_file("events", lake.version("events"))
    fill(home, site, 12, clock)
    with LakeRole(home / "stream", home / "lake", clock=clock) as role:
        role.vacuum()
    assert not set(early) & set(lake.row_counts_by_file("events", lake.version("events")))
    assert all((home / "lake" / "events" / path).exists() for path in early)
    clock.advance_to(samples.START + 8 * DAY)
    with LakeRole(home / "stream", home / "lake", clock=clock) as role:
        assert all(each.files == 0 for each in role.vacuum().values()), "opening it deleted them"
    assert not any((home / "lake" / "events" / path).exists() for path in early)
    assert verify(home / "lake").is_clean
    assert len(rows(lake)) == 17 * 8


def test_a_torn_compaction_is_set_aside_and_the_old_files_serve(home, site, samples, small):
    clock = SimulatedClock(samples.START)
    fill(home, site, 6, clock)
    lines = [
        json.loads(line) for line in (home / "lake" / "ledger.jsonl").read_bytes().splitlines()
    ]
    last = max(
        (line for line in lines if line["table"] == "users" and line["kind"] == "commit"),
        key=lambda line: line["version"],
    )
    assert last["removed"]
    (home / "lake" / "users" / "_delta_log" / f"{last['version']:020d}.json").write_bytes(b"")
    with LakeRole(home / "stream", home / "lake", clock=clock) as role:
        assert ("users", last["version"], "set aside") in [
            (f.table, f.version, f.action) for f in role.recoveries
        ]
    assert Lake(home / "lake").table("users").num_rows == 18
    assert verify(home / "lake").is_clean


def test_a_day_that_nothing_is_written_to_any_more_becomes_one_file(home, site, samples):
    clock = SimulatedClock(samples.START)
    fill(home, site, 3, clock)
    lake = Lake(home / "lake")
    before = lake.row_counts_by_file("events", lake.version("events"))
    with LakeRole(home / "stream", home / "lake", clock=clock) as role:
        assert role.upkeep() == 0, "it is still being written to, and has few files"
        clock.advance_to(samples.START + 2 * DAY)
        assert role.count_due_files()["events"] == len(before)
        while role.upkeep():
            pass
        assert role.count_due_files() == {}
    after = lake.row_counts_by_file("events", lake.version("events"))
    assert len(after) == 3 < len(before), "one for each day"
    assert sum(after.values()) == sum(before.values()) == 6 * 8
    assert verify(home / "lake").is_clean


def test_a_step_is_one_folder_of_one_table(home, site, samples):
    clock = SimulatedClock(samples.START)
    fill(home, site, 3, clock)
    clock.advance_to(samples.START + 2 * DAY)
    with LakeRole(home / "stream", home / "lake", clock=clock) as role:
        waiting = role.count_due_files()
        ledger = home / "lake" / "ledger.jsonl"
        before = len(ledger.read_bytes().splitlines())
        assert role.upkeep() > 0
        assert len(ledger.read_bytes().splitlines()) == before + 1
        assert sum(role.count_due_files().values()) < sum(waiting.values())


def test_old_days_are_sorted_by_person_if_configured(home, site, samples):
    clock = SimulatedClock(samples.START)
    fill(home, site, 6, clock)
    lake = Lake(home / "lake")
    before = rows(lake)
    clock.advance_to(samples.START + 2 * DAY)
    fill(home, site, 0, clock, sort="person")
    assert rows(lake) == before
    for path in lake.row_counts_by_file("events", lake.version("events")):
        file = pq.ParquetFile(pa.BufferReader((home / "lake" / "events" / path).read_bytes()))
        persons = [
            person
            for person in file.read(["person"]).column("person").to_pylist()
            if person is not None
        ]
        assert persons == sorted(persons)
        place = file.schema_arrow.get_field_index("person")
        assert file.metadata.row_group(0).column(place).statistics.has_min_max, (
            "which lets a reader leave out other people"
        )
    log = b"".join(
        path.read_bytes() for path in (home / "lake" / "events" / "_delta_log").glob("*.json")
    )
    assert b'"u1' not in log, "no id stands where a deletion does not reach"
    assert verify(home / "lake").is_clean
