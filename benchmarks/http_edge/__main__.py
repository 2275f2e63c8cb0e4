"""Compare HTTP servers at the edge: slow, large, many and ambiguous requests, hand-over and speed.

    python -m benchmarks.http_edge [--only NAME …] [--rounds N] [--out FILE]

One small application runs under each server: `tailorbird` (our protocol), `uvicorn` without
overrides, `granian`, and `nginx` (deploy/nginx) before uvicorn without overrides. Servers that are
not installed are skipped. Times and limits are small; the cap is 8 connections. The application
reads `/v1/events` with `serving.http.body`, as Tailorbird does, and `/raw` without any limit.
"""

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import uvloop
from tests.support.network.smuggling import COMPLETE, POST, SMUGGLED

from benchmarks.http_edge.servers import BODY_BYTES_MAX, TIMEOUT_S, WAIT_S, Edge, ask, connect, kill

CAP = 8


def read_all(peer: socket.socket) -> tuple[bytes, str]:
    """Return what comes until the connection closes, and how it ended."""
    received = b""
    while True:
        try:
            more = peer.recv(65_536)
        except TimeoutError:
            return received, "kept"
        except OSError:
            return received, "reset"
        if not more:
            return received, "closed"
        received += more


def status_of(received: bytes, end: str) -> str:
    statuses = re.findall(rb"HTTP/1\.\d (\d+)", received)
    return " ".join(code.decode() for code in statuses) or end


