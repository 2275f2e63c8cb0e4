"""How much one key, and one browser's address, may send: requests, events, events a body, and different ids within an hour.

Buckets may go into debt: a body is taken whole if anything is left, and what it took too much is waited for afterwards, so that any
batch passes at any rate. Reading and writing have buckets of their own, so that a flood of events leaves answers alone. All of it
is in the memory of one process: with n servers a key may do n times as much.

    key ──► bucket of requests (read), bucket of events (write), sketch of ids within the hour
    address of a browser ──► bucket of events, of the newest 10,000 addresses; an IPv6 address counts by its /64
"""

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from tailorbird.errors import TailorbirdError
from tailorbird.events import Accepted
from tailorbird.serving.decisions import Admit
from tailorbird.serving.keyfile import READ, WRITE
from tailorbird.serving.keys import Caller

BURST_S = 10.0  # a bucket holds so many seconds' worth
ADDRESSES_MAX = 10_000
HOUR_S = 3_600.0
_PRECISION = 12  # 4,096 registers: about 2 % off
_REGISTERS = 1 << _PRECISION
_ALPHA = 0.7213 / (1 + 1.079 / _REGISTERS)


class LimitError(TailorbirdError):
    """A limit is reached; `limit` names it, and after `retry_after_s` it may be tried again."""

    code = "rate"

    def __init__(
        self, message: str, *, limit: str, status: int = 429, code: str = "rate", retry_after_s: float = 1.0, fix: str = ""
    ) -> None:
        super().__init__(message, fix=fix)
        self.limit, self.status, self.code = limit, status, code
        self.retry_after_s = max(1, math.ceil(retry_after_s))


@dataclass(frozen=True)
class ServerLimits:
    """What holds for a key that has no limits of its own; 0 is none.

    Attributes:
        address_events_per_s: of one address with a key for browsers.
        proxies: addresses whose `X-Forwarded-For` is believed.
    """

    requests_per_s: float = 0.0
    events_per_s: float = 0.0
    batch_max: int = 10_000
    ids_per_hour: int = 0
    address_events_per_s: float = 50.0
    proxies: frozenset[str] = frozenset()


