"""What every model has to stand beside: chance, popularity over several windows, what follows what, and one's own habits.

Each scores any (moment, person, item) from the interactions before that moment alone, exactly: a count over a window is
the difference of two binary searches in the item's sorted times. They learn nothing, so they need no training part and cannot
leak. Baselines that read candidate sources are in `ranking.baseline`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DAY = 86_400_000_000


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
        return Interactions(self.person[kept], self.item[kept], self.ts[kept], self.people, self.items)


@dataclass(frozen=True)
class Questions:
    """Rows to be scored: request by request.

    Attributes:
        t, person: shape (requests,), moment and person code (−1: nobody known).
        request, item: shape (n,), the request and the item code of each row.
    """

    t: Ints
    person: Ints
    request: Ints
    item: Ints


@dataclass(frozen=True)
class Counter:
    """Counts interactions of keys over windows, from one sorted array of (key, rank of the time) packed into int64."""

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
        """How many interactions come before (key, t) in the order of (key, time): only differences within a key mean something."""
        rank = np.searchsorted(self.times, t)[request] if t is not None else 0
        return np.searchsorted(self.packed, (key << self.bits) | rank)

    def count(self, key: Ints, t: Ints, request: Ints, window: int | None = None) -> Floats:
        """How many interactions of each row's key lie in [t − window, t), or before t; 0 for a key of −1.

        Args:
            key, request: shape (n,).
            t: shape (requests,).
        """
        known = np.maximum(key, 0)
        start = self.place(known, None if window is None else t - window, request)
        return np.where(key >= 0, self.place(known, t, request) - start, 0).astype(np.float64)


@dataclass(frozen=True)
class History:
    """Interactions, sorted in the ways that baselines ask."""

    interactions: Interactions

    @cached_property
    def by_item(self) -> Counter:
        return Counter.over(self.interactions.item, self.interactions.ts)

    @cached_property
    def by_person(self) -> Counter:
        return Counter.over(self.interactions.person, self.interactions.ts)

    @cached_property
    def _pairs(self) -> Ints:
        i = self.interactions
        known = (i.person >= 0) & (i.item >= 0)
        return np.unique(i.person[known] * i.items + i.item[known])

    def pair(self, person: Ints, item: Ints) -> Ints:
        """A code for each (person, item) that ever met, −1 for others."""
        if not len(self._pairs):
            return np.full(len(person), -1, np.int64)
        wanted = person * self.interactions.items + item
        at = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        return np.where((self._pairs[at] == wanted) & (person >= 0) & (item >= 0), at, -1)

    @cached_property
    def by_pair(self) -> Counter:
        i = self.interactions
        return Counter.over(self.pair(i.person, i.item), i.ts)

    @cached_property
    def _sequence(self) -> tuple[Ints, Ints]:
        """Items and times ordered by (person, ts), as `by_person` counts them; equal times in the order of the log."""
        i = self.interactions
        order = np.lexsort((i.ts, i.person))
        order = order[i.person[order] >= 0]
        return i.item[order], i.ts[order]

    def recent(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints]:
        """The last `length` items of each person before t, oldest first: item codes, and offsets (requests + 1,)."""
        at, offsets = self.recent_at(person, t, length)
        return self._sequence[0][at], offsets

    def recent_with_times(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints, Ints]:
        """The same, and when each was: item codes, times, and offsets."""
        at, offsets = self.recent_at(person, t, length)
        return self._sequence[0][at], self._sequence[1][at], offsets

    def recent_at(self, person: Ints, t: Ints, length: int) -> tuple[Ints, Ints]:
        """Where they stand in the order of (person, ts)."""
        each = np.arange(len(person))
        known = np.maximum(person, 0)
        stop = self.by_person.place(known, t, each)
        start = np.maximum(self.by_person.place(known, None, each), stop - length)
        size = np.where(person >= 0, stop - start, 0)
        offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], size), offsets


def popular(history: History, questions: Questions, window: int | None) -> Floats:
    """How often the item was chosen by anybody in the last `window` µs (ever, without one), shape (n,)."""
    return history.by_item.count(questions.item, questions.t, questions.request, window)


def own_history(history: History, questions: Questions) -> Floats:
    """How often this person chose this item before; ties by how popular it was in the last 30 days. Hard to beat for groceries."""
    pair = history.pair(questions.person[questions.request], questions.item)
    mine = history.by_pair.count(pair, questions.t, questions.request)
    crowd = popular(history, questions, 30 * DAY)
    return mine + crowd / (crowd + 1e6)


def chance(questions: Questions, seed: int) -> Floats:
    """A number drawn evenly for each row, shape (n,)."""
    return np.random.default_rng(seed).random(len(questions.item))


def simple_baselines(
    history: History, questions: Questions, windows: Mapping[str, int | None], *, seed: int = 0, repeats: bool = True
) -> dict[str, Floats]:
    """Scores by name: `random`, `popular_NAME` for each window, and `own_history` where people choose the same item again."""
    scores = {"random": chance(questions, seed)}
    scores |= {f"popular_{name}": popular(history, questions, window) for name, window in windows.items()}
    if repeats:
        scores["own_history"] = own_history(history, questions)
    return scores
