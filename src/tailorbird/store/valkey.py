"""Copies of records in Valkey or Redis, for readers on other machines. `store.published` writes
them, nobody else.

    tb:PROJECT:SCHEMA:@       head: epoch and sequence of the newest complete commit, and its time
    tb:PROJECT:SCHEMA:+       the publisher's claim, with a time to live
    tb:PROJECT:SCHEMA:.KEY    a record in two versions, see `store.versions`

Keys have no hash tag, so that the nodes of a cluster share a schema's records. A cluster has no
transactions over many keys, so a reader reads the head first and then the matching version of each
record. If a record was written twice since, the reader begins again. A tombstone outlives every
snapshot and then expires. Lost copies are written again from the worker's own store.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tailorbird.errors import ConfigError, StorageError
from tailorbird.store.breaker import CircuitBreaker
from tailorbird.store.copies import CHUNK_RECORDS
from tailorbird.store.hedge import Hedge, HedgeRequest
from tailorbird.store.versions import (
    Change,
    CommitHead,
    decode_head,
    encode_head,
    encode_versions,
    is_of_epoch,
)

# commands used on one server, in database 0
ACL_COMMANDS = "+get +mget +set +pexpire +unlink +del +scan +info +ping +hello +client"
TOMBSTONE_MS = 120_000  # longer than the lifetime of a snapshot


class Client(Protocol):
    """A connection to one server or a cluster."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def read_hedged(
        self, keys: Sequence[bytes], hedge: Hedge, second_request: HedgeRequest | None = None
    ) -> list[bytes | None]:
        """Read with a second request if it takes long, see `store.hedge`."""
        ...

    def write(
        self, records: Mapping[bytes, bytes], lifetimes_ms: Mapping[bytes, int] | None = None
    ) -> None: ...

    def claim(self, key: bytes, token: bytes, lifetime_ms: int) -> bool:
        """Claim `key` for `token`; return False if another token has it."""
        ...

    def release(self, key: bytes, token: bytes) -> None: ...

    def keys(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield the keys that begin with `prefix`, in pages."""
        ...

    def delete(self, keys: Sequence[bytes]) -> None: ...

    def server_ids(self) -> tuple[str, ...]:
        """Return the process id of each primary, since a restarted one may have lost data."""
        ...

    def memory_info(self) -> Sequence[Mapping[str, Any]]:
        """Return the memory section of INFO of each primary."""
        ...

    def close(self) -> None: ...


class ValkeyCopies:
    """The copies of one store under a name, see `store.copies.Copies`."""

    def __init__(
        self,
        client: Client,
        name: str,
        where: str,
        breaker: CircuitBreaker | None = None,
        hedge: Hedge | None = None,
        replica: Client | None = None,
    ) -> None:
        self._client = client
        self.where = where
        self._breaker = breaker
        self._hedge = hedge
        self._replica = replica
        self._prefix = f"tb:{name}:".encode()
        self._head_key = self._prefix + b"@"
        self._claim_key = self._prefix + b"+"

    def head(self) -> CommitHead | None:
        with self._translate_errors():
            return decode_head(self._read_values([self._head_key], None)[0])

    def publish(
        self, changes: Sequence[Change], epoch: int, sequence: int, previous_sequence: int
    ) -> None:
        """Write records in chunks; readers see them after `set_head`."""
        with self._translate_errors():
            for start in range(0, len(changes), CHUNK_RECORDS):
                chunk = changes[start : start + CHUNK_RECORDS]
                records = {
                    self.key(change.key): encode_versions(
                        change, epoch, sequence, previous_sequence
                    )
                    for change in chunk
                }
                lifetimes = {
                    self.key(change.key): TOMBSTONE_MS for change in chunk if change.new is None
                }
                self._client.write(records, lifetimes)

    def set_head(self, head: CommitHead) -> None:
        with self._translate_errors():
            self._client.write({self._head_key: encode_head(head)})

    def drop_head(self) -> None:
        """Delete the head, so that readers see no records until there is one again."""
        with self._translate_errors():
            self._client.delete([self._head_key])

    def drop_other_epochs(self, epoch: int) -> int:
        """Delete the records of other epochs and return their number."""
        dropped_count = 0
        with self._translate_errors():
            for keys in self._client.keys(self._prefix + b"."):
                values = self._client.read(keys)
                stale_keys = [
                    key
                    for key, value in zip(keys, values, strict=True)
                    if value is None or not is_of_epoch(value, epoch)
                ]
                self._client.delete(stale_keys)
                dropped_count += len(stale_keys)
        return dropped_count

    def wipe(self) -> int:
        """Delete head and records under this name, and return their number.

        No publisher may run.
        """
        self.drop_head()
        dropped_count = 0
        with self._translate_errors():
            for keys in self._client.keys(self._prefix + b"."):
                self._client.delete(keys)
                dropped_count += len(keys)
        return dropped_count

    def prune(
        self, project: str, kept_schemas: Collection[str], *, include_unnamed: bool
    ) -> dict[str, int]:
        """Delete copies that are not kept by scanning the server's keys, see `CopyTarget.prune`."""
        deleted_by_schema: dict[str, int] = {}
        claimed_by_prefix: dict[bytes, bool] = {}
        with self._translate_errors():
            for keys in self._client.keys(b"tb:" if include_unnamed else f"tb:{project}:".encode()):
                unclaimed_keys: list[bytes] = []
                for key in keys:
                    schema, prefix = _schema_and_prefix(key, project.encode())
                    if (
                        schema is None
                        or (not include_unnamed and schema.startswith("tb:"))
                        or schema in kept_schemas
                    ):
                        continue
                    if prefix not in claimed_by_prefix:
                        claimed_by_prefix[prefix] = (
                            self._client.read([prefix + b"+"])[0] is not None
                        )
                    if not claimed_by_prefix[prefix]:
                        unclaimed_keys.append(key)
                        if key[len(prefix) :].startswith(b"."):
                            deleted_by_schema[schema] = deleted_by_schema.get(schema, 0) + 1
                        else:
                            deleted_by_schema.setdefault(schema, 0)
                self._client.delete(unclaimed_keys)
        return deleted_by_schema

    def schema_names(self, project: str) -> list[str]:
        """Return the names with keys of a project: its schemas, or their parts."""
        prefix = f"tb:{project}:".encode()
        with self._translate_errors():
            keys = [key for chunk in self._client.keys(prefix) for key in chunk]
        return sorted(
            {key[len(prefix) :].partition(b":")[0].decode(errors="replace") for key in keys}
        )

    def is_claimed(self) -> bool:
        """Return whether a publisher has these records."""
        with self._translate_errors():
            return self._client.read([self._claim_key])[0] is not None

    def claim(self, token: bytes, lifetime_ms: int) -> bool:
        with self._translate_errors():
            return self._client.claim(self._claim_key, token, lifetime_ms)

    def release(self, token: bytes) -> None:
        with self._translate_errors():
            self._client.release(self._claim_key, token)

    def server_ids(self) -> tuple[str, ...]:
        with self._translate_errors():
            return self._client.server_ids()

    def check_eviction_policy(self) -> None:
        """Raise StorageError if a server silently evicts records when it is full."""
        with self._translate_errors():
            memory_infos = self._client.memory_info()
        for info in memory_infos:
            policy = info.get("maxmemory_policy", "noeviction")
            if int(info.get("maxmemory", 0)) and policy != "noeviction":
                message = f"maxmemory-policy is {policy}, which drops records in silence"
                raise StorageError(message, where=self.where, fix="maxmemory-policy noeviction")

    def key(self, key: bytes) -> bytes:
        return self._prefix + b"." + key

    def read(self, keys: Sequence[bytes], head: CommitHead | None = None) -> list[bytes | None]:
        """Return the stored versions of each key.

        With a `head`, a replica that has it may serve a hedged read.
        """
        values: list[bytes | None] = []
        with self._translate_errors():
            for start in range(0, len(keys), CHUNK_RECORDS):
                values += self._read_values(
                    [self.key(key) for key in keys[start : start + CHUNK_RECORDS]], head
                )
        return values

    def _read_values(self, keys: list[bytes], head: CommitHead | None) -> list[bytes | None]:
        if self._hedge is None:
            return self._client.read(keys)
        if self._replica is None or head is None:
            return self._client.read_hedged(keys, self._hedge)

        def accept_if_current(values: list[bytes | None]) -> list[bytes | None] | None:
            # A replica applies writes in the primary's order, so with the head it has all records
            # of the commit.
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
        with self._translate_errors():
            length = len(self.key(b""))
            return sorted(
                {key[length:] for keys in self._client.keys(self.key(prefix)) for key in keys}
            )

    def close(self) -> None:
        self._client.close()
        if self._replica is not None:
            self._replica.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        import redis

        if self._breaker is not None and not self._breaker.allow():
            raise StorageError(
                "the server did not answer lately",
                where=self.where,
                fix="it is asked again within a second",
            )
        try:
            yield
            if self._breaker is not None:
                self._breaker.record_success()
        except redis.exceptions.NoPermissionError as error:
            fix = f"let the user of store.url have its keys, and the commands {ACL_COMMANDS}"
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
                self._breaker.record_failure()
            is_untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            fix = (
                "its certificate must be for this host, and by ssl_ca_certs of store.url"
                if is_untrusted
                else "is the server up, and store.url right?"
            )
            raise StorageError(
                f"{type(error).__name__}: {error}", where=self.where, fix=fix
            ) from error


def open_copies(
    url: str,
    name: str,
    where: str,
    *,
    timeout_s: float,
    breaker: CircuitBreaker | None,
    password: str,
    hedge: Hedge | None,
    replica: str,
) -> ValkeyCopies:
    """Open the copies under `name`, see `store.opening.open_copies`; `where` is for errors."""
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
    client = connect(url, timeout_s, password)
    return ValkeyCopies(client, name, where, breaker, hedge, replica_client)


_KEY_PATTERN = re.compile(
    rb"tb:(?:([A-Za-z0-9_-]+):)?([0-9a-f]{12}(?:\.part-[0-9]+-of-[0-9]+)?):(?=[@+.])"
)


def _schema_and_prefix(key: bytes, project: bytes) -> tuple[str | None, bytes]:
    """Return schema and prefix of a key of the project.

    The schema is `tb:SCHEMA` where the key names no project, and None for a foreign key.
    """
    match = _KEY_PATTERN.match(key)
    if match is None or match[1] not in (None, project):
        return None, b""
    return match[2].decode() if match[1] is not None else f"tb:{match[2].decode()}", match[0]
