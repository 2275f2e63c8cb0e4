"""The site's policy before Tailorbird: a mixture with known propensities, which is what history was
logged under.

A list without a query is, drawn anew each time,

    with 0.4  the items of the last week's best click rate (smoothed), best first
    with 0.3  a random draw, in random order, from the 100 best
    with 0.3  a random draw, in random order, from everything in stock

so item i stands at position j with probability 0.4·[popular_j = i] + 0.3·[i among the 100]/100 +
0.3/available. A search shows what has all the words, by click rate (0.7) or in random order (0.3).
"""

import numpy as np

from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.traffic import Requests, Shown
from tailorbird.simulator.world import Floats, Ints

BEST, POOL, ANY = 0.4, 0.3, 0.3
POOL_SIZE = 100
SEARCH_BEST = 0.7
WEIGHT = 40.0  # impressions that the site's click rate counts for
REMEMBERED = 6 / 7  # of the clicks, from day to day: about a week


class HousePolicy:
    """Knows clicks and impressions only. Call `learn` with each day's, `open_day` before each day."""

    def __init__(self, box: SearchBox, items: int, size: int) -> None:
        self._box = box
        self._size = size
        self._clicks = np.zeros(items)
        self._seen = np.zeros(items)
        self._ranked: Ints = np.empty(0, np.int64)

    def open_day(self, available: Ints) -> None:
        """Rank what is available by its click rate, drawn towards the site's; ties by age, newest
        first.
        """
        usual = self._clicks.sum() / max(self._seen.sum(), 1.0)
        rate = (self._clicks + usual * WEIGHT) / (self._seen + WEIGHT)
        self._ranked = available[::-1][np.argsort(-rate[available[::-1]], kind="stable")]

    def learn(self, seen: Ints, clicked: Ints) -> None:
        for counts, items in ((self._seen, seen), (self._clicks, clicked)):
            counts *= REMEMBERED
            np.add.at(counts, items, 1.0)

    def choose(self, rng: np.random.Generator, requests: Requests) -> Shown:
        n, k = len(requests.user), self._size
        ranked = self._ranked
        pool = min(POOL_SIZE, len(ranked))
        part = rng.random(n)
        items = np.broadcast_to(ranked[:k], (n, k)).copy()
        draws = (part >= BEST) & (part < BEST + POOL)
        items[draws] = ranked[_distinct(rng, int(draws.sum()), k, pool)]
        draws = part >= BEST + POOL
        items[draws] = ranked[_distinct(rng, int(draws.sum()), k, len(ranked))]
        rank = np.empty(len(self._clicks), np.int64)
        rank[ranked] = np.arange(len(ranked))
        place = rank[items]
        propensity = (
            BEST * (place == np.arange(k)) + POOL * (place < pool) / pool + ANY / len(ranked)
        )
        for row, query in enumerate(requests.query):
            if query:
                items[row], propensity[row] = self._search(rng, query, rank)
        return Shown(items, propensity)

    def _search(self, rng: np.random.Generator, query: str, rank: Ints) -> tuple[Ints, Floats]:
        k = self._size
        found = self._box.find(query)
        found = found[np.isin(found, self._ranked, assume_unique=True)]
        found = found[np.argsort(rank[found])]
        shown = found[:k] if rng.random() < SEARCH_BEST else rng.permutation(found)[:k]
        items, propensity = np.full(k, -1), np.zeros(k)
        items[: len(shown)] = shown
        if len(found):
            propensity[: len(shown)] = SEARCH_BEST * (shown == found[: len(shown)]) + (
                1 - SEARCH_BEST
            ) / len(found)
        return items, propensity


def _distinct(rng: np.random.Generator, n: int, k: int, size: int) -> Ints:
    """n draws of k distinct numbers below `size`, each order equally likely. Shape (n, k)."""
    if size < 4 * k:
        return np.argsort(rng.random((n, size)), axis=1)[:, :k]
    draws = rng.integers(0, size, (n, k))
    while True:  # redraw the rows with a repeat: what remains is uniform over rows without one
        ordered = np.sort(draws, axis=1)
        again = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(again):
            return draws
        draws[again] = rng.integers(0, size, (len(again), k))
