"""One request to one of several servers: within a deadline, and retried where that is safe and
useful.

Everything may be sent twice: an event counts once by its `event_id`, and a repeated query makes
another answer, of which the caller sees one. A request is retried if it could not connect, timed
out, or was answered 408, 429 or 5xx; at another server if there is one, and not before
`Retry-After`, if that is within the deadline.

A server that refused a connection a moment ago is skipped while another one is up: otherwise a busy
server would send its clients to a dead one. An attempt that could not connect does not count while
another server is up.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from tailorbird.client.retries import RetryBudget, Throttle, backoff_s
from tailorbird.errors import TailorbirdError, UsageError

UNREACHABLE_S = 1.0  # pause of a server that could not be connected
RETRYABLE_STATUSES = frozenset((408, 429, 500, 502, 503, 504, 507))


class RefusedError(TailorbirdError):
    """The server refuses the request: `status`, its stable `code`, and the `path` of the invalid
    part.
    """

    code = "refused"

    def __init__(
        self, status: int, code: str, message: str, *, path: str = "", fix: str = ""
    ) -> None:
        super().__init__(message, where=path, fix=fix)
        self.status = status
        self.code = code
        self.path = path


class UnreachableError(TailorbirdError):
    """No server answered within the deadline. Events may have arrived: send the same ones again."""

    code = "unreachable"


class ClosedError(UsageError):
    """The client was closed. Nothing was sent, and a pending query has no answer."""

    code = "closed"

    def __init__(self) -> None:
        super().__init__(
            "the client is closed",
            fix="make another one, or close it when the last of its users is done",
        )


@dataclass(frozen=True)
class Reply:
    """A server's reply: a status that is not worth a retry, and the body."""

    status: int
    body: bytes


class Transport:
    """Sends requests to interchangeable servers. For one event loop.

    Args:
        urls: one or more; called in turn from the one that last answered.
        attempts: tries of a request in all.
        connections: how many may be open at once.
        rng: for jitter.
    """

    def __init__(
        self,
        urls: Sequence[str],
        key: str,
        *,
        timeout_s: float,
        attempts: int,
        connections: int,
        rng: random.Random | None = None,
    ) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        if not self.urls or not all(url.startswith(("http://", "https://")) for url in self.urls):
            raise UsageError(
                f"expected the address of a server, got {list(urls)!r}",
                fix='such as "http://127.0.0.1:8642"',
            )
        self._headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {key}"} if key else {}
        )
        self._timeout_s = timeout_s
        self._attempts_max = max(1, attempts)
        self._rng = rng or random.Random()
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._server_index = 0
        self._down_until_by_url: dict[str, float] = {}
        self.retry_budget = RetryBudget()
        self.throttle = Throttle(self._rng)
        self.retry_count = 0
        self.is_closed = False

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        query: Mapping[str, str] | None = None,
        has_backoff: bool = False,
    ) -> Reply:
        """Return the reply to a request.

        Args:
            has_backoff: the caller has a backoff of its own and retries until there is an answer,
                so that the throttle does not apply.
        Raises:
            UnreachableError: no server answered within the deadline, or the throttle rejected the
                request because too few are answered.
            ClosedError: `close` was called before the answer came.
        """
        deadline = time.monotonic() + self._timeout_s
        if not has_backoff and not self.throttle.allow(time.monotonic()):
            raise UnreachableError(
                "given up without asking: too few requests are answered at the moment",
                fix="ask again later",
            )
        self.retry_budget.earn()
        attempt = 0
        reason = ""
        while True:
            attempt += 1
            remaining_s = deadline - time.monotonic()
            # The last attempt has all remaining time; earlier ones must leave some.
            timeout_s = remaining_s if attempt == self._attempts_max else remaining_s * 0.6
            server_index = self._server_index = self._next_server_index()
            url = self.urls[server_index % len(self.urls)]
            reply, reason, wait_s = await self._try_server(
                method=method,
                url=url,
                path=path,
                body=body,
                query=query,
                timeout_s=max(0.001, timeout_s),
            )
            self.throttle.record(reply is not None, time.monotonic())
            if reply is not None:
                return reply
            if self.is_closed:
                raise ClosedError
            if (
                self._server_index == server_index
                # If several requests fail at one server, only the first moves on.
            ):
                self._server_index += 1
            if wait_s is None and self._any_server_up():
                # No server had any work with this attempt, so it costs neither a try nor budget.
                attempt = attempt - 1
                wait_s = 0.0
                may_retry = True
            else:
                wait_s = max(
                    wait_s or 0.0,
                    0.0 if len(self.urls) > attempt else backoff_s(attempt, self._rng),
                )
                may_retry = attempt < self._attempts_max and self.retry_budget.spend()
            if has_backoff or not may_retry or time.monotonic() + wait_s >= deadline:
                raise UnreachableError(f"no answer from {url}: {reason} ({attempt} tries)")
            self.retry_count += 1
            await asyncio.sleep(wait_s)

    def _next_server_index(self) -> int:
        """Return the index of the next server in turn that accepted its last connection."""
        now = time.monotonic()
        server_indexes = range(self._server_index, self._server_index + len(self.urls))
        return next(
            (
                index
                for index in server_indexes
                if self._down_until_by_url.get(self.urls[index % len(self.urls)], 0.0) <= now
            ),
            self._server_index,
        )

    def _any_server_up(self) -> bool:
        now = time.monotonic()
        return any(self._down_until_by_url.get(url, 0.0) <= now for url in self.urls)

    async def close(self) -> None:
        self.is_closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _try_server(
        self,
        method: str,
        url: str,
        path: str,
        body: bytes | None,
        query: Mapping[str, str] | None,
        timeout_s: float,
    ) -> tuple[Reply | None, str, float | None]:
        """Return the reply, or the reason why there is none and the requested wait.

        The wait is None if the server could not be connected.
        """
        if self.is_closed:
            raise ClosedError
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._open_session().request(
                method,
                url + path,
                data=body,
                params=query,
                headers=self._headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except TimeoutError:
            return None, "it took too long", 0.0
        except aiohttp.ClientConnectorError as error:
            self._down_until_by_url[url] = time.monotonic() + UNREACHABLE_S
            return None, f"{type(error).__name__}: {error}", None
        except aiohttp.ClientError as error:
            return None, f"{type(error).__name__}: {error}", 0.0
        if response.status not in RETRYABLE_STATUSES:
            return Reply(response.status, content), "", 0.0
        retry_after = response.headers.get("retry-after", "")
        return (
            None,
            f"it answered {response.status}",
            float(retry_after) if retry_after.isdecimal() else 0.0,
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections), auto_decompress=True
            )
        return self._session


def to_refused_error(reply: Reply) -> RefusedError:
    """Convert a server's refusal to an error."""
    try:
        document: Any = msgspec.json.decode(reply.body)
    except msgspec.DecodeError:
        document = None
    if not isinstance(document, dict) or "code" not in document:
        message = f"the server answered {reply.status}, and not as Tailorbird does"
        return RefusedError(reply.status, "http", message, fix="check the address")
    code = str(document["code"])
    message = str(document.get("message") or f"answered {reply.status}")
    return RefusedError(
        reply.status,
        code,
        message,
        path=str(document.get("path", "")),
        fix=str(document.get("fix", "")),
    )
