"""The door over HTTP on brokers that fail as they are told, under load, with a ledger outside: what
was acknowledged is in the topic, what was refused is not, and of what is neither it was said that
nobody knows (`outcome_unknown`).

The brokers are librdkafka's mock cluster, in this process: three of them, which answer with errors,
close connections, answer late, and go away altogether. They know no idempotence, so that a message
whose answer was lost may stand in the topic twice; the router drops it. `kill -9` of our own
processes on a broker: `test_kafka`.
"""

import json
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import uvicorn
from tests.faults.oracle import Ledger
from tests.faults.roles import until
from tests.serving.test_door_kafka import door_on, ids, stream_on
from tests.stream.brokers import needs_kafka
from tests.stream.mock_cluster import (
    NOT_ENOUGH_REPLICAS,
    NOT_LEADER,
    PRODUCE,
    TIMED_OUT,
    TRANSPORT,
    MockCluster,
    mock_cluster,
)

from tailorbird.serving.app import Service, create_app

pytestmark = [pytest.mark.slow, needs_kafka]
SENDERS = 6
GONE_S = 5.0  # longer than a message is tried for
UNKNOWN = {"outcome_unknown"}  # codes of a refusal which does not say that nothing was written
ERRORS = (NOT_LEADER, TIMED_OUT, NOT_ENOUGH_REPLICAS, TRANSPORT)


class Nobody:
    """Answers are not asked for here."""

    def missing(self) -> list[str]:
        return []


class Served:
    """The door's HTTP side on a socket, in threads of this process."""

    def __init__(self, door) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            create_app(Service(Nobody(), door)), log_config=None, lifespan="off", ws="none"
        )  # type: ignore[arg-type]
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), daemon=True
        )

    def __enter__(self) -> "Served":
        self._thread.start()
        until(lambda: self._server.started, 10, "the server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()


class Sender(threading.Thread):
    """Sends events, each once, and writes down what came of them. Nothing is sent again: what is
    lost shows.
    """

    def __init__(self, number: int, port: int, ledger: Ledger, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._number, self._port, self._ledger, self._stop_asked = number, port, ledger, stop
        self.statuses: Counter[tuple[int, str]] = Counter()
        self.vague: list[str] = []  # refusals that do not say when to come again

    def run(self) -> None:
        sent = 0
        while not self._stop_asked.is_set():
            rows = [f"k{self._number}-{sent}-{row}" for row in range(3)]
            sent += 1
            self._ledger.write("sent", rows)
            self._ledger.write(self._outcome(rows), rows)
            time.sleep(0.002)

    def _outcome(self, rows: list[str]) -> str:
        events = [
            {"event_id": row, "type": "click", "anonymous_id": f"a{self._number}", "item_id": "i1"}
            for row in rows
        ]
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/v1/events",
            json.dumps(events).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                assert json.loads(response.read())["accepted"] == len(rows)
                self.statuses[response.status, ""] += 1
                return "acked"
        except urllib.error.HTTPError as error:
            code = json.loads(error.read())["code"]
            self.statuses[error.code, code] += 1
            if not error.headers.get("retry-after"):
                self.vague.append(code)
            return "unknown" if code in UNKNOWN else "refused"
        except OSError:
            return "unknown"


def _disturb(cluster: MockCluster, rng: random.Random) -> Counter[str]:
    """What brokers do, one after another: errors, no answer, a slow one, none there at all."""
    plan = ["error", "cut", "slow", "error", "away", "error", "cut", "slow", "gone for long"]
    for what in plan:
        if what == "error":
            cluster.fail_next(PRODUCE, *(rng.choice(ERRORS) for _ in range(rng.randint(1, 4))))
        elif what == "cut":
            cluster.fail_next(PRODUCE, *[TRANSPORT] * rng.randint(1, 3))
        elif what == "slow":
            cluster.answer_after(rng.uniform(0.2, 0.6))
            time.sleep(0.4)
            cluster.answer_after(0)
        else:
            cluster.set_down(True)
            time.sleep(0.5 if what == "away" else GONE_S)
            cluster.set_down(False)
        time.sleep(rng.uniform(0.05, 0.3))
    return Counter(plan)


Disturb = Callable[[MockCluster], Counter[str]]


def _under_load(
    tmp_path: Path, disturb: Disturb
) -> tuple[Ledger, list[str], list[Sender], Counter[str]]:
    ledger, stop = Ledger(tmp_path / "ledger.jsonl"), threading.Event()
    with mock_cluster() as cluster:
        stream = stream_on(cluster, tmp_path, partitions=3)
        with door_on(stream) as door, Served(door) as served:
            senders = [Sender(number, served.port, ledger, stop) for number in range(SENDERS)]
            for sender in senders:
                sender.start()
            until(
                lambda: len(ledger.acked) > 50,
                30,
                "nothing is acknowledged on brokers that are well",
            )
            done = disturb(cluster)
            before = len(ledger.acked)
            until(
                lambda: len(ledger.acked) > before + 50, 60, "the door did not come back by itself"
            )
            stop.set()
            for sender in senders:
                sender.join(90)
                assert not sender.is_alive(), "a request was never answered"
        return ledger, ids(stream), senders, done


def test_what_is_acknowledged_is_in_the_topic_and_what_is_refused_is_not(tmp_path: Path) -> None:
    ledger, found, senders, done = _under_load(
        tmp_path, lambda cluster: _disturb(cluster, random.Random(1))
    )
    statuses = sum((sender.statuses for sender in senders), Counter[tuple[int, str]]())
    assert len(ledger.acked) > 100
    assert sorted(ledger.acked - set(found)) == [], "acknowledged and lost"
    assert sorted(ledger.refused & set(found)) == [], "refused and there"
    assert set(found) <= ledger.sent
    assert any(code in UNKNOWN for _, code in statuses), (
        f"no outcome was unknown: the brokers were too kind: {statuses}, {done}"
    )
    assert {status for status, _ in statuses} <= {200, 429, 503}
    assert not any(sender.vague for sender in senders), "a refusal says when to come again"


def test_a_door_that_does_not_wait_for_the_delivery_report_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tailorbird.serving.door.faults.cut", lambda site: site == "door.sync_before_ack"
    )

    def away(cluster: MockCluster) -> Counter[str]:
        cluster.set_down(True)
        time.sleep(GONE_S)  # the drill's time, not a guess of when something is done
        cluster.set_down(False)
        return Counter(away=1)

    ledger, found, _, _ = _under_load(tmp_path, away)
    assert ledger.acked - set(found), "nothing was lost by a door that acknowledges too early"
