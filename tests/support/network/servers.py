"""Real servers on this machine, with the collector and a pipeline that answers at once, which can be
told to misbehave.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.support.serving.app import PromptPipeline

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.access import Perimeter
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.gorse import gorse_routes
from tailorbird.serving.http.handling import Service
from tailorbird.stream import log_set, open_reader


@dataclass
class Trouble:
    """What goes wrong with the next requests: one word each, in turn; nothing once they are used
    up.

    `lost`: the work is done, and the connection breaks before the answer. `busy`: 503 with
    Retry-After. `silent`: no answer for a second. `foreign`, `moved`: a proxy's page, or its
    redirection.
    """

    next: list[str] = field(default_factory=list)
    requests: int = 0

    def wrap(self, app: ASGIApp) -> ASGIApp:
        async def troubled(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            self.requests += 1
            trouble = self.next.pop(0) if self.next else ""
            if trouble == "busy":
                await send(
                    {
                        "type": "http.response.start",
                        "status": 503,
                        "headers": [(b"retry-after", b"0")],
                    }
                )
                await send({"type": "http.response.body", "body": b""})
            elif trouble == "lost":
                await app(scope, receive, _discard)
                await send(
                    {
                        "type": "http.response.start",
                        "status": 200,
                        "headers": [(b"content-length", b"1000")],
                    }
                )
                await send({"type": "http.response.body", "body": b"{", "more_body": True})
                raise ConnectionError("as if the network had gone")
            elif trouble in ("foreign", "moved"):
                headers = [(b"location", b"/elsewhere")] if trouble == "moved" else []
                await send(
                    {
                        "type": "http.response.start",
                        "status": 302 if trouble == "moved" else 200,
                        "headers": headers,
                    }
                )
                await send({"type": "http.response.body", "body": b"{}"})
            elif trouble == "silent":
                await asyncio.sleep(1)
            else:
                await app(scope, receive, send)

        return troubled


async def _discard(message: Message) -> None:
    """Hears the answer instead of the client."""


@dataclass
class RunningServer:
    """A running server: its address, its trouble, and what its collector has taken."""

    url: str
    trouble: Trouble
    folder: Path
    producer: str

    def bodies(self) -> list[bytes]:
        """All bodies in the raw log."""
        with open_reader(log_set(self.folder).raw(self.producer)) as reader:
            return [stored_block.block.payload for stored_block in reader.read(0)]

    def events(self) -> list[dict[str, Any]]:
        """All events in the raw log, repeats included; of a body that cannot be read none."""
        return [event for body in self.bodies() for event in _decode_events(body)]


def _decode_events(body: bytes) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        return []


@contextmanager
def serving(
    folder: Path,
    *,
    keys: Keys | None = None,
    port: int = 0,
    producer: str = "serve-1",
    body_bytes_max: int = 1 << 20,
    gorse_slot: str = "",
) -> Iterator[RunningServer]:
    """A server on a port of its own; `port` says which, to come back where another was,
    `gorse_slot`, what Gorse's clients are answered.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    trouble = Trouble()
    with EventCollector(folder, producer, RoutePlan(), SystemClock()) as collector:
        service = Service(
            PromptPipeline(),
            collector,
            keys=keys or Keys(),
            perimeter=Perimeter(),
            body_bytes_max=body_bytes_max,
        )
        app = trouble.wrap(
            create_app(service, gorse_routes(service, gorse_slot) if gorse_slot else ())
        )
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server.started
        try:
            yield RunningServer(
                f"http://127.0.0.1:{listener.getsockname()[1]}", trouble, folder, producer
            )
        finally:
            server.should_exit = True
            thread.join(20)
            listener.close()
