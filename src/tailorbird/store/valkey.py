"""Copies of records in Valkey or Redis, for readers on other machines. `store.published` writes them, nobody else.

    tb:NAME:@       head: epoch, sequence, of the newest commit that is there whole
    tb:NAME:+       who publishes, with a time to live
    tb:NAME:.KEY    epoch, sequence, before, lengths, the value as of `sequence`, the value between `before` and `sequence`

There are no transactions over many keys that a cluster could keep, so a reader takes the head first and of each record the
version that belongs to it. A record that was written twice since then says so, and the reader begins again. A tombstone
outlives every snapshot and then expires. What is there is a copy: lost, it is written anew from the worker's own store.
"""

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from tailorbird.errors import ConfigError, DamageError, NotReadyError, StorageError
from tailorbird.store.breaker import Breaker
from tailorbird.store.protocol import MovedError

SCHEMES = ("valkey", "valkeys", "redis", "rediss", "valkey+cluster", "valkeys+cluster")
READ_TIMEOUT_S = 0.05
WRITE_TIMEOUT_S = 5.0
SNAPSHOT_S = 30.0  # how long a snapshot may be read; tombstones live longer
TOMBSTONE_MS = 120_000
CHUNK = 1_000  # records in one round trip

_HEAD = struct.Struct("<2Q")
_VERSIONS = struct.Struct("<3Q2i")
_GONE, _UNKNOWN = -1, -2  # lengths: the record was not there; nobody knows whether it was


@dataclass(frozen=True)
class Head:
    """The newest commit that is there whole. Another epoch is another copying: sequences of two do not compare."""

    epoch: int
    sequence: int


@dataclass(frozen=True)
class Change:
    """A record as it is now, and as it was at the head before; None: it is not there. `known`: whether `old` is known."""

    key: bytes
    new: bytes | None
    old: bytes | None = None
    known: bool = False


def encode_versions(change: Change, epoch: int, sequence: int, before: int) -> bytes:
    """The two versions of a record as they are stored."""
    new, old = change.new or b"", (change.old or b"") if change.known else b""
    new_length = _GONE if change.new is None else len(new)
    old_length = _UNKNOWN if not change.known else _GONE if change.old is None else len(old)
    return _VERSIONS.pack(epoch, sequence, before, new_length, old_length) + new + old


def version_at(stored: bytes, head: Head) -> bytes | None:
    """The record as of the head.

    Raises:
        MovedError: it is known only as of a later commit.
        DamageError: the bytes are no record of ours.
    """
    if len(stored) < _VERSIONS.size:
        raise DamageError(f"a record of {len(stored)} bytes is none of ours", fix="another program writes under these keys")
    epoch, sequence, before, new, old = _VERSIONS.unpack_from(stored)
    start = _VERSIONS.size
    if len(stored) != start + max(new, 0) + max(old, 0) or new < _GONE or old < _UNKNOWN:
        raise DamageError("a record is cut short", fix="tailorbird run worker publishes it anew")
    if epoch == head.epoch and sequence <= head.sequence:
        return None if new == _GONE else stored[start : start + new]
    if epoch == head.epoch and old != _UNKNOWN and before <= head.sequence:
        return None if old == _GONE else stored[start + max(new, 0) :]
    raise MovedError("the record was written again while it was read")


class Client(Protocol):
    """What is used of a connection, alone or to a cluster."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def write(self, records: Mapping[bytes, bytes], lifetimes_ms: Mapping[bytes, int] | None = None) -> None: ...

    def claim(self, key: bytes, token: bytes, lifetime_ms: int) -> bool:
        """Whether `key` is now held by `token`: it was free, or was held by it already."""
        ...

    def release(self, key: bytes, token: bytes) -> None: ...

    def keys(self, prefix: bytes) -> Iterator[list[bytes]]: ...

    def delete(self, keys: Sequence[bytes]) -> None: ...

    def servers(self) -> tuple[str, ...]:
        """The identity of each primary's process: another one may have lost what was written."""
        ...

    def memory(self) -> Sequence[Mapping[str, Any]]:
        """What each primary says of its memory."""
        ...

    def close(self) -> None: ...


