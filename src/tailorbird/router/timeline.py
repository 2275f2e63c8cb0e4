"""What was known when: per key, values with the time from which each holds. Identity and catalogue
are timelines.

at(key, ts) = the value with the newest time ≤ ts; of equal times, the one put last

The truth is a table with rows (key, ts, p, value …), which keeps all of it. Memory has the newest
values of the keys that were asked for lately, up to a number of bytes, and what was put since the
last save; anything else is read where it is asked for. So what memory holds changes no answer, only
how fast it comes.
"""

from bisect import bisect_right, insort_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar

import apsw
import msgspec

V = TypeVar("V")
KEPT = 8  # newest values of a key that memory holds
KEY_BYTES = 350  # about what a key costs beside its text and its values
VALUE_BYTES = 150  # and a value beside its texts
_time = itemgetter(0)


class _Known(Generic[V]):
    """What memory has of a key: its newest values by time; `late`, those put since the last save
    that are older than all of these.
    """

    __slots__ = ("late", "size", "values", "whole")

    def __init__(self, values: list[tuple[int, V]], whole: bool) -> None:
        self.values = values
        self.whole = whole  # nothing of the key is older than `values`
        self.late: list[tuple[int, V]] = []
        self.size = 0


SEVERAL: Any = (
    object()
)  # says `through`: more than one value holds within the span, or memory does not know


class Timeline(Generic[V]):
    """Values by key and time, over a table of `connection`. The result depends on the order of
    `put` only where times are equal.

    What is put must be written to the table, with ascending `p`, before `saved` is called; and
    nobody else may write to it.

    Args:
        select: a query of the columns ts and those that `make` takes, of the rows of key ?1,
            without an order.
        make: a value from the columns behind ts.
        size: the bytes of a value's texts.
        bytes_max: how much memory may hold from one save to the next; what a step asks for and puts
            comes on top.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        select: str,
        make: Callable[..., V],
        size: Callable[[V], int],
        *,
        bytes_max: int,
    ) -> None:
        self._connection, self._make, self._size, self._bytes_max = (
            connection,
            make,
            size,
            bytes_max,
        )
        order = "ORDER BY ts DESC, p DESC LIMIT"
        self._newest = f"{select} {order} {KEPT + 1}"
        self._there = (
            "SELECT value FROM json_each(?1) WHERE EXISTS "
            f"({select.replace('?1', 'json_each.value')})"
        )
        self._before = f"{select} AND ts <= ?2 {order} 1"
        self._known: OrderedDict[str, _Known[V]] = OrderedDict()
        self._absent: _Known[V] = _Known(
            [], whole=True
        )  # stands for each key of which there is nothing
        self._put: set[str] = set()
        self.bytes = 0

    def ready(self, keys: Iterable[str]) -> None:
        """Have `keys` in memory, which are about to be asked for: read in one go, and let go of
        after all others.
        """
        known, missing = self._known, []
        for key in dict.fromkeys(keys):
            if key in known:
                known.move_to_end(key)
            else:
                missing.append(key)
        if not missing:
            return
        began = not self._connection.in_transaction
        if began:
            self._connection.execute("BEGIN")  # one look at the file, rather than one a key
        try:
            there = {
                key
                for (key,) in self._connection.execute(
                    self._there, (msgspec.json.encode(missing).decode(),)
                )
            }
            absent = [key for key in missing if key not in there]
            known.update(dict.fromkeys(absent, self._absent))
            self.bytes += KEY_BYTES * len(absent) + sum(map(len, absent))
            for key in there:
                self._read(key)
        finally:
            if began and self._connection.in_transaction:  # an error may have ended it
                self._connection.execute("COMMIT")

    def put(self, key: str, ts: int, value: V) -> None:
        """From `ts` on (and until the next time of the key), the value is this."""
        known = self._of(key)
        if known is self._absent:
            known = self._known[key] = _Known([], whole=True)
            known.size = KEY_BYTES + len(key)
        self._put.add(key)
        values = known.values
        if not known.whole and ts < values[0][0]:
            insort_right(known.late, (ts, value), key=_time)
        elif not values or values[-1][0] <= ts:
            values.append((ts, value))
        else:
            insort_right(values, (ts, value), key=_time)

    def at(self, key: str, ts: int) -> V | None:
        """What held for `key` at `ts`; None before its first time."""
        known = self._of(key)
        values = known.values
        if values and values[0][0] <= ts:
            newest = values[-1]
            return (
                newest[1] if newest[0] <= ts else values[bisect_right(values, ts, key=_time) - 1][1]
            )
        return None if known.whole else self._older(key, known, ts)

    def through(self, keys: Sequence[str], first: int, last: int) -> list[V | None]:
        """For each key, what holds at every time from `first` to `last`; `SEVERAL` where `at` has
        to be asked for each.
        """
        found: list[V | None] = []
        for key in keys:
            known = self._of(key)
            values = known.values
            if not values or (known.whole and values[0][0] > last):
                found.append(None)
            else:
                found.append(values[-1][1] if values[-1][0] <= first else SEVERAL)
        return found

    def values(self, key: str) -> list[V]:
        """The newest values of `key`, oldest first: what `at` is likely to say."""
        return [value for _, value in self._of(key).values]

    def saved(self) -> None:
        """All that was put stands in the table now: memory goes back to what it may hold."""
        for key in self._put:
            known = self._known[key]
            if len(known.values) > KEPT:
                del known.values[:-KEPT]
                known.whole = False
            known.late.clear()
            self._weigh(key, known)
        self._put = set()
        while self.bytes > self._bytes_max and self._known:
            key, known = self._known.popitem(last=False)
            self.bytes -= KEY_BYTES + len(key) if known is self._absent else known.size

    def _of(self, key: str) -> _Known[V]:
        known = self._known.get(key)
        return self._read(key) if known is None else known

    def _read(self, key: str) -> _Known[V]:
        rows: list[tuple[Any, ...]] = self._connection.execute(self._newest, (key,)).fetchall()
        values = [(row[0], self._make(*row[1:])) for row in reversed(rows[:KEPT])]
        known = self._known[key] = _Known(values, len(rows) <= KEPT)
        self._weigh(key, known)
        return known

    def _older(self, key: str, known: _Known[V], ts: int) -> V | None:
        row = self._connection.execute(self._before, (key, ts)).fetchone()
        late = bisect_right(known.late, ts, key=_time)
        if late and (row is None or row[0] <= known.late[late - 1][0]):
            return known.late[late - 1][1]
        return None if row is None else self._make(*row[1:])

    def _weigh(self, key: str, known: _Known[V]) -> None:
        size = (
            KEY_BYTES + len(key) + sum(VALUE_BYTES + self._size(value) for _, value in known.values)
        )
        self.bytes += size - known.size
        known.size = size

    def __len__(self) -> int:
        return len(self._known)
