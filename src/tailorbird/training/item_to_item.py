"""Item-to-item scores and candidates for many requests at once, from the table that `retrieval.cooccurrence` builds.

    score(recent, j) = Σ over the last items i of the person, the newest first, of 0.8**age · M[i, j]

The same numbers that an index gives for one request (`Index.item_to_item`), without a loop over requests: the followers of all
recent items of all requests are spread out, summed by (request, item), and looked up once.

A table knows the future of what it was fitted on, so it is only asked about moments at or after its `trained_until`.
`Rolling` holds several, each fitted on the interactions before its moment, and answers each request from the newest that is allowed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.events import DAY
from tailorbird.models.baselines import History, Questions
from tailorbird.retrieval import Cooccurrence, cooccurrence
from tailorbird.retrieval.index import RECENT_DECAY, RECENT_MAX
from tailorbird.training.by_segment import RollingSegments
from tailorbird.training.like_sessions import RollingSessions

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Followers:
    """What follows what the persons of some requests did last: weights summed by (request, item), sorted by both.

    Attributes:
        key: shape (m,), request · items + item.
        weight: shape (m,).
    """

    key: Ints
    weight: Floats
    items: int

    def score(self, request: Ints, item: Ints) -> Floats:
        """Of each row, shape (n,); 0 where the item follows nothing or is −1."""
        if not len(self.key):
            return np.zeros(len(item))
        wanted = request * self.items + item
        at = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        return np.where((self.key[at] == wanted) & (item >= 0), self.weight[at], 0.0)

    def best(self, n: int) -> tuple[Ints, Ints]:
        """The best `n` of each request: (request, item), shape (m,) each, the best first within a request."""
        request, item = self.key // self.items, self.key % self.items
        order = np.lexsort((-self.weight, request))
        request, item = request[order], item[order]
        kept = np.arange(len(request)) - np.searchsorted(request, request) < n
        return request[kept], item[kept]


def followers(table: Cooccurrence, items: int, recent: Ints, offsets: Ints) -> Followers:
    """Spread out what follows the recent items of all requests.

    Args:
        table: its rows are item codes.
        recent: item codes of all requests one after the other, oldest first; −1 is skipped but ages the others.
        offsets: shape (requests + 1,).
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    age = offsets[owner + 1] - 1 - np.arange(len(recent))
    kept = (recent >= 0) & (age < RECENT_MAX)
    source, owner, age = recent[kept].astype(np.intp), owner[kept], age[kept]
    at, nth = table.entries(source)
    key = owner[nth] * items + table.items[at].astype(np.int64)
    weight = table.weights[at] * RECENT_DECAY ** age[nth]
    order = np.argsort(key, kind="stable")
    key, weight = key[order], weight[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    return Followers(key[first], np.add.reduceat(weight, first) if len(first) else np.zeros(0), items)


@dataclass(frozen=True)
class Rolling:
    """Tables by the moment until which they were trained, ascending; and sessions and segments of the same indexes, where there are any."""

    trained_until: Ints
    tables: Sequence[Cooccurrence]
    items: int
    sessions: RollingSessions | None = None
    segments: RollingSegments | None = None

    def slot_of(self, t: Ints) -> Ints:
        """Which table answers at t: the newest with trained_until ≤ t; −1 if none may."""
        return np.searchsorted(self.trained_until, t, side="right") - 1

    def score(self, history: History, questions: Questions) -> Floats:
        """Of each row of all questions, shape (n,), in float64."""
        scores = np.zeros(len(questions.item))
        self._each(history, questions.t, questions.person, lambda chosen, found: _fill(scores, questions, chosen, found))
        return scores

    def best(self, history: History, t: Ints, person: Ints, n: int) -> tuple[Ints, Ints]:
        """The best `n` followers for each request: (request, item)."""
        parts: list[tuple[Ints, Ints]] = []

        def add(chosen: Ints, found: Followers) -> None:
            request, item = found.best(n)
            parts.append((chosen[request], item))

        self._each(history, t, person, add)
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _each(self, history: History, t: Ints, person: Ints, use: Callable[[Ints, Followers], None]) -> None:
        slot = self.slot_of(t)
        for index in np.unique(slot[slot >= 0]).tolist():
            chosen = np.flatnonzero(slot == index)
            for start in range(0, len(chosen), 5_000):  # bounds what is spread out: 5,000 × 10 recent items × 100 followers
                some = chosen[start : start + 5_000]
                recent, offsets = history.recent(person[some], t[some], RECENT_MAX)
                use(some, followers(self.tables[index], self.items, recent, offsets))


def roll(history: History, moments: Sequence[int], *, memory: int | None = None, gap: int = DAY, backward: bool = True) -> Rolling:
    """Fit one table for each moment on the interactions before it (and, with `memory`, at most that long before)."""
    tables = []
    for moment in moments:
        seen = history.interactions.before(moment, None if memory is None else moment - memory)
        order = np.lexsort((seen.ts, seen.person))
        order = order[(seen.person[order] >= 0) & (seen.item[order] >= 0)]
        arrays = (seen.person[order], seen.item[order], seen.ts[order])
        tables.append(cooccurrence(*arrays, items=seen.items, gap_us=gap, backward=backward))
    return Rolling(np.array(moments, np.int64), tables, history.interactions.items)


def _fill(scores: Floats, questions: Questions, chosen: Ints, found: Followers) -> None:
    """Score the rows of the chosen requests; the rows of a request lie together and requests ascend."""
    low = np.searchsorted(questions.request, chosen)
    size = np.searchsorted(questions.request, chosen, side="right") - low
    rows = np.arange(size.sum()) + np.repeat(low - np.cumsum(size) + size, size)
    scores[rows] = found.score(np.repeat(np.arange(len(chosen)), size), questions.item[rows])
