"""Rate limits of a key and of a browser's address: requests, events, batch size, and distinct ids
within an hour.

Buckets may be overdrawn: a body is taken in full if any token is left, and the debt is waited for
afterwards, so that any batch passes at any rate. Rows are counted and charged before they are
parsed, whatever is decided on each. A body with too many rows is charged as the longest that is
allowed. Reading and writing have separate buckets, so that a flood of events does not affect
answers. All state is in the memory of one process, so each of the n servers of a machine enforces
an n-th of every limit but that of one body. Together they never allow more than the limit, and a
client whose one connection reaches a single server gets an n-th.

    key ──► bucket of requests (read), bucket of events (write), sketch of ids within the hour
    address of a browser ──► bucket of events, bucket of clicks, of the newest 10,000 addresses;
                             an IPv6 address counts by its /64
    address of anybody   ──► open connections
"""

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain

from tailorbird.errors import TailorbirdError
from tailorbird.events.contract.checked_batch import EventColumns
from tailorbird.events.contract.event_types import ITEM_EVENT_TYPES
from tailorbird.serving.auth.buckets import Bucket, DistinctCounter
from tailorbird.serving.auth.keyfile import READ, WRITE
from tailorbird.serving.auth.keys import Caller
from tailorbird.serving.auth.networks import Networks, client_address

CLICK_TYPES = ITEM_EVENT_TYPES | {"purchase"}  # types that features and training count as interest
ADDRESSES_MAX = 10_000
HOUR_S = 3_600.0


class LimitError(TailorbirdError):
    """A limit is reached. `limit` names it, and the call may be repeated after `retry_after_s`."""

    code = "rate"

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        status: int = 429,
        code: str = "rate",
        retry_after_s: float = 1.0,
        fix: str = "",
    ) -> None:
        super().__init__(message, fix=fix)
        self.limit = limit
        self.status = status
        self.code = code
        self.retry_after_s = max(1, math.ceil(retry_after_s))


@dataclass(frozen=True)
class ServerLimits:
    """Limits of keys that have none of their own; 0 means no limit.

    Attributes:
        address_events_per_s: of one address with a key for browsers.
        address_clicks_per_hour: likewise, of `CLICK_TYPES` alone: so many at once, and as many an hour
            from then on.
        address_connections: open at a time from one address that is no proxy's.
        proxies: networks whose `X-Forwarded-For` is trusted.
    """

    requests_per_s: float = 0.0
    events_per_s: float = 0.0
    batch_max: int = 10_000
    ids_per_hour: int = 0
    address_events_per_s: float = 50.0
    address_clicks_per_hour: float = 5_000.0
    address_connections: int = 512
    proxies: Networks = field(default_factory=Networks)


