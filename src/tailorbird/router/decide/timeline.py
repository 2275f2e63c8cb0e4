"""Timelines: values per key with the time from which each holds, for identities and profiles.

value_at(key, ts) = the value with the newest time ≤ ts; of equal times, the one put last

A table with rows (key, ts, p, value …) is the source of truth. Memory caches the newest values of
recently requested keys, up to a number of bytes, and everything put since the last save. Other
values are read on demand, so the cache changes the speed of a lookup and never its result.
"""

from bisect import bisect_right, insort_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar

import apsw
import msgspec

V = TypeVar("V")
CACHED_VALUES = 8  # newest values of a key that are cached
KEY_BYTES = 350  # approximate cost of a key beside its text and its values
VALUE_BYTES = 150  # approximate cost of a value beside its texts
_get_ts = itemgetter(0)


class _CachedKey(Generic[V]):
    """Cached values of a key: the newest by time, and in `late_values` unsaved older ones."""

    __slots__ = ("is_complete", "late_values", "size", "values")

    def __init__(self, values: list[tuple[int, V]], is_complete: bool) -> None:
        self.values = values
        self.is_complete = is_complete  # the table has no older values
        self.late_values: list[tuple[int, V]] = []
        self.size = 0  # bytes


NOT_CONSTANT: Any = (
    object()
)  # returned by `find_constant` where several values may hold within the span


