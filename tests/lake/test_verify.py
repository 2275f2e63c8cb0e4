"""`verify` finds every changed byte, every lost file and every row that is not accounted for."""

import json
import random

import pytest

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events import SystemClock
from tailorbird.lake import LakeRole, verify
from tailorbird.lake.write.positions import load_positions
from tailorbird.stream import Block

pytestmark = pytest.mark.long_on_s3


@pytest.fixture
def lake(home, site):
    with LakeRole(home / "stream", home / "lake", clock=SystemClock()) as role:
        role.drain()
    return home / "lake"


def files_of(lake):
    """All that the lake's truth is made of; positions only say what was done with it."""
    return sorted(
        path
        for path in lake.rglob("*")
        if path.is_file()
        and path.name not in ("positions.json", "ledger.jsonl.lock", "ledger.jsonl.lease")
    )


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_is_found(lake):
    rng = random.Random(7)
    assert verify(lake).is_clean
    files = files_of(lake)
    assert {path.suffix for path in files} >= {".parquet", ".json", ".jsonl", ".zst"}
    for path in files:
        original = path.read_bytes()
        for at in {0, len(original) - 1, *(rng.randrange(len(original)) for _ in range(3))}:
            path.write_bytes(
                original[:at] + bytes([original[at] ^ (1 << rng.randrange(8))]) + original[at + 1 :]
            )
            report = verify(lake)
            assert not report.is_clean, f"byte {at} of {path}"
            path.write_bytes(original)
    assert verify(lake).is_clean


def test_a_file_that_is_lost_together_with_the_ledger_that_knew_it_is_a_fault(lake):
    ledger = lake / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:2]))
    next((lake / "events").rglob("*.parquet")).unlink()
    assert any(
        fault.where == "tables" and "cannot be read" in fault.what for fault in verify(lake).faults
    )


def test_a_lost_file_is_named(lake):
    for path in files_of(lake):
        away = path.rename(path.with_suffix(".away"))
        if path.name == "ledger.jsonl":
            with pytest.raises(NotReadyError, match=r"ledger\.jsonl is missing"):
                verify(lake)
        else:
            report = verify(lake)
            assert not report.is_clean, path
            assert path.name in str(report) or path.name == "manifest.jsonl"
        away.rename(path)


def test_a_row_that_the_router_forgot_is_missing(home, site, samples, lake):
    site.raw.append([Block(kind="body", rows=3, payload=b"{}\n{}\n{}\n", receipt=b"{}")])
    table = samples.quarantine([30, 32])  # not 31
    site.routed.append([Block(kind="quarantine", rows=2, payload=samples.ipc(table))])
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        role.drain()
    report = verify(lake)
    assert report.partitions["collector"].missing == 1
    assert "1 in no table, such as 31" in str(report)


def test_a_row_that_was_routed_twice_is_reported(home, site, samples, lake):
    site.routed.append(
        [Block(kind="quarantine", rows=1, payload=samples.ipc(samples.quarantine([0])))]
    )
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        role.drain()
    report = verify(lake)
    assert report.partitions["collector"].repeated == 1
    assert not report.is_clean


def test_rows_that_were_not_yet_routed_are_pending_not_missing(home, site, samples, lake):
    site.raw.append([Block(kind="body", rows=3, payload=b"{}\n{}\n{}\n", receipt=b"{}")])
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        role.drain()
    report = verify(lake)
    assert report.is_clean
    assert report.partitions["collector"].pending == 3


def test_the_report_counts_what_it_read(lake):
    report = verify(lake)
    assert report.rows["events"] == 24
    account = report.partitions["collector"]
    assert (account.archived, account.events, account.quarantine, account.duplicates) == (
        30,
        24,
        3,
        3,
    )
    assert report.bytes > 0
    assert "every row of it is accounted for" in str(report)


def test_progress_reports_the_bytes(lake):
    sizes = []
    report = verify(lake, progress=sizes.append)
    assert sum(sizes) == report.bytes


def test_lost_positions_are_named_and_the_sum_still_adds_up(lake):
    (lake / "positions.json").unlink()
    report = verify(lake)
    assert [fault.where for fault in report.faults] == ["positions.json"]
    account = report.partitions["collector"]
    assert (
        account.archived
        == account.events + account.quarantine + account.duplicates + account.pending
    )


def test_an_empty_lake_is_clean(home):
    with LakeRole(home / "stream", home / "lake", clock=SystemClock()):
        pass
    assert verify(home / "lake").is_clean


def test_a_byte_that_is_no_text_is_a_fault_and_no_traceback(lake):
    path = lake / "positions.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"events", b"even\xf4s", 1))
    report = verify(lake)
    assert [fault.where for fault in report.faults] == [str(path)]


def test_any_flipped_bit_of_the_positions_is_found_or_means_nothing(lake):
    path = lake / "positions.json"
    original = load_positions(lake)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :])
        try:
            assert load_positions(lake) == original
        except DamageError:
            continue
    content = json.loads(data)
    del content["checksum"]
    path.write_text(json.dumps(content))
    assert load_positions(lake) == original, "as older releases wrote it"
