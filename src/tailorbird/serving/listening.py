"""The HTTP server under the serve process: it binds, waits for nobody who dawdles, and stops
without turning anybody away.

SIGTERM drains: for a while (`serve.drain`) whoever comes is still answered, and each answer closes
its connection; then nothing new is accepted, and what runs is finished within a second. What
uvicorn leaves open, `PatientProtocol` closes: connections that say nothing, or only half a request,
or that do not read what they are told.
"""

import asyncio
import errno
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, ClassVar

import httptools
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailorbird.errors import UsageError
from tailorbird.serving.limits import Connections, ServerLimits

PORTS_TRIED = 20
DRAIN_S = 0.25  # for balancers to notice, and clients to be told to close; without a balancer
LINGER_S = 0.3  # for those who connected before we stopped listening and have not asked yet
STOP_S = 0.3  # for answers under way
# longer than the idle time of usual pools, 60 s: who closes first must not be the one who is asked
KEEP_ALIVE_S = 75.0
HEADER_DEADLINE_S = 10.0
UNREAD_DEADLINE_S = 30.0  # within which something of an answer has to be read
REFUSED_DEADLINE_S = 1.0
CONNECTIONS_MAX = 4_096
HEAD_BYTES_MAX, HEADERS_MAX = 1 << 16, 200  # more than browsers send and proxies add
PIPELINED_MAX = 64  # requests of a connection that wait for the answers before theirs


def bind(host: str, port: int, *, asked: bool) -> socket.socket:
    """A listening socket; the next free port is taken if this one is busy and nobody asked for it.

    Raises:
        UsageError: the port is taken, or the address is not ours.
    """
    ports = [port] if asked or port == 0 else range(port, min(port + PORTS_TRIED, 65_536))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), number))
            listener.listen(2_048)
            listener.set_inheritable(False)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise UsageError(
                    f"cannot bind {host}:{number}: {error.strerror}", where="serve.host"
                ) from None
    if len(ports) == 1:
        raise UsageError(
            f"port {port} is in use",
            where="serve.port",
            fix="stop what uses it, or choose another: --port 0 takes any",
        )
    raise UsageError(
        f"ports {ports[0]} to {ports[-1]} are in use",
        where="serve.port",
        fix="choose another: --port 0 takes any",
    )


