"""The start of the role undoes what a crash may leave, and names any other corruption."""

import json
import shutil

import pytest
from deltalake import DeltaTable, write_deltalake

from tailorbird.errors import DamageError
from tailorbird.events import SystemClock
from tailorbird.lake import Lake, LakeRole, safe_positions, verify
from tailorbird.lake.delta import table as delta
from tailorbird.storage_paths import ObjectPath, client_options


def open_role(tmp_path):
    return LakeRole(tmp_path / "stream", tmp_path / "lake", clock=SystemClock())


@pytest.fixture
def lake(tmp_path, site):
    """A lake in which `events` has the versions 0 (made), 1 and 2."""
    with open_role(tmp_path) as role:
        role.drain()
        site.add()
        role.drain()
    return tmp_path / "lake"


def commit(lake, version, table="events"):
    return lake / table / "_delta_log" / f"{version:020d}.json"


def half_at_a_line(data):
    lines = data.splitlines(keepends=True)
    return b"".join(lines[: len(lines) // 2])


TEARS = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "half at a line": half_at_a_line,
    "without its last line": lambda data: b"".join(data.splitlines(keepends=True)[:-1]),
    "garbage": lambda data: b"\x00\xff" * (len(data) // 2),
}


def forget_last_line(lake, lines=1):
    """The ledger as it is when the crash comes before its line."""
    ledger = lake / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-lines]))


def assert_intact(tmp_path, lake, rounds=4):
    ids = Lake(lake).events(["event_id"]).column("event_id").to_pylist()
    assert sorted(ids) == sorted(f"e{10 * r + k}" for r in range(rounds) for k in range(8))
    report = verify(lake)
    assert report.is_clean, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["events", "quarantine", "duplicates", "users", "items"])
def test_while_a_table_catches_up_the_log_is_released_only_behind_it(tmp_path, site, table):
    lake = tmp_path / "lake"
    with open_role(tmp_path) as role:
        while not role.step(rows_max=10, flush=True).is_idle:
            pass
    assert safe_positions(lake)["routed"] == 31
    last = max((lake / table / "_delta_log").glob("*.json"))
    last.write_bytes(last.read_bytes()[:-20])
    with open_role(tmp_path) as role:
        assert "routed" not in safe_positions(lake)
        role.step(
            rows_max=1
        )  # the block of the third round's events, up to 29; the other tables are at 31 already
        assert safe_positions(lake)["routed"] == 29
        site.routed.prune(safe_positions(lake)["routed"])
        site.add()
        role.drain()
    assert safe_positions(lake)["routed"] == 41
    assert_intact(tmp_path, lake)


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_last_commit_is_set_aside_and_its_rows_are_appended_again(
    tmp_path, site, lake, tear
):
    file = commit(lake, 2)
    file.write_bytes(TEARS[tear](file.read_bytes()))
    with open_role(tmp_path) as role:
        assert [
            (f.table, f.version, f.action) for f in role.recoveries if f.action != "removed"
        ] == [("events", 2, "withdrawn")]
        role.drain()
    assert (lake / "set-aside" / "events" / file.name).exists()
    assert_intact(tmp_path, lake)


@pytest.mark.slow
@pytest.mark.parametrize("tear", TEARS)
@pytest.mark.parametrize("table", ["events", "commits"])
def test_a_torn_commit_that_the_ledger_never_saw_is_appended_again(tmp_path, site, table, tear):
    """The state after a power cut between commit and ledger: only this step's last commit can be
    torn.
    """
    with open_role(tmp_path) as role:
        role.drain()
        before = len((tmp_path / "lake" / "ledger.jsonl").read_bytes().splitlines())
        site.add()
        role.drain()
    lake = tmp_path / "lake"
    lines = [json.loads(line) for line in (lake / "ledger.jsonl").read_bytes().splitlines()]
    torn = next(line for line in lines[before:] if line["table"] == table)
    for line in lines[torn["n"] + 1 :]:  # what came after it never was
        commit(lake, line["version"], line["table"]).unlink()
    forget_last_line(lake, len(lines) - torn["n"])
    shutil.copy(lake / "positions.json", tmp_path)
    positions = json.loads((lake / "positions.json").read_bytes())
    positions["tables"] = {
        name: {log: at - 10 if log == "routed" else at - 2 for log, at in logs.items()}
        for name, logs in positions["tables"].items()
    }
    del positions["checksum"]
    (lake / "positions.json").write_text(json.dumps(positions))
    file = commit(lake, torn["version"], table)
    file.write_bytes(TEARS[tear](file.read_bytes()))
    with open_role(tmp_path) as role:
        assert ("set aside", table) in [
            (finding.action, finding.table) for finding in role.recoveries
        ]
        role.drain()
    assert_intact(tmp_path, lake)


