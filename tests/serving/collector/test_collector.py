"""The collector: what is acknowledged is in the log, in order, whatever happens to the process or the
disk.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from tailorbird import faults
from tailorbird.errors import LockedError
from tailorbird.events import Receipt, RoutePlan, SimulatedClock, SystemClock
from tailorbird.events.answer_record import ResponseRecord, decode_responses
from tailorbird.serving.collector import queue
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.decisions import (
    BusyError,
    ClosedError,
    DiskFullError,
    UnknownOutcomeError,
)
from tailorbird.serving.collector.naming import open_collector
from tailorbird.serving.collector.pruning import Pruner
from tailorbird.serving.metrics import Metrics
from tailorbird.stream import (
    damaged_tail_files,
    open_reader,
    open_writer,
    raw_path,
    response_log_path,
)

NOW = 1_800_000_000_000_000


def click(number: int, **more: object) -> dict:
    return {"event_id": f"e{number}", "type": "click", "user_id": "u1", "item_id": "i1", **more}


def body(*events: dict) -> bytes:
    return msgspec.json.encode(list(events))


def record(number: int) -> ResponseRecord:
    return ResponseRecord(
        request_id=f"r{number}", ts=NOW, p=1, commit=1, schema_hash="abc", items=["i1"]
    )


def blocks(stream: Path, producer: str = "serve-1") -> list:
    with open_reader(raw_path(stream, producer)) as reader:
        return [stored.block for stored in reader.read(0)]


@pytest.fixture
def collector(tmp_path):
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SimulatedClock(NOW)) as collector:
        yield collector


def wait_for(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def test_an_acknowledged_body_is_in_the_log_as_it_came(collector, tmp_path):
    sent = body(click(1), click(2))
    assert [decision.accepted for decision in collector.submit(sent)] == [True, True]
    [block] = blocks(tmp_path)
    assert (block.kind, block.rows, block.payload) == ("body", 2, sent)
    assert msgspec.json.decode(block.receipt, type=Receipt) == Receipt(NOW, "collector", "json")


def test_each_event_gets_its_own_decision_and_a_refused_one_is_kept(collector, tmp_path):
    decisions = collector.submit(
        body(click(1), click(2, context={"country": "Norway"}), {"event_id": "e3"})
    )
    assert [(decision.accepted, decision.code, decision.path) for decision in decisions] == [
        (True, "", ""),
        (False, "bad_country", "$.context.country"),
        (False, "missing", "$.type"),
    ]
    assert blocks(tmp_path)[0].rows == 3
    assert collector.figures().refused == {"bad_country": 1, "missing": 1}


@pytest.mark.parametrize("sent", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_is_one_refused_row_and_kept(collector, tmp_path, sent):
    [decision] = collector.submit(sent)
    assert not decision.accepted
    assert blocks(tmp_path)[0].payload == sent


def test_lines_are_events(collector):
    lines = b"\n".join(msgspec.json.encode(click(number)) for number in range(3)) + b"\n{broken\n"
    assert [decision.accepted for decision in collector.submit(lines, "ndjson")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "field", ["received_at", "answer", "position", "propensity", "person", "counts", "raw_offset"]
)
def test_a_client_cannot_set_what_the_server_owns(collector, field):
    values = {"received_at": NOW, "answer": {"slot": "home"}}
    [decision] = collector.submit(msgspec.json.encode(click(1, **{field: values.get(field, 1)})))
    assert decision.code in ("server_owned", "unknown_field")


def test_an_answer_stands_before_a_click_that_came_after_it(collector, tmp_path):
    for number in range(20):
        collector.record_response(b'{"answer": %d}' % number, record(number))
        collector.submit(body(click(number)))
    kinds = [msgspec.json.decode(block.receipt, type=Receipt).source for block in blocks(tmp_path)]
    assert kinds == ["server", "collector"] * 20


def test_an_answer_alone_is_synced_within_the_flush_time_with_its_record(collector, tmp_path):
    collector.record_response(b"{}", record(1))
    assert collector.figures().responses_waiting == 1
    wait_for(lambda: collector.figures().responses_waiting == 0)
    assert [block.payload for block in blocks(tmp_path)] == [b"{}"]
    with open_reader(response_log_path(tmp_path, "serve-1")) as reader:
        [stored] = reader.read(0)
    assert (stored.block.kind, stored.block.rows) == ("answers", 1)
    assert decode_responses(stored.block.payload) == [record(1)]


def test_many_senders_share_commits(tmp_path):
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        threads = [
            threading.Thread(
                target=lambda start=start: [
                    collector.submit(body(click(start + number))) for number in range(20)
                ]
            )
            for start in range(0, 400, 50)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        figures = collector.figures()
    assert figures.accepted == 160
    assert figures.batches < 160
    stamps = [
        msgspec.json.decode(block.receipt, type=Receipt).received_at for block in blocks(tmp_path)
    ]
    assert stamps == sorted(stamps)


def test_the_loop_is_free_while_bodies_are_synced(tmp_path):
    async def send(collector: EventCollector) -> list:
        return await asyncio.gather(
            *(collector.submit_async(body(click(number))) for number in range(50))
        )

    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        assert all(decision.accepted for [decision] in asyncio.run(send(collector)))
        assert collector.figures().batches < 50


def test_a_producer_has_one_door_and_the_next_takes_the_next_name(tmp_path):
    with open_collector(tmp_path, RoutePlan(), SystemClock()) as collector:
        assert collector.producer == "serve-1"
        with pytest.raises(LockedError, match="writing this file"):
            EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock())
        with open_collector(tmp_path, RoutePlan(), SystemClock()) as other:
            assert other.producer == "serve-2"
    with open_collector(tmp_path, RoutePlan(), SystemClock()) as collector:
        assert collector.producer == "serve-1"


def arm(monkeypatch, text: str) -> None:
    monkeypatch.setenv("TAILORBIRD_FAULTS", text)
    faults._load_faults.cache_clear()


@pytest.fixture
def disarm(monkeypatch):
    yield
    monkeypatch.delenv("TAILORBIRD_FAULTS", raising=False)
    faults._load_faults.cache_clear()


@pytest.mark.parametrize(
    "site", ["collector.before_append", "collector.before_sync", "stream.before_commit"]
)
def test_a_failed_commit_refuses_and_takes_no_writes_until_reopened(
    tmp_path, monkeypatch, disarm, site
):
    with EventCollector(
        tmp_path, "serve-1", RoutePlan(), SystemClock(), reopen_after_s=0.3
    ) as collector:
        collector.submit(body(click(1)))
        arm(monkeypatch, f"{site}=raise")
        with pytest.raises(UnknownOutcomeError, match="under the same event_id"):
            collector.submit(body(click(2)))
        assert not collector.figures().open
        with pytest.raises(ClosedError):
            collector.submit(body(click(3)))
        assert not collector.record_response(b"{}", record(1))
        wait_for(lambda: collector.figures().open)
        collector.submit(body(click(4)))
        assert (collector.figures().failures, collector.figures().responses_dropped) == (1, 1)
    ids = [msgspec.json.decode(block.payload)[0]["event_id"] for block in blocks(tmp_path)]
    assert ids == ["e1", "e4"]


def test_an_almost_full_disk_refuses_before_it_is_full_and_goes_on_by_itself(tmp_path, monkeypatch):
    free = [10 << 30]
    monkeypatch.setattr(
        queue.os,
        "statvfs",
        lambda folder: SimpleNamespace(f_frsize=1, f_bavail=free[0], f_blocks=100 << 30),
    )
    monkeypatch.setattr(queue, "CHECK_INTERVAL_S", 0.0)
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        collector.submit(body(click(1)))
        free[0] = queue.RESERVE_BYTES - 1
        with pytest.raises(DiskFullError, match="the disk is almost full"):
            collector.submit(body(click(2)))
        assert not collector.record_response(b"{}", record(1)), (
            "an answer is given, and counted as not logged"
        )
        free[0] = queue.RESERVE_BYTES
        collector.submit(body(click(3)))
        assert (
            collector.figures().open,
            collector.figures().responses_dropped,
            collector.figures().failures,
        ) == (True, 1, 0)
    with EventCollector(
        tmp_path, "serve-1", RoutePlan(), SystemClock(), reserve_bytes=0
    ) as collector:
        free[0] = 0
        collector.submit(body(click(4)))
    assert [msgspec.json.decode(block.payload)[0]["event_id"] for block in blocks(tmp_path)] == [
        "e1",
        "e3",
        "e4",
    ]


def test_a_full_queue_refuses_before_memory_grows(tmp_path, monkeypatch, disarm):
    arm(monkeypatch, "collector.before_append=stall:0.5")
    with EventCollector(
        tmp_path, "serve-1", RoutePlan(), SystemClock(), queue_bytes_max=400
    ) as collector:
        first = threading.Thread(target=lambda: collector.submit(body(click(1))))
        first.start()
        wait_for(lambda: collector.figures().queue_bytes > 0)
        with pytest.raises(BusyError):
            collector.submit(b" " * 400)
        first.join()
        assert collector.submit(body(click(2)))[0].accepted


def test_logs_are_pruned_where_the_lake_vouches_for_them(tmp_path):
    stream, lake = tmp_path / "stream", tmp_path / "lake"
    lake.mkdir()
    with EventCollector(stream, "serve-1", RoutePlan(), SystemClock()) as collector:
        for number in range(5):
            collector.record_response(b"{}", record(number))
            collector.submit(body(click(number)))
        wait_for(lambda: collector.figures().responses_waiting == 0)
        pruner = Pruner(collector, lake)
        (lake / "positions.json").write_bytes(b"{torn")
        pruner.tick()
        (lake / "positions.json").write_text(
            '{"safe": {"raw-serve-1": 6, "answers-serve-1": 5}, "routed": {"serve-1": 4}}'
        )
        pruner.tick()
        collector.submit(body(click(9)))  # a commit after the prune, so that it has happened
    with open_reader(raw_path(stream, "serve-1")) as reader:
        assert reader.start() == 4, "archived to 6, but routed to 4 only"
        assert reader.end() == 11
    with open_reader(response_log_path(stream, "serve-1")) as reader:
        assert reader.start() == 5


def test_a_damaged_end_of_the_log_is_counted_until_somebody_took_it_away(tmp_path, caplog):
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        collector.submit(body(click(1)))
        collector.submit(body(click(2)))
        assert collector.figures().set_aside == 0
    with (
        open_writer(raw_path(tmp_path, "serve-1"), partition="serve-1") as writer,
        writer.transaction() as connection,
    ):
        connection.execute("UPDATE block SET payload = x'00' WHERE offset = 1")
    for _ in range(2):
        with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
            metrics = Metrics()
            metrics.watch_collector(collector.figures)
            assert "tailorbird_log_set_aside 1.0" in metrics.text().decode()
            assert collector.submit(body(click(3)))[0].accepted
    assert [record.levelname for record in caplog.records] == ["CRITICAL"], (
        "told once, when it was found"
    )
    damaged_tail_files(raw_path(tmp_path, "serve-1"))[0].unlink()
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        assert collector.figures().set_aside == 0


CHILD = """
import sys, os
from pathlib import Path
from tailorbird.events import RoutePlan, SystemClock
from tailorbird.events.answer_record import ResponseRecord
from tailorbird.serving.collector.collector import EventCollector
collector = EventCollector(Path(sys.argv[1]), "serve-1", RoutePlan(), SystemClock())
print("lost", collector.figures().responses_lost, flush=True)
for number in range(100_000):
    record = ResponseRecord(request_id=f"r{number}", ts=1, p=1, commit=1, schema_hash="x")
    collector.record_response(b'{"event_id": "a%d"}' % number, record)
    collector.submit(b'{"event_id": "e%d", "type": "click", "user_id": "u", "item_id": "i"}' % number)
    os.write(1, b"ack %d\\n" % number)
"""


def run_child(folder: Path, faults_text: str = "") -> subprocess.Popen:
    environ = {**os.environ, "TAILORBIRD_FAULTS": faults_text}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, env=environ
    )


@pytest.mark.parametrize(
    "faults_text",
    [
        "",
        "collector.before_append=kill@30",
        "collector.before_sync=kill@30",
        "collector.before_ack=kill@30",
        "collector.after_records=kill@2",
    ],
)
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path, faults_text):
    child = run_child(tmp_path, faults_text)
    assert child.stdout is not None
    acknowledged = []
    for line in child.stdout:
        if line.startswith(b"ack"):
            acknowledged.append(int(line.split()[1]))
            if not faults_text and len(acknowledged) == 50:
                child.send_signal(signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    stored = [msgspec.json.decode(block.payload)["event_id"] for block in blocks(tmp_path)]
    assert acknowledged
    assert {f"e{number}" for number in acknowledged} <= set(stored)
    assert stored == sorted(stored, key=lambda text: (int(text[1:]), text[0])), (
        "each answer stands before its click"
    )
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        assert 0 <= collector.figures().responses_lost <= len(stored)
        assert collector.submit(body(click(1)))[0].accepted
