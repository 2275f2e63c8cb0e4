"""The connection to Valkey or Redis, one server or a cluster, by `redis` (which speaks to both)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from tailorbird.errors import ConfigError

_SCAN = 1_000


class ValkeyClient:
    """Implements `store.valkey.Client`."""

    def __init__(self, made: Callable[[], Any], *, cluster: bool) -> None:
        self._made, self._cluster = made, cluster

    @cached_property
    def _client(self) -> Any:
        return self._made()  # a client of a cluster asks for its slots at once: not before the first question

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        return self._client.mget_nonatomic(keys) if self._cluster else self._client.mget(keys)

    def write(self, records: Mapping[bytes, bytes], lifetimes_ms: Mapping[bytes, int] | None = None) -> None:
        with self._client.pipeline(**({} if self._cluster else {"transaction": False})) as pipeline:
            for key, value in records.items():
                pipeline.set(key, value, px=(lifetimes_ms or {}).get(key))
            pipeline.execute()

    def claim(self, key: bytes, token: bytes, lifetime_ms: int) -> bool:
        if self._client.set(key, token, nx=True, px=lifetime_ms):
            return True
        if self._client.get(key) != token:
            return False
        self._client.pexpire(key, lifetime_ms)
        return self._client.get(key) == token

    def release(self, key: bytes, token: bytes) -> None:
        if self._client.get(key) == token:
            self._client.delete(key)

    def keys(self, prefix: bytes) -> Iterator[list[bytes]]:
        pattern = b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^-" else bytes([byte]) for byte in prefix) + b"*"
        found: list[bytes] = []
        for key in self._client.scan_iter(match=pattern, count=_SCAN):
            found.append(key)
            if len(found) == _SCAN:
                yield found
                found = []
        if found:
            yield found

    def delete(self, keys: Sequence[bytes]) -> None:
        for key in keys if self._cluster else []:
            self._client.unlink(key)
        if keys and not self._cluster:
            self._client.unlink(*keys)

    def servers(self) -> tuple[str, ...]:
        return tuple(sorted(info["run_id"] for info in self._infos("server")))

    def memory(self) -> list[Mapping[str, Any]]:
        """What each primary says of its memory."""
        return self._infos("memory")

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()

    def _infos(self, section: str) -> list[Mapping[str, Any]]:
        if not self._cluster:
            return [self._client.info(section)]
        return [self._client.get_redis_connection(node).info(section) for node in self._client.get_primaries()]


def connect(url: str, timeout_s: float) -> ValkeyClient:
    """A client; it connects at the first question, gives up after `timeout_s`, and tries again by itself only in a cluster, once, since
    another node may have the slots by then.

    Raises:
        ConfigError: the URL cannot be read.
    """
    cluster = "+cluster" in url.partition("://")[0]
    plain = url.replace("+cluster", "", 1).replace("valkeys://", "rediss://", 1).replace("valkey://", "redis://", 1)
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": max(timeout_s, 0.2), "health_check_interval": 30}
    try:
        single = redis.Redis.from_url(plain, retry=Retry(NoBackoff(), 0), **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"cannot be read: {error}", where="store.url") from error
    if cluster:
        return ValkeyClient(lambda: RedisCluster.from_url(plain, retry=Retry(NoBackoff(), 1), **options), cluster=True)
    return ValkeyClient(lambda: single, cluster=False)
