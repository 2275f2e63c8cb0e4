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
        person_count, item_count: number of codes.
    """

    person: Ints
    item: Ints
    ts: Ints
    person_count: int
    item_count: int

    def before(self, until: int, since: int | None = None) -> "Interactions":
        """Return the interactions with since ≤ ts < until."""
        is_selected = self.ts < until
        if since is not None:
            is_selected &= self.ts >= since
        return Interactions(
            self.person[is_selected],
            self.item[is_selected],
            self.ts[is_selected],
            self.person_count,
            self.item_count,
        )


@dataclass(frozen=True)
class WindowCounter:
    """Counts interactions of keys over windows.

    It is one sorted array of (key, rank of the time), packed into int64.
    """

    packed_keys: Ints
    distinct_ts: Ints
    time_bits: int

    @classmethod
    def from_keys(cls, key: Ints, ts: Ints) -> "WindowCounter":
        """Count interactions with `key` (n,) ≥ 0 at `ts` (n,); a key of −1 is left out."""
        is_valid = key >= 0
        distinct_ts, ts_rank = np.unique(ts[is_valid], return_inverse=True)
        time_bits = len(distinct_ts).bit_length()
        return cls(np.sort((key[is_valid] << time_bits) | ts_rank), distinct_ts, time_bits)

    def count_before(self, key: Ints, t: Ints | None, request_index: Ints) -> Ints:
        """Return the number of interactions before (key, t) in the order of (key, time).

        Only differences within a key are meaningful.
        """
        ts_rank = np.searchsorted(self.distinct_ts, t)[request_index] if t is not None else 0
        return np.searchsorted(self.packed_keys, (key << self.time_bits) | ts_rank)

    def count(self, key: Ints, t: Ints, request_index: Ints, window: int | None = None) -> Floats:
        """Return the interactions of each row's key in [t − window, t), or before t.

        A key of −1 counts 0.

        Args:
            key, request_index: shape (n,); the second is the index of each row's request in `t`.
            t: shape (requests,).
        """
        valid_key = np.maximum(key, 0)
        count_before_window = self.count_before(
            valid_key, None if window is None else t - window, request_index
        )
        return np.where(
            key >= 0, self.count_before(valid_key, t, request_index) - count_before_window, 0
        ).astype(np.float64)


@dataclass(frozen=True)
class History:
    """Interactions, indexed by person and by item."""

    interactions: Interactions

    @cached_property
    def item_counter(self) -> WindowCounter:
        return WindowCounter.from_keys(self.interactions.item, self.interactions.ts)

    @cached_property
    def person_counter(self) -> WindowCounter:
        return WindowCounter.from_keys(self.interactions.person, self.interactions.ts)

    @cached_property
    def _items_and_ts(self) -> tuple[Ints, Ints]:
        """Items and times ordered by (person, ts), as `person_counter` counts them.

        Equal times keep the order of the log.
        """
        interactions = self.interactions
        order = np.lexsort((interactions.ts, interactions.person))
        order = order[interactions.person[order] >= 0]
        return interactions.item[order], interactions.ts[order]

    def recent(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints]:
        """Return the last `length` items of each person before t, oldest first.

        The result is item codes, and offsets (requests + 1,).
        """
        positions, offsets = self.recent_positions(person, t, length)
        return self._items_and_ts[0][positions], offsets

    def recent_positions(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints]:
        """Return the positions of recent items in the order of (person, ts), and offsets."""
        request_index = np.arange(len(person))
        valid_person = np.maximum(person, 0)
        stop = self.person_counter.count_before(valid_person, t, request_index)
        start = np.maximum(
            self.person_counter.count_before(valid_person, None, request_index), stop - length
        )
        lengths = np.where(person >= 0, stop - start, 0)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths), offsets
