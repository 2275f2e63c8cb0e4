"""The role brings every row of the logs into the lake once, however often it is stepped, stopped
and started.
"""

import json
import threading
import time

import apsw
import pytest

from tailorbird import faults
from tailorbird.errors import DamageError, LockedError, NotReadyError
from tailorbird.events import SECOND, SimulatedClock, SystemClock
from tailorbird.lake import Lake, LakeRole, run, safe_positions, verify


def open_role(home, clock=None, **options):
    return LakeRole(home / "stream", home / "lake", clock=clock or SystemClock(), **options)


def counts(home):
    lake = Lake(home / "lake")
    return {
        name: lake.count(name)
        for name in ("events", "quarantine", "duplicates", "users", "items", "answers")
    }


EXPECTED = {
    "events": 8,
    "quarantine": 1,
    "duplicates": 1,
    "users": 2,
    "items": 2,
    "answers": 2,
}  # of one round


def test_every_row_of_the_logs_is_in_its_table(home, site):
    with open_role(home) as role:
        report = role.drain()
    assert counts(home) == {name: 3 * rows for name, rows in EXPECTED.items()}
    assert report.archived == 30
    assert safe_positions(home / "lake") == {
        "routed": 31,
        "answers-serve-1": 6,
        "raw-collector": 30,
    }
    assert verify(home / "lake").is_clean


def test_what_was_committed_before_a_crash_is_released_though_nothing_comes_after(
    home, site, monkeypatch
):
    with open_role(home) as role:
        monkeypatch.setenv("TAILORBIRD_FAULTS", "lake.before_positions=raise")
        faults._load_faults.cache_clear()
        with pytest.raises(OSError, match="injected"):
            role.step(flush=True)
    monkeypatch.undo()
    faults._load_faults.cache_clear()
    with open_role(home) as role:
        role.drain()
    assert safe_positions(home / "lake") == {
        "routed": 31,
        "answers-serve-1": 6,
        "raw-collector": 30,
    }


def test_a_step_with_nothing_new_commits_nothing(home, site):
    with open_role(home) as role:
        role.drain()
        version = Lake(home / "lake").version("events")
        assert role.step().is_idle
        assert Lake(home / "lake").version("events") == version


@pytest.mark.long_on_s3
def test_a_role_continues_where_the_last_one_stopped(home, site):
    for _ in range(3):
        with open_role(home) as role:
            role.drain()
        site.add()
    assert counts(home)["events"] == 3 * 8 + 2 * 8
    assert verify(home / "lake").is_clean


def test_small_steps_end_in_the_same_rows_as_one_large(home, site, samples):
    with open_role(home) as role:
        while not role.step(rows_max=1).is_idle:
            pass
    ids = Lake(home / "lake").events(["event_id"]).column("event_id").to_pylist()
    assert sorted(ids) == sorted(f"e{10 * r + k}" for r in range(3) for k in range(8))


def test_quarantine_stores_the_exact_body(home, site, samples):
    with open_role(home) as role:
        role.drain()
    bodies = Lake(home / "lake").table("quarantine")
    assert (
        sorted(bodies.to_pylist(), key=lambda row: row["raw_offset"])
        == samples.quarantine([8, 18, 28]).to_pylist()
    )


def test_answers_come_back_as_they_were_logged(home, site, samples):
    with open_role(home) as role:
        role.drain()
    row = (
        Lake(home / "lake")
        .responses(ts_from=samples.START + 3, ts_to=samples.START + 4)
        .to_pylist()[0]
    )
    assert (row["request_id"], row["producer"], row["offset"]) == ("r3", "serve-1", 3)
    assert [value % 2**64 for value in row["categorical"]] == [2**64 - 1, 0]
    assert str(row["numeric"]) == "[1.0, nan, 2.0, 3.0]"
    assert row["propensities"] == [1.0, 0.5]


def test_profiles_become_versions(home, site):
    with open_role(home) as role:
        role.drain()
    rows = {row["version"]: row for row in Lake(home / "lake").table("items").to_pylist()}
    assert rows["e2"]["id"] == "i2"
    assert json.loads(rows["e2"]["attributes"]) == {"colour": "red"}


def test_the_commits_table_mirrors_the_ledger(home, site):
    with open_role(home) as role:
        role.drain()
    rows = (
        Lake(home / "lake")
        .sql("SELECT sum(rows) AS n FROM commits WHERE \"table\" = 'events'")
        .to_pylist()
    )
    assert rows == [{"n": 24}]


