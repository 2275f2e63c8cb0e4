"""The HTTP server of the serve process, which drains without failed requests.

SIGTERM starts a drain: for a while (`serve.drain_for`) new requests are still answered, and each
response closes its connection. Then nothing new is accepted, and running requests finish within a
second.
`serving.http.protocol` limits each connection.
"""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tailorbird.serving.http.protocol import LimitedHttpProtocol

DRAIN_S = 0.25  # for clients to close; without a load balancer
LINGER_S = 0.3  # for connections accepted before the stop
STOP_S = 0.3  # for running requests
# Longer than the usual idle time of connection pools, 60 s, so that the client closes first.
KEEP_ALIVE_S = 75.0


class HttpServer(uvicorn.Server):
    """A uvicorn server that drains on a signal, and then exits with status 0.

    Args:
        drain: called on the signal, `drain_s` before the server stops listening.
        keep_alive_s: after which an idle connection is closed.
        protocol_attributes: class attributes of the connections' protocol, see
            `LimitedHttpProtocol`.
        stop_requested: set if a signal arrived before this server handles signals itself.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        drain: Callable[[], None],
        drain_s: float,
        keep_alive_s: float,
        protocol_attributes: Mapping[str, Any],
        stop_requested: threading.Event | None = None,
    ) -> None:
        self._protocol = type(
            "Protocol", (LimitedHttpProtocol,), {"idle": {}, **protocol_attributes}
        )
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=self._protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the peer address is not to be overridden
            timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]
            timeout_graceful_shutdown=STOP_S,  # type: ignore[arg-type]
        )
        super().__init__(config)
        self._on_drain = drain
        self._drain_s = drain_s
        self._stop_requested = stop_requested
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stop_at is not None:  # a second signal stops at once
            self.should_exit = self.force_exit = True
            return
        self._on_drain()
        self._stop_at = time.monotonic() + self._drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening without dropping connections that wait in the accept queue.

        Closing a listener resets the connections in its queue, so they are accepted first.
        """
        duplicates = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        for duplicate in duplicates:
            await self._accept_queued(duplicate)
        deadline = time.monotonic() + LINGER_S
        while self.server_state.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    async def _accept_queued(self, duplicate: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        duplicate.setblocking(False)
        with duplicate:
            while True:
                try:
                    connection, _ = duplicate.accept()
                except OSError:
                    return
                connection.setblocking(False)
                await loop.connect_accepted_socket(
                    partial(self._protocol, self.config, self.server_state, {}, loop), connection
                )

    async def on_tick(self, counter: int) -> bool:
        # Looking at it is also the heartbeat of this process.
        stop_is_requested = self._stop_requested is not None and self._stop_requested.is_set()
        if stop_is_requested and self._stop_at is None:
            if counter == 0:  # before the start; no load balancer knows of this server
                self._drain_s = 0.0
            self.handle_exit(signal.SIGTERM, None)
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)
