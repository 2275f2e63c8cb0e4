"""The HTTP protocol of one connection: time limits, size limits and early refusals.

It closes connections that uvicorn would leave open: those that send nothing or only half a request,
or do not read their responses.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any, ClassVar

import httptools
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailorbird.serving.auth.limits import Connections, ServerLimits

log = logging.getLogger(__name__)

HEADER_DEADLINE_S = 10.0
UNREAD_DEADLINE_S = 30.0  # within which part of a response has to be read
REFUSED_DEADLINE_S = 1.0
CONNECTIONS_MAX = 4_096
# more than browsers and proxies need
HEAD_BYTES_MAX = 1 << 16
HEADERS_MAX = 200
PIPELINED_MAX = 64  # queued requests of a connection
UNSENT_BODY_S = 5.0  # for a client to read its refusal while it still sends the body


async def _refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 503 with `Retry-After` and close the connection, because all connections are taken."""
    response = Response(
        b"too many connections\n", 503, {"retry-after": "1", "connection": "close"}, "text/plain"
    )
    await response(scope, receive, send)


def _never_refuse(data: bytes) -> bytes | None:
    return None


def _strip_upgrade(name: bytes, value: bytes) -> bytes:
    """Return the value of a header, without the `upgrade` token of `Connection`."""
    if name != b"connection":
        return value
    return b", ".join(
        word for word in map(bytes.strip, value.split(b",")) if word.lower() != b"upgrade"
    )


class _LingeringTransport:
    """A transport whose `close` waits for the rest of a body that was answered before its end.

    A socket that is closed with unread data resets the connection, and the client loses the answer
    that it has not read yet.
    """

    def __init__(
        self, transport: asyncio.Transport, should_linger: Callable[[asyncio.Transport], bool]
    ) -> None:
        self._transport = transport
        self._should_linger = should_linger
        self._is_lingering = False
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._is_lingering or self._transport.is_closing()

    def close(self) -> None:
        if self._is_lingering or self._transport.is_closing():
            return
        self._is_lingering = self._should_linger(self._transport)
        if not self._is_lingering:
            self._transport.close()


