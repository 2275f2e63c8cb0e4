"""The site's policy before Tailorbird: a mixture with known propensities that logged the history.

A list without a query is drawn independently each time:

    with 0.4  the items of the last week's best click rate (smoothed), best first
    with 0.3  a random draw, in random order, from the 100 best
    with 0.3  a random draw, in random order, from everything in stock

so item i is at position j with probability 0.4·[popular_j = i] + 0.3·[i among the 100]/100 +
0.3/available. A search returns items with all the words, by click rate (0.7) or in random order
(0.3).
"""

import numpy as np

from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.traffic import Requests, Slates
from tailorbird.simulator.world import Floats, Ints

BEST_SHARE, POOL_SHARE, ANY_SHARE = 0.4, 0.3, 0.3
POOL_SIZE = 100
SEARCH_BEST = 0.7
PRIOR_IMPRESSIONS = 40.0  # weight of the site's click rate as a prior
DAILY_DECAY = 6 / 7  # of click counts: about a week of memory


class HousePolicy:
    """Uses clicks and impressions only.

    Call `open_day` before each day and `learn` after it.
    """

    def __init__(self, search_box: SearchBox, items: int, size: int) -> None:
        self._search_box = search_box
        self._size = size
        self._clicks = np.zeros(items)
        self._seen = np.zeros(items)
        self._ranked: Ints = np.empty(0, np.int64)

    def open_day(self, available: Ints) -> None:
        """Rank available items by click rate, shrunk to the site's; ties by age, newest first."""
        site_rate = self._clicks.sum() / max(self._seen.sum(), 1.0)
        rate = (self._clicks + site_rate * PRIOR_IMPRESSIONS) / (self._seen + PRIOR_IMPRESSIONS)
        self._ranked = available[::-1][np.argsort(-rate[available[::-1]], kind="stable")]

    def learn(self, seen: Ints, clicked: Ints) -> None:
        for counts, items in ((self._seen, seen), (self._clicks, clicked)):
            counts *= DAILY_DECAY
            np.add.at(counts, items, 1.0)

    def choose(self, rng: np.random.Generator, requests: Requests) -> Slates:
        n, k = len(requests.user), self._size
        ranked_items = self._ranked
        pool = min(POOL_SIZE, len(ranked_items))
        mixture_draw = rng.random(n)
        items = np.broadcast_to(ranked_items[:k], (n, k)).copy()
        is_random = (mixture_draw >= BEST_SHARE) & (mixture_draw < BEST_SHARE + POOL_SHARE)
        items[is_random] = ranked_items[_draw_distinct(rng, int(is_random.sum()), k, pool)]
        is_random = mixture_draw >= BEST_SHARE + POOL_SHARE
        items[is_random] = ranked_items[
            _draw_distinct(rng, int(is_random.sum()), k, len(ranked_items))
        ]
        rank = np.empty(len(self._clicks), np.int64)
        rank[ranked_items] = np.arange(len(ranked_items))
        position = rank[items]
        propensity = (
            BEST_SHARE * (position == np.arange(k))
            + POOL_SHARE * (position < pool) / pool
            + ANY_SHARE / len(ranked_items)
        )
        for row, query in enumerate(requests.query):
            if query:
                items[row], propensity[row] = self._search(rng, query, rank)
        return Slates(items, propensity)

    def _search(self, rng: np.random.Generator, query: str, rank: Ints) -> tuple[Ints, Floats]:
        k = self._size
        matches = self._search_box.find(query)
        matches = matches[np.isin(matches, self._ranked, assume_unique=True)]
        matches = matches[np.argsort(rank[matches])]
        shown = matches[:k] if rng.random() < SEARCH_BEST else rng.permutation(matches)[:k]
        items, propensity = np.full(k, -1), np.zeros(k)
        items[: len(shown)] = shown
        if len(matches):
            propensity[: len(shown)] = SEARCH_BEST * (shown == matches[: len(shown)]) + (
                1 - SEARCH_BEST
            ) / len(matches)
        return items, propensity


def _draw_distinct(rng: np.random.Generator, n: int, k: int, size: int) -> Ints:
    """Return n draws of k distinct numbers below `size` in random order, shape (n, k)."""
    if size < 4 * k:
        return np.argsort(rng.random((n, size)), axis=1)[:, :k]
    draws = rng.integers(0, size, (n, k))
    while True:  # redrawing rows with a repeat keeps the rest uniform
        ordered = np.sort(draws, axis=1)
        rows_with_repeats = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(rows_with_repeats):
            return draws
        draws[rows_with_repeats] = rng.integers(0, size, (len(rows_with_repeats), k))
