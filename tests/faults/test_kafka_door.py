"""The collector over HTTP on failing brokers, under load, with a ledger outside.

Acknowledged events are in the topic, refused ones are not, and for all others the client was told
that the outcome is unknown (`outcome_unknown`). The brokers are librdkafka's mock cluster, in this
process: three of them, which answer with errors, close connections, answer late, and go away
altogether. They know no idempotence, so that a message whose response was lost may be in the topic
twice; the router drops it. `kill -9` of our own processes on a broker: `test_kafka`.
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
from tests.support.network.brokers import needs_kafka
from tests.support.network.mock_cluster import (
    NOT_ENOUGH_REPLICAS,
    NOT_LEADER,
    PRODUCE,
    TIMED_OUT,
    TRANSPORT,
    MockCluster,
    mock_cluster,
)
from tests.support.oracle import Ledger
from tests.support.roles import until
from tests.support.serving.collector_topics import make_collector, make_topic_stream, read_event_ids

from tailorbird.serving.http.app import Service, create_app

pytestmark = [pytest.mark.slow, needs_kafka]
SENDERS = 6
OUTAGE_S = 5.0  # longer than a message is retried
UNKNOWN = {"outcome_unknown"}  # codes of a refusal which does not say that nothing was written
ERRORS = (NOT_LEADER, TIMED_OUT, NOT_ENOUGH_REPLICAS, TRANSPORT)


class NoPipeline:
    """A pipeline that gets no requests."""

    def missing_parts(self) -> list[str]:
        return []


class Served:
    """The collector's HTTP side on a socket, in threads of this process."""

    def __init__(self, collector) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            create_app(Service(NoPipeline(), collector)), log_config=None, lifespan="off", ws="none"
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
    """Sends each event once and records the outcome, without retries, so that losses show."""

    def __init__(self, number: int, port: int, ledger: Ledger, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._number, self._port, self._ledger, self._stop_requested = number, port, ledger, stop
        self.statuses: Counter[tuple[int, str]] = Counter()
        self.without_retry_after: list[str] = []  # refusals that do not say when to retry

    def run(self) -> None:
        sent = 0
        while not self._stop_requested.is_set():
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
                self.without_retry_after.append(code)
            return "unknown" if code in UNKNOWN else "refused"
        except OSError:
            return "unknown"


def _disturb(cluster: MockCluster, rng: random.Random) -> Counter[str]:
    """Disturb the brokers: errors, no response, a slow one, none there at all."""
    plan = ["error", "cut", "slow", "error", "away", "error", "cut", "slow", "gone for long"]
    for fault in plan:
        if fault == "error":
            cluster.fail_next(PRODUCE, *(rng.choice(ERRORS) for _ in range(rng.randint(1, 4))))
        elif fault == "cut":
            cluster.fail_next(PRODUCE, *[TRANSPORT] * rng.randint(1, 3))
        elif fault == "slow":
            cluster.answer_after(rng.uniform(0.2, 0.6))
            time.sleep(0.4)
            cluster.answer_after(0)
        else:
            cluster.set_down(True)
            time.sleep(0.5 if fault == "away" else OUTAGE_S)
            cluster.set_down(False)
        time.sleep(rng.uniform(0.05, 0.3))
    return Counter(plan)


Disturb = Callable[[MockCluster], Counter[str]]


def _under_load(
    tmp_path: Path, disturb: Disturb
) -> tuple[Ledger, list[str], list[Sender], Counter[str]]:
    ledger, stop = Ledger(tmp_path / "ledger.jsonl"), threading.Event()
    with mock_cluster() as cluster:
        stream = make_topic_stream(cluster, tmp_path, partitions=3)
        with make_collector(stream) as collector, Served(collector) as served:
            senders = [Sender(number, served.port, ledger, stop) for number in range(SENDERS)]
            for sender in senders:
                sender.start()
            until(
                lambda: len(ledger.acked) > 50,
                30,
                "nothing is acknowledged on brokers that are well",
            )
            faults = disturb(cluster)
            before = len(ledger.acked)
            until(
                lambda: len(ledger.acked) > before + 50,
                60,
                "the collector did not come back by itself",
            )
            stop.set()
            for sender in senders:
                sender.join(90)
                assert not sender.is_alive(), "a request was never answered"
        return ledger, read_event_ids(stream), senders, faults


def test_what_is_acknowledged_is_in_the_topic_and_what_is_refused_is_not(tmp_path: Path) -> None:
    ledger, topic_ids, senders, faults = _under_load(
        tmp_path, lambda cluster: _disturb(cluster, random.Random(1))
    )
    statuses = sum((sender.statuses for sender in senders), Counter[tuple[int, str]]())
    assert len(ledger.acked) > 100
    assert sorted(ledger.acked - set(topic_ids)) == [], "acknowledged and lost"
    assert sorted(ledger.refused & set(topic_ids)) == [], "refused and there"
    assert set(topic_ids) <= ledger.sent
    assert any(code in UNKNOWN for _, code in statuses), (
        f"no outcome was unknown: the brokers were too kind: {statuses}, {faults}"
    )
    assert {status for status, _ in statuses} <= {200, 429, 503}
    assert not any(sender.without_retry_after for sender in senders), (
        "a refusal says when to come again"
    )


@pytest.mark.nightly
def test_a_door_that_does_not_wait_for_the_delivery_report_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tailorbird.serving.collector.writer.faults.is_disabled",
        lambda site: site == "collector.sync_before_ack",
    )

    def away(cluster: MockCluster) -> Counter[str]:
        cluster.set_down(True)
        time.sleep(OUTAGE_S)  # the duration of the outage, not a wait for something
        cluster.set_down(False)
        return Counter(away=1)

    ledger, topic_ids, _, _ = _under_load(tmp_path, away)
    assert ledger.acked - set(topic_ids), (
        "nothing was lost by a collector that acknowledges too early"
    )
