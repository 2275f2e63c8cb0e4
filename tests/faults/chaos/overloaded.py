"""The drill of overload: what the door can take, then twice and ten times that, and a thousand
senders that never come to an end.

Held against each other, in one run on one machine: events acknowledged for each second of the
server's own CPU, in the overload and before. Not for each second that passes: sender, router,
worker and lake are on the same cores, and take the more the more comes. What was refused says when
to come again; memory has a bound; nothing acknowledged is lost, nothing is there by halves.
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
from tests.faults.overload import ROWS
from tests.faults.proc import cpu_s

from tailorbird.config import Project
from tailorbird.lake import Lake
from tailorbird.stream.lag import LagMeter

# by which the server may grow: bodies (64 MiB), queue (64 MiB), what is made of them while they are
# checked
BOUND_MB = 512
RECOVERED_S = 10.0


GOODPUT_MIN = 0.9  # of what the server acknowledges for its time without overload


@dataclass
class Ledger:
    """What the senders were told, of all runs.

    Attributes:
        bodies: that were acknowledged, by the beginning of their ids.
        unknown: of how many others there was no answer.
    """

    bodies: set[str] = field(default_factory=set)
    unknown: int = 0


@dataclass
class Phase:
    """What came of one run of the sender. `cpu_s`: of the server, meanwhile."""

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
        """Events acknowledged for each second of the server's CPU."""
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
    """Run the sender, and take what it was told into the ledger. `serve`: the server's process,
    whose CPU time is measured.
    """
    file = folder / f"load-{run}.json"
    command = [
        sys.executable,
        "-m",
        "tests.faults.overload",
        f"http://127.0.0.1:{port}",
        "--run",
        str(run),
    ]
    command += ["--seconds", str(seconds), "--rate", str(rate), "--ledger", str(file)]
    before = cpu_s(serve) if serve else 0.0
    subprocess.run(command, check=True, timeout=seconds * 20 + 60, cwd=Path(__file__).parents[3])
    spent = cpu_s(serve) - before if serve else 0.0
    found = json.loads(file.read_text())
    ledger.bodies.update(f"t{run}-{number}" for number in found["acked"])
    ledger.unknown += found["unanswered"]
    bodies = sum(found["statuses"].values()) + found["unanswered"] + found["unsent"]
    latencies, acked = sorted(found["latency_ms"]), len(found["acked"]) * ROWS
    return Phase(
        name,
        rate or bodies / found["seconds"],
        acked,
        acked / found["seconds"],
        spent,
        latencies[int(0.99 * len(latencies))] if latencies else 0.0,
        found["statuses"],
        found["without_retry_after"],
        found["unanswered"],
        found["unsent"],
    )


def through(project: Project) -> bool:
    """Whether router and lake have taken all that the door wrote. To be run in a child."""
    with LagMeter(project.stream, project.paths.lake, dict) as meter:
        return not any(lag.rows for lag in meter.measure())


def count(project: Project, ledger: Ledger, verdict: Verdict) -> None:
    """Add to a verdict what is wrong, body by body: there are millions of events. To be run in a
    child, when everything is through.
    """
    ids = Lake(project.paths.lake).events(["event_id"])["event_id"].combine_chunks()
    ids = ids.filter(pc.starts_with(ids, "t"))  # not the answers that were given meanwhile
    bodies = pc.replace_substring_regex(ids, r"-\d+$", "")
    by_body = (
        pa.table({"body": bodies, "id": ids})
        .group_by("body")
        .aggregate([("id", "count"), ("id", "count_distinct")])
    )
    found = {
        body: (rows, different)
        for body, rows, different in zip(
            *(by_body[name].to_pylist() for name in _BY_BODY), strict=True
        )
    }
    lost = sorted(body for body in ledger.bodies if found.get(body, (0, 0))[1] != ROWS)
    doubled = sorted(body for body, (rows, different) in found.items() if rows != different)
    halves = sorted(
        body
        for body, (_, different) in found.items()
        if body not in ledger.bodies and different != ROWS
    )
    strange = (
        len(found.keys() - ledger.bodies) - ledger.unknown
    )  # refused for want of room, and yet there
    verdict.lost += len(lost)
    verdict.doubled += len(doubled)
    verdict.unequal += len(halves) + max(0, strange)
    verdict.notes += [f"lost: of {each}" for each in lost[:3]] + [
        f"doubled: of {each}" for each in doubled[:3]
    ]
    verdict.notes += [f"by halves: {each}" for each in halves[:3]] + (
        [f"{strange} refused bodies are in the lake"] if strange > 0 else []
    )
    count_rest(project, verdict)


_BY_BODY = ("body", "id_count", "id_count_distinct")


def memory_mb(pid: int, line: str = "VmHWM") -> float:
    """The most memory that a process ever had, or has now (`VmRSS`)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{line}:")[2].split()[0]) / 1_024


def recovery_s(port: int, within_ms: float) -> float:
    """How long until ten requests in a row are answered in that time."""
    began, good = time.monotonic(), 0
    while good < 10:
        assert time.monotonic() - began < 60, (
            "requests are slow still a minute after the load has ended"
        )
        good = good + 1 if ask_ms(port) < within_ms else 0
    return time.monotonic() - began


def ask_ms(port: int) -> float:
    """How long an answer takes."""
    question = json.dumps({"user_id": "u1", "slot": "home", "size": 3}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/recommend", question, {"content-type": "application/json"}
    )
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 200
        response.read()
    return (time.monotonic() - began) * 1_000


def slow_senders(port: int, count: int) -> list[socket.socket]:
    """Connections that announce a body and bring a byte of it; from several addresses, as a server
    bounds those of one.
    """
    head = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n["
    found = []
    for number in range(count):
        peer = socket.create_connection(
            ("127.0.0.1", port), timeout=10, source_address=(f"127.0.0.{2 + number % 4}", 0)
        )
        peer.sendall(head)
        peer.setblocking(False)
        found.append(peer)
    return found


def closed(peers: Sequence[socket.socket], seconds: float) -> int:
    """How many of them the server has closed, or told that they were too slow, by then."""
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
