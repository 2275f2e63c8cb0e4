"""Interactions of people with items: counts by person and item at a moment, and recent items.

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
    """Interactions of people with items, one row each; −1 is no person or item.

    Attributes:
        person, item: shape (n,), codes.
        ts: shape (n,), microseconds.
        people, items: number of codes.
    """

    person: Ints
    item: Ints
    ts: Ints
    people: int
    items: int

    def before(self, moment: int, since: int | None = None) -> "Interactions":
        """Return the interactions with since ≤ ts < moment."""
        mask = self.ts < moment
        if since is not None:
            mask &= self.ts >= since
        return Interactions(
            self.person[mask], self.item[mask], self.ts[mask], self.people, self.items
        )


@dataclass(frozen=True)
class Counter:
    """Counts interactions of keys over windows.

    It is one sorted array of (key, rank of the time), packed into int64.
    """

    packed: Ints
    times: Ints
    bits: int

    @classmethod
    def over(cls, key: Ints, ts: Ints) -> "Counter":
        """Count interactions with `key` (n,) ≥ 0 at `ts` (n,); a key of −1 is left out."""
        is_valid = key >= 0
        times, rank = np.unique(ts[is_valid], return_inverse=True)
        bits = len(times).bit_length()
        return cls(np.sort((key[is_valid] << bits) | rank), times, bits)

    def position(self, key: Ints, t: Ints | None, request: Ints) -> Ints:
        """Return the number of interactions before (key, t) in the order of (key, time).

        Only differences within a key are meaningful.
        """
        rank = np.searchsorted(self.times, t)[request] if t is not None else 0
        return np.searchsorted(self.packed, (key << self.bits) | rank)

    def count(self, key: Ints, t: Ints, request: Ints, window: int | None = None) -> Floats:
        """Return the interactions of each row's key in [t − window, t), or before t.

        A key of −1 counts 0.

        Args:
            key, request: shape (n,).
            t: shape (requests,).
        """
        valid_key = np.maximum(key, 0)
        start = self.position(valid_key, None if window is None else t - window, request)
        return np.where(key >= 0, self.position(valid_key, t, request) - start, 0).astype(
            np.float64
        )


@dataclass(frozen=True)
class History:
    """Interactions, indexed by person and by item."""

    interactions: Interactions

    @cached_property
    def by_item(self) -> Counter:
        return Counter.over(self.interactions.item, self.interactions.ts)

    @cached_property
    def by_person(self) -> Counter:
        return Counter.over(self.interactions.person, self.interactions.ts)

    @cached_property
    def _sequence(self) -> tuple[Ints, Ints]:
        """Items and times ordered by (person, ts), as `by_person` counts them.

        Equal times keep the order of the log.
        """
        i = self.interactions
        order = np.lexsort((i.ts, i.person))
        order = order[i.person[order] >= 0]
        return i.item[order], i.ts[order]

    def recent(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints]:
        """Return the last `length` items of each person before t, oldest first.

        The result is item codes, and offsets (requests + 1,).
        """
        positions, offsets = self.recent_positions(person, t, length)
        return self._sequence[0][positions], offsets

    def recent_positions(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints]:
        """Return the positions of recent items in the order of (person, ts), and offsets."""
        requests = np.arange(len(person))
        valid_person = np.maximum(person, 0)
        stop = self.by_person.position(valid_person, t, requests)
        start = np.maximum(self.by_person.position(valid_person, None, requests), stop - length)
        size = np.where(person >= 0, stop - start, 0)
        offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], size), offsets
