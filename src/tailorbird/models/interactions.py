"""What people did with items, and how often by a moment: counts by person and item, and the newest
items of a person.

A count over a window is exact: the difference of two binary searches in the sorted times of a key.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interactions:
    """What people did with items, one row an interaction; people and items as codes, −1 for none.

    Attributes:
        person, item: shape (n,), codes.
        ts: shape (n,), microseconds.
        people, items: how many codes there are.
    """

    person: Ints
    item: Ints
    ts: Ints
    people: int
    items: int

    def before(self, moment: int, since: int | None = None) -> "Interactions":
        """Those with since ≤ ts < moment."""
        kept = self.ts < moment
        if since is not None:
            kept &= self.ts >= since
        return Interactions(
            self.person[kept], self.item[kept], self.ts[kept], self.people, self.items
        )


@dataclass(frozen=True)
class Counter:
    """Counts interactions of keys over windows, from one sorted array of (key, rank of the time)
    packed into int64.
    """

    packed: Ints
    times: Ints
    bits: int

    @classmethod
    def over(cls, key: Ints, ts: Ints) -> "Counter":
        """Of interactions with `key` (n,) ≥ 0 at `ts` (n,); those with a key of −1 are left out."""
        known = key >= 0
        times, rank = np.unique(ts[known], return_inverse=True)
        bits = len(times).bit_length()
        return cls(np.sort((key[known] << bits) | rank), times, bits)

    def place(self, key: Ints, t: Ints | None, request: Ints) -> Ints:
        """How many interactions come before (key, t) in the order of (key, time): only differences
        within a key mean something.
        """
        rank = np.searchsorted(self.times, t)[request] if t is not None else 0
        return np.searchsorted(self.packed, (key << self.bits) | rank)

    def count(self, key: Ints, t: Ints, request: Ints, window: int | None = None) -> Floats:
        """How many interactions of each row's key lie in [t − window, t), or before t; 0 for a key
        of −1.

        Args:
            key, request: shape (n,).
            t: shape (requests,).
        """
        known = np.maximum(key, 0)
        start = self.place(known, None if window is None else t - window, request)
        return np.where(key >= 0, self.place(known, t, request) - start, 0).astype(np.float64)


@dataclass(frozen=True)
class History:
    """Interactions, sorted by person and by item."""

    interactions: Interactions

    @cached_property
    def by_item(self) -> Counter:
        return Counter.over(self.interactions.item, self.interactions.ts)

    @cached_property
    def by_person(self) -> Counter:
        return Counter.over(self.interactions.person, self.interactions.ts)

    @cached_property
    def _sequence(self) -> tuple[Ints, Ints]:
        """Items and times ordered by (person, ts), as `by_person` counts them; equal times in the
        order of the log.
        """
        i = self.interactions
        order = np.lexsort((i.ts, i.person))
        order = order[i.person[order] >= 0]
        return i.item[order], i.ts[order]

    def recent(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints]:
        """The last `length` items of each person before t, oldest first: item codes, and offsets
        (requests + 1,).
        """
        at, offsets = self.recent_at(person, t, length)
        return self._sequence[0][at], offsets

    def recent_at(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints]:
        """Where they stand in the order of (person, ts)."""
        each = np.arange(len(person))
        known = np.maximum(person, 0)
        stop = self.by_person.place(known, t, each)
        start = np.maximum(self.by_person.place(known, None, each), stop - length)
        size = np.where(person >= 0, stop - start, 0)
        offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], size), offsets
