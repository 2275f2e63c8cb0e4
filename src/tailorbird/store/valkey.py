"""Copies of records in Valkey or Redis, for readers on other machines. `store.published` writes
them, nobody else.

    tb:PROJECT:SCHEMA:@       head: epoch, sequence, of the newest commit that is there whole, and when it was known to be the newest
    tb:PROJECT:SCHEMA:+       who publishes, with a time to live
    tb:PROJECT:SCHEMA:.KEY    a record in two versions, see `store.versions`

No part of a key is a hash tag, so that the nodes of a cluster share a schema's records. There are
no transactions over many keys that a cluster could keep, so a reader takes the head first and of
each record the version that belongs to it. A record that was written twice since then says so, and
the reader begins again. A tombstone outlives every snapshot and then expires. What is there is a
copy: lost, it is written anew from the worker's own store.
"""

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from tailorbird.errors import ConfigError, NotReadyError, StorageError
from tailorbird.store.breaker import Breaker
from tailorbird.store.hedge import Hedge, HedgeRequest
from tailorbird.store.protocol import MovedError
from tailorbird.store.versions import (
    Change,
    Head,
    decode_head,
    encode_head,
    encode_versions,
    is_of_epoch,
    version_at,
)

SCHEMES = ("valkey", "valkeys", "redis", "rediss", "valkey+cluster", "valkeys+cluster")
# all that is asked of one server, in database 0
ACL = "+get +mget +set +pexpire +unlink +del +scan +info +ping +hello +client"
READ_TIMEOUT_S = 0.05
WRITE_TIMEOUT_S = 5.0
SNAPSHOT_S = 30.0  # how long a snapshot may be read; tombstones live longer
TOMBSTONE_MS = 120_000
CHUNK = 1_000  # records in one round trip


