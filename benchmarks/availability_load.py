"""The client of `benchmarks.availability`: requests that are due at even times, without a retry.

Connections are kept, as a site's pool keeps them. An answer counts from when it was due, and fails
after its deadline. Bodies of events are sent again under the same ids until they are acknowledged.
"""

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

DEADLINE_S = 2.0
RETRY_S = 0.1
EVENTS_PER_BODY = 20
USERS, ITEMS = 300, 120


@dataclass
class Outcomes:
    """What became of requests; `seconds` holds the times of the answered ones.

    `refused` counts 503 and 429, `unconnected` connections that were refused, `broken` those that
    ended before the answer, `late` those without an answer by the deadline, `other` the rest.
    """

    asked: int = 0
    seconds: list[float] = field(default_factory=list)
    refused_seconds: list[float] = field(default_factory=list)
    unconnected: int = 0
    broken: int = 0
    late: int = 0
    other: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return len(self.seconds)

    @property
    def failed(self) -> int:
        return self.unconnected + self.broken + self.late + self.other


class Connections:
    """Kept connections to one address."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body; raises OSError or asyncio.IncompleteReadError."""
        reader, writer = await self._take()
        keep = False
        try:
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: keep-alive\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (path.encode(), len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
            answer = await reader.readexactly(length)
            keep = b"connection: close" not in head
            return int(head[9:12]), answer
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def question(number: int) -> bytes:
    """Return the body of a request for a list."""
    return json.dumps({"slot": "home", "user_id": f"u{number * 7 % USERS:06}", "size": 12}).encode()


async def ask(connections: Connections, number: int, outcomes: Outcomes, due: float) -> None:
    """Send one request and count what becomes of it."""
    outcomes.asked += 1
    try:
        async with asyncio.timeout_at(due + DEADLINE_S):
            status, body = await connections.post("/v1/recommend", question(number))
    except TimeoutError:
        outcomes.late += 1
        outcomes.failures.append((time.time(), "late"))
    except ConnectionRefusedError:
        outcomes.unconnected += 1
        outcomes.failures.append((time.time(), "unconnected"))
    except (OSError, asyncio.IncompleteReadError, ValueError):
        outcomes.broken += 1
        outcomes.failures.append((time.time(), "broken"))
    else:
        seconds = asyncio.get_running_loop().time() - due
        if status == 200 and b'"item_id"' in body:
            outcomes.seconds.append(seconds)
        elif status in (429, 503):
            outcomes.refused_seconds.append(seconds)
        else:
            outcomes.other += 1
            outcomes.failures.append((time.time(), f"{status} {body[:200]!r}"))


async def ask_at_rate(
    connections: Connections, per_s: float, until: Callable[[], bool], outcomes: Outcomes
) -> None:
    """Send requests at even times, however long the answers take."""
    loop = asyncio.get_running_loop()
    started, tasks = loop.time(), set()
    for number in itertools.count():
        due = started + number / per_s
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        if until():
            break
        task = asyncio.create_task(ask(connections, number, outcomes, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


class Sender:
    """Sends events at even times, and again until they are acknowledged.

    Attributes:
        acknowledged: ids of events that a server took.
        attempts: how many bodies were sent, the repeated ones included.
    """

    def __init__(self, connections: Connections, run: str) -> None:
        self._connections, self._run = connections, run
        self.acknowledged: list[str] = []
        self.attempts = self.bodies = 0
        self.seconds: list[float] = []

    async def send_at_rate(self, events_per_s: float, until: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        started, tasks = loop.time(), set()
        for number in itertools.count():
            due = started + number * EVENTS_PER_BODY / events_per_s
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if until():
                break
            task = asyncio.create_task(self._deliver(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _deliver(self, number: int, due: float) -> None:
        ids = [f"{self._run}-{number}-{row}" for row in range(EVENTS_PER_BODY)]
        body = json.dumps(
            [
                {
                    "event_id": event_id,
                    "type": "view",
                    "user_id": f"u{(number * 13 + row) % USERS:06}",
                    "session_id": f"s{number}",
                    "item_id": f"i{(number * 31 + row) % ITEMS:05}",
                }
                for row, event_id in enumerate(ids)
            ]
        ).encode()
        self.bodies += 1
        while True:
            self.attempts += 1
            with suppress(OSError, asyncio.IncompleteReadError, ValueError, TimeoutError):
                async with asyncio.timeout(DEADLINE_S):
                    status, _ = await self._connections.post("/v1/events", body)
                if status in (200, 202):
                    self.acknowledged += ids
                    self.seconds.append(asyncio.get_running_loop().time() - due)
                    return
            await asyncio.sleep(RETRY_S)
