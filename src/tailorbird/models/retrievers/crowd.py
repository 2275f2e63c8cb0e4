"""What everybody does just before a moment, as columns of (question, item) pairs: shares of the traffic, trends, ages, segments.

Shares and ratios, never counts: absolute counts swing with the traffic, and trees that split on them are lost an hour later. Everything
is read as of one moment t, however late within its window a question comes, as a table that is counted anew once in a while would be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tailorbird.events import HOUR, MINUTE
from tailorbird.models.retrievers.pairs import Pairs
from tailorbird.models.retrievers.protocol import Contexts, Ints, Scores

WINDOWS = (5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 24 * HOUR)


@dataclass(frozen=True)
class Crowd:
    """Interactions of everybody, ordered by time.

    Attributes:
        item, ts: shape (n,).
        opening: shape (n,): whether an interaction opens its sequence, which is where other pages lead, not what people go on to.
        segments: name → shape (n,): small codes, as of the device.
        items: how many codes there are.
        windows: over which shares are taken, ascending.
        segment_windows: segment → over which window it is counted.
    """

    item: Ints
    ts: Ints
    opening: np.ndarray
    segments: Mapping[str, Ints]
    items: int
    segment_windows: Mapping[str, int]
    windows: tuple[int, ...] = WINDOWS

    def columns(self, t: int, contexts: Contexts, segment: Mapping[str, Ints], pairs: Pairs) -> dict[str, Scores]:
        """Columns as of t; `segment`: name → shape (questions,), which segment each question is of."""
        item, question = pairs.item, pairs.question
        counts = [self._count(t - window, t) for window in self.windows]
        made = {f"share_{_told(window)}": (c / max(c.sum(), 1))[item] for window, c in zip(self.windows, counts, strict=True)}
        for (short, few), (long, many) in pairwise(zip(self.windows, counts, strict=True)):
            made[f"trend_{_told(short)}"] = (few[item] * (long / short) + 1) / (many[item] + 1)
        hour, hours = HOUR, 3 * HOUR
        followed = self._count(t - hours, t, ~self.opening)
        made["followed"] = (followed[item] + 1) / (self._count(t - hours, t)[item] + 3)
        followed = self._count(t - hour, t, ~self.opening)
        made["share_followed"] = followed[item] / max(followed.sum(), 1)
        for name, window in self.segment_windows.items():
            made |= self._segment(name, t, window, segment[name], pairs)
        born = self._born(t)
        newest = np.concatenate((contexts.item, [-1]))[contexts.offsets[1:] - 1]
        made["age_h"] = (contexts.t[question] - born[item]) / HOUR
        made["newest_age_h"] = np.where(newest >= 0, (contexts.t - born[newest]) / HOUR, -1)[question]
        made["length"] = np.diff(contexts.offsets)[question]
        made["hour"] = np.full(len(item), t // HOUR % 24)
        made["minutes"] = ((contexts.t - t) / MINUTE)[question]
        return {name: np.asarray(column, np.float32) for name, column in made.items()}

    def _rows(self, low: int, high: int) -> slice:
        return slice(*np.searchsorted(self.ts, (low, high)).tolist())

    def _count(self, low: int, high: int, only: np.ndarray | None = None) -> np.ndarray:
        rows = self._rows(low, high)
        return np.bincount(self.item[rows] if only is None else self.item[rows][only[rows]], minlength=self.items).astype(np.float64)

    def _segment(self, name: str, t: int, window: int, mine: Ints, pairs: Pairs) -> dict[str, np.ndarray]:
        """Share of the item in the segment's own traffic, and how far that is above what it is with everybody."""
        rows, codes = self._rows(t - window, t), self.segments[name]
        size = int(max(codes.max(initial=0), mine.max(initial=0))) + 1
        table = np.bincount(codes[rows] * self.items + self.item[rows], minlength=size * self.items).reshape(size, self.items)
        own, all_ = table.sum(axis=1), table.sum(axis=0)
        code = mine[pairs.question]
        hits = table[code, pairs.item]
        expected = all_[pairs.item] * (own / max(own.sum(), 1))[code]
        return {f"{name}_share": hits / np.maximum(own, 1)[code], f"{name}_lift": (hits + 1) / (expected + 1), name: code}

    def _born(self, t: int) -> np.ndarray:
        """When each item was first seen, t for those that were not."""
        rows = self._rows(np.iinfo(np.int64).min, t)
        born = np.full(self.items, t, np.int64)
        # In order of time from the end, so that the earliest is written last.
        born[self.item[rows][::-1]] = self.ts[rows][::-1]
        return born


def _told(window: int) -> str:
    return f"{window // HOUR}h" if window >= HOUR else f"{window // MINUTE}m"