class Client(Protocol):
    """What is used of a connection, alone or to a cluster."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def read_hedged(
        self, keys: Sequence[bytes], hedge: Hedge, second: HedgeRequest | None = None
    ) -> list[bytes | None]:
        """As `read`, asked a second time where it takes long; see `store.hedge`."""
        ...

    def write(
        self, records: Mapping[bytes, bytes], lifetimes_ms: Mapping[bytes, int] | None = None
    ) -> None: ...

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

    def __init__(
        self,
        client: Client,
        name: str,
        where: str,
        breaker: Breaker | None = None,
        hedge: Hedge | None = None,
        replica: Client | None = None,
    ) -> None:
        self._client, self.where, self._breaker = client, where, breaker
        self._hedge, self._replica = hedge, replica
        self._prefix = f"tb:{name}:".encode()
        self._head_key = self._prefix + b"@"
        self._owner_key = self._prefix + b"+"

    def head(self) -> Head | None:
        with self._guarded():
            return decode_head(self._read_values([self._head_key], None)[0])

    def publish(self, changes: Sequence[Change], epoch: int, sequence: int, before: int) -> None:
        """Write the records, in chunks. They are read once `set_head` says that all are there."""
        with self._guarded():
            for start in range(0, len(changes), CHUNK):
                chunk = changes[start : start + CHUNK]
                records = {
                    self.key(one.key): encode_versions(one, epoch, sequence, before)
                    for one in chunk
                }
                lifetimes = {self.key(one.key): TOMBSTONE_MS for one in chunk if one.new is None}
                self._client.write(records, lifetimes)

    def set_head(self, head: Head) -> None:
        with self._guarded():
            self._client.write({self._head_key: encode_head(head)})

    def drop_head(self) -> None:
        """Readers are told that nothing is there, until there is a head again."""
        with self._guarded():
            self._client.delete([self._head_key])

    def drop_other_epochs(self, epoch: int) -> int:
        """Delete the records of other epochs; the number of them."""
        dropped = 0
        with self._guarded():
            for keys in self._client.keys(self._prefix + b"."):
                values = self._client.read(keys)
                stale = [
                    key
                    for key, value in zip(keys, values, strict=True)
                    if value is None or not is_of_epoch(value, epoch)
                ]
                self._client.delete(stale)
                dropped += len(stale)
        return dropped

    def wipe(self) -> int:
        """Delete all that is there under this name, the head first; the number of records. Who
        publishes must not run.
        """
        self.drop_head()
        dropped = 0
        with self._guarded():
            for keys in self._client.keys(self._prefix + b"."):
                self._client.delete(keys)
                dropped += len(keys)
        return dropped

    def prune(self, project: str, keep: Collection[str], *, unnamed: bool) -> dict[str, int]:
        """See `CopiesAt.prune`. Looks through all keys of the server that begin like ours, piece by
        piece.
        """
        deleted: dict[str, int] = {}
        live: dict[bytes, bool] = {}
        with self._guarded():
            for keys in self._client.keys(b"tb:" if unnamed else f"tb:{project}:".encode()):
                dead: list[bytes] = []
                for key in keys:
                    schema, prefix = _schema_of(key, project.encode())
                    if (
                        schema is None
                        or (not unnamed and schema.startswith("tb:"))
                        or schema in keep
                    ):
                        continue
                    if prefix not in live:
                        live[prefix] = self._client.read([prefix + b"+"])[0] is not None
                    if not live[prefix]:
                        dead.append(key)
                        if key[len(prefix) :].startswith(b"."):
                            deleted[schema] = deleted.get(schema, 0) + 1
                        else:
                            deleted.setdefault(schema, 0)
                self._client.delete(dead)
        return deleted

    def names(self, project: str) -> list[str]:
        """The names under which anything of a project is there: its schemas, or the parts of these."""
        prefix = f"tb:{project}:".encode()
        with self._guarded():
            keys = [key for chunk in self._client.keys(prefix) for key in chunk]
        return sorted(
            {key[len(prefix) :].partition(b":")[0].decode(errors="replace") for key in keys}
        )

    def claimed(self) -> bool:
        """Whether somebody publishes these records."""
        with self._guarded():
            return self._client.read([self._owner_key])[0] is not None

    def claim(self, token: bytes, lifetime_ms: int) -> bool:
        with self._guarded():
            return self._client.claim(self._owner_key, token, lifetime_ms)

    def release(self, token: bytes) -> None:
        with self._guarded():
            self._client.release(self._owner_key, token)

    def servers(self) -> tuple[str, ...]:
        with self._guarded():
            return self._client.servers()

    def check(self) -> None:
        """Raises StorageError where a server drops records when it is full: they would look as if
        nothing had happened.
        """
        with self._guarded():
            settings = self._client.memory()
        for one in settings:
            policy = one.get("maxmemory_policy", "noeviction")
            if int(one.get("maxmemory", 0)) and policy != "noeviction":
                message = f"maxmemory-policy is {policy}, which drops records in silence"
                raise StorageError(message, where=self.where, fix="maxmemory-policy noeviction")

    def key(self, key: bytes) -> bytes:
        return self._prefix + b"." + key

    def read(self, keys: Sequence[bytes], head: Head | None = None) -> list[bytes | None]:
        """What is stored under each key, versions and all; a replica is asked too if `head` says
        how far it must be.
        """
        values: list[bytes | None] = []
        with self._guarded():
            for start in range(0, len(keys), CHUNK):
                values += self._read_values(
                    [self.key(key) for key in keys[start : start + CHUNK]], head
                )
        return values

    def _read_values(self, keys: list[bytes], head: Head | None) -> list[bytes | None]:
        if self._hedge is None:
            return self._client.read(keys)
        if self._replica is None or head is None:
            return self._client.read_hedged(keys, self._hedge)

        def accept_if_current(values: list[bytes | None]) -> list[bytes | None] | None:
            # What a primary wrote reaches a replica in that order: with the head, all records of
            # its commit are there.
            replica_head = decode_head(values[0])
            return (
                values[1:]
                if replica_head is not None
                and replica_head.epoch == head.epoch
                and replica_head.sequence >= head.sequence
                else None
            )

        return self._client.read_hedged(
            keys,
            self._hedge,
            HedgeRequest(self._replica, [self._head_key, *keys], accept_if_current),
        )

    def all_keys(self, prefix: bytes) -> list[bytes]:
        with self._guarded():
            length = len(self.key(b""))
            return sorted(
                {key[length:] for keys in self._client.keys(self.key(prefix)) for key in keys}
            )

    def close(self) -> None:
        self._client.close()
        if self._replica is not None:
            self._replica.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        import redis

        if self._breaker is not None and not self._breaker.lets():
            raise StorageError(
                "the server did not answer lately",
                where=self.where,
                fix="it is asked again within a second",
            )
        try:
            yield
            if self._breaker is not None:
                self._breaker.answered()
        except redis.exceptions.NoPermissionError as error:
            fix = f"let the user of store.url have its keys, and the commands {ACL}"
            raise StorageError(
                f"the server refused a command: {error}", where=self.where, fix=fix
            ) from error
        except redis.exceptions.AuthenticationError as error:
            fix = "check the user and password of store.url, and the server's ACL"
            raise StorageError(
                f"the server lets nobody in: {error}", where=self.where, fix=fix
            ) from error
        except (
            redis.exceptions.RedisError,
            redis.exceptions.RedisClusterException,
            OSError,
        ) as error:
            if self._breaker is not None:
                self._breaker.failed()
            is_untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            fix = (
                "its certificate must be for this host, and by ssl_ca_certs of store.url"
                if is_untrusted
                else "is the server up, and store.url right?"
            )
            raise StorageError(
                f"{type(error).__name__}: {error}", where=self.where, fix=fix
            ) from error


class CopiedSnapshot:
    """Implements `store.Snapshot` over copies, as of one head.

    Raises, on top of what `Copies` does:
        MovedError: what is read was written twice since the snapshot began; begin another.
    """

    def __init__(self, copies: Copies, head: Head) -> None:
        self._copies, self._head = copies, head
        self.published_at = head.at
        self._deadline = time.monotonic() + SNAPSHOT_S

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
            chunk = keys[start : start + CHUNK]
            for key, value in zip(chunk, self._versions(chunk), strict=True):
                if value is not None:
                    yield key, value

    def _versions(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if time.monotonic() > self._deadline:
            raise MovedError(f"a snapshot is good for {SNAPSHOT_S:g} s")
        head = self._head
        return [
            None if stored is None else version_at(stored, head)
            for stored in self._copies.read(keys, head)
        ]


class CopiedStore:
    """The reading half of `store.Store` over copies; made by `open_copies`."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies

    @contextmanager
    def snapshot(self) -> Iterator[CopiedSnapshot]:
        head = self._copies.head()
        if head is None:
            raise NotReadyError(
                "no records have been published",
                where=self._copies.where,
                fix="tailorbird run worker",
            )
        yield CopiedSnapshot(self._copies, head)

    def close(self) -> None:
        self._copies.close()