def test_a_second_writer_is_refused(home, site):
    with open_role(home), pytest.raises(LockedError, match=r"ledger\.jsonl"):
        open_role(home)


def test_logs_may_be_pruned_up_to_the_safe_positions(home, site):
    with open_role(home) as role:
        role.drain()
    safe = safe_positions(home / "lake")
    for name, log in (
        ("routed", site.routed),
        ("raw-collector", site.raw),
        ("answers-serve-1", site.answers),
    ):
        assert log.prune(safe[name]) > 0
    site.add()
    with open_role(home) as role:
        role.drain()
    assert counts(home) == {name: 4 * rows for name, rows in EXPECTED.items()}
    assert verify(home / "lake").is_clean


def test_a_lake_that_was_lost_after_the_log_was_pruned_is_not_begun_anew_in_silence(tmp_path, site):
    with open_role(tmp_path) as role:
        role.drain()
    site.routed.prune(site.routed.end())
    (tmp_path / "lake").rename(tmp_path / "lost")
    with open_role(tmp_path) as role, pytest.raises(DamageError, match="begins at 31"):
        role.step()


def test_raw_bodies_wait_until_a_file_is_full_or_old(home, site, samples):
    clock = SimulatedClock(samples.START)
    with open_role(home, clock, archive_age_us=60 * SECOND) as role:
        assert role.step().archived == 0
        clock.advance_to(samples.START + 59 * SECOND)
        assert role.step().archived == 0
        clock.advance_to(samples.START + 60 * SECOND)
        assert role.step().archived == 30


@pytest.mark.slow
@pytest.mark.long_on_s3
def test_readers_see_complete_commits_while_the_role_writes(home, site):
    role = open_role(home)
    lake = Lake(home / "lake")
    seen = [0]

    def write():
        for _ in range(15):
            site.add()
            role.step()

    role.step()
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        ids = lake.events(["event_id"]).column("event_id").to_pylist()
        assert len(ids) == len(set(ids))
        assert len(ids) % 8 == 0
        assert len(ids) >= seen[-1]
        seen.append(len(ids))
    writer.join()
    role.close()
    assert len(set(seen)) > 3
    assert lake.count("events") == 8 * 18


def test_the_loop_loads_new_rows_and_stops_on_the_event(home, site):
    stop = threading.Event()
    loop = threading.Thread(
        target=run,
        args=(home / "stream", home / "lake", SystemClock(), stop),
        kwargs={"commit_every_us": 1},
    )
    loop.start()
    lake = Lake(home / "lake")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not (
        lake.exists("events") and lake.count("events") == 24
    ):
        time.sleep(0.01)
    site.add()
    stop.set()
    loop.join(5)
    assert not loop.is_alive()
    assert lake.count("events") == 32


def test_an_empty_lake_names_the_command_to_run(home):
    with pytest.raises(NotReadyError, match="tailorbird import"):
        Lake(home / "lake").events()
    with pytest.raises(NotReadyError):
        verify(home / "lake")


def test_ids_do_not_stand_in_a_tables_log(home, site):
    with open_role(home) as role:
        role.drain()
    logs = b"".join(path.read_bytes() for path in (home / "lake").glob("*/_delta_log/*"))
    for trace in (b"u13", b"i13", b"e13", b"r3"):
        assert b'"' + trace + b'\\"' not in logs


def test_time_and_columns_are_pruned_together(home, site, samples):
    with open_role(home) as role:
        role.drain()
    lake = Lake(home / "lake")
    all_rows = lake.events()
    start, end = samples.START + samples.DAY, samples.START + samples.DAY + 7_919 * SECOND
    expected = {
        row["event_id"]
        for row in all_rows.to_pylist()
        if start <= row["ts"].timestamp() * SECOND < end
    }
    part = lake.events(["event_id"], start, end)
    assert part.column_names == ["event_id"]
    assert set(part.column("event_id").to_pylist()) == expected != set()


def test_logs_that_are_just_being_made_are_left_for_later(home):
    stream = home / "stream"
    stream.mkdir()
    for name in ("raw-collector", "answers-serve-1", "routed"):
        apsw.Connection(str(stream / f"{name}.db")).execute("PRAGMA journal_mode = wal").fetchall()
    with open_role(home) as role:
        assert role.count_pending_rows() == 0
        role.may_have_grown()
        assert role.step().is_idle