class Timeline(Generic[V]):
    """Values by key and time, cached from a table of `connection`.

    The result depends on the order of `put` only where times are equal. The caller writes what it
    puts to the table, with ascending `p`, before it calls `mark_saved`; nobody else writes to it.

    Args:
        select_sql: query of the rows of key ?1, with the columns ts and those that `make_value`
            takes, without an order.
        make_value: makes a value from the columns after ts.
        value_bytes: returns the bytes of a value's texts.
        bytes_max: bound of the cache between steps; what a step reads and puts comes on top.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        select_sql: str,
        make_value: Callable[..., V],
        value_bytes: Callable[[V], int],
        *,
        bytes_max: int,
    ) -> None:
        self._connection = connection
        self._make_value = make_value
        self._value_bytes = value_bytes
        self._bytes_max = bytes_max
        order_sql = "ORDER BY ts DESC, p DESC LIMIT"
        self._newest_query = f"{select_sql} {order_sql} {CACHED_VALUES + 1}"
        self._present_query = (
            "SELECT value FROM json_each(?1) WHERE EXISTS "
            f"({select_sql.replace('?1', 'json_each.value')})"
        )
        self._as_of_query = f"{select_sql} AND ts <= ?2 {order_sql} 1"
        self._cache: OrderedDict[str, _CachedKey[V]] = OrderedDict()
        self._absent_key: _CachedKey[V] = _CachedKey(
            [], is_complete=True
        )  # shared by all keys without values
        self._updated_keys: set[str] = set()
        self.cache_bytes = 0

    def preload(self, keys: Iterable[str]) -> None:
        """Load `keys` into the cache in one transaction and mark them as most recently used."""
        cache = self._cache
        missing_keys = []
        for key in dict.fromkeys(keys):
            if key in cache:
                cache.move_to_end(key)
            else:
                missing_keys.append(key)
        if not missing_keys:
            return
        owns_transaction = not self._connection.in_transaction
        if owns_transaction:
            self._connection.execute("BEGIN")  # one read transaction instead of one per key
        try:
            present_keys = {
                key
                for (key,) in self._connection.execute(
                    self._present_query, (msgspec.json.encode(missing_keys).decode(),)
                )
            }
            absent_keys = [key for key in missing_keys if key not in present_keys]
            cache.update(dict.fromkeys(absent_keys, self._absent_key))
            self.cache_bytes += KEY_BYTES * len(absent_keys) + sum(map(len, absent_keys))
            for key in present_keys:
                self._read_into_cache(key)
        finally:
            if (
                owns_transaction and self._connection.in_transaction
            ):  # an error may have ended the transaction
                self._connection.execute("COMMIT")

    def put(self, key: str, ts: int, value: V) -> None:
        """Set the value from `ts` on, until the next time of the key."""
        cached = self._get_cached(key)
        if cached is self._absent_key:
            cached = self._cache[key] = _CachedKey([], is_complete=True)
            cached.size = KEY_BYTES + len(key)
        self._updated_keys.add(key)
        values = cached.values
        if not cached.is_complete and ts < values[0][0]:
            insort_right(cached.late_values, (ts, value), key=_get_ts)
        elif not values or values[-1][0] <= ts:
            values.append((ts, value))
        else:
            insort_right(values, (ts, value), key=_get_ts)

    def value_at(self, key: str, ts: int) -> V | None:
        """Return the value of `key` at `ts`; None before its first time."""
        cached = self._get_cached(key)
        values = cached.values
        if values and values[0][0] <= ts:
            newest_ts, newest_value = values[-1]
            return (
                newest_value
                if newest_ts <= ts
                else values[bisect_right(values, ts, key=_get_ts) - 1][1]
            )
        return None if cached.is_complete else self._read_older(key, cached, ts)

    def find_constant(self, keys: Sequence[str], first_ts: int, last_ts: int) -> list[V | None]:
        """Return the value of each key that holds from `first_ts` to `last_ts`.

        It is `NOT_CONSTANT` where the value may change in between and needs a lookup by time.
        """
        constants: list[V | None] = []
        for key in keys:
            cached = self._get_cached(key)
            values = cached.values
            if not values or (cached.is_complete and values[0][0] > last_ts):
                constants.append(None)
            else:
                constants.append(values[-1][1] if values[-1][0] <= first_ts else NOT_CONSTANT)
        return constants

    def values(self, key: str) -> list[V]:
        """Return the newest values of `key`, oldest first."""
        return [value for _, value in self._get_cached(key).values]

    def mark_saved(self) -> None:
        """Note that the table has all that was put, and shrink the cache to its bound."""
        for key in self._updated_keys:
            cached = self._cache[key]
            if len(cached.values) > CACHED_VALUES:
                del cached.values[:-CACHED_VALUES]
                cached.is_complete = False
            cached.late_values.clear()
            self._update_size(key, cached)
        self._updated_keys = set()
        while self.cache_bytes > self._bytes_max and self._cache:
            key, cached = self._cache.popitem(last=False)
            self.cache_bytes -= KEY_BYTES + len(key) if cached is self._absent_key else cached.size

    def _get_cached(self, key: str) -> _CachedKey[V]:
        cached = self._cache.get(key)
        return self._read_into_cache(key) if cached is None else cached

    def _read_into_cache(self, key: str) -> _CachedKey[V]:
        rows: list[tuple[Any, ...]] = self._connection.execute(
            self._newest_query, (key,)
        ).fetchall()
        values = [
            (ts, self._make_value(*columns)) for ts, *columns in reversed(rows[:CACHED_VALUES])
        ]
        cached = self._cache[key] = _CachedKey(values, len(rows) <= CACHED_VALUES)
        self._update_size(key, cached)
        return cached

    def _read_older(self, key: str, cached: _CachedKey[V], ts: int) -> V | None:
        row = self._connection.execute(self._as_of_query, (key, ts)).fetchone()
        saved_ts, *columns = row or (None,)
        late_count = bisect_right(cached.late_values, ts, key=_get_ts)
        if late_count:
            late_ts, late_value = cached.late_values[late_count - 1]
            if saved_ts is None or saved_ts <= late_ts:
                return late_value
        return None if saved_ts is None else self._make_value(*columns)

    def _update_size(self, key: str, cached: _CachedKey[V]) -> None:
        byte_count = (
            KEY_BYTES
            + len(key)
            + sum(VALUE_BYTES + self._value_bytes(value) for _, value in cached.values)
        )
        self.cache_bytes += byte_count - cached.size
        cached.size = byte_count

    def __len__(self) -> int:
        return len(self._cache)
