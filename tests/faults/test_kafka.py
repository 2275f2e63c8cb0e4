"""`kill -9` of roles on a real broker: nothing acknowledged is lost or counts twice, the state
stays true.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from tests.support.drawn.three_readings import to_payload
from tests.support.names import ITEMS
from tests.support.network.brokers import (
    CLIENT_OPTIONS,
    MISSING_REASON,
    broker,
    needs_kafka,
    on_kafka,
)
from tests.support.oracle import (
    PEOPLE,
    Ledger,
    Load,
    count_lake_events,
    find_violations,
    kill_under_load,
)
from tests.support.roles import Up, make_project, until

from tailorbird.config import Project
from tailorbird.errors import LockedError, NotReadyError
from tailorbird.events import ROUTED, SystemClock
from tailorbird.features import FeatureSet, count, entity
from tailorbird.features.online.receipts import read_block_events
from tailorbird.features.online.shuffle import Shuffle
from tailorbird.features.state.key_partition import all_parts
from tailorbird.features.state.state import Position, read_local_position
from tailorbird.lake import Lake
from tailorbird.platform.runtime.roles import drain
from tailorbird.stream import Block, open_reader, open_writer
from tailorbird.stream.kafka import Cluster
from tailorbird.stream.kafka.logs import KafkaLogSet

KILLS = 4 if os.environ.get("NIGHTLY") else 2  # of each role
ROLES = ("serve", "router", "worker", "lake")
PROFILE = {"title": "A lamp", "category": "lamps", "price": 20, "stock": 5}

pytestmark = [
    pytest.mark.slow,
    needs_kafka,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]


@pytest.fixture
def project(tmp_path: Path):
    """Yield a project whose logs are in a broker of its own."""
    if MISSING_REASON:
        pytest.skip(MISSING_REASON)
    with broker(tmp_path) as servers:
        yield on_kafka(make_project(tmp_path / "shop"), servers)


def test_kills_of_each_role_lose_nothing_and_double_nothing(
    project: Project, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project).wait()
    load = Load(up.port, ledger)
    kill_under_load(up, load, ROLES, KILLS)
    drain(project, SystemClock(), progress=lambda *_: None)
    up_log = up.log.read_text()
    assert {role for role in ROLES if f"{role:<8} ended with signal SIGKILL" in up_log} == set(
        ROLES
    )
    assert len(ledger.acked) > 100
    assert ledger.refused, "the load sends events that must be refused"
    assert find_violations(project, ledger) == []
    assert not list(project.paths.stream.glob("raw-*.db")), "the bodies are in topics"


@pytest.mark.nightly
def test_kills_where_two_routers_share_three_partitions(tmp_path: Path) -> None:
    with broker(tmp_path) as servers:
        extra_settings = 'partitions = 3\nrouters = 2\nsession = "6s"\n'
        project = on_kafka(make_project(tmp_path / "shop"), servers, extra_settings)
        ledger = Ledger(tmp_path / "ledger.jsonl")
        up = Up(project).wait()
        kill_under_load(up, Load(up.port, ledger), ROLES, 2)
        drain(project, SystemClock(), progress=lambda *_: None)
        up_log = up.log.read_text()
        assert {role for role in ROLES if f"{role:<8} ended with signal SIGKILL" in up_log} >= {
            "serve",
            "worker",
            "lake",
        }
        assert "ended with signal SIGKILL" in "".join(
            line for line in up_log.splitlines() if line.split()[1:2] == ["router"]
        )
        assert len(ledger.acked) > 100
        assert find_violations(project, ledger) == []
        assert sum(name.startswith("raw.") for name in _topics(project)) % 3 == 0


@pytest.mark.nightly
def test_kills_where_three_workers_share_the_entities(tmp_path: Path) -> None:
    """Each answer is recomputed by the position that each part had, whichever of them was down at
    the time.
    """
    with broker(tmp_path) as servers:
        project = on_kafka(make_project(tmp_path / "shop"), servers, "\n[features]\nworkers = 3\n")
        ledger = Ledger(tmp_path / "ledger.jsonl")
        up = Up(project).wait()
        items = [
            {"event_id": f"item-{name}", "type": "item", "item_id": name, "properties": PROFILE}
            for name in ITEMS
        ]
        assert post(up.port, items)["accepted"] == len(items)
        until(
            lambda: all(one.applied_rows for one in _workers(project)),
            60,
            f"the workers do not take part; see {up.log}",
        )
        asking, stop = _ask_until(up.port, next(iter(project.slots)))
        try:
            kill_under_load(
                up,
                Load(up.port, ledger),
                ("worker 0", "shuffle", "worker 2", "router", "shuffle"),
                1,
            )
        finally:
            stop.set()
            asking.join(30)
        up_log = up.log.read_text()
        dead = {
            line.partition(" ended with signal SIGKILL")[0].split(maxsplit=1)[1].strip()
            for line in up_log.splitlines()
            if "signal SIGKILL" in line
        }
        assert dead >= {"worker 0", "worker 2", "shuffle", "router"}
        drain(project, SystemClock(), progress=lambda *_: None)
        assert find_violations(project, ledger) == []
        report = _verify_features(project)
        assert (report["unequal"], report["pending"]) == (0, 0)
        assert report["answers"] > 20
        positions = Lake(project.paths.lake).responses(["positions"])["positions"].to_pylist()
        assert all(len(positions_ or ()) in (0, 3) for positions_ in positions)
        assert any(len(set(positions_ or ())) > 1 for positions_ in positions), (
            "all parts were as far as each other at every answer"
        )


def test_the_newer_of_two_shuffles_takes_over_without_duplicates(tmp_path: Path) -> None:
    rows = [
        dict.fromkeys(ROUTED.names)
        | {"type": "click", "ts": n + 1, "event_id": f"e{n}", "counts": True}
        for n in range(90)
    ]
    rows = [
        row | {"p": n, "user_id": f"u{n}", "person": f"u{n}", "item_id": "i1"}
        for n, row in enumerate(rows)
    ]
    blocks = [
        Block("events", 30, to_payload(pa.Table.from_pylist(rows[n : n + 30], schema=ROUTED)))
        for n in (0, 30, 60)
    ]
    features = FeatureSet.from_declarations([count("clicks", entity("user"), "click", window="1m")])
    with broker(tmp_path) as servers:
        stream = KafkaLogSet(Cluster(servers, "test", options=CLIENT_OPTIONS), tmp_path)
        logs = stream.shuffled(features.schema_hash, 3)
        assert stream.expected_partition_count(logs[0].topic) == 3
        elsewhere = [
            replace(log, folder=None) for log in logs
        ]  # another machine does not see our locks
        with open_writer(stream.routed, partition="routed", first_position=1) as routed:
            with (
                Shuffle(stream.routed, logs, features) as older,
                Shuffle(stream.routed, elsewhere, features) as newer,
            ):
                routed.append([Block("index", 1, b"x", b"7"), *blocks[:1]])
                assert older.step().end == 32
                assert newer.step().rows == 0
                routed.append(blocks[1:2])
                with pytest.raises(LockedError, match="writes this log now"):
                    older.step()
                assert newer.step().end == 62
                routed.append(blocks[2:])
            with Shuffle(stream.routed, logs, features) as third:
                assert third.step().rows == 30
        positions = []
        for log in logs:
            with open_reader(log) as reader:
                tables = [read_block_events(stored, 0, log) for stored in reader.read(1)]
                positions += [
                    position
                    for table in tables
                    if table is not None
                    for position in table["p"].to_pylist()
                ]
    assert sorted(positions) == list(range(2, 92))


def _workers(project: Project) -> list[Position]:
    try:
        return [
            read_local_position(project.paths.state, project.features, part)
            for part in all_parts(project.workers)
        ]
    except NotReadyError:
        return [Position()]


def _ask_until(port: int, slot: str) -> tuple[threading.Thread, threading.Event]:
    """Request recommendations for one person after another, until the event is set."""
    stop = threading.Event()

    def ask() -> None:
        for number in itertools.count():
            with suppress(OSError):
                _items(
                    port,
                    json.dumps(
                        {"user_id": PEOPLE[number % len(PEOPLE)], "slot": slot, "size": 3}
                    ).encode(),
                )
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, stop


def _verify_features(project: Project) -> dict:
    """Return the report of `features verify` on all logged responses and a sample."""
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "-C",
        str(project.root),
        "features",
        "verify",
        "--json",
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.stdout, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize(
    ("fault", "role"),
    [
        ("router.before_topic=kill@3", "router"),
        pytest.param("router.between_topic_and_index=kill@3", "router", marks=pytest.mark.nightly),
        pytest.param("router.between_topic_and_index=kill@1", "router", marks=pytest.mark.nightly),
        ("stream.before_commit=kill@9", "serve"),
        pytest.param("stream.after_commit=kill@9", "serve", marks=pytest.mark.nightly),
    ],
)
def test_a_kill_at_any_point_of_a_step_leaves_all_of_it_or_nothing(
    project: Project, tmp_path: Path, fault: str, role: str
) -> None:
    """Every process that is started has the fault, so each dies again and again until the load
    ends.
    """
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project, faults=fault).wait()
    load = Load(up.port, ledger)
    try:
        load.start()
        until(
            lambda: (
                up.log.read_text().count("ended with signal SIGKILL") >= 2
                and len(ledger.acked) > 40
            ),
            90,
            f"no kill; see {up.log}",
        )
        load.stop()
    finally:
        up.stop()
    assert f"{role:<8} ended with signal SIGKILL" in up.log.read_text()
    drain(project, SystemClock(), progress=lambda *_: None)
    assert find_violations(project, ledger) == []


def test_the_oracle_catches_an_acknowledgement_before_the_broker_has_it(
    project: Project, tmp_path: Path
) -> None:
    mutant = "collector.sync_before_ack=cut;collector.before_append=stall:0.5@25;collector.before_sync=kill@25"
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project, faults=mutant).wait()
    load = Load(up.port, ledger)
    try:
        load.start()
        first = set(up.pids("serve"))
        until(
            lambda: len(ledger.acked) > 60 and bool(set(up.pids("serve")) - first),
            90,
            "the mutant had no chance",
        )
        load.stop()
    finally:
        up.stop()
    drain(project, SystemClock(), progress=lambda *_: None)
    assert any("acknowledged and lost" in each for each in find_violations(project, ledger))


def test_up_recommends_from_events_in_topics(project: Project) -> None:
    up = Up(project).wait()
    try:
        clicks = [
            {"event_id": f"t0-{n}", "type": "click", "user_id": "u1", "item_id": f"i{n}"}
            for n in range(9)
        ]
        items = [
            {"event_id": f"t1-{n}", "type": "item", "item_id": f"i{n}", "properties": PROFILE}
            for n in range(9)
        ]
        post(up.port, [*items, *clicks])
        until(
            lambda: len(count_lake_events(project)) == 18,
            60,
            f"the events did not reach the lake; see {up.log}",
        )
        ask = json.dumps({"user_id": "u2", "slot": next(iter(project.slots)), "size": 3}).encode()
        until(lambda: _items(up.port, ask) == 3, 60, "no items were recommended")
        until(
            lambda: "0 of them" in _topics(project)["routed"],
            60,
            "the lake did not get through the topic",
        )
        assert {name.partition(".")[0] for name in _topics(project)} == {"raw", "answers", "routed"}
    finally:
        up.stop()


def post(port: int, events: list[dict]) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/events",
        json.dumps(events).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        assert response.status == 200
        return json.loads(response.read())


def _topics(project: Project) -> dict[str, str]:
    """Return the findings of `doctor` by topic."""
    command = [sys.executable, "-m", "tailorbird", "-C", str(project.root), "doctor", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    rows = json.loads(process.stdout)["findings"]
    return {
        row["what"].partition(" ")[2]: row["found"]
        for row in rows
        if row["what"].startswith("topic ")
    }


def _items(port: int, ask: bytes) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/recommend", ask, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return len(json.loads(response.read())["items"])
