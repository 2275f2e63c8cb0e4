"""What was known when: per key, values with the time from which each holds. Identity and catalogue are timelines.

at(key, ts) = the value with the newest time ≤ ts; of equal times, the one put last
"""

from bisect import bisect_right, insort_right
from operator import itemgetter
from typing import Generic, TypeVar

V = TypeVar("V")
_time = itemgetter(0)


class Timeline(Generic[V]):
    """Values by key and time, in memory. The result depends on the order of `put` only where times are equal."""

    def __init__(self) -> None:
        self._entries: dict[str, list[tuple[int, V]]] = {}

    def put(self, key: str, ts: int, value: V) -> None:
        """From `ts` on (and until the next time of the key), the value is this."""
        entries = self._entries.get(key)
        if entries is None:
            self._entries[key] = [(ts, value)]
        elif entries[-1][0] <= ts:
            entries.append((ts, value))
        else:
            insort_right(entries, (ts, value), key=_time)

    def at(self, key: str, ts: int) -> V | None:
        """What held for `key` at `ts`; None before its first time."""
        entries = self._entries.get(key)
        if entries is None:
            return None
        newest = entries[-1]
        if newest[0] <= ts:
            return newest[1]
        found = bisect_right(entries, ts, key=_time)
        return entries[found - 1][1] if found else None

    def __len__(self) -> int:
        return len(self._entries)
