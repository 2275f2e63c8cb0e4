"""More requests than a server can take: an open loop, run as a process beside it.

    python -m tests.faults.drills.flood URL --rate 2000 --seconds 20 --cpu 1 --pid PID --out FILE
    python -m tests.faults.drills.flood URL --at-once 8 --seconds 20 --cpu 1 --pid PID --out FILE

With `--rate` requests are due at fixed times, answered or not; with `--at-once` each is sent as
soon as an earlier one is answered. It speaks HTTP over bare connections, so that sending costs
little beside answering. Connections come from several addresses, as a server bounds those of one.
`benchmarks.availability` uses it too. Latency counts from the time at which a request was due. A request that falls due while all
connections are waiting is not sent, and counted. The CPU time of the servers' processes is read
when all connections are open, and at the end.
"""

import argparse
import asyncio
import json
import os
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from tests.support.proc import read_cpu_s

CONNECTIONS = 800
ADDRESSES = 4  # that they are from
PEOPLE = 200
GIVEN_UP_S = 10.0
_HEAD = b"POST /v1/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "


@dataclass
class Tally:
    """Outcomes of the requests: due time (monotonic), latency, and status; 0 is no response."""

    began: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    empty: int = 0  # answers without items
    without_retry_after: int = 0  # refusals that do not say when to retry
    unsent: int = 0
    cpu_s: float = 0.0  # of the server, meanwhile
    lacked: Counter[str] = field(default_factory=Counter)


class Asker(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, flood: "Flood") -> None:
        self._flood, self._due, self._data = flood, 0.0, b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def ask(self, due: float, request: bytes) -> None:
        self._due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            return
        head = head.lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._data = b""
        self._flood.record_response(self._due, int(head[9:12]), head, body)
        self._due = 0.0
        if b"connection: close" in head:
            self.transport.close()
        else:
            self._flood.release(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._due:
            self._flood.record_response(self._due, 0, b"", b"")
        self._flood.record_loss()


class Flood:
    """The requests and their outcomes."""

    def __init__(self, host: str, port: int, user_id: str = "u{}") -> None:
        self._host, self._port = host, port
        self._idle: list[Asker] = []
        self._opened, self._number, self._closed_loop = 0, 0, False
        self.under_way = 0
        self.tally = Tally()
        bodies = [
            json.dumps({"slot": "home", "user_id": user_id.format(person)}).encode()
            for person in range(PEOPLE)
        ]
        self._requests = [_HEAD + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]

    async def open(self, count: int) -> None:
        """Open so many connections, as far as possible."""
        loop = asyncio.get_running_loop()
        while self._opened < count:
            self._opened += 1
            address = (f"127.0.0.{1 + self._opened % ADDRESSES}", 0)
            _, asker = await loop.create_connection(
                lambda: Asker(self), self._host, self._port, local_addr=address
            )
            self._idle.append(asker)

    def ask(self, due: float) -> bool:
        """Send the next request, if there is a connection for it."""
        while self._idle:
            asker = self._idle.pop()
            if not asker.transport.is_closing():
                self.under_way += 1
                asker.ask(due, self._requests[self._number % PEOPLE])
                self._number += 1
                return True
        self.tally.unsent += 1
        return False

    def record_response(self, due: float, status: int, head: bytes, body: bytes) -> None:
        self.under_way -= 1
        tally = self.tally
        tally.began.append(due)
        tally.ms.append((time.monotonic() - due) * 1_000)
        tally.status.append(status)
        if status == 200:
            tally.empty += b'"items":[]' in body
            tally.lacked[body.partition(b'"degraded":[')[2].partition(b"]")[0].decode()] += 1
        elif b"retry-after: " not in head:
            tally.without_retry_after += 1

    def release(self, asker: Asker) -> None:
        self._idle.append(asker)
        if self._closed_loop:
            self.ask(time.monotonic())

    def record_loss(self) -> None:
        self._opened -= 1

    async def closed_loop(self, at_once: int, seconds: float) -> None:
        self._closed_loop = True
        for _ in range(at_once):
            self.ask(time.monotonic())
        await asyncio.sleep(seconds)
        self._closed_loop = False

    async def open_loop(self, rate: float, seconds: float) -> None:
        start, sent = time.monotonic(), 0
        while sent < rate * seconds:
            due = int((time.monotonic() - start) * rate)
            while sent < min(due, rate * seconds):
                self.ask(start + sent / rate)
                sent += 1
            await asyncio.sleep(0.002)

    async def end(self) -> None:
        """Wait for the responses that are still due."""
        give_up = time.monotonic() + GIVEN_UP_S
        while self.under_way and time.monotonic() < give_up:
            await asyncio.sleep(0.02)


async def _run_flood(host: str, port: int, options: argparse.Namespace) -> Tally:
    flood = Flood(host, port, options.user_id)
    at_once, rate, seconds = options.at_once, options.rate, options.seconds
    await flood.open(CONNECTIONS if rate else at_once)
    cpu_before = sum(map(read_cpu_s, options.pid))
    await (flood.open_loop(rate, seconds) if rate else flood.closed_loop(at_once, seconds))
    await flood.end()
    flood.tally.cpu_s = sum(map(read_cpu_s, options.pid)) - cpu_before
    flood.tally.status += [0] * flood.under_way
    flood.tally.began += [time.monotonic()] * flood.under_way
    flood.tally.ms += [GIVEN_UP_S * 1_000] * flood.under_way
    return flood.tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--at-once", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--cpu", type=int, help="the only one that this process may use")
    parser.add_argument("--pid", type=int, nargs="+", required=True, help="of the servers")
    parser.add_argument("--user-id", default="u{}", help="id of a person, with {} for the number")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    host, _, port = options.url.removeprefix("http://").partition(":")
    tally = uvloop.run(_run_flood(socket.gethostbyname(host), int(port), options))
    options.out.write_text(json.dumps(vars(tally)))


if __name__ == "__main__":
    main()