class Limiter:
    """Applies the limits of every key and address in one process. Thread-safe.

    Args:
        monotonic: seconds for the buckets; never the clock of events.
        servers: how many share the socket; each allows its part of the limits.
    """

    def __init__(
        self,
        limits: ServerLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        servers: int = 1,
    ) -> None:
        self.server_limits = limits or ServerLimits()
        self._monotonic = monotonic
        self._servers = servers
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str, float], Bucket] = {}
        self._address_buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._click_buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._id_counters: dict[str, tuple[float, DistinctCounter]] = {}
        self.refusals_by_limit: Counter[str] = Counter()

    def admit_request(self, caller: Caller, scope: str, address: str) -> None:
        """Charge a request before it is read. Raise LimitError if the key or the address has to
        wait.
        """
        if scope not in (READ, WRITE):
            return
        with self._lock:
            now = self._monotonic()
            for bucket, limit_name in self._buckets_for(caller, scope, address, now):
                self._require_tokens(bucket, limit_name, now)
                if limit_name == "requests":
                    bucket.take(1)

    def charge(self, caller: Caller, address: str, rows: int, already_charged: int) -> None:
        """Take the rows of a body, of which `already_charged` were taken before, from its sender's buckets.

        Raise LimitError if one body may not contain so many, or the sender has to wait for what it
        sent since `admit_request`.
        """
        batch_max = int(
            self._effective_limit(caller.limits.batch_max, self.server_limits.batch_max)
        )
        is_too_long = 0 < batch_max < rows
        with self._lock:
            now = self._monotonic()
            buckets = self._buckets_for(caller, WRITE, address, now)
            if not already_charged:
                for bucket, limit_name in buckets:
                    self._require_tokens(bucket, limit_name, now)
            for bucket, _ in buckets:
                bucket.take((batch_max if is_too_long else rows) - already_charged)
            if is_too_long:
                self.refusals_by_limit["batch"] += 1
                raise LimitError(
                    f"{rows} events in one body, at most {batch_max} are taken",
                    limit="batch",
                    status=413,
                    code="batch_too_long",
                    fix="send fewer at once",
                )

    def refund(self, caller: Caller, address: str, charged: int) -> None:
        """Return what `charge` took."""
        with self._lock:
            for bucket, _ in self._buckets_for(caller, WRITE, address, self._monotonic()):
                bucket.take(-charged)

    def check_events(self, caller: Caller, address: str, accepted: EventColumns) -> None:
        """Raise LimitError if these events name too many people and items, or contain too many
        clicks.
        """
        with self._lock:
            now = self._monotonic()
            self._require_few_ids(caller, accepted, now)
            self._take_clicks(caller, accepted, address, now)

    def count_refusal(self, limit: str) -> None:
        """Count a refusal by another limit."""
        with self._lock:
            self.refusals_by_limit[limit] += 1

    def _require_tokens(self, bucket: Bucket, limit_name: str, now: float) -> None:
        if wait_s := bucket.wait_s(now):
            self.refusals_by_limit[limit_name] += 1
            raise LimitError(
                f"too much within a short time ({limit_name})",
                limit=limit_name,
                retry_after_s=wait_s,
            )

    def _buckets_for(
        self, caller: Caller, scope: str, address: str, now: float
    ) -> list[tuple[Bucket, str]]:
        key_limits = caller.limits
        server_limits = self.server_limits
        buckets: list[tuple[Bucket, str]] = []
        limit_name = "requests" if scope == READ else "events"
        rate = (
            self._effective_limit(key_limits.requests_per_s, server_limits.requests_per_s)
            if scope == READ
            else self._effective_limit(key_limits.events_per_s, server_limits.events_per_s)
        )
        if rate and caller.id:
            key = (caller.id, scope, rate)  # a changed rate starts a new bucket
            bucket = Bucket(rate / self._servers, now)
            buckets.append((self._buckets.setdefault(key, bucket), limit_name))
        if caller.public and address and server_limits.address_events_per_s:
            buckets.append((self._address_bucket(address, now), "address"))
        return buckets

    def _address_bucket(self, address: str, now: float) -> Bucket:
        rate = self.server_limits.address_events_per_s / self._servers
        return _bucket_of(self._address_buckets, address, Bucket(rate, now))

    def _take_clicks(
        self, caller: Caller, accepted: EventColumns, address: str, now: float
    ) -> None:
        """Charge the events that forgers are after.

        A page whose address has sent too many may still report views.
        """
        per_hour = self.server_limits.address_clicks_per_hour
        if (
            not caller.public
            or not address
            or not per_hour
            or not (count := sum(type_ in CLICK_TYPES for type_ in accepted.type))
        ):
            return
        rate = per_hour / self._servers / HOUR_S
        bucket = _bucket_of(self._click_buckets, address, Bucket(rate, now, HOUR_S))
        if wait_s := bucket.wait_s(now):
            self.refusals_by_limit["clicks"] += 1
            raise LimitError(
                "too many clicks and the like from one address",
                limit="clicks",
                retry_after_s=wait_s,
            )
        bucket.take(count)

    def _require_few_ids(self, caller: Caller, accepted: EventColumns, now: float) -> None:
        ids_max = self._effective_limit(caller.limits.ids_per_hour, self.server_limits.ids_per_hour)
        if not ids_max or not caller.id:
            return
        window_start, id_counter = self._id_counters.get(caller.id, (now, None))
        if id_counter is None or now - window_start >= HOUR_S:
            window_start = now
            id_counter = DistinctCounter()
            self._id_counters[caller.id] = (window_start, id_counter)
        if id_counter.estimate() >= ids_max / self._servers:
            self.refusals_by_limit["ids"] += 1
            raise LimitError(
                f"more than {ids_max} different people and items within an hour",
                limit="ids",
                code="too_many_ids",
                retry_after_s=HOUR_S - (now - window_start),
                fix="raise the key's ids_per_hour if that is right",
            )
        texts = chain(
            accepted.user_id,
            accepted.anonymous_id,
            accepted.item_id,
            *(items for items in accepted.items if items),
        )
        id_counter.add({text for text in texts if text})

    @staticmethod
    def _effective_limit(key_limit: float | None, server_limit: float) -> float:
        return server_limit if key_limit is None else key_limit


class Admission:
    """Checks one body against its sender's limits. Implements `decisions.AdmissionCheck`."""

    def __init__(self, limiter: Limiter, caller: Caller, address: str) -> None:
        self._limiter = limiter
        self._caller = caller
        self._address = address
        self._charged = 0

    def charge_rows(self, count: int) -> None:
        if count > self._charged:
            self._limiter.charge(self._caller, self._address, count, self._charged)
            self._charged = count

    def check_events(self, accepted: EventColumns) -> None:
        self._limiter.check_events(self._caller, self._address, accepted)

    def refund(self) -> None:
        self._limiter.refund(self._caller, self._address, self._charged)
        self._charged = 0


class Connections:
    """Counts open connections by peer address, except those of trusted proxies and of unknown
    addresses.

    Args:
        servers: how many share the socket; each allows its part.
    """

    def __init__(self, limits: ServerLimits, *, servers: int = 1) -> None:
        self._connections_max = math.ceil(limits.address_connections / servers)
        self._proxies = limits.proxies
        self._open_count_by_address: Counter[str] = Counter()

    def add(self, peer: str) -> bool:
        """Count one more connection, and return whether it is one too many."""
        address = self._counted_address(peer)
        self._open_count_by_address[address] += bool(address)
        return self._open_count_by_address[address] > self._connections_max

    def remove(self, peer: str) -> None:
        address = self._counted_address(peer)
        if self._open_count_by_address[address] > 1:
            self._open_count_by_address[address] -= 1
        else:
            del self._open_count_by_address[address]

    def _counted_address(self, peer: str) -> str:
        return (
            ""
            if not self._connections_max or not peer or peer in self._proxies
            else client_address(peer, "", self._proxies)
        )


def _bucket_of(buckets: OrderedDict[str, Bucket], address: str, default: Bucket) -> Bucket:
    """Return the bucket of an address, and keep those of the newest `ADDRESSES_MAX`."""
    bucket = buckets.setdefault(address, default)
    buckets.move_to_end(address)
    if len(buckets) > ADDRESSES_MAX:
        buckets.popitem(last=False)
    return bucket