class Copies:
    """The copies of one store under a name.

    Raises, as all its methods:
        StorageError: the server cannot be reached, or refuses.
    """

    def __init__(self, client: Client, name: str, where: str, breaker: Breaker | None = None) -> None:
        self._client, self.where, self._breaker = client, where, breaker
        self._prefix = f"tb:{name}:".encode()
        self._head_key = self._prefix + b"@"
        self._owner_key = self._prefix + b"+"

    def head(self) -> Head | None:
        with self._told():
            found = self._client.read([self._head_key])[0]
        return None if found is None else Head(*_HEAD.unpack(found))

    def publish(self, changes: Sequence[Change], epoch: int, sequence: int, before: int) -> None:
        """Write the records, in chunks. They are read once `set_head` says that all are there."""
        with self._told():
            for start in range(0, len(changes), CHUNK):
                some = changes[start : start + CHUNK]
                records = {self.key(one.key): encode_versions(one, epoch, sequence, before) for one in some}
                lifetimes = {self.key(one.key): TOMBSTONE_MS for one in some if one.new is None}
                self._client.write(records, lifetimes)

    def set_head(self, head: Head) -> None:
        with self._told():
            self._client.write({self._head_key: _HEAD.pack(head.epoch, head.sequence)})

    def drop_head(self) -> None:
        """Readers are told that nothing is there, until there is a head again."""
        with self._told():
            self._client.delete([self._head_key])

    def drop_foreign(self, epoch: int) -> int:
        """Delete the records of other epochs; the number of them."""
        dropped = 0
        with self._told():
            for keys in self._client.keys(self._prefix + b"."):
                values = self._client.read(keys)
                gone = [key for key, value in zip(keys, values, strict=True) if value is None or not _of_epoch(value, epoch)]
                self._client.delete(gone)
                dropped += len(gone)
        return dropped

    def wipe(self) -> int:
        """Delete all that is there under this name, the head first; the number of records. Who publishes must not run."""
        self.drop_head()
        dropped = 0
        with self._told():
            for keys in self._client.keys(self._prefix + b"."):
                self._client.delete(keys)
                dropped += len(keys)
        return dropped

    def claim(self, token: bytes, lifetime_ms: int) -> bool:
        with self._told():
            return self._client.claim(self._owner_key, token, lifetime_ms)

    def release(self, token: bytes) -> None:
        with self._told():
            self._client.release(self._owner_key, token)

    def servers(self) -> tuple[str, ...]:
        with self._told():
            return self._client.servers()

    def check(self) -> None:
        """Raises StorageError where a server drops records when it is full: they would look as if nothing had happened."""
        with self._told():
            settings = self._client.memory()
        for one in settings:
            policy = one.get("maxmemory_policy", "noeviction")
            if int(one.get("maxmemory", 0)) and policy != "noeviction":
                message = f"maxmemory-policy is {policy}, which drops records in silence"
                raise StorageError(message, where=self.where, fix="maxmemory-policy noeviction")

    def key(self, key: bytes) -> bytes:
        return self._prefix + b"." + key

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is stored under each key, versions and all."""
        found: list[bytes | None] = []
        with self._told():
            for start in range(0, len(keys), CHUNK):
                found += self._client.read([self.key(key) for key in keys[start : start + CHUNK]])
        return found

    def all_keys(self, prefix: bytes) -> list[bytes]:
        with self._told():
            length = len(self.key(b""))
            return sorted({key[length:] for keys in self._client.keys(self.key(prefix)) for key in keys})

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        import redis

        if self._breaker is not None and not self._breaker.lets():
            raise StorageError("the server did not answer lately", where=self.where, fix="it is asked again within a second")
        try:
            yield
            if self._breaker is not None:
                self._breaker.answered()
        except redis.exceptions.AuthenticationError as error:
            fix = "check the user and password of store.url, and the server's ACL"
            raise StorageError(f"the server lets nobody in: {error}", where=self.where, fix=fix) from error
        except (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
            if self._breaker is not None:
                self._breaker.failed()
            fix = "is the server up, and store.url right?"
            raise StorageError(f"{type(error).__name__}: {error}", where=self.where, fix=fix) from error


class CopiedSnapshot:
    """Implements `store.Snapshot` over copies, as of one head.

    Raises, on top of what `Copies` does:
        MovedError: what is read was written twice since the snapshot began; begin another.
    """

    def __init__(self, copies: Copies, head: Head) -> None:
        self._copies, self._head = copies, head
        self._until = time.monotonic() + SNAPSHOT_S

    def get(self, key: bytes) -> bytes | None:
        return self._versions([key])[0]

    def get_many(self, keys: Sequence[bytes], *, default: bytes) -> bytes:
        return b"".join([default if one is None else one for one in self._versions(keys)])

    def get_sized(self, keys: Sequence[bytes]) -> tuple[bytes, list[int]]:
        values = [one or b"" for one in self._versions(keys)]
        return b"".join(values), [len(one) for one in values]

    def scan(self, prefix: bytes, *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Slow: it looks through all keys of the server. Meant for tools."""
        keys = [key for key in self._copies.all_keys(prefix) if key > after]
        for start in range(0, len(keys), CHUNK):
            some = keys[start : start + CHUNK]
            for key, value in zip(some, self._versions(some), strict=True):
                if value is not None:
                    yield key, value

    def _versions(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if time.monotonic() > self._until:
            raise MovedError(f"a snapshot is good for {SNAPSHOT_S:g} s")
        head = self._head
        return [None if stored is None else version_at(stored, head) for stored in self._copies.read(keys)]


class CopiedStore:
    """The reading half of `store.Store` over copies; made by `open_copies`."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies

    @contextmanager
    def snapshot(self) -> Iterator[CopiedSnapshot]:
        head = self._copies.head()
        if head is None:
            raise NotReadyError("no records have been published", where=self._copies.where, fix="tailorbird run worker")
        yield CopiedSnapshot(self._copies, head)

    def close(self) -> None:
        self._copies.close()


def open_copies(url: str, name: str, *, timeout_s: float = READ_TIMEOUT_S, breaker: Breaker | None = None) -> Copies:
    """The copies under `name` on the server of `url`; nothing is asked of the server yet.

    Args:
        url: `valkey://[user:password@]host[:port][/database]`; `valkeys://` with TLS (`?ssl_ca_certs=FILE`);
            `valkey+cluster://` for a cluster, of which any node is named.
        timeout_s: of connecting and of each answer.
        breaker: lets questions fail at once while the server does not answer; for readers, whose answers cannot wait for it.
    Raises:
        ConfigError: no such scheme, or the client library is not installed.
    """
    fix = "write it as valkey://host:6379, valkeys:// for TLS, valkey+cluster:// for a cluster"
    try:
        parts = urlsplit(url)
        where = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"  # never the password
    except ValueError as error:
        raise ConfigError(f"no address: {error}", where="store.url", fix=fix) from None
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"{parts.scheme!r} is no scheme of a store", where="store.url", fix=fix)
    try:
        from tailorbird.store.valkey_client import connect
    except ImportError as error:
        raise ConfigError("the client library is not installed", where="store.url", fix="pip install 'tailorbird[valkey]'") from error
    return Copies(connect(url, timeout_s), name, where, breaker)


def _of_epoch(stored: bytes, epoch: int) -> bool:
    return len(stored) >= 8 and int.from_bytes(stored[:8], "little") == epoch
