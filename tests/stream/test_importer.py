"""Import: in order of time, exactly once through kills, refused rows kept, repeats said."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tailorbird.errors import DamageError, InputError, LockedError, UsageError
from tailorbird.events import DAY, Receipt, RoutePlan, SimulatedClock, hash64
from tailorbird.events.adapters import AdapterOptions
from tailorbird.events.contract.contract import ERASED_BODY
from tailorbird.events.suppression import SuppressionList
from tailorbird.router import Router
from tailorbird.stream import open_reader, open_writer
from tailorbird.stream.importer import ImportReport, import_files

TS = 1_700_000_000_000_000
NOW = TS + 100 * DAY
PLAN = RoutePlan()


def _event(number: int, ts: int, **more: object) -> str:
    return json.dumps(
        {
            "event_id": f"e{number:06}",
            "type": "click",
            "ts": ts,
            "user_id": "u",
            "item_id": "i",
            **more,
        }
    )


def _history(file: Path, rows: int = 500) -> list[str]:
    """Events in a shuffled order, many at the same moment; returns their ids in the order of (ts,
    id).
    """
    order = sorted(range(rows), key=lambda i: i * 7919 % 1009)
    file.write_text("\n".join(_event(i, TS + i // 5) for i in order))
    return [f"e{i:06}" for i in range(rows)]


def _import(
    stream: Path, path: Path, *, now: int = NOW, plan: RoutePlan = PLAN, **options: int
) -> ImportReport:
    return import_files(stream, "tailorbird", path, plan=plan, clock=SimulatedClock(now), **options)


def _rows(stream: Path) -> list[bytes]:
    """Every row of the log of imports, in order."""
    reader = open_reader(stream / "raw-import.db")
    lines_read: list[bytes] = []
    start = 0
    while blocks := reader.read(start):
        for stored in blocks:
            lines = stored.block.payload.split(b"\n")
            assert (stored.offset, stored.block.rows, stored.block.kind) == (
                len(lines_read),
                len(lines),
                "body",
            )
            lines_read += lines
        start = len(lines_read)
    reader.close()
    return lines_read


def _ids(stream: Path) -> list[str]:
    return [json.loads(row)["event_id"] for row in _rows(stream)]


@pytest.mark.parametrize("run_rows", [1_000_000, 500, 130, 7])
def test_rows_are_in_order_of_time_and_id_however_many_are_sorted_at_once(
    tmp_path: Path, run_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tailorbird.events.adapters.batch.BATCH_ROWS", 50
    )  # so that 500 rows are several batches
    expected = _history(tmp_path / "e.jsonl")
    report = _import(tmp_path / "stream", tmp_path / "e.jsonl", run_rows=run_rows)
    assert (report.rows, report.accepted, report.is_repeated) == (500, 500, False)
    assert _ids(tmp_path / "stream") == expected
    assert not (tmp_path / "stream" / "import-runs").exists()


def test_profiles_that_have_always_been_so_come_first(tmp_path: Path) -> None:
    profile = {"event_id": "p", "type": "item", "item_id": "i", "timeless": True}
    (tmp_path / "e.jsonl").write_text("\n".join([_event(1, TS), json.dumps(profile)]))
    _import(tmp_path / "stream", tmp_path / "e.jsonl")
    assert _ids(tmp_path / "stream") == ["p", "e000001"]


def test_several_files_become_one_history(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "b.jsonl").write_text(_event(1, TS + 1))
    (folder / "a.ndjson.gz").write_bytes(
        gzip.compress(_event(2, TS + 2).encode() + b"\n" + _event(0, TS).encode())
    )
    report = _import(tmp_path / "stream", folder)
    assert [Path(file).name for file in report.files] == ["a.ndjson.gz", "b.jsonl"]
    assert _ids(tmp_path / "stream") == ["e000000", "e000001", "e000002"]


def test_refused_rows_are_counted_named_and_land_in_the_quarantine(tmp_path: Path) -> None:
    wrong = ["nonsense", _event(2, TS, user_id=3), _event(3, TS, context={"country": "Norway"})]
    (tmp_path / "e.jsonl").write_text("\n".join([_event(1, TS), *wrong]))
    report = _import(tmp_path / "stream", tmp_path / "e.jsonl")
    assert (report.rows, report.accepted) == (4, 1)
    assert dict(report.refused) == {"malformed_json": 1, "wrong_type": 1, "bad_country": 1}
    assert (
        report.examples[2]
        == f'{tmp_path / "e.jsonl"}:4: $.context.country: expected a two-letter code, got "Norway"'
    )
    router = Router(tmp_path / "stream", PLAN, clock=SimulatedClock(NOW))
    routed = router.step()
    router.close()
    assert (routed.accepted, routed.duplicates, routed.quarantined) == (1, 0, 3)
    assert {row.decode() for row in _rows(tmp_path / "stream")} == {_event(1, TS), *wrong}


def test_the_same_files_again_are_said_to_be_there(tmp_path: Path) -> None:
    expected = _history(tmp_path / "e.jsonl")
    _import(tmp_path / "stream", tmp_path / "e.jsonl")
    (tmp_path / "moved").mkdir()
    (tmp_path / "e.jsonl").rename(tmp_path / "moved" / "f.jsonl")
    # Another day, another plan, another name: the content decides.
    report = _import(
        tmp_path / "stream", tmp_path / "moved", now=NOW + DAY, plan=RoutePlan(skew_us=1)
    )
    assert (report.is_repeated, report.rows) == (True, 0)
    assert _ids(tmp_path / "stream") == expected


def test_a_file_that_grew_is_imported_anew_and_the_router_drops_what_it_knows(
    tmp_path: Path,
) -> None:
    (tmp_path / "e.jsonl").write_text(_event(1, NOW))
    _import(tmp_path / "stream", tmp_path / "e.jsonl")
    (tmp_path / "e.jsonl").write_text(_event(1, NOW) + "\n" + _event(2, NOW))
    _import(tmp_path / "stream", tmp_path / "e.jsonl")
    router = Router(tmp_path / "stream", PLAN, clock=SimulatedClock(NOW))
    routed = router.step()
    router.close()
    assert (routed.accepted, routed.duplicates) == (2, 1)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_no_row_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "e.jsonl").write_text(content)
    with pytest.raises(InputError, match="no row was found"):
        _import(tmp_path / "stream", tmp_path / "e.jsonl")


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use one of tailorbird, metarank"):
        import_files(tmp_path, "excel", tmp_path, plan=PLAN, clock=SimulatedClock(NOW))


def test_a_damaged_file_leaves_nothing_and_can_be_mended(tmp_path: Path) -> None:
    archive = gzip.compress("\n".join(_event(i, TS + i) for i in range(3_000)).encode())
    (tmp_path / "e.jsonl.gz").write_bytes(archive[:-500])
    with pytest.raises(InputError, match=r"e\.jsonl\.gz: damaged after line"):
        _import(tmp_path / "stream", tmp_path / "e.jsonl.gz")
    assert _rows(tmp_path / "stream") == []
    (tmp_path / "e.jsonl.gz").write_bytes(archive)
    assert _import(tmp_path / "stream", tmp_path / "e.jsonl.gz").accepted == 3_000


def test_a_wrong_checksum_stops_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(_event(1, TS))
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  e.jsonl\n")
    with pytest.raises(DamageError, match="nothing of it was imported"):
        _import(tmp_path / "stream", tmp_path / "e.jsonl")
    assert not (tmp_path / "stream").exists()


@pytest.mark.slow
def test_a_second_import_at_the_same_time_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(_event(1, TS))
    (tmp_path / "stream").mkdir()
    writer = open_writer(tmp_path / "stream" / "raw-import.db", partition="import")
    with pytest.raises(LockedError, match="raw-import"):
        _import(tmp_path / "stream", tmp_path / "e.jsonl")
    writer.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "site",
    ["import.before_commit", "import.after_commit", "stream.before_commit", "stream.after_commit"],
)
def test_killed_at_any_commit_it_goes_on_without_loss_or_repeat(tmp_path: Path, site: str) -> None:
    """Twelve thousand rows are one transaction; with a run of 5,000 the sorting spills too. Each
    commit is killed once.
    """
    rows = 120_000 if site == "import.after_commit" else 12_000  # three transactions, or one
    expected = _history(tmp_path / "e.jsonl", rows)
    stream = tmp_path / "stream"
    command = [
        sys.executable,
        "-m",
        "tests.support.programs.importing",
        str(stream),
        str(tmp_path / "e.jsonl"),
        "5000",
    ]
    for hit in range(1, 9):
        environment = {**os.environ, "TAILORBIRD_FAULTS": f"{site}=kill@{hit}"}
        done = subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[2], timeout=60, check=False
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    else:
        raise AssertionError("it never came through")
    assert hit > 1
    assert _ids(stream) == expected
    assert _import(stream, tmp_path / "e.jsonl").is_repeated
    assert [path.name for path in stream.iterdir() if path.is_dir()] == []


def test_a_resumed_import_keeps_the_time_and_the_plan_that_it_began_with(tmp_path: Path) -> None:
    """Refusals and order depend on both, for rows without a time and rows of the future."""
    plan = RoutePlan(event_types=("click", "wish"))
    future = _event(7, NOW + DAY)
    untimed = json.dumps({"event_id": "n", "type": "wish", "user_id": "u"})
    (tmp_path / "e.jsonl").write_text(
        "\n".join([_event(1, TS), future, untimed, _event(2, TS + 1)])
    )
    stream = tmp_path / "stream"
    with pytest.raises(RuntimeError):
        _stopped_before_the_end(stream, tmp_path / "e.jsonl", plan)
    report = _import(stream, tmp_path / "e.jsonl", now=NOW + 10 * DAY, plan=PLAN)
    assert (report.accepted, dict(report.refused)) == (3, {"ts_in_future": 1})
    reader = open_reader(stream / "raw-import.db")
    receipts = {
        msgspec.json.decode(stored.block.receipt, type=Receipt).received_at
        for stored in reader.read(0)
    }
    reader.close()
    assert receipts == {NOW}


def _stopped_before_the_end(stream: Path, path: Path, plan: RoutePlan) -> None:
    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "read and check":
            raise RuntimeError

    import_files(
        stream, "tailorbird", path, plan=plan, clock=SimulatedClock(NOW), report_progress=stop
    )


@pytest.mark.parametrize("erased", [("p0",), ("p0", "p3"), ("p1", "p2", "p3", "p4")])
def test_an_import_goes_on_with_all_rows_of_others_after_people_were_erased(
    tmp_path: Path, erased: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailorbird.stream.importer.BODY_ROWS", 10)
    monkeypatch.setattr("tailorbird.stream.importer.COMMIT_BODIES", 3)
    stream, history = tmp_path / "stream", tmp_path / "e.jsonl"
    rows = [_event(i, TS + i, user_id=f"p{i % 5}") for i in range(100)] + ['{"type": "click"}']
    history.write_text("\n".join(sorted(rows, key=lambda row: hash64(row))))

    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "append":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        import_files(
            stream,
            "tailorbird",
            history,
            plan=PLAN,
            clock=SimulatedClock(NOW),
            report_progress=stop,
        )
    first = _rows(stream)
    assert len(first) == 30
    stopped = SuppressionList(b"").with_erased_subjects([("u", one) for one in erased], NOW)
    report = import_files(
        stream,
        "tailorbird",
        history,
        plan=PLAN,
        clock=SimulatedClock(NOW),
        suppression_list=stopped,
    )
    assert dict(report.refused) == {"erased": 20 * len(erased), "missing": 1}
    rows_after = _rows(stream)
    assert (len(rows_after), rows_after[:30]) == (101, first)
    ids = [json.loads(row)["event_id"] for row in rows_after if b"event_id" in row]
    assert ids == [f"e{i:06}" for i in range(100) if i < 30 or f"p{i % 5}" not in erased]
    assert rows_after[30:].count(ERASED_BODY) == 14 * len(erased)


def test_equal_rows_of_an_erased_person_are_kept_out_all(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("who,what,when\n" + "u,i,1700000000\n" * 3 + "v,i,1700000000\n" * 2)
    mapping = (
        '[[source]]\nfile = "m.csv"\nkind = "events"\ntype = "click"\nts = "when"\nts_unit '
        '= "s"\nuser_id = "who"\nitem_id = "what"\n'
    )
    stopped = SuppressionList(b"").with_erased_subjects([("u", "u")], NOW)
    options = AdapterOptions(mapping=mapping, root=str(file))
    import_files(
        tmp_path / "stream",
        "mapping",
        file,
        plan=PLAN,
        clock=SimulatedClock(NOW),
        options=options,
        suppression_list=stopped,
    )
    rows = _rows(tmp_path / "stream")
    assert rows.count(ERASED_BODY) == 3
    assert len({json.loads(row)["event_id"] for row in rows if row != ERASED_BODY}) == 2


def test_files_whose_rows_may_be_in_a_damaged_end_are_taken_again(tmp_path):
    stream = tmp_path / "stream"
    _history(tmp_path / "e.jsonl")
    _import(stream, tmp_path / "e.jsonl")
    with (
        open_writer(stream / "raw-import.db", partition="import") as writer,
        writer.transaction() as connection,
    ):
        connection.execute("UPDATE block SET payload = x'00'")
    report = _import(stream, tmp_path / "e.jsonl")
    assert [Path(name).name for name in report.set_aside] == ["raw-import.db.damaged-0"]
    assert (report.is_repeated, report.accepted) == (False, 500)
    with Router(stream, PLAN, clock=SimulatedClock(NOW)) as router:
        assert router.step().accepted == 500


def test_long_rows_that_are_refused_come_in_bodies_of_bounded_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies of many long rows would exceed SQLite's limit on a block and fill the memory."""
    monkeypatch.setattr("tailorbird.stream.importer.BODY_BYTES", 5_000)
    monkeypatch.setattr("tailorbird.stream.importer.COMMIT_BYTES", 20_000)
    monkeypatch.setattr("tailorbird.stream.runs._REFUSED_BYTES_MAX", 8_000)
    monkeypatch.setattr("tailorbird.events.adapters.batch.BATCH_BYTES", 7_000)
    rows = ["x" * 2_000 + f"{number}" for number in range(50)] + ["y" * 9_000, _event(1, TS)]
    (tmp_path / "e.jsonl").write_text("\n".join(rows))
    commits = []
    report = _import(
        tmp_path / "stream",
        tmp_path / "e.jsonl",
        report_progress=lambda stage, done, total: commits.append((stage, done)),
    )
    assert (report.rows, report.accepted) == (52, 1)
    reader = open_reader(tmp_path / "stream" / "raw-import.db")
    bodies = [stored.block for stored in reader.read(0)]
    reader.close()
    assert [line.decode() for body in bodies for line in body.payload.split(b"\n")] == [
        rows[-1],
        *rows[:-1],
    ]
    assert all(len(body.payload) < 5_100 or body.rows == 1 for body in bodies)
    assert len([done for stage, done in commits if stage == "append"]) > 4
    assert [path.name for path in (tmp_path / "stream").iterdir() if path.is_dir()] == []


def test_a_row_that_no_block_takes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailorbird.stream.importer.ROW_BYTES_MAX", 5_000)
    (tmp_path / "e.jsonl").write_text("\n".join([_event(1, TS), "x" * 5_001]))
    with pytest.raises(InputError, match="a row of 5,001 bytes") as error:
        _import(tmp_path / "stream", tmp_path / "e.jsonl")
    assert error.value.where == f"{tmp_path / 'e.jsonl'}:2"
    assert _rows(tmp_path / "stream") == []
