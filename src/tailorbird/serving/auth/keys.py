"""Authentication and scopes: the keys of a server, from settings and from the file of keys
(`serving.auth.keyfile`).

Without any key everything is open, and the server binds this machine only. Once it has had a key, a
running server never becomes open again: revoking the last key closes it. Each request checks
whether the file changed. A damaged file is reported, and the previous keys stay valid.
"""

import hmac
import logging
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tailorbird.errors import ConfigError, TailorbirdError
from tailorbird.events import BROWSER, BROWSER_IDENTIFY, COLLECTOR, Clock, SystemClock
from tailorbird.serving.auth.keyfile import (
    ADMIN,
    NO_LIMITS,
    OPEN,
    READ,
    WRITE,
    KeyRecord,
    Limits,
    parse_token,
    read_keys,
)

KEY_LENGTH_MIN = 16
TOKEN_LENGTH_MAX = 512
_HASH_PREFIX = "sha256:"
log = logging.getLogger(__name__)


class AccessError(TailorbirdError):
    """A key is missing (401), unknown (401) or not allowed to do this (403)."""

    code = "unauthorised"

    def __init__(self, message: str, *, status: int, code: str, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Caller:
    """The owner of a request's key.

    Attributes:
        id: safe to log: the key's id, never the key; "" where no key was needed.
        public: the key is in every visitor's browser, so that their address is limited too, and
            fewer types of events are accepted.
        identify: though public, the key may send `identify`.
    """

    id: str = ""
    public: bool = False
    limits: Limits = NO_LIMITS
    identify: bool = False

    @property
    def source(self) -> str:
        """The source in receipts of their events, by which the contract refuses some types."""
        if not self.public:
            return COLLECTOR
        return BROWSER_IDENTIFY if self.identify else BROWSER


ANONYMOUS = Caller()


@dataclass(frozen=True)
class KeyFigures:
    """A key as `/v1/status` shows it, never with its hash. Keys from settings are named by scope
    and position.
    """

    id: str
    name: str
    scopes: list[str]
    expires_at: int
    origins: list[str]
    used: int


class Keys:
    """The keys of a server, held as hashes only. Thread-safe.

    A setting may also give a key's SHA-256, as `sha256:` and 64 hexadecimal digits. Several keys
    may have the same scope, so that a new one can be issued before the old one is revoked.

    Raises:
        ConfigError: a key has fewer than 16 characters, which can be guessed, its hash is no
            SHA-256, or the file is
        damaged.
    """

    def __init__(
        self,
        write: Iterable[str] = (),
        read: Iterable[str] = (),
        admin: Iterable[str] = (),
        *,
        file: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._file = file
        self._clock = clock or SystemClock()
        scopes_by_digest: dict[bytes, tuple[str, set[str]]] = {}
        for scope, keys in ((WRITE, write), (READ, read), (ADMIN, admin)):
            for number, key in enumerate(keys, 1):
                scopes_by_digest.setdefault(
                    _hash_of_key(key, f"serve.{scope}_keys"), (f"{scope}-{number}", set())
                )[1].add(scope)
        self._setting_keys = [
            (digest, name, frozenset(scopes)) for digest, (name, scopes) in scopes_by_digest.items()
        ]
        self._lock = threading.Lock()
        self._use_counts: Counter[str] = Counter()
        self._file_state: tuple[int, ...] | None = self._read_file_state()
        self._records = self._read_records()
        self._is_key_required = bool(self._setting_keys) or self._file_state is not None

    def __bool__(self) -> bool:
        """Return whether a key is needed."""
        self._reload_if_changed()
        return self._is_key_required

    def require(
        self,
        scope: str,
        authorization: str | None,
        origin: str | None = None,
        *,
        url_key: str | None = None,
    ) -> Caller:
        """Return the owner of the key in the header, or of `url_key` where a page that is left
        can set no header.

        Raises:
            AccessError: there is no such key, it has expired, lacks the scope, is for other web
                origins, or is a secret key in a
            URL.
        """
        if scope == OPEN:
            return ANONYMOUS
        self._reload_if_changed()
        if not self._is_key_required:
            return ANONYMOUS
        if is_url_key := authorization is None and url_key is not None:
            authorization = f"Bearer {url_key}"
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise AccessError(
                "expected the header Authorization: Bearer KEY", status=401, code="key_missing"
            )
        caller, scopes, origins = (
            self._authenticate(key) if len(key) <= TOKEN_LENGTH_MAX else _NO_CALLER
        )
        if caller is None:
            raise AccessError(
                "this key is not known, or has expired", status=401, code="key_unknown"
            )
        if is_url_key and not caller.public:
            fix = (
                "revoke it: addresses are logged on their way; send keys in the header "
                "Authorization"
            )
            raise AccessError(
                "only a key for browsers may stand in an address",
                status=401,
                code="key_in_address",
                fix=fix,
            )
        if scope not in scopes:
            raise AccessError(f"this key has no {scope} scope", status=403, code="key_scope")
        if origins and origin not in origins:
            fix = "tailorbird keys create --origin names the origins of a browser's key"
            raise AccessError(
                "this key is for the pages of other web origins",
                status=403,
                code="key_origin",
                fix=fix,
            )
        self._use_counts[caller.id] += 1
        return caller

    def origins(self) -> frozenset[str]:
        """Return the web origins that keys for browsers name."""
        self._reload_if_changed()
        return self._origins

    def figures(self) -> list[KeyFigures]:
        """Describe all keys, without anything that could be used as one."""
        self._reload_if_changed()
        from_settings = [
            KeyFigures(name, "in settings", sorted(scopes), 0, [], self._use_counts[name])
            for _, name, scopes in self._setting_keys
        ]
        return from_settings + [
            KeyFigures(
                record.id,
                record.name,
                record.scopes,
                record.expires_at,
                record.origins,
                self._use_counts[record.id],
            )
            for record in self._records.values()
        ]

    def _authenticate(self, key: str) -> tuple[Caller | None, frozenset[str], frozenset[str]]:
        """Return caller, scopes and origins of a key.

        The id in a key is not secret and is looked up; secrets are compared in constant time.
        """
        token = parse_token(key)
        record = self._records.get(token[0]) if token else None
        if token and record is not None:
            if record.matches(token[1]) and not 0 < record.expires_at <= self._clock.now():
                caller = Caller(record.id, bool(record.origins), record.limits, record.identify)
                return caller, frozenset(record.scopes), frozenset(record.origins)
            return _NO_CALLER
        key_digest = _hash(key)
        caller_and_rights = _NO_CALLER
        for digest, name, scopes in self._setting_keys:  # compare all, so that timing leaks nothing
            if hmac.compare_digest(digest, key_digest):
                caller_and_rights = (Caller(name), scopes, frozenset())
        return caller_and_rights

    def _reload_if_changed(self) -> None:
        """Reload the file if it has changed."""
        if self._file is None or (file_state := self._read_file_state()) == self._file_state:
            return
        with self._lock:
            if file_state == self._file_state:
                return
            self._file_state = file_state
            try:
                self._records = self._read_records()
            except TailorbirdError as error:
                log.error("the keys stay as they were: %s", error.message)
                return
            self._is_key_required = self._is_key_required or file_state is not None
            log.info("keys were read anew: %d", len(self._records))

    def _read_records(self) -> dict[str, KeyRecord]:
        records = (
            {record.id: record for record in read_keys(self._file)}
            if self._file is not None
            else {}
        )
        self._origins = frozenset(
            origin for record in records.values() for origin in record.origins
        )
        return records

    def _read_file_state(self) -> tuple[int, ...] | None:
        try:
            stat = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_mode)


_NO_CALLER: tuple[Caller | None, frozenset[str], frozenset[str]] = (None, frozenset(), frozenset())


def _hash_of_key(key: str, where: str) -> bytes:
    """Return the hash of a key from a setting, or the hash that the setting gives in its place."""
    if key.startswith(_HASH_PREFIX):
        try:
            digest = bytes.fromhex(key.removeprefix(_HASH_PREFIX))
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise ConfigError(
                f"expected 64 hexadecimal digits after {_HASH_PREFIX}",
                where=where,
                fix="printf %s KEY | sha256sum",
            )
        return digest
    if len(key) < KEY_LENGTH_MIN:
        fix = "tailorbird keys create makes one"
        raise ConfigError(f"a key has fewer than {KEY_LENGTH_MIN} characters", where=where, fix=fix)
    return _hash(key)


def _hash(key: str) -> bytes:
    # One round is enough for random keys; for others the length is checked.
    return sha256(key.encode(errors="surrogateescape")).digest()