@dataclass(frozen=True)
class CopiesAt:
    """Where the records of a project are copied to.

    Attributes:
        url: of the server, see `open_copies`.
        project: what the keys of this project begin with, since several may share a server.
        password: of the server, where it does not stand in the URL.
        replica: the URL of a replica, which hedged reads are asked of; "" asks the server itself,
            over another connection.
        hedge: says when to ask a second time; None asks once. For readers.
        read_timeout_s: of connecting and of each answer, for who reads: short, since somebody waits
            for the answer.
    """

    url: str = field(repr=False)
    project: str
    password: str = field(default="", repr=False)
    replica: str = field(default="", repr=False)
    hedge: Hedge | None = field(default=None, repr=False, compare=False)
    read_timeout_s: float = READ_TIMEOUT_S

    def open(
        self, schema: str, *, timeout_s: float | None = None, breaker: Breaker | None = None
    ) -> Copies:
        """The copies of one schema, to read them unless told otherwise; as `open_copies`."""
        return open_copies(
            self.url,
            f"{self.project}:{schema}",
            timeout_s=self.read_timeout_s if timeout_s is None else timeout_s,
            breaker=breaker,
            password=self.password,
            hedge=self.hedge,
            replica=self.replica,
        )

    def prune(self, keep: Collection[str], *, unnamed: bool = False) -> dict[str, int]:
        """Delete the records of all schemas of this project but those to keep and those that are
        being published; how many of each.

        Args:
            unnamed: also those that were written when keys did not name a project, whosever they
                are; told as `tb:SCHEMA`.
        Raises:
            StorageError: the server cannot be reached, or refuses.
        """
        copies = self.open("", timeout_s=WRITE_TIMEOUT_S)
        try:
            return copies.prune(self.project, keep, unnamed=unnamed)
        finally:
            copies.close()


def open_copies(
    url: str,
    name: str,
    *,
    timeout_s: float = READ_TIMEOUT_S,
    breaker: Breaker | None = None,
    password: str = "",
    hedge: Hedge | None = None,
    replica: str = "",
) -> Copies:
    """The copies under `name` on the server of `url`; nothing is asked of the server yet.

    Args:
        url: `valkey://[user:password@]host[:port][/database]`; `valkeys://` with TLS
            (`?ssl_ca_certs=FILE`); `valkey+cluster://` for a cluster, of which any node is named.
        timeout_s: of connecting and of each answer.
        breaker: lets questions fail at once while the server does not answer; for readers, whose
            answers cannot wait for it. All who ask the same server share one, so that their
            failures add up.
        password: takes the place of one in the URL. hedge, replica: as in `CopiesAt`.
    Raises:
        ConfigError: no such scheme, or the client library is not installed.
    """
    where = server_named(url)
    try:
        from tailorbird.store.valkey_client import connect
    except ImportError as error:
        raise ConfigError(
            "the client library is not installed",
            where="store.url",
            fix="pip install 'tailorbird[valkey]'",
        ) from error
    replica_client = (
        connect(replica, timeout_s, password) if replica and hedge is not None else None
    )
    return Copies(connect(url, timeout_s, password), name, where, breaker, hedge, replica_client)


def server_named(url: str, setting: str = "store.url") -> str:
    """Scheme, host and port of a store's URL, never its password. Raises ConfigError, which names
    the setting, where it is none.
    """
    fix = "write it as valkey://host:6379, valkeys:// for TLS, valkey+cluster:// for a cluster"
    try:
        parts = urlsplit(url)
        where = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"
    except ValueError as error:
        raise ConfigError(f"no address: {error}", where=setting, fix=fix) from None
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"{parts.scheme!r} is no scheme of a store", where=setting, fix=fix)
    return where


_OURS = re.compile(
    rb"tb:(?:([A-Za-z0-9_-]+):)?([0-9a-f]{12}(?:\.part-[0-9]+-of-[0-9]+)?):(?=[@+.])"
)


def _schema_of(key: bytes, project: bytes) -> tuple[str | None, bytes]:
    """The schema of a key of the project, `tb:SCHEMA` where the key names no project, None for any
    other; and what the key begins with.
    """
    match = _OURS.match(key)
    if match is None or match[1] not in (None, project):
        return None, b""
    return match[2].decode() if match[1] is not None else f"tb:{match[2].decode()}", match[0]
