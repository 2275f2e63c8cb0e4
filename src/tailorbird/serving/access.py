"""Who may call what: keys and scopes, the Host allowlist, browser origins, security headers.

Each route declares its scope (`app.ROUTES`); here is the one place that decides. Without any key everything is open
and the server binds this machine only, and then refuses a foreign Host header: a web page that points its own name at
127.0.0.1 (DNS rebinding) must not read answers.
"""

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailorbird.errors import ConfigError, TailorbirdError

OPEN, READ, WRITE = "open", "read", "write"
SCOPES = (OPEN, READ, WRITE)

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cache-control": "no-store",
}
KEY_LENGTH_MIN = 16
_HASHED = "sha256:"


class AccessError(TailorbirdError):
    """A key is missing (401), unknown (401) or not for this (403)."""

    code = "unauthorised"

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Keys:
    """The keys of a server, held as hashes only. A setting may also give a key's SHA-256, as `sha256:` and 64 hexadecimal digits.

    Several keys may have one scope, so that a new one is given out before the old one is taken back.

    Raises:
        ConfigError: a key is shorter than 16 characters, which can be guessed, or its hash is no SHA-256.
    """

    def __init__(self, write: Iterable[str] = (), read: Iterable[str] = ()) -> None:
        held: dict[bytes, set[str]] = {}
        for scope, keys in ((WRITE, write), (READ, read)):
            for key in keys:
                held.setdefault(_digest(key, f"serve.{scope}_keys"), set()).add(scope)
        self._held = [(digest, frozenset(scopes)) for digest, scopes in held.items()]

    def __bool__(self) -> bool:
        return bool(self._held)

    def require(self, scope: str, authorization: str | None) -> None:
        """Raises AccessError unless the header's key has the scope. All keys are compared, in constant time."""
        if scope == OPEN or not self._held:
            return
        kind, _, key = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not key.strip():
            raise AccessError("expected the header Authorization: Bearer KEY", status=401, code="key_missing")
        given = _hash(key.strip())
        scopes: frozenset[str] = frozenset()
        for digest, granted in self._held:
            if hmac.compare_digest(digest, given):
                scopes = granted
        if not scopes:
            raise AccessError("this key is not known", status=401, code="key_unknown")
        if scope not in scopes:
            raise AccessError(f"this key has no {scope} scope", status=403, code="key_scope")


def _digest(key: str, where: str) -> bytes:
    """The hash of a key from a setting, or the hash that the setting gives in its place."""
    if key.startswith(_HASHED):
        try:
            digest = bytes.fromhex(key.removeprefix(_HASHED))
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise ConfigError(f"expected 64 hexadecimal digits after {_HASHED}", where=where, fix="printf %s KEY | sha256sum")
        return digest
    if len(key) < KEY_LENGTH_MIN:
        fix = "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
        raise ConfigError(f"a key has fewer than {KEY_LENGTH_MIN} characters", where=where, fix=fix)
    return _hash(key)


def _hash(key: str) -> bytes:
    # One round is enough for what was drawn at random; the length is checked for keys that were not.
    return sha256(key.encode()).digest()


def is_local(host: str) -> bool:
    """Whether an address to bind is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_safe_bind(host: str, keys: Keys) -> None:
    """Raises ConfigError when a public address is to be bound without a key."""
    if not is_local(host) and not keys:
        raise ConfigError(
            f"{host} can be reached from other machines, and no key is set",
            where="serve.host",
            fix="set TAILORBIRD_SERVE__WRITE_KEYS and TAILORBIRD_SERVE__READ_KEYS, or bind 127.0.0.1",
        )


@dataclass(frozen=True)
class Perimeter:
    """What holds for every request, whatever its route.

    Attributes:
        hosts: names that a Host header may carry, without port; None accepts any (a public bind behind a proxy).
        origins: web origins that browsers may call from.
    """

    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()


LOCAL_HOSTS = frozenset(("127.0.0.1", "localhost", "[::1]"))


class Guard:
    """ASGI middleware: Host allowlist, CORS, security headers, and `Connection: close` while draining."""

    def __init__(self, app: ASGIApp, perimeter: Perimeter, draining: Callable[[], bool]) -> None:
        self.app, self._perimeter, self._draining = app, perimeter, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        allowed = self._allowed_origin(headers.get("origin"))

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), allowed)
            await send(message)

        if not self._host_allowed(headers.get("host", "")):
            await _plain(send_guarded, 421, b'{"code":"wrong_host","message":"this server does not answer for that host"}')
        elif scope["method"] == "OPTIONS" and allowed and "access-control-request-method" in headers:
            await _plain(send_guarded, 204, b"")
        else:
            await self.app(scope, receive, send_guarded)

    def _host_allowed(self, host: str) -> bool:
        if self._perimeter.hosts is None:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return name.lower() in self._perimeter.hosts

    def _allowed_origin(self, origin: str | None) -> str | None:
        return origin if origin in self._perimeter.origins else None

    def _add_headers(self, headers: MutableHeaders, origin: str | None) -> None:
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        if self._perimeter.origins:
            headers.add_vary_header("Origin")
        if origin:
            headers["access-control-allow-origin"] = origin
            headers["access-control-allow-methods"] = "GET, POST"
            headers["access-control-allow-headers"] = "Authorization, Content-Type"
            headers["access-control-max-age"] = "600"
        if self._draining():
            headers["connection"] = "close"


async def _plain(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
