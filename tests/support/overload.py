"""More load than the collector can take: an open-loop sender with a ledger of its own.

    python -m tests.support.overload URL --run 3 --seconds 5 --rate 400 --ledger FILE
    python -m tests.support.overload URL --run 3 --seconds 5 --ledger FILE

With `--rate` bodies are due at fixed times, answered or not; without, they are sent as fast as 64
connections get responses. It runs as a process beside the site. Latency counts from the time at
which a body was due, so that a delayed sender does not hide it. A body that falls due while every
connection is in use is not sent, and counted.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.support.names import ITEMS, PEOPLE

ROWS_PER_BODY = 1_000  # of a body: some 110 KB
CLOSED_LOOP_CONNECTIONS = 64
_MARK = "@@@@"


def make_template() -> bytes:
    """Return the events of one body, unique clicks, with a mark for run and number."""
    return json.dumps(
        [
            {
                "event_id": f"{_MARK}-{row}",
                "type": "click",
                "user_id": PEOPLE[row % len(PEOPLE)],
                "item_id": ITEMS[row % len(ITEMS)],
            }
            for row in range(ROWS_PER_BODY)
        ]
    ).encode()


def find_name(body: bytes) -> str:
    """Return the name of a body, `t{run}-{number}`; empty if it is not exactly a sender's."""
    name = body.partition(b'"event_id": "')[2].partition(b'-0"')[0]
    return name.decode() if body == _template().replace(_MARK.encode(), name) else ""


@cache
def _template() -> bytes:
    return make_template()


@dataclass
class Tally:
    """Outcomes of the bodies of a run."""

    statuses: Counter[int] = field(default_factory=Counter)
    acked: list[int] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)  # of those
    without_retry_after: int = 0  # 429 and 503 responses that do not say when to retry
    unanswered: int = 0
    unsent: int = 0


class Sender:
    """Connections that are kept open, at most `connections` of them."""

    def __init__(self, host: str, port: int, run: int, connections: int) -> None:
        self._host, self._port, self._run = host, port, run
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._connections_left = connections
        self._template = make_template()
        self.tally = Tally()

    async def send(self, number: int, due_at: float) -> None:
        if not self._idle and not self._connections_left:
            self.tally.unsent += 1
            return
        connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                self._connections_left -= 1
                connection = await asyncio.open_connection(self._host, self._port)
            status, headers = await self._post_body(
                *connection,
                self._template.replace(_MARK.encode(), f"t{self._run}-{number}".encode()),
            )
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.tally.unanswered += 1
            self._connections_left += 1
            if connection is not None:
                connection[1].close()
            return
        self._record_outcome(status, headers, number, due_at)
        if b"connection: close" in headers:
            connection[1].close()
            self._connections_left += 1
        else:
            self._idle.append(connection)

    def _record_outcome(self, status: int, headers: bytes, number: int, due_at: float) -> None:
        self.tally.statuses[status] += 1
        if status == 200:
            self.tally.acked.append(number)
            self.tally.latency_ms.append((time.monotonic() - due_at) * 1_000)
        elif status in (429, 503) and b"retry-after: " not in headers:
            self.tally.without_retry_after += 1

    async def _post_body(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes
    ) -> tuple[int, bytes]:
        head = (
            "POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
            f"application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        async with asyncio.timeout(60):
            headers = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(headers.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        return int(headers.split(b" ", 2)[1]), headers


async def _open_loop(sender: Sender, rate: float, seconds: float) -> None:
    started = time.monotonic()
    tasks = []
    for number in range(int(rate * seconds)):
        due_at = started + number / rate
        if (wait_s := due_at - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(sender.send(number, due_at)))
        if number % 20 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)


async def _closed_loop(sender: Sender, seconds: float) -> None:
    deadline, numbers = time.monotonic() + seconds, iter(range(10**9))

    async def send_next() -> None:
        while time.monotonic() < deadline:
            await sender.send(next(numbers), time.monotonic())

    await asyncio.gather(*(send_next() for _ in range(CLOSED_LOOP_CONNECTIONS)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--run", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="bodies a second")
    parser.add_argument("--connections", type=int, default=1_500)
    parser.add_argument("--ledger", type=Path, required=True)
    options = parser.parse_args()
    host, _, port = options.url.removeprefix("http://").partition(":")
    sender = Sender(host, int(port), options.run, options.connections)
    started = time.monotonic()
    asyncio.run(
        _open_loop(sender, options.rate, options.seconds)
        if options.rate
        else _closed_loop(sender, options.seconds)
    )
    report = {**vars(sender.tally), "seconds": time.monotonic() - started, "run": options.run}
    options.ledger.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