class LimitedHttpProtocol(HttpToolsProtocol):
    """Closes connections that send their request head too slowly or do not read their responses.

    It also bounds the head's size; `serving.http.body` has the limits of bodies. If all connections are
    taken, a new request replaces the connection that has been idle for longest, of those that were
    answered and have read it.

    `early_refusal` returns the complete response to data that is not to become a request at all,
    see `serving.http.overload`.

    An offer of another protocol (`Upgrade: h2c`, as Java's client makes it with its first request)
    is ignored, as RFC 9110, 7.8 allows: the request is read as the plain one that it is. httptools
    would end its message at the head, and take what followed for the next request.
    """

    deadline_s = HEADER_DEADLINE_S
    unread_deadline_s = UNREAD_DEADLINE_S
    connections_max = CONNECTIONS_MAX
    idle: ClassVar[dict["LimitedHttpProtocol", None]] = {}  # of one server, longest idle first
    connection_counts = Connections(ServerLimits())
    early_refusal: Callable[[bytes], bytes | None] = staticmethod(_never_refuse)
    _is_surplus = False  # beyond `connections_max`
    _pending_error: str | None = None  # error to send after earlier answers; nothing more is read
    _is_between_requests = True  # nothing of the next request has arrived
    _is_in_body = False  # a head has arrived, and its body not completely
    _has_host = _has_transfer_coding = False  # of the current head
    _is_discarding = False  # the rest of a body, until the client closes
    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _peer = ""
    _refused_at = -math.inf  # time of the last early refusal
    _head_bytes = 0  # of the current head
    _incomplete_bytes = 0  # received of an incomplete head

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = _LingeringTransport(transport, self._start_lingering)  # type: ignore[assignment]
        self._peer = self.client[0] if self.client else ""
        exceeds_address_limit = self.connection_counts.add(self._peer)
        if exceeds_address_limit:
            self.deadline_s = min(
                self.deadline_s, REFUSED_DEADLINE_S
            )  # long enough to receive the refusal
        self._is_surplus = (
            not exceeds_address_limit and len(self.connections) > self.connections_max
        )
        if exceeds_address_limit or self._is_surplus:
            self.app = _refuse_connection
        self._start_head_timer()

    def _start_lingering(self, transport: asyncio.Transport) -> bool:
        """Read and discard the rest of a body before the connection closes; False if none is
        due.
        """
        if not self._is_in_body:
            return False
        self._is_discarding = True
        self.flow.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        self.loop.call_later(UNSENT_BODY_S, transport.close)
        return True

    def data_received(self, data: bytes) -> None:
        if self._pending_error is not None or self._is_discarding:
            return
        self.idle.pop(self, None)
        is_answered = self._all_answered()
        is_refusable = (
            is_answered
            and self._is_between_requests
            and self.app is not _refuse_connection
            and not self.flow.write_paused
        )
        if is_refusable and (refusal := self.early_refusal(data)) is not None:
            self._cancel_head_timer()
            self.transport.write(refusal)
            # One timer serves many refusals, because setting it each time would cost as much as
            # the refusal itself.
            self._refused_at = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._keep_alive_for(self.timeout_keep_alive)
            self._mark_idle()
            return
        if self._head_timer is None and is_answered:
            self._start_head_timer()
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        was_waiting = self._head_timer is not None
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._parse(data)
        # The parser reports nothing of a line before its end. What follows an answer that did not
        # wait for its request's body is that body.
        self._incomplete_bytes = (
            self._incomplete_bytes + len(data)
            if was_waiting and self._head_timer is not None and not self._is_in_body
            else 0
        )
        if self._incomplete_bytes > 2 * HEAD_BYTES_MAX and not self.transport.is_closing():
            self._reject("The head of the request is too large.")

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if len(self.headers) >= HEADERS_MAX:
            raise ValueError("too many headers")
        self._check_framing(name.lower(), value)
        super().on_header(name, value)

    def _check_framing(self, name: bytes, value: bytes) -> None:
        """Refuse what two parsers may read differently (RFC 9112, 3.2 and 6.1)."""
        if name == b"host":
            if self._has_host:
                raise ValueError("more than one Host")
            self._has_host = True
        elif name == b"transfer-encoding":
            if self._has_transfer_coding or value.strip().lower() != b"chunked":
                raise ValueError("a transfer coding other than chunked")
            self._has_transfer_coding = True

    def _count_head(self, size: int) -> None:
        """Count the bytes of a head; an error raised here becomes a 400."""
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            raise ValueError("the head is too large")

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":  # a tunnel is not a request
                    self._reject("Invalid HTTP request received.")
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                log.warning("refused a malformed HTTP request")
                self._reject("Invalid HTTP request received.")
                return
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        """Return the head that was parsed without its offer to upgrade, for a new parser."""
        version = self.parser.get_http_version().encode()
        head = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        head += [
            name + b": " + _strip_upgrade(name, value)
            for name, value in self.headers
            if name != b"upgrade"
        ]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(
            lenient_data_after_close=True
        )  # as in uvicorn: trailing data is ignored
        return b"\r\n".join([*head, b"", b""])

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; an early refusal counts as activity."""
        remaining_s = self._refused_at + self.timeout_keep_alive - self.loop.time()
        if remaining_s > 0:
            self._keep_alive_for(remaining_s)
        else:
            super().timeout_keep_alive_handler()
            self._start_unread_timer()

    def _keep_alive_for(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_unread_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._cancel_unread_timer()

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_unread_timer()
        elif self._pending_error is not None:
            if is_last:
                self._send_error(self._pending_error)
        elif not self._all_answered():
            return
        elif self._is_between_requests:
            self._mark_idle()
        elif self._head_timer is None:
            self._start_head_timer()  # the next request has begun already

    def _all_answered(self) -> bool:
        """Return whether every request whose head has arrived has its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _mark_idle(self) -> None:
        if not self.transport.get_write_buffer_size():
            self.idle[self] = None

    def _replace_idle_connection(self) -> None:
        """Become an ordinary connection, if need be in place of the one idle for longest."""
        if len(self.connections) > self.connections_max:
            longest_idle = next(iter(self.idle), None)
            if longest_idle is None:
                return
            del self.idle[longest_idle]
            self.connections.discard(longest_idle)
            longest_idle.transport.close()
        self.app = self.config.loaded_app
        self._is_surplus = False

    def _reject(self, msg: str) -> None:
        """Refuse what was read last, after the answers to earlier requests of the connection."""
        if self._all_answered():
            self._send_error(msg)
        elif not self.cycle.more_body:
            self._pending_error = msg
        elif self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()  # the bad data is the body of a queued request
            self._pending_error = msg
        else:
            self.cycle.disconnected = (
                True  # this is its answer, so the handler must not send another
            )
            self._send_error(msg)

    def _send_error(self, msg: str) -> None:
        self.send_400_response(msg)
        self._start_unread_timer()

    def _start_unread_timer(self) -> None:
        """Require that the peer reads something every `unread_deadline_s` from now on.

        A closed transport stays until its buffer is sent, so this also bounds closed connections.
        """
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(
                self.unread_deadline_s, self._check_unread, self.transport.get_write_buffer_size()
            )

    def _check_unread(self, bytes_before: int) -> None:
        self._unread_timer = None
        bytes_left = self.transport.get_write_buffer_size()
        if bytes_left >= bytes_before > 0:
            self.transport.abort()
        elif bytes_left:
            self._start_unread_timer()

    def _cancel_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def on_message_begin(self) -> None:
        self._is_between_requests = False
        self._head_bytes = 0
        self._has_host = self._has_transfer_coding = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._cancel_head_timer()
        self._is_in_body = True
        if len(self.pipeline) >= PIPELINED_MAX:
            raise ValueError("too many requests at once")
        if self.parser.should_upgrade():
            return  # `_parse` reads it again without the offer
        if self._is_surplus:
            self._replace_idle_connection()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_between_requests = True
        self._is_in_body = False
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.idle.pop(self, None)
        self._cancel_head_timer()
        self._cancel_unread_timer()
        self.connection_counts.remove(self._peer)
        super().connection_lost(exc)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.deadline_s, self._close_slow)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
            self._start_unread_timer()