class Bucket:
    """Fills with `rate` a second up to `BURST_S` seconds' worth, and may be overdrawn by one taker."""

    __slots__ = ("_at", "_full", "_left", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._full, self._at = rate, max(1.0, rate * BURST_S), now
        self._left = self._full

    def wait_s(self, now: float) -> float:
        """How long until anything may be taken; 0 if at once."""
        self._left = min(self._full, self._left + (now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._left > 0 else (1e-3 - self._left) / self._rate

    def take(self, amount: int) -> None:
        self._left -= amount


class Distinct:
    """About how many different texts there were (HyperLogLog over Python's own keyed hash, which nobody outside can aim at)."""

    def __init__(self) -> None:
        self._ranks = bytearray(_REGISTERS)
        self._sum, self._empty = float(_REGISTERS), _REGISTERS

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            hashed = hash(text) & 0xFFFF_FFFF_FFFF_FFFF
            place, rest = hashed & (_REGISTERS - 1), hashed >> _PRECISION
            rank = 65 - _PRECISION - rest.bit_length()
            old = self._ranks[place]
            if rank > old:
                self._ranks[place] = rank
                self._sum += 2.0**-rank - 2.0**-old
                self._empty -= old == 0

    def estimate(self) -> float:
        raw = _ALPHA * _REGISTERS * _REGISTERS / self._sum
        return _REGISTERS * math.log(_REGISTERS / self._empty) if raw <= 2.5 * _REGISTERS and self._empty else raw


class Limiter:
    """Counts for every key and address of one process. Safe to call from any thread.

    Args:
        monotonic: seconds, for the buckets; never the clock of events.
    """

    def __init__(self, limits: ServerLimits | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.server, self._monotonic = limits or ServerLimits(), monotonic
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str, float], Bucket] = {}
        self._addresses: OrderedDict[str, Bucket] = OrderedDict()
        self._ids: dict[str, tuple[float, Distinct]] = {}
        self.limited: Counter[str] = Counter()

    def begin(self, caller: Caller, scope: str, address: str) -> None:
        """Before anything is read. Raises LimitError where the key or the address has to wait."""
        if scope not in (READ, WRITE):
            return
        with self._lock:
            now = self._monotonic()
            for bucket, what in self._of(caller, scope, address, now):
                if wait_s := bucket.wait_s(now):
                    self.limited[what] += 1
                    raise LimitError(f"too much within a short time ({what})", limit=what, retry_after_s=wait_s)
                if what == "requests":
                    bucket.take(1)

    def admit(self, caller: Caller, address: str) -> Admit:
        """What the door is to ask about a body whose events it has checked, before it takes them."""

        def admit(accepted: Sequence[Accepted], rows: int) -> None:
            batch_max = self._limit(caller.limits.batch_max, self.server.batch_max)
            if batch_max and rows > batch_max:
                self.refused("batch")
                raise LimitError(
                    f"{rows} events in one body, at most {batch_max} are taken",
                    limit="batch", status=413, code="batch_too_long", fix="send fewer at once",
                )  # fmt: skip
            with self._lock:
                now = self._monotonic()
                self._require_few_ids(caller, accepted, now)
                for bucket, _ in self._of(caller, WRITE, address, now):
                    bucket.take(rows)

        return admit

    def refused(self, limit: str) -> None:
        """Count what somebody else refused for a limit's sake."""
        with self._lock:
            self.limited[limit] += 1

    def _of(self, caller: Caller, scope: str, address: str, now: float) -> list[tuple[Bucket, str]]:
        own, server = caller.limits, self.server
        found: list[tuple[Bucket, str]] = []
        what = "requests" if scope == READ else "events"
        rate = (
            self._limit(own.requests_per_s, server.requests_per_s) if scope == READ else self._limit(own.events_per_s, server.events_per_s)
        )
        if rate and caller.id:
            key = (caller.id, scope, rate)  # another rate of the same key begins anew
            found.append((self._buckets.setdefault(key, Bucket(rate, now)), what))
        if caller.public and address and server.address_events_per_s:
            found.append((self._address(address, now), "address"))
        return found

    def _address(self, address: str, now: float) -> Bucket:
        bucket = self._addresses.setdefault(address, Bucket(self.server.address_events_per_s, now))
        self._addresses.move_to_end(address)
        if len(self._addresses) > ADDRESSES_MAX:
            self._addresses.popitem(last=False)
        return bucket

    def _require_few_ids(self, caller: Caller, accepted: Sequence[Accepted], now: float) -> None:
        ids_max = self._limit(caller.limits.ids_per_hour, self.server.ids_per_hour)
        if not ids_max or not caller.id:
            return
        begun, ids = self._ids.get(caller.id, (now, None))
        if ids is None or now - begun >= HOUR_S:
            begun, ids = now, Distinct()
            self._ids[caller.id] = (begun, ids)
        if ids.estimate() >= ids_max:
            self.limited["ids"] += 1
            raise LimitError(
                f"more than {ids_max} different people and items within an hour",
                limit="ids", code="too_many_ids", retry_after_s=HOUR_S - (now - begun), fix="raise the key's ids_per_hour if that is right",
            )  # fmt: skip
        for row in accepted:
            event = row.event
            ids.add([text for text in (event.user_id, event.anonymous_id, event.item_id, *(event.items or ())) if text])

    @staticmethod
    def _limit(own: float | None, server: float) -> float:
        return server if own is None else own


def address_of(peer: str, forwarded: str | None, proxies: frozenset[str]) -> str:
    """Who is calling: the peer, or the last address that a trusted proxy did not add itself. An IPv6 address is cut to its /64."""
    hops = [hop.strip() for hop in (forwarded or "").split(",") if hop.strip()] if peer in proxies else []
    while peer in proxies and hops:
        peer = hops.pop()
    try:
        address = ip_address(peer)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)
