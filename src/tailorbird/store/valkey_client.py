"""Connections to Valkey or Redis, one server or a cluster, through the `redis` library."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from tailorbird.errors import ConfigError
from tailorbird.store.hedge import Hedge, HedgeRequest

_SCAN_PAGE_KEYS = 1_000
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_POLL_S = 0.0002  # alternating wait for one of two responses


class _Request:
    """One MGET on a connection of its own, which is closed if its response was not read."""

    def __init__(self, pool: Any, keys: Sequence[bytes]) -> None:
        self._pool = pool
        self._keys = keys
        self._is_read = False

    def __enter__(self) -> "_Request":
        self._connection = self._pool.get_connection()
        try:
            self._connection.send_command("MGET", *self._keys)
        except BaseException:
            self._release()
            raise
        return self

    def wait_for_response(self, wait_s: float) -> bool:
        """Return whether a response arrives within `wait_s` seconds."""
        return self._connection.can_read(max(0.0, wait_s))

    def read_values(self) -> list[bytes | None]:
        response = self._connection.read_response()
        self._is_read = True
        return response

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        if not self._is_read:
            self._connection.disconnect()
        self._pool.release(self._connection)


def _race_requests(
    first_request: _Request, hedge_request: HedgeRequest, deadline: float
) -> list[bytes | None] | None:
    """Return the second request's values if they come first; None if the first is to be read."""
    with _Request(hedge_request.client.pool, hedge_request.keys) as second_request:
        while time.monotonic() < deadline:
            if first_request.wait_for_response(_POLL_S):
                return None
            if second_request.wait_for_response(_POLL_S):
                return hedge_request.accept_values(second_request.read_values())
    return None


class ValkeyClient:
    """A `store.valkey.Client`."""

    def __init__(
        self, make_client: Callable[[], Any], *, is_cluster: bool, timeout_s: float = 1.0
    ) -> None:
        self._make_client = make_client
        self._is_cluster = is_cluster
        self._timeout_s = timeout_s

    @cached_property
    def _client(self) -> Any:
        return self._make_client()  # a cluster client connects at once, so create it lazily

    @property
    def pool(self) -> Any:
        """The connection pool."""
        return self._client.connection_pool

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        return self._client.mget_nonatomic(keys) if self._is_cluster else self._client.mget(keys)

    def read_hedged(
        self, keys: Sequence[bytes], hedge: Hedge, second_request: HedgeRequest | None = None
    ) -> list[bytes | None]:
        """Read with a second request after a delay: `second_request`, or one of another connection.

        A cluster is not hedged.
        """
        if self._is_cluster or not keys:
            return self.read(keys)
        wait_s = hedge.delay_s()
        started_at = time.monotonic()
        with _Request(self.pool, keys) as first_request:
            if wait_s is None or first_request.wait_for_response(wait_s) or not hedge.try_hedge():
                values = first_request.read_values()
                hedge.record(time.monotonic() - started_at)
                return values
            if second_request is None:
                second_request = HedgeRequest(self, keys, lambda values: values)
            try:
                second_values = _race_requests(
                    first_request, second_request, deadline=started_at + self._timeout_s
                )
            except (redis.exceptions.RedisError, OSError):
                second_values = None  # the first request is still open
            values = first_request.read_values() if second_values is None else second_values
            hedge.record(time.monotonic() - started_at, won=second_values is not None)
            return values

    def write(
        self, records: Mapping[bytes, bytes], lifetimes_ms: Mapping[bytes, int] | None = None
    ) -> None:
        with self._client.pipeline(
            **({} if self._is_cluster else {"transaction": False})
        ) as pipeline:
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
        pattern = (
            b"".join(
                b"\\" + bytes([byte]) if byte in b"*?[]\\^-" else bytes([byte]) for byte in prefix
            )
            + b"*"
        )
        page_keys: list[bytes] = []
        for key in self._client.scan_iter(match=pattern, count=_SCAN_PAGE_KEYS):
            page_keys.append(key)
            if len(page_keys) == _SCAN_PAGE_KEYS:
                yield page_keys
                page_keys = []
        if page_keys:
            yield page_keys

    def delete(self, keys: Sequence[bytes]) -> None:
        if not keys:
            return
        if not self._is_cluster:
            self._client.unlink(*keys)
            return
        with (
            self._client.pipeline() as pipeline
        ):  # a command has keys of one slot, a pipeline has many commands
            for key in keys:
                pipeline.execute_command("UNLINK", key)
            pipeline.execute()

    def server_ids(self) -> tuple[str, ...]:
        return tuple(sorted(info["run_id"] for info in self._info_by_primary("server")))

    def memory_info(self) -> list[Mapping[str, Any]]:
        """Return the memory section of INFO of each primary."""
        return self._info_by_primary("memory")

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()

    def _info_by_primary(self, section: str) -> list[Mapping[str, Any]]:
        if not self._is_cluster:
            return [self._client.info(section)]
        return [
            self._client.get_redis_connection(node).info(section)
            for node in self._client.get_primaries()
        ]


def connect(url: str, timeout_s: float, password: str = "") -> ValkeyClient:
    """Create a client that connects with its first request and gives up after `timeout_s`.

    It retries only in a cluster, once, since another node may have the slots by then.

    Raises:
        ConfigError: the URL is invalid, has an unknown option, or names a missing file.
    """
    is_cluster = "+cluster" in url.partition("://")[0]
    base_url = (
        url.replace("+cluster", "", 1)
        .replace("valkeys://", "rediss://", 1)
        .replace("valkey://", "redis://", 1)
    )
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": max(timeout_s, 0.2),
        "health_check_interval": 30,
    }
    password_option = {"password": password} if password else {}
    try:
        if password:
            base_url = _without_password(base_url)
        server_client = redis.Redis.from_url(
            base_url, retry=Retry(NoBackoff(), 0), **options, **password_option
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"cannot be read: {error}", where="store.url") from error
    _require_options(server_client.connection_pool)
    if is_cluster:
        return ValkeyClient(
            lambda: RedisCluster.from_url(
                base_url, retry=Retry(NoBackoff(), 1), **options, **password_option
            ),
            is_cluster=True,
        )
    return ValkeyClient(lambda: server_client, is_cluster=False, timeout_s=timeout_s)


def _require_options(pool: Any) -> None:
    """Check the options of a URL, which a client would check only with its first connection."""
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        message = f"has an option that the client does not know: {str(error).rpartition(' ')[2]}"
        raise ConfigError(
            message, where="store.url", fix=f"for TLS there are {', '.join(_TLS_FILES)}"
        ) from None
    for option in _TLS_FILES:
        if (file := pool.connection_kwargs.get(option)) and not Path(file).is_file():
            raise ConfigError(
                f"{option} names {file}, and there is no such file", where="store.url"
            )


def _without_password(url: str) -> str:
    """Remove the password from a URL, where it would override the given one."""
    parts = urlsplit(url)
    user, separator, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}{separator}{host}"))