def is_open(peer: socket.socket) -> bool:
    """Return whether the server's end of a connection is open, by the kernel's table."""
    here, there = (f":{name[1]:04X}" for name in (peer.getsockname(), peer.getpeername()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(there) and fields[2].endswith(here):
            return fields[3] == "01"
    return False


def close_time(port: int, sent: bytes, drip: bytes = b"", receive_bytes: int = 0) -> str:
    """Say after how many seconds the server closes a connection on which this was sent."""
    with connect(port, receive_bytes) as peer:
        peer.sendall(sent)
        started_at = time.monotonic()
        while (after_s := time.monotonic() - started_at) < WAIT_S:
            try:
                if not is_open(peer):
                    return f"{after_s:.0f} s"
                peer.sendall(drip)
            except OSError:
                return f"{after_s:.0f} s"
            time.sleep(0.2)
    return "kept"


def large_body(port: int, path: bytes) -> str:
    """Say the answer to a body of twice the limit, which is read once all is sent."""
    body = b" " * (2 * BODY_BYTES_MAX)
    with connect(port) as peer:
        try:
            peer.sendall(POST.replace(b"/v1/events", path))
            peer.sendall(b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        except OSError:
            return "reset"
        return status_of(*read_all(peer))


def large_head(port: int) -> str:
    with connect(port) as peer, contextlib.suppress(OSError):
        peer.sendall(COMPLETE[:-2] + b"x: " + b"a" * 500_000 + b"\r\nConnection: close\r\n\r\n")
        return status_of(*read_all(peer))
    return "reset"


def limits(port: int) -> dict[str, str]:
    """Measure time and size limits, all at once."""
    half_body = b"Content-Length: 1000\r\n\r\n["
    raw = POST.replace(b"/v1/events", b"/raw") + half_body
    large = COMPLETE.replace(b"/healthz", b"/large")
    cases: dict[str, Callable[[], str]] = {
        "nothing sent": lambda: close_time(port, b""),
        "half a head": lambda: close_time(port, POST),
        "a head by the byte": lambda: close_time(port, POST + b"X: ", b"a"),
        "half a body": lambda: close_time(port, raw),
        "a body by the byte": lambda: close_time(port, raw, b"1"),
        "half a body, limit of the application": lambda: close_time(port, POST + half_body),
        "answer not read": lambda: close_time(port, large, receive_bytes=4_096),
        "body of 2 MiB": lambda: large_body(port, b"/raw"),
        "body of 2 MiB, limit of the application": lambda: large_body(port, b"/v1/events"),
        "head of 500 KB": lambda: large_head(port),
    }
    with ThreadPoolExecutor(len(cases)) as pool:
        running = {name: pool.submit(case) for name, case in cases.items()}
        return {name: each.result() for name, each in running.items()}


def cap(port: int, *, asks: bool) -> str:
    """Say how a new visitor fares while twice as many connections as the cap are open."""
    with contextlib.ExitStack() as stack:
        for _ in range(2 * CAP):
            peer = stack.enter_context(connect(port))
            if asks:
                peer.settimeout(0.3)
                with contextlib.suppress(OSError):
                    peer.sendall(COMPLETE)
                    peer.recv(65_536)
        with connect(port) as visitor, contextlib.suppress(OSError):
            visitor.settimeout(TIMEOUT_S / 2)
            visitor.sendall(COMPLETE)
            received, end = b"", "no answer"
            with contextlib.suppress(TimeoutError):
                received = visitor.recv(65_536)
                end = "closed"
            return status_of(received, end)
    return "reset"


def smuggling(port: int) -> dict[str, Any]:
    def outcome(sent: bytes) -> str:
        with connect(port) as peer:
            try:
                peer.sendall(sent)
            except OSError:
                return "reset"
            peer.settimeout(2 * TIMEOUT_S)
            received, end = read_all(peer)
            return status_of(received, end) + (", kept" if end == "kept" and received else "")

    with ThreadPoolExecutor(8) as pool:
        outcomes = dict(zip(map(repr, SMUGGLED), pool.map(outcome, SMUGGLED), strict=True))
    others = {
        sent: said for sent, said in outcomes.items() if not re.fullmatch(r"[45]\d\d|closed", said)
    }
    return {"refused": f"{len(SMUGGLED) - len(others)} of {len(SMUGGLED)}", "others": others}


def hand_over(edge: Edge) -> dict[str, Any]:
    """Replace the server under load: count failures, and whether a visitor waits while none runs.

    `kept` connections ask again and again without a retry, `new` ones once each.
    """
    stop_at = time.monotonic() + 60
    counts = {"answers": 0, "failed, new": 0, "failed, kept": 0}

    def load(keeps: bool) -> None:
        peer, asked = None, 0
        while time.monotonic() < stop_at:
            try:
                peer = peer or connect(edge.port)
                peer.sendall(POST + b"Content-Length: 2\r\n\r\n[]")
                received = b""
                while not received.endswith(b"ok\n") and (more := peer.recv(65_536)):
                    received += more
                assert b" 200 " in received[:16]
                counts["answers"] += 1
                asked += 1
            except (OSError, AssertionError):
                counts["failed, kept" if asked else "failed, new"] += 1
                received = b""
            if not received or not keeps or b"connection: close" in received.lower():
                if peer is not None:
                    peer.close()
                peer, asked = None, 0
            time.sleep(0.002)

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(load, keeps) for keeps in (True, False) * 4]
        for _ in range(3):
            time.sleep(0.5)
            edge.start()
            old = edge.processes.pop(0)
            old.terminate()
            old.wait(20)
        stop_at = time.monotonic() + 0.5
        for each in running:
            each.result()
    for process in edge.processes:
        kill(process)
    edge.processes.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, edge.port)
        time.sleep(0.3)
        edge.start()
        return {**counts, "while none runs": status_of(waiting.result(), "refused")}


class _Load(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    sent = POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 1_000
    answers = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.write(self.sent)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"ok\n"):
            _Load.answers += 1
            self._transport.write(self.sent)


def rate(edge: Edge, seconds: float) -> tuple[float, float]:
    """Return requests a second and the server's CPU microseconds a request."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        pairs = [await loop.create_connection(_Load, "127.0.0.1", edge.port) for _ in range(16)]
        await asyncio.sleep(seconds)
        for transport, _ in pairs:
            transport.abort()

    _Load.answers, cpu_before = 0, edge.cpu_s()
    uvloop.run(run())
    return _Load.answers / seconds, (edge.cpu_s() - cpu_before) / _Load.answers * 1e6


def speed(names: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Measure all in turn, and compare with the first within each round."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        edges = [stack.enter_context(Edge(name)) for name in names]
        for _ in range(rounds):
            for edge in edges:
                figures[edge.name].append(rate(edge, seconds))
    first = figures[names[0]]
    return {
        name: {
            "requests a second": round(statistics.median(rate for rate, _ in runs)),
            f"ratio to {names[0]}": round(
                statistics.median(a[0] / b[0] for a, b in zip(runs, first, strict=True)), 2
            ),
            "server CPU, µs a request": round(statistics.median(cpu for _, cpu in runs), 1),
        }
        for name, runs in figures.items()
    }


def available() -> Iterator[str]:
    yield from ("tailorbird", "uvicorn")
    with contextlib.suppress(PackageNotFoundError):
        version("granian")
        yield "granian"
    if shutil.which("nginx"):
        yield "nginx"


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("uvicorn", "httptools", "uvloop", "granian"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    if nginx := shutil.which("nginx"):
        said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
        found["nginx"] = said.strip().rpartition("/")[2]
    return found


def measure(name: str) -> dict[str, Any]:
    with Edge(name) as edge:
        found: dict[str, Any] = {"limits": limits(edge.port), "smuggling": smuggling(edge.port)}
        found["hand-over"] = hand_over(edge)
    found["cap"] = {}
    for what, asks in (("silent", False), ("idle", True)):
        with Edge(name, CAP) as edge:
            found["cap"][f"a visitor beside {2 * CAP} {what} connections"] = cap(
                edge.port, asks=asks
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=list(available()))
    parser.add_argument("--rounds", type=int, default=5, help="of speed, 5 s each; 0: none")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    report: dict[str, Any] = {"versions": versions()}
    report["edges"] = {name: measure(name) for name in given.only}
    if given.rounds:
        report["speed"] = speed(given.only, given.rounds, 5.0)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
