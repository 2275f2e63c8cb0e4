"""Opening the copies of records by the URL of their server. Nothing else names a remote store.

The client of a store is loaded with its first URL.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tailorbird.errors import ConfigError
from tailorbird.store.breaker import CircuitBreaker
from tailorbird.store.copies import READ_TIMEOUT_S, WRITE_TIMEOUT_S, Copies
from tailorbird.store.hedge import Hedge


def _open_valkey(*arguments: str, **options: Any) -> Copies:
    from tailorbird.store import valkey

    return valkey.open_copies(*arguments, **options)


# Scheme of a URL → opener. A new store adds its schemes here.
OPENERS: dict[str, Callable[..., Copies]] = dict.fromkeys(
    ("valkey", "valkeys", "redis", "rediss", "valkey+cluster", "valkeys+cluster"), _open_valkey
)


@dataclass(frozen=True)
class CopyTarget:
    """The target of a project's record copies.

    Attributes:
        url: URL of the server, see `open_copies`.
        project: prefix of this project's keys, since several may share a server.
        password: password of the server, if it is not in the URL.
        replica: URL of a replica for hedged reads; "" uses another connection to the server.
        hedge: decides when to hedge reads; None never does.
        read_timeout_s: timeout of connecting and of each response for readers.
    """

    url: str = field(repr=False)
    project: str
    password: str = field(default="", repr=False)
    replica: str = field(default="", repr=False)
    hedge: Hedge | None = field(default=None, repr=False, compare=False)
    read_timeout_s: float = READ_TIMEOUT_S

    def open(
        self, schema: str, *, timeout_s: float | None = None, breaker: CircuitBreaker | None = None
    ) -> Copies:
        """Open the copies of one schema, by default for reading; see `open_copies`."""
        return open_copies(
            self.url,
            f"{self.project}:{schema}",
            timeout_s=self.read_timeout_s if timeout_s is None else timeout_s,
            breaker=breaker,
            password=self.password,
            hedge=self.hedge,
            replica=self.replica,
        )

    def prune(
        self, kept_schemas: Collection[str], *, include_unnamed: bool = False
    ) -> dict[str, int]:
        """Delete the records of schemas that are neither kept nor being published.

        Returns the number of records by schema.

        Args:
            include_unnamed: also delete records of any project whose keys do not name one, reported
                as `tb:SCHEMA`.
        Raises:
            StorageError: the server cannot be reached, or refuses.
        """
        copies = self.open("", timeout_s=WRITE_TIMEOUT_S)
        try:
            return copies.prune(self.project, kept_schemas, include_unnamed=include_unnamed)
        finally:
            copies.close()


def open_copies(
    url: str,
    name: str,
    *,
    timeout_s: float = READ_TIMEOUT_S,
    breaker: CircuitBreaker | None = None,
    password: str = "",
    hedge: Hedge | None = None,
    replica: str = "",
) -> Copies:
    """Open the copies under `name` on a server, without contacting it yet.

    Args:
        url: `valkey://[user:password@]host[:port][/database]`; `valkeys://` with TLS
            (`?ssl_ca_certs=FILE`); `valkey+cluster://` for a cluster, of which any node is named.
        timeout_s: timeout of connecting and of each response.
        breaker: fails calls at once while the server does not answer; for readers. All callers of
            a server share one, so that their failures add up.
        password: replaces the password in the URL.
        hedge, replica: see `CopyTarget`.
    Raises:
        ConfigError: no such scheme, or the client library is not installed.
    """
    address = server_address(url)
    return OPENERS[urlsplit(url).scheme](
        url,
        name,
        address,
        timeout_s=timeout_s,
        breaker=breaker,
        password=password,
        hedge=hedge,
        replica=replica,
    )


def server_address(url: str, setting: str = "store.url") -> str:
    """Return scheme, host and port of a store's URL, without its password.

    Raises:
        ConfigError: the URL in `setting` is invalid.
    """
    fix = "write it as valkey://host:6379, valkeys:// for TLS, valkey+cluster:// for a cluster"
    try:
        url_parts = urlsplit(url)
        address = f"{url_parts.scheme}://{url_parts.hostname}:{url_parts.port or 6379}"
    except ValueError as error:
        raise ConfigError(f"no address: {error}", where=setting, fix=fix) from None
    if url_parts.scheme not in OPENERS:
        raise ConfigError(f"{url_parts.scheme!r} is no scheme of a store", where=setting, fix=fix)
    return address
