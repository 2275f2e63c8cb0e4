"""Faults of object storage: replies that are lost or late, and two writers at once."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from tests.support.network.bucket import SECRET, Proxy

from tailorbird.errors import ConfigError, LockedError, StorageError
from tailorbird.events import DAY, SECOND, RoutePlan, SimulatedClock, SystemClock
from tailorbird.lake import Lake, LakeRole, verify, version_at
from tailorbird.lake.delta import compaction
from tailorbird.lake.delta import table as delta
from tailorbird.lake.files import append_only
from tailorbird.lake.files.ledger import Ledger
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.pruning import Pruner
from tailorbird.storage_paths import open_storage
from tailorbird.stream import read_released_positions

pytestmark = pytest.mark.slow


@pytest.fixture
def proxy(s3, monkeypatch):
    made = Proxy(s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()


def open_role(tmp_path, bucket, clock=None):
    return LakeRole(tmp_path / "stream", bucket, clock=clock or SystemClock())


class SetClock:
    """A clock that stands at `moment`, wherever that is set."""

    def __init__(self, moment: int) -> None:
        self.moment = moment

    def now(self) -> int:
        return self.moment


def assert_intact(bucket, rounds):
    ids = Lake(bucket).events(["event_id"]).column("event_id").to_pylist()
    assert sorted(ids) == sorted(f"e{10 * r + k}" for r in range(rounds) for k in range(8))
    report = verify(bucket)
    assert report.is_clean, str(report)
    assert report.partitions["collector"].archived == 10 * rounds


def first_time(pattern):
    """Of the PUTs whose path is like the pattern, the first."""
    seen = []

    def choose(method, path):
        if method == "PUT" and re.search(pattern, path) and not seen:
            seen.append(path)
            return True
        return False

    return choose


REPLIES = {
    "commit": r"events/_delta_log/0{19}1\.json",
    "data": r"events/day[^/]*/part-",
    "ledger": r"ledger\.jsonl(\?|$)",
    "positions": r"positions\.json",
    "archived file": r"blocks\.zst",
    "manifest": r"manifest\.jsonl",
    "lease": r"\.lease",
}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_lost_reply_is_looked_up_and_the_role_continues(tmp_path, bucket, site, proxy, reply):
    proxy.lose = first_time(REPLIES[reply])
    with open_role(tmp_path, bucket) as role:
        role.drain()
        site.add()
        role.drain()
    assert len(proxy.lost) == 1
    assert_intact(bucket, 4)


def test_storage_that_ignores_conditions_is_refused(tmp_path, bucket, proxy):
    proxy.unconditional = True
    with pytest.raises(ConfigError, match="does not honour conditional writes"):
        open_role(tmp_path, bucket)


@pytest.fixture
def stopped(tmp_path, bucket, site, proxy):
    """A lake of three rounds, whose role stopped because nobody answered to a commit of a fourth,
    which is still on its way.
    """
    with open_role(tmp_path, bucket) as role:
        role.drain()
        site.add()
        proxy.hold = lambda method, path: (
            method == "PUT" and bool(re.search(r"events/_delta_log/\d{20}\.json", path))
        )
        with pytest.raises(StorageError, match="did not answer"):
            role.drain()
        with pytest.raises(StorageError, match="stopped"):
            role.step()
    proxy.hold = lambda method, path: False
    return proxy


def data_files(bucket):
    return {file.name for file in (bucket / "events").rglob("part-*.parquet")}


def test_what_an_unanswered_commit_names_is_not_cleaned_up_while_it_may_land(
    tmp_path, bucket, stopped
):
    left = data_files(bucket)
    with open_role(tmp_path, bucket) as role:
        assert data_files(bucket) == left, "nothing is deleted"
        assert role.recoveries == []
        assert set(stopped.release_held()) == {200, 412}, (
            "it lands, and its tries again are refused"
        )
        with pytest.raises(StorageError):
            role.drain()
    with open_role(tmp_path, bucket) as role:
        assert ("events", "recovered") in [
            (finding.table, finding.action) for finding in role.recoveries
        ]
        role.drain()
    assert_intact(bucket, 4)


def test_a_commit_that_comes_after_another_took_its_place_is_refused_and_its_data_goes(
    tmp_path, bucket, stopped
):
    left = data_files(bucket)
    with open_role(tmp_path, bucket) as role:
        role.drain()
    assert set(stopped.release_held()) == {412}
    assert_intact(bucket, 4)
    with open_role(tmp_path, bucket) as role:
        assert {finding.action for finding in role.recoveries} == {"removed"}
    assert not left <= data_files(bucket)
    assert_intact(bucket, 4)


def test_of_two_roles_the_later_writes_and_the_earlier_stops(tmp_path, bucket, site, samples):
    clock = SimulatedClock(samples.START)
    first = open_role(tmp_path, bucket, clock)
    first.drain()
    with pytest.raises(LockedError, match="another process writes to this lake"):
        open_role(tmp_path, bucket, clock)
    site.add()
    clock.advance_to(clock.now() + 61 * SECOND)  # the first hangs for longer than its lease
    with open_role(tmp_path, bucket, clock) as second:
        with pytest.raises(LockedError, match="by now"):
            first.step()
        second.drain()
        first.close()
        site.add()
        second.drain()
    assert_intact(bucket, 5)


def test_a_lease_of_a_clock_that_was_ahead_runs_out_in_its_time(tmp_path, bucket, site, samples):
    clock = SetClock(samples.START + DAY)
    first = open_role(tmp_path, bucket, clock)
    first.step()
    clock.moment = samples.START  # the machine's clock is set right
    first.step()
    clock.moment += 61 * SECOND  # and the role hangs
    with open_role(tmp_path, bucket, clock) as second:
        with pytest.raises(LockedError, match="by now"):
            first.step()
        second.drain()
        first.close()
    assert_intact(bucket, 3)


def test_a_role_that_missed_that_it_was_overtaken_is_refused_by_ledger_and_tables(
    tmp_path, bucket, site, samples
):
    clock = SimulatedClock(samples.START)
    first = open_role(tmp_path, bucket, clock)
    first.drain()
    stale = Ledger(bucket / "ledger.jsonl", for_writing=True)
    site.add()
    clock.advance_to(clock.now() + 61 * SECOND)
    with open_role(tmp_path, bucket, clock) as second:
        second.drain()
        with pytest.raises(LockedError):
            stale.append("commit", "events", 99, written_at=0)
        first._lock.renew = lambda: None  # as if it had looked a moment before
        with pytest.raises((StorageError, LockedError)):
            first.drain()
        first.close()
        site.add()
        second.drain()
    assert_intact(bucket, 5)


def test_a_ledger_is_closed_in_pieces_and_read_as_one(tmp_path, bucket, site, monkeypatch):
    monkeypatch.setattr(append_only, "TAIL_BYTES_MAX", 4_000)
    with open_role(tmp_path, bucket) as role:
        for _ in range(3):
            role.drain()
            site.add()
    pieces = sorted((bucket / "ledger.jsonl.closed").iterdir())
    assert len(pieces) > 2
    # A crash between closing and beginning anew, and a piece that an overtaken writer closed too
    # early.
    (bucket / "ledger.jsonl").write_bytes(pieces[-1].read_bytes())
    first = pieces[0].name.partition("-")[0]
    lines = pieces[0].read_bytes().splitlines(keepends=True)
    short = b"".join(lines[:-1])
    pieces[0].with_name(f"{first}-{len(short):015d}").write_bytes(short)
    commits = len(Ledger(bucket / "ledger.jsonl").lines)
    assert commits == sum(len(piece.read_bytes().splitlines()) for piece in pieces)
    with open_role(tmp_path, bucket) as role:
        role.drain()
    assert len(Ledger(bucket / "ledger.jsonl").lines) > commits
    assert_intact(bucket, 6)


def test_compaction_vacuum_and_time_travel(tmp_path, bucket, site, samples, monkeypatch):
    monkeypatch.setattr(delta, "CHECKPOINT_EVERY_COMMITS", 3)
    monkeypatch.setattr(compaction, "SMALL_FILES_MIN", 3)
    clock = SimulatedClock(samples.START)
    with open_role(tmp_path, bucket, clock) as role:
        for _ in range(5):
            site.add()
            role.step(flush=True)
            while role.upkeep():
                pass
        before = Lake(bucket).version("events")
        rows = Lake(bucket).count("events")
        site.add()
        role.step(flush=True)
        clock.advance_to(clock.now() + 10 * DAY)
        reports = role.vacuum()
        assert reports["events"].files > 0
        assert reports["events"].log_files > 0
    assert Lake(bucket, versions=version_at(bucket, "events", before)).count("events") == rows
    assert_intact(bucket, 9)


LOOP = """
import sys, threading
from pathlib import Path
from tailorbird.events import SystemClock
from tailorbird.lake import run
from tailorbird.storage_paths import open_storage
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.pruning import Pruner
from tailorbird.stream import read_released_positions
lake = open_storage(sys.argv[2], Path())
run(Path(sys.argv[1]), lake, SystemClock(), threading.Event(), commit_every_us=1)
"""


def test_killed_at_any_moment_the_role_loses_and_repeats_nothing(tmp_path, bucket, site):
    for delay in (0.2, 0.5, 0.9):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path / "stream"), str(bucket)]
        )
        until = time.monotonic() + 60
        while not (bucket / "ledger.jsonl.lease").is_file() and time.monotonic() < until:
            time.sleep(0.02)
        for _ in range(5):
            site.add()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with open_role(tmp_path, bucket) as role:
        role.drain()
    assert_intact(bucket, 18)


def test_errors_say_where_and_hold_no_credentials(tmp_path, bucket, site, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("tailorbird.storage_paths.RETRIES", 0)
    with pytest.raises(StorageError) as caught:
        open_role(tmp_path, open_storage(str(bucket), tmp_path))
    assert str(bucket) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("address", "environ", "message"),
    [
        ("s3://UPPER/x", {}, "expected a folder or s3://bucket/prefix"),
        ("gs://bucket/x", {}, "expected a folder or s3://bucket/prefix"),
        ("s3://bucket/x", {"AWS_S3_ALLOW_UNSAFE_RENAME": "true"}, "overwrite each other's commits"),
    ],
)
def test_an_address_that_cannot_keep_a_lake_is_refused(tmp_path, address, environ, message):
    with pytest.raises(ConfigError, match=message):
        open_storage(address, tmp_path, environ)


def test_a_writer_that_cannot_ask_what_is_released_goes_on_and_deletes_nothing(
    tmp_path, bucket, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("tailorbird.storage_paths.RETRIES", 0)
    place = open_storage(str(bucket), tmp_path)
    with pytest.raises(StorageError, match="did not answer"):
        read_released_positions(place)
    with EventCollector(tmp_path / "stream", "collector", RoutePlan(), SystemClock()) as collector:
        Pruner(collector, place).tick()
        assert (
            collector.submit(
                b'[{"event_id": "e1", "type": "click", "ts": 1, "user_id": "u", "item_id": "i"}]'
            )
            is not None
        )
        assert collector.figures().batches == 1
