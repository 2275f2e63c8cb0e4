"""`kill -9` of roles whose logs are topics of a real broker: nothing acknowledged is lost, nothing counts twice, the state stays true."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.faults.oracle import Ledger, Load, check, in_lake, kill_under_load
from tests.faults.roles import Up, make_project, until
from tests.stream.brokers import OPTIONS, WHY_NOT, broker, needs_kafka

from tailorbird.cli.roles import drain
from tailorbird.config import Project, open_project
from tailorbird.events import SystemClock

KILLS = 4
ROLES = ("serve", "router", "worker", "lake")

pytestmark = [pytest.mark.slow, needs_kafka, pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]


@pytest.fixture
def project(tmp_path: Path):
    """A project whose logs are in a broker of its own."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with broker(tmp_path) as servers:
        yield on_kafka(make_project(tmp_path / "shop"), servers)


def on_kafka(project: Project, servers: str, more: str = "") -> Project:
    client = json.dumps([f"{name}={value}" for name, value in OPTIONS.items()])
    with (project.root / "tailorbird.toml").open("a") as file:
        file.write(f'\n[stream]\nurl = "kafka://{servers}/{project.root.parent.name.lower()}"\nclient = {client}\n{more}')
    return open_project(project.root)


def test_kills_of_each_role_lose_nothing_and_double_nothing(project: Project, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project).wait()
    load = Load(up.port, ledger)
    kill_under_load(up, load, ROLES, KILLS)
    drain(project, SystemClock(), progress=lambda *_: None)
    told = up.log.read_text()
    assert {role for role in ROLES if f"{role:<8} ended with signal SIGKILL" in told} == set(ROLES)
    assert len(ledger.acked) > 100
    assert ledger.refused, "the load sends events that must be refused"
    assert check(project, ledger) == []
    assert not list(project.paths.stream.glob("raw-*.db")), "the bodies are in topics"


def test_kills_where_two_routers_share_three_partitions(tmp_path: Path) -> None:
    with broker(tmp_path) as servers:
        more = 'partitions = 3\nrouters = 2\nsession = "6s"\n'
        project = on_kafka(make_project(tmp_path / "shop"), servers, more)
        ledger = Ledger(tmp_path / "ledger.jsonl")
        up = Up(project).wait()
        kill_under_load(up, Load(up.port, ledger), ROLES, 2)
        drain(project, SystemClock(), progress=lambda *_: None)
        told = up.log.read_text()
        assert {role for role in ROLES if f"{role:<8} ended with signal SIGKILL" in told} >= {"serve", "worker", "lake"}
        assert "ended with signal SIGKILL" in "".join(line for line in told.splitlines() if line.startswith("router"))
        assert len(ledger.acked) > 100
        assert check(project, ledger) == []
        assert sum(name.startswith("raw.") for name in _topics(project)) % 3 == 0


@pytest.mark.parametrize(
    ("fault", "role"),
    [
        ("router.before_topic=kill@3", "router"),
        ("router.between_topic_and_index=kill@3", "router"),
        ("router.between_topic_and_index=kill@1", "router"),
        ("stream.before_commit=kill@9", "serve"),
        ("stream.after_commit=kill@9", "serve"),
    ],
)
def test_a_kill_at_any_point_of_a_step_leaves_all_of_it_or_nothing(project: Project, tmp_path: Path, fault: str, role: str) -> None:
    """Every process that is started has the fault, so each dies again and again until the load ends."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project, faults=fault).wait()
    load = Load(up.port, ledger)
    try:
        load.start()
        until(lambda: up.log.read_text().count("ended with signal SIGKILL") >= 2 and len(ledger.acked) > 40, 90, f"no kill; see {up.log}")
        load.stop()
    finally:
        up.stop()
    assert f"{role:<8} ended with signal SIGKILL" in up.log.read_text()
    drain(project, SystemClock(), progress=lambda *_: None)
    assert check(project, ledger) == []


def test_the_oracle_catches_an_acknowledgement_before_the_broker_has_it(project: Project, tmp_path: Path) -> None:
    mutant = "door.sync_before_ack=cut;door.before_append=stall:0.5@25;door.before_sync=kill@25"
    ledger = Ledger(tmp_path / "ledger.jsonl")
    up = Up(project, faults=mutant).wait()
    load = Load(up.port, ledger)
    try:
        load.start()
        first = up.pid("serve")
        until(lambda: len(ledger.acked) > 60 and up.pid("serve") not in (None, first), 90, "the mutant had no chance")
        load.stop()
    finally:
        up.stop()
    drain(project, SystemClock(), progress=lambda *_: None)
    assert any("acknowledged and lost" in each for each in check(project, ledger))


def test_up_answers_with_what_came_over_topics(project: Project) -> None:
    up = Up(project).wait()
    try:
        clicks = [{"event_id": f"t0-{n}", "type": "click", "user_id": "u1", "item_id": f"i{n}"} for n in range(9)]
        profile = {"title": "A lamp", "category": "lamps", "price": 20, "stock": 5}
        items = [{"event_id": f"t1-{n}", "type": "item", "item_id": f"i{n}", "properties": profile} for n in range(9)]
        body = json.dumps([*items, *clicks]).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{up.port}/v1/events", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
        until(lambda: len(in_lake(project)) == 18, 60, f"the events did not reach the lake; see {up.log}")
        ask = json.dumps({"user_id": "u2", "slot": next(iter(project.slots)), "size": 3}).encode()
        until(lambda: _items(up.port, ask) == 3, 60, "no items were recommended")
        until(lambda: "0 of them" in _topics(project)["routed"], 60, "the lake did not get through the topic")
        assert {name.partition(".")[0] for name in _topics(project)} == {"raw", "answers", "routed"}
    finally:
        up.stop()


def _topics(project: Project) -> dict[str, str]:
    """What `doctor` finds of each topic."""
    command = [sys.executable, "-m", "tailorbird", "-C", str(project.root), "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    rows = json.loads(done.stdout)["findings"]
    return {row["what"].partition(" ")[2]: row["found"] for row in rows if row["what"].startswith("topic ")}


def _items(port: int, ask: bytes) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/recommend", ask, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return len(json.loads(response.read())["items"])
