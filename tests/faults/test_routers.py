"""Router processes that share partitions come, go, die and stall; each event is routed once."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from tests.support.network.brokers import MISSING_REASON, broker, needs_kafka
from tests.support.roles import until
from tests.support.router.partitions import ANONYMOUS_IDS, PARTITION_COUNT, PartitionedTopics
from tests.support.router.stream import PLAN

from tailorbird.errors import NotReadyError
from tailorbird.events import SECOND

pytestmark = [
    pytest.mark.slow,
    needs_kafka,
    pytest.mark.skipif(sys.platform != "linux", reason="stops processes"),
]

CHILD = """
import logging, msgspec, signal, sys, threading
from pathlib import Path
from tests.support.network.brokers import CLIENT_OPTIONS
from tailorbird.events import RoutePlan, SystemClock
from tailorbird.router.partitions import group
from tailorbird.router.partitions.group import run_member
from tailorbird.stream.kafka import Cluster
from tailorbird.stream.kafka.logs import KafkaLogSet
group.UNASSIGNED_WARNING_INTERVAL_S = 0.2
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
servers, prefix, folder, plan = sys.argv[1:]
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
stream = KafkaLogSet(Cluster(servers, prefix, options=CLIENT_OPTIONS, partitions=3), Path(folder))
run_member(stream, msgspec.json.decode(plan, type=RoutePlan), SystemClock(), stop, session_s=6)
"""


class Process:
    """A router process of the group, with a log of its own."""

    def __init__(self, site: PartitionedTopics, name: str) -> None:
        self.log = site.folder / f"{name}.log"
        plan = msgspec.json.encode(PLAN).decode()
        command = [
            sys.executable,
            "-c",
            CHILD,
            site.stream.cluster.servers,
            site.stream.cluster.prefix,
            str(site.folder),
            plan,
        ]
        self._command = command
        self.start()

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log)

    def keep(self) -> None:
        """Start it again if it ended by itself, as `up` does."""
        if self.process.poll() is not None:
            self.start()

    def owned_partitions(self) -> set[int]:
        """Return the partitions that the process claims in its log."""
        partitions: set[int] = set()
        for line in self.log.read_text().splitlines():
            if "partitions [" in line:
                numbers = {
                    int(number)
                    for number in line.partition("[")[2].rstrip("]").split(", ")
                    if number
                }
                partitions = (
                    partitions | numbers if "got partitions" in line else partitions - numbers
                )
        return partitions

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.process.terminate()
            assert self.process.wait(60) == 0, self.log.read_text()[-3000:]


@pytest.fixture
def site(tmp_path: Path):
    if MISSING_REASON:
        pytest.skip(MISSING_REASON)
    with broker(tmp_path) as servers:
        site_ = PartitionedTopics(tmp_path / "shop", servers, f"test-{uuid4().hex[:12]}")
        yield site_
        site_.close()


def clicks(number: int) -> list[dict]:
    return [
        {"event_id": f"e{number}-{index}", "type": "click", "anonymous_id": name, "item_id": "i1"}
        for index, name in enumerate(ANONYMOUS_IDS)
    ]


def test_partitions_move_between_processes_that_come_stand_still_and_die(
    site: PartitionedTopics,
) -> None:
    sent: list[str] = []
    running: list[Process] = []

    def post(rounds: int) -> None:
        for _ in range(rounds):
            site.now += SECOND
            events = clicks(len(sent))
            site.post(*events)
            sent.extend(event["event_id"] for event in events)

    def all_routed() -> bool:
        try:
            return len(site.events("event_id")) >= len(sent)
        except NotReadyError:
            return False

    post(2)
    first = Process(site, "first")
    running.append(first)
    until(lambda: first.owned_partitions() == set(range(PARTITION_COUNT)), 60, f"see {first.log}")
    assert "no partition was dealt to this process" in first.log.read_text(), (
        "joining takes a broker seconds, and it says so"
    )
    until(all_routed, 60, f"not routed; see {first.log}")
    second = Process(site, "second")
    running.append(second)
    until(
        lambda: (
            len(first.owned_partitions()) + len(second.owned_partitions()) == PARTITION_COUNT
            and bool(second.owned_partitions())
        ),
        60,
        f"see {second.log}",
    )
    post(2)
    until(all_routed, 60, "not routed by two")

    second.send(signal.SIGSTOP)  # past the end of its session: the first takes over
    post(2)
    until(lambda: first.owned_partitions() == set(range(PARTITION_COUNT)), 60, f"see {first.log}")
    until(all_routed, 60, "not routed while one stood still")
    second.send(signal.SIGCONT)  # it wakes up with routers that others have by now
    post(2)
    until(all_routed, 60, "not routed after it woke up")
    until(
        lambda: (
            len(first.owned_partitions()) < PARTITION_COUNT
            and len(first.owned_partitions() | second.owned_partitions()) == PARTITION_COUNT
        ),
        60,
        f"{first.log} {second.log}",
    )

    running.remove(first)
    first.send(signal.SIGKILL)
    post(2)
    until(lambda: second.owned_partitions() == set(range(PARTITION_COUNT)), 60, f"see {second.log}")
    until(all_routed, 60, "not routed after one was killed")
    second.end()
    assert sorted(site.events("event_id")) == sorted(sent)
    blocks = site.blocks()
    assert [one.end for one in blocks[:-1]] == [one.offset for one in blocks[1:]]
    assert site.rows("duplicates") == []