class HttpServer(uvicorn.Server):
    """uvicorn with our way to stop, and quiet signals: a drained server exits with status 0.

    Args:
        drain: called when it is told to stop, `drain_s` before it listens no more.
        keep_alive_s: after which a connection that asks nothing is closed.
        given: what the connections' protocol goes by, see `PatientProtocol`.
        told: set where somebody was told to stop before this listens to signals itself.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        drain: Callable[[], None],
        drain_s: float,
        keep_alive_s: float,
        given: Mapping[str, Any],
        told: threading.Event | None = None,
    ) -> None:
        self._protocol = type("Protocol", (PatientProtocol,), {"idle": {}, **given})
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=self._protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody's word is taken for who is calling
            timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]
            timeout_graceful_shutdown=STOP_S,  # type: ignore[arg-type]
        )
        super().__init__(config)
        self._begin_to_drain, self._drain_s, self._told_before = drain, drain_s, told
        self._stop_at: float | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        held = {
            number: signal.signal(number, self._drain) for number in (signal.SIGTERM, signal.SIGINT)
        }
        if self._told_before is not None and self._told_before.is_set():
            self._drain_s = 0.0  # no balancer has heard of it
            self._drain(signal.SIGTERM, None)
        try:
            yield
        finally:
            for number, handler in held.items():
                signal.signal(number, handler)

    def _drain(self, number: int, frame: FrameType | None) -> None:
        if self._stop_at is not None:  # asked twice: at once
            self.should_exit = self.force_exit = True
            return
        self._begin_to_drain()
        self._stop_at = time.monotonic() + self._drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening without turning away anybody who has already knocked: a closed listener
        resets its queue.
        """
        spares = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        for spare in spares:
            await self._accept_queued(spare)
        until = time.monotonic() + LINGER_S
        while self.server_state.connections and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    async def _accept_queued(self, spare: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        spare.setblocking(False)
        with spare:
            while True:
                try:
                    connection, _ = spare.accept()
                except OSError:
                    return
                connection.setblocking(False)
                await loop.connect_accepted_socket(
                    partial(self._protocol, self.config, self.server_state, {}, loop), connection
                )

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at is None and self._told_before is not None and self._told_before.is_set():
            self._drain(
                signal.SIGTERM, None
            )  # told just before the signals were ours, by a thread that was slower
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to whoever comes while all connections are taken: when to come again, and the
    connection is closed.
    """
    response = Response(
        b"too many connections\n", 503, {"retry-after": "1", "connection": "close"}, "text/plain"
    )
    await response(scope, receive, send)


def _nobody(data: bytes) -> bytes | None:
    return None


def _without_offer(name: bytes, value: bytes) -> bytes:
    """The value of a header, without the word by which `Connection` offers an upgrade."""
    if name != b"connection":
        return value
    return b", ".join(
        word for word in map(bytes.strip, value.split(b",")) if word.lower() != b"upgrade"
    )


class PatientProtocol(HttpToolsProtocol):
    """Closes a connection that has not brought a whole request head in time, or a very large one,
    and one that reads nothing of what waits for it; what holds for bodies is in `serving.body`.
    Where all places are taken, whoever asks gets that of the connection which has asked nothing for
    longest, of those that were answered and have read it.

    `turn_away` gives the whole answer to what is not to become a request at all, see
    `serving.turning_away`. An offer to speak another protocol (`Upgrade: h2c`, as Java's client
    makes it with its first request) is not taken up, as RFC 9110, 7.8 allows: the request is read
    as the plain one that it is. httptools ends its message at the head, and what followed would be
    taken for the next request.
    """

    deadline_s = HEADER_DEADLINE_S
    unread_deadline_s = UNREAD_DEADLINE_S
    connections_max = CONNECTIONS_MAX
    idle: ClassVar[dict["PatientProtocol", None]] = {}  # those of a server, the longest idle first
    by_address = Connections(ServerLimits())
    turn_away: Callable[[bytes], bytes | None] = staticmethod(_nobody)
    _waits_for_a_place = False
    _refusal: str | None = (
        None  # what is said when the requests before it are answered; nothing more is read
    )
    _between = True  # requests: nothing of the next has come
    _impatience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _peer = ""
    _told_at = -math.inf  # when it was last turned away
    _fed = _again = b""  # to the parser, last; what is to be fed next
    _head_bytes = 0  # of the head that is being read
    _awaited_bytes = 0  # that came since it began, without its end

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        too_many = self.by_address.came(self._peer)
        if too_many:
            self.deadline_s = min(self.deadline_s, REFUSED_DEADLINE_S)  # to ask, and be told
        self._waits_for_a_place = not too_many and len(self.connections) > self.connections_max
        if too_many or self._waits_for_a_place:
            self.app = _full
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self.idle.pop(self, None)
        answered = self._answered()
        plain = answered and self._between and self.app is not _full and not self.flow.write_paused
        if plain and (told := self.turn_away(data)) is not None:
            self._calm()
            self.transport.write(told)
            # One timer serves many refusals: to set and unset it each time would cost as much as
            # what is said.
            self._told_at = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._keep_alive_for(self.timeout_keep_alive)
            self._is_idle()
            return
        if self._impatience is None and answered:
            self._expect_head()
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        awaited = self._impatience is not None
        self._again = data
        while self._again:
            self._fed, self._again = self._again, b""
            super().data_received(self._fed)
        # Of a line that does not end nothing is told before its end.
        self._awaited_bytes = (
            self._awaited_bytes + len(data) if awaited and self._impatience is not None else 0
        )
        if self._awaited_bytes > 2 * HEAD_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if len(self.headers) >= HEADERS_MAX:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        """Count what a head has brought; what is raised in here is a 400."""
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            raise ValueError("the head is too large")

    def _should_upgrade(self) -> bool:
        # so that what offers an upgrade is left to the next method, which uvicorn calls while it
        # handles the parser's error
        return True

    def handle_websocket_upgrade(self) -> None:
        """Read a request anew without its offer to upgrade."""
        error, method = sys.exception(), self.parser.get_method()
        if method == b"CONNECT" or not isinstance(
            error, httptools.HttpParserUpgrade
        ):  # a tunnel is no request
            self.send_400_response("Invalid HTTP request received.")
            return
        head = [method + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        head += [
            name + b": " + _without_offer(name, value)
            for name, value in self.headers
            if name != b"upgrade"
        ]
        rest = self._fed[error.args[0] :]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(
            lenient_data_after_close=True
        )  # as uvicorn has its own: what is behind is not looked at
        self._again = b"\r\n".join([*head, b"", b""]) + rest

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that asks nothing any more; what was turned away was asked too."""
        left = self._told_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._keep_alive_for(left)
        else:
            super().timeout_keep_alive_handler()
            self._expect_reading()

    def _keep_alive_for(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_expecting()

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()
        elif self._refusal is not None:
            if last:
                self._refuse(self._refusal)
        elif not self._answered():
            return
        elif self._between:
            self._is_idle()
        elif self._impatience is None:
            self._expect_head()  # the beginning of the next one has come already

    def _answered(self) -> bool:
        """Whether every request whose head has come has its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _is_idle(self) -> None:
        if not self.transport.get_write_buffer_size():
            self.idle[self] = None

    def _take_a_place(self) -> None:
        """Become an ordinary connection: where there is room by now, or else instead of the one
        that has been idle for longest.
        """
        if len(self.connections) > self.connections_max:
            given_up = next(iter(self.idle), None)
            if given_up is None:
                return
            del self.idle[given_up]
            self.connections.discard(given_up)
            given_up.transport.close()
        self.app, self._waits_for_a_place = self.config.loaded_app, False

    def send_400_response(self, msg: str) -> None:
        """Refuse what was read last, after the answers to what came before it on the connection."""
        if self._answered():
            self._refuse(msg)
        elif not self.cycle.more_body:
            self._refusal = msg
        elif self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()  # it is the body of one that waits for its turn
            self._refusal = msg
        else:
            self.cycle.disconnected = (
                True  # this is its answer, and whoever reads its body is not to give another
            )
            self._refuse(msg)

    def _refuse(self, msg: str) -> None:
        super().send_400_response(msg)
        self._expect_reading()

    def _expect_reading(self) -> None:
        """From now on something of what waits for the peer has to go each `unread_deadline_s`; what
        is closed is not gone before.
        """
        if self._unread is None:
            self._unread = self.loop.call_later(
                self.unread_deadline_s, self._look_unread, self.transport.get_write_buffer_size()
            )

    def _look_unread(self, before: int) -> None:
        self._unread, left = None, self.transport.get_write_buffer_size()
        if left >= before > 0:
            self.transport.abort()
        elif left:
            self._expect_reading()

    def _stop_expecting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def on_message_begin(self) -> None:
        self._between, self._head_bytes = False, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._calm()
        if len(self.pipeline) >= PIPELINED_MAX:
            raise ValueError("too many requests at once")
        if self._waits_for_a_place:
            self._take_a_place()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._between = True
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.idle.pop(self, None)
        self._calm()
        self._stop_expecting()
        self.by_address.went(self._peer)
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._impatience = self.loop.call_later(self.deadline_s, self._give_up)

    def _calm(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _give_up(self) -> None:
        self._impatience = None
        if not self.transport.is_closing():
            self.transport.close()
            self._expect_reading()
