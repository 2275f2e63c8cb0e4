"""Rules for every request, whatever its route: Host allowlist, browser origins, security
headers, safe bind.

Each route declares its scope (`app.ROUTES`), and keys are in `serving.auth.keys`. Without any key
everything is open, and the server binds this machine only. It then refuses a foreign Host header,
because a web page that points its own name at 127.0.0.1 (DNS rebinding) must not read answers. Such
a page must not write either: a request from a web origin that is neither listed nor the server's
own changes nothing.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailorbird.errors import ConfigError
from tailorbird.serving.auth.keys import AccessError, Keys
from tailorbird.serving.http.logs import REQUEST_ID, choose_request_id
from tailorbird.serving.messages import Fault

_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.\-]*://[^/\sA-Z]{1,255}\Z"
)  # also origins of apps, such as capacitor://localhost

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "cache-control": "no-store",
}

_CORS_ALLOWED_HEADERS = (
    "Authorization, Content-Type, Content-Encoding, X-Request-Id, "
    "ce-specversion, ce-id, ce-source, ce-type, ce-time, ce-subject, ce-dataschema"
)


def is_local(host: str) -> bool:
    """Return whether only this machine can reach an address to bind."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_safe_bind(host: str, keys: Keys) -> None:
    """Raise ConfigError if a public address is bound without a key, or with faults armed."""
    require_no_faults(host)
    if not is_local(host) and not keys:
        raise ConfigError(
            f"{host} can be reached from other machines, and no key is set",
            where="serve.host",
            fix="tailorbird keys create makes one; or bind 127.0.0.1",
        )


def require_origins(origins: Iterable[str]) -> None:
    """Raise ConfigError for an origin that no browser sends, and that would therefore never be
    allowed.
    """
    for origin in origins:
        if not _ORIGIN.match(origin):
            raise ConfigError(
                "expected an origin as browsers send it, such as https://shop.example, got "
                f"{origin[:80]!r}",
                where="serve.allowed_origins",
                fix="with its scheme, in lower case, without a path",
            )


def require_no_faults(host: str) -> None:
    """Raise ConfigError if a process with injected faults binds a public address."""
    if not is_local(host) and os.environ.get("TAILORBIRD_FAULTS"):
        raise ConfigError(
            f"this variable makes the process fail on purpose, and {host} can be reached "
            "from other machines",
            where="environment TAILORBIRD_FAULTS",
            fix="unset it; or bind 127.0.0.1, for a test",
        )


@dataclass(frozen=True)
class Perimeter:
    """Host and origin allowlists that apply to every request.

    Attributes:
        hosts: names that a Host header may carry, without port; None accepts any (a public bind
            behind a proxy).
        origins: web origins that browsers may call from.
    """

    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()


WRONG_ORIGIN = "wrong_origin", "pages of that web origin may not call this server"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOCAL_HOSTS = frozenset(("127.0.0.1", "localhost", "[::1]"))


class Guard:
    """ASGI middleware for the Host allowlist, CORS, request ids, security headers and draining.

    While draining, responses carry `Connection: close`.

    Args:
        read_key_origins: returns the origins that keys name; those of the perimeter are allowed as well.
    """

    def __init__(
        self,
        app: ASGIApp,
        perimeter: Perimeter,
        is_draining: Callable[[], bool],
        read_key_origins: Callable[[], frozenset[str]],
    ) -> None:
        self.app = app
        self._perimeter = perimeter
        self._is_draining = is_draining
        self._read_key_origins = read_key_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = choose_request_id(headers.get("x-request-id"))
        REQUEST_ID.set(request_id)  # each request has a context of its own
        allowed_origin = self._allowed_origin(headers.get("origin"))

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                response_headers = MutableHeaders(scope=message)
                response_headers["x-request-id"] = request_id
                self._add_headers(response_headers, allowed_origin)
            await send(message)

        if not self._is_host_allowed(headers.get("host", "")):
            await _send_json(
                send_guarded,
                421,
                _encode_fault("wrong_host", "this server does not answer for that host"),
            )
        elif (
            scope["method"] == "OPTIONS"
            and allowed_origin
            and "access-control-request-method" in headers
        ):
            await _send_json(send_guarded, 204, b"")
        elif scope["method"] not in _SAFE_METHODS and not allowed_origin and _is_foreign(headers):
            await _send_json(send_guarded, 403, _encode_fault(*WRONG_ORIGIN))
        else:
            await self.app(scope, receive, send_guarded)

    def _is_host_allowed(self, host: str) -> bool:
        if self._perimeter.hosts is None:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return name.lower() in self._perimeter.hosts

    def _allowed_origin(self, origin: str | None) -> str | None:
        return (
            origin
            if origin and (origin in self._perimeter.origins or origin in self._read_key_origins())
            else None
        )

    def _add_headers(self, headers: MutableHeaders, origin: str | None) -> None:
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        if self._perimeter.origins or self._read_key_origins():
            headers.add_vary_header("Origin")
        if origin:
            headers["access-control-allow-origin"] = origin
            headers["access-control-allow-methods"] = "GET, POST"
            headers["access-control-allow-headers"] = _CORS_ALLOWED_HEADERS
            headers["access-control-expose-headers"] = "Retry-After, X-Request-Id"
            headers["access-control-max-age"] = "600"
        if self._is_draining():
            headers["connection"] = "close"


def require_own_origin(headers: Headers, origins: Collection[str]) -> None:
    """Raise AccessError if a page of a foreign origin sends this request, even for a GET."""
    if headers.get("origin") not in origins and _is_foreign(headers):
        code, message = WRONG_ORIGIN
        raise AccessError(message, status=403, code=code)


def _is_foreign(headers: Headers) -> bool:
    """Return whether a browser says that a page of another host sends this."""
    origin = headers.get("origin")
    return (
        origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
    )


def _encode_fault(code: str, message: str) -> bytes:
    return msgspec.json.encode(Fault(code, message, request_id=REQUEST_ID.get()))


async def _send_json(send: Send, status: int, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json")],
        }
    )
    await send({"type": "http.response.body", "body": body})