def test_a_whole_commit_that_the_ledger_never_saw_is_entered(tmp_path, site, lake):
    lines = (lake / "ledger.jsonl").read_bytes().splitlines()
    assert json.loads(lines[-1])["table"] == "commits"
    forget_last_line(lake)
    with open_role(tmp_path) as role:
        assert [(f.table, f.action) for f in role.recoveries] == [("commits", "recovered")]
        assert role.drain().is_idle
    assert (lake / "ledger.jsonl").read_bytes().splitlines()[-1] != b""
    assert_intact(tmp_path, lake)


@pytest.mark.parametrize("tear", [*TEARS, "gone"])
def test_damage_in_the_middle_stops_the_role_and_is_named(tmp_path, site, lake, tear):
    file = commit(lake, 1)
    if tear == "gone":
        file.unlink()
    else:
        file.write_bytes(TEARS[tear](file.read_bytes()))
    with pytest.raises(
        DamageError, match=r"version 1 of table events .*(empty|missing|checksum)"
    ) as caught:
        open_role(tmp_path)
    assert caught.value.where == str(file)
    file.write_bytes(b"")  # nothing was moved or mended
    with pytest.raises(DamageError, match="version 1"):
        open_role(tmp_path)


def test_a_torn_last_commit_whose_rows_were_pruned_stops_the_role(tmp_path, site, lake):
    site.routed.prune(site.routed.end())
    commit(lake, 2).write_bytes(b"")
    with pytest.raises(
        DamageError,
        match=r"version 2 of table events is empty, and the log no longer holds its rows",
    ):
        open_role(tmp_path)


def test_a_torn_first_commit_is_made_again(tmp_path, site):
    with open_role(tmp_path):
        pass
    lake = tmp_path / "lake"
    forget_last_line(lake, 7)
    commit(lake, 0).write_bytes(b"")
    with open_role(tmp_path) as role:
        assert ("events", 0, "set aside") in [
            (f.table, f.version, f.action) for f in role.recoveries
        ]
        role.drain()
    assert_intact(tmp_path, lake, rounds=3)


@pytest.mark.parametrize("loss", ["gone", "shorter"])
def test_a_lost_data_file_stops_the_role_and_is_named(tmp_path, site, lake, loss):
    file = next((lake / "events").glob("day=*/*.parquet"))
    if loss == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamageError, match=r"table events (is missing|has)") as caught:
        open_role(tmp_path)
    assert caught.value.where == str(file)


def test_data_that_was_never_committed_is_removed(tmp_path, site, lake):
    orphan = next((lake / "events").glob("day=*/*.parquet")).with_name(
        "part-00000099-0000-deadbeef.parquet"
    )
    orphan.write_bytes(b"half a file")
    with open_role(tmp_path) as role:
        assert [finding.action for finding in role.recoveries] == ["removed"]
    assert not orphan.exists()


def add_orphan_commit(lake, times=1):
    """Rows that another writer put into `events`."""
    options = client_options() if isinstance(lake, ObjectPath) else None
    table = DeltaTable(str(lake / "events"), storage_options=options)
    rows = table.to_pyarrow_table().slice(0, 1)
    for _ in range(times):
        write_deltalake(table, rows, mode="append")
        table.create_checkpoint()


