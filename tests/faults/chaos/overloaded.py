"""The drill of overload: the collector's peak, twice and ten times that, and endless senders.

It compares events acknowledged per second of the server's own CPU, in the overload and before, in
one run on one machine. Wall time would not do: sender, router, worker and lake share the cores, and
use more of them as load grows. Refusals say when to retry; memory has a bound; nothing acknowledged
is lost, and no body is stored in part.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from tests.faults.chaos.judging import Verdict, count_rest
from tests.support.overload import ROWS_PER_BODY
from tests.support.proc import read_cpu_s

from tailorbird.config import Project
from tailorbird.lake import Lake
from tailorbird.stream.lag import LagMeter

# The server's memory may grow by bodies (64 MiB), queue (64 MiB), and their decoded form.
BOUND_MB = 512
RECOVERED_S = 10.0


GOODPUT_MIN = 0.9  # of what the server acknowledges for its time without overload


@dataclass
class Ledger:
    """Outcomes of all runs of the senders.

    Attributes:
        bodies: acknowledged ones, by the prefix of their ids.
        unknown: number of others without a response.
    """

    bodies: set[str] = field(default_factory=set)
    unknown: int = 0


@dataclass
class Phase:
    """The result of one run of the sender. `cpu_s`: of the server, meanwhile."""

    name: str
    offered: float  # bodies a second
    acked: int  # events
    acked_per_s: float
    cpu_s: float
    p99_ms: float
    statuses: dict[str, int]
    without_retry_after: int
    unanswered: int
    unsent: int

    @property
    def goodput(self) -> float:
        """Return events acknowledged per second of the server's CPU."""
        return self.acked / max(self.cpu_s, 0.01)


def load(
    port: int,
    folder: Path,
    ledger: Ledger,
    name: str,
    run: int,
    seconds: float,
    rate: float = 0.0,
    serve: int = 0,
) -> Phase:
    """Run the sender, and add its outcomes to the ledger.

    `serve`: the server's process, whose CPU time is measured.
    """
    file = folder / f"load-{run}.json"
    command = [
        sys.executable,
        "-m",
        "tests.support.overload",
        f"http://127.0.0.1:{port}",
        "--run",
        str(run),
    ]
    command += ["--seconds", str(seconds), "--rate", str(rate), "--ledger", str(file)]
    before = read_cpu_s(serve) if serve else 0.0
    subprocess.run(command, check=True, timeout=seconds * 20 + 60, cwd=Path(__file__).parents[3])
    cpu_used = read_cpu_s(serve) - before if serve else 0.0
    report = json.loads(file.read_text())
    ledger.bodies.update(f"t{run}-{number}" for number in report["acked"])
    ledger.unknown += report["unanswered"]
    bodies = sum(report["statuses"].values()) + report["unanswered"] + report["unsent"]
    latencies, acked = sorted(report["latency_ms"]), len(report["acked"]) * ROWS_PER_BODY
    return Phase(
        name,
        rate or bodies / report["seconds"],
        acked,
        acked / report["seconds"],
        cpu_used,
        latencies[int(0.99 * len(latencies))] if latencies else 0.0,
        report["statuses"],
        report["without_retry_after"],
        report["unanswered"],
        report["unsent"],
    )


def has_caught_up(project: Project) -> bool:
    """Return True if router and lake have processed all events; to be run in a child."""
    with LagMeter(project.stream, project.paths.lake, dict) as meter:
        return not any(lag.rows for lag in meter.measure())


def count(project: Project, ledger: Ledger, verdict: Verdict) -> None:
    """Add faults to a verdict, body by body, since there are millions of events.

    To be run in a child, when everything has caught up.
    """
    ids = Lake(project.paths.lake).events(["event_id"])["event_id"].combine_chunks()
    ids = ids.filter(pc.starts_with(ids, "t"))  # leave out response events
    bodies = pc.replace_substring_regex(ids, r"-\d+$", "")
    by_body = (
        pa.table({"body": bodies, "id": ids})
        .group_by("body")
        .aggregate([("id", "count"), ("id", "count_distinct")])
    )
    counts_by_body = {
        body: (rows, distinct)
        for body, rows, distinct in zip(
            *(by_body[name].to_pylist() for name in _BY_BODY), strict=True
        )
    }
    lost = sorted(
        body for body in ledger.bodies if counts_by_body.get(body, (0, 0))[1] != ROWS_PER_BODY
    )
    doubled = sorted(body for body, (rows, distinct) in counts_by_body.items() if rows != distinct)
    halves = sorted(
        body
        for body, (_, distinct) in counts_by_body.items()
        if body not in ledger.bodies and distinct != ROWS_PER_BODY
    )
    unexpected = (
        len(counts_by_body.keys() - ledger.bodies) - ledger.unknown
    )  # refused for lack of room, and yet in the lake
    verdict.lost += len(lost)
    verdict.doubled += len(doubled)
    verdict.unequal += len(halves) + max(0, unexpected)
    verdict.notes += [f"lost: of {each}" for each in lost[:3]] + [
        f"doubled: of {each}" for each in doubled[:3]
    ]
    verdict.notes += [f"by halves: {each}" for each in halves[:3]] + (
        [f"{unexpected} refused bodies are in the lake"] if unexpected > 0 else []
    )
    count_rest(project, verdict)


_BY_BODY = ("body", "id_count", "id_count_distinct")


def memory_mb(pid: int, line: str = "VmHWM") -> float:
    """Return the peak memory of a process, or its current one (`VmRSS`)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{line}:")[2].split()[0]) / 1_024


def recovery_s(port: int, limit_ms: float) -> float:
    """Return the seconds until ten requests in a row are answered within a limit."""
    started, good_in_row = time.monotonic(), 0
    while good_in_row < 10:
        assert time.monotonic() - started < 60, (
            "requests are slow still a minute after the load has ended"
        )
        good_in_row = good_in_row + 1 if measure_response_ms(port) < limit_ms else 0
    return time.monotonic() - started


def measure_response_ms(port: int) -> float:
    """Measure the latency of one response."""
    question = json.dumps({"user_id": "u1", "slot": "home", "size": 3}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/recommend", question, {"content-type": "application/json"}
    )
    started = time.monotonic()
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 200
        response.read()
    return (time.monotonic() - started) * 1_000


def slow_senders(port: int, count: int) -> list[socket.socket]:
    """Open connections that announce a body and send a byte of it.

    They come from several addresses, as a server bounds those of one.
    """
    head = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n["
    peers = []
    for number in range(count):
        peer = socket.create_connection(
            ("127.0.0.1", port), timeout=10, source_address=(f"127.0.0.{2 + number % 4}", 0)
        )
        peer.sendall(head)
        peer.setblocking(False)
        peers.append(peer)
    return peers


def count_closed(peers: Sequence[socket.socket], seconds: float) -> int:
    """Return how many peers the server closes or refuses as too slow within `seconds`."""
    waiting, until = set(peers), time.monotonic() + seconds
    while waiting and time.monotonic() < until:
        for peer in list(waiting):
            with suppress(BlockingIOError):
                with suppress(ConnectionResetError):
                    peer.recv(1_000)
                waiting.discard(peer)
        time.sleep(0.05)
    for peer in peers:
        peer.close()
    return len(peers) - len(waiting)
