"""Many small files become few; no row comes, goes or changes, and a reader that began before goes on."""

import json

import pytest

from tailorbird.events import DAY, SimulatedClock
from tailorbird.lake import Lake, LakeRole, delta, verify


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(delta, "CHECKPOINT_EVERY", 6)
    monkeypatch.setattr(delta, "SMALL_FILES", 4)


def fill(tmp_path, site, rounds, clock):
    with LakeRole(tmp_path / "stream", tmp_path / "lake", clock=clock) as role:
        for _ in range(rounds):
            site.add()
            role.step()
        role.drain()


def rows(lake):
    return sorted(lake.events().to_pylist(), key=lambda row: row["p"])


def test_rows_stay_while_files_become_few(tmp_path, site, samples, small):
    clock = SimulatedClock(samples.START)
    fill(tmp_path, site, 14, clock)
    lake = Lake(tmp_path / "lake")
    assert [row["event_id"] for row in rows(lake)] == [f"e{10 * r + k}" for r in range(17) for k in range(8)]
    assert len(lake.files("events", lake.version("events"))) < 15
    report = verify(tmp_path / "lake")
    assert report.clean, str(report)
    assert report.rows["events"] == 17 * 8
    counted = lake.sql("SELECT sum(rows) AS n FROM commits WHERE \"table\" = 'events'").to_pylist()
    assert counted == [{"n": 17 * 8}]


def test_old_files_stay_for_readers_and_go_after_a_week(tmp_path, site, samples, small):
    clock = SimulatedClock(samples.START)
    fill(tmp_path, site, 2, clock)
    lake = Lake(tmp_path / "lake")
    early = lake.files("events", lake.version("events"))
    fill(tmp_path, site, 12, clock)
    assert not set(early) & set(lake.files("events", lake.version("events")))
    assert all((tmp_path / "lake" / "events" / path).exists() for path in early)
    clock.advance_to(samples.START + 8 * DAY)
    fill(tmp_path, site, 0, clock)
    assert not any((tmp_path / "lake" / "events" / path).exists() for path in early)
    assert verify(tmp_path / "lake").clean
    assert len(rows(lake)) == 17 * 8


def test_a_torn_compaction_is_set_aside_and_the_old_files_serve(tmp_path, site, samples, small):
    clock = SimulatedClock(samples.START)
    fill(tmp_path, site, 6, clock)
    lines = [json.loads(line) for line in (tmp_path / "lake" / "ledger.jsonl").read_bytes().splitlines()]
    last = max((line for line in lines if line["table"] == "users" and line["kind"] == "commit"), key=lambda line: line["version"])
    assert last["removed"]
    (tmp_path / "lake" / "users" / "_delta_log" / f"{last['version']:020d}.json").write_bytes(b"")
    with LakeRole(tmp_path / "stream", tmp_path / "lake", clock=clock) as role:
        assert ("users", last["version"], "set aside") in [(f.table, f.version, f.what) for f in role.findings]
    assert Lake(tmp_path / "lake").table("users").num_rows == 18
    assert verify(tmp_path / "lake").clean