def test_commits_of_others_are_told_with_what_mends_them_and_set_aside_at_the_start(home, site):
    """`lake repair` does not mend a bucket."""
    lake = home / "lake"
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        role.drain()
    own = {file.name for file in lake.rglob("*.parquet")}
    add_orphan_commit(lake, 2)
    brought = {file.name for file in lake.rglob("*.parquet")} - own
    mends = (
        "the lake role sets it aside when it starts"
        if isinstance(lake, ObjectPath)
        else "tailorbird lake repair sets it aside"
    )
    faults = verify(lake).faults
    assert [fault.what.endswith(mends) for fault in faults] == [
        True
    ] * 5  # two commits, two checkpoints, and the hint
    assert all("is not the lake's own" in fault.what for fault in faults)
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        assert {(finding.table, finding.action) for finding in role.recoveries} == {
            ("events", "set aside")
        }
        site.add()
        role.drain()
    assert verify(lake).is_clean
    assert len(Lake(lake).events(["event_id"])) == 32
    damaged_tail_files = {
        file.name for file in (lake / "set-aside" / "events").rglob("*") if file.is_file()
    }
    assert damaged_tail_files == {
        commit(lake, 2).name,
        commit(lake, 3).name,
        "_last_checkpoint",
        *brought,
    }
    assert len(brought) == 4  # two checkpoints, two files of rows


def test_what_stands_on_a_torn_commit_is_told_with_what_mends_it(home, site):
    lake = home / "lake"
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        role.drain()
    for version in (2, 3):
        commit(lake, version).write_bytes(b"")
    mends = (
        "move it and the files of later versions out of _delta_log"
        if isinstance(lake, ObjectPath)
        else "tailorbird lake repair sets it aside"
    )
    assert [mends in fault.what for fault in verify(lake).faults] == [True, True]
    with pytest.raises(DamageError, match=mends):
        LakeRole(home / "stream", lake, clock=SystemClock())
    for version in (3, 2):
        commit(lake, version).rename(lake / f"away-{version}")
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        site.add()
        role.drain()
    assert verify(lake).is_clean


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["torn", "gone", "stale hint", "garbage hint"])
def test_a_damaged_checkpoint_never_makes_a_table_unreadable(tmp_path, site, monkeypatch, harm):
    monkeypatch.setattr(delta, "CHECKPOINT_EVERY_COMMITS", 2)
    lake = tmp_path / "lake"
    for _ in range(5):
        site.add()
        with open_role(tmp_path) as role:
            role.drain()
    log = lake / "events" / "_delta_log"
    newest = max(log.glob("*.checkpoint.parquet"))
    if harm == "torn":
        newest.write_bytes(newest.read_bytes()[:100])
    elif harm == "gone":
        newest.unlink()
    else:
        (log / "_last_checkpoint").write_bytes(
            b'{"version":99,"size":9}' if harm == "stale hint" else b""
        )
    site.add()
    with open_role(tmp_path) as role:
        role.drain()
    assert_intact(tmp_path, lake, rounds=9)


def test_a_torn_ledger_line_is_written_again(tmp_path, site, lake):
    ledger = lake / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    with open_role(tmp_path) as role:
        role.drain()
    assert_intact(tmp_path, lake)


@pytest.mark.parametrize("harm", ["changed", "removed", "swapped"])
def test_a_damaged_ledger_stops_the_role(tmp_path, site, lake, harm):
    ledger = lake / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    if harm == "changed":
        lines[4] = lines[4].replace(b'"version":0', b'"version":9')
    elif harm == "removed":
        del lines[4]
    else:
        lines[4], lines[5] = lines[5], lines[4]
    ledger.write_bytes(b"".join(lines))
    with pytest.raises(DamageError, match=r"ledger\.jsonl:[56]: "):
        open_role(tmp_path)


def test_damaged_positions_stop_the_role(tmp_path, site, lake):
    (lake / "positions.json").write_bytes(b"")
    with pytest.raises(DamageError, match=r"positions\.json"):
        open_role(tmp_path)
