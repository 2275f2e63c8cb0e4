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

POPULAR_SHARE = 0.4
POOL_SHARE = 0.3
ANY_SHARE = 0.3
POOL_SIZE = 100
SEARCH_BEST_SHARE = 0.7
PRIOR_IMPRESSIONS = 40.0  # weight of the site's click rate as a prior
DAILY_DECAY = 6 / 7  # of click counts: about a week of memory


class HousePolicy:
    """Uses clicks and impressions only.

    Call `open_day` before each day and `learn` after it.
    """

    def __init__(self, search_box: SearchBox, item_count: int, list_size: int) -> None:
        self._search_box = search_box
        self._list_size = list_size
        self._clicks = np.zeros(item_count)
        self._impressions = np.zeros(item_count)
        self._ranked_items: Ints = np.empty(0, np.int64)

    def open_day(self, available_items: Ints) -> None:
        """Rank available items by click rate, shrunk to the site's; ties by age, newest first."""
        site_rate = self._clicks.sum() / max(self._impressions.sum(), 1.0)
        click_rates = (self._clicks + site_rate * PRIOR_IMPRESSIONS) / (
            self._impressions + PRIOR_IMPRESSIONS
        )
        self._ranked_items = available_items[::-1][
            np.argsort(-click_rates[available_items[::-1]], kind="stable")
        ]

    def learn(self, seen_items: Ints, clicked_items: Ints) -> None:
        for counts, items in ((self._impressions, seen_items), (self._clicks, clicked_items)):
            counts *= DAILY_DECAY
            np.add.at(counts, items, 1.0)

    def draw_slates(self, rng: np.random.Generator, requests: Requests) -> Slates:
        request_count = len(requests.user)
        k = self._list_size
        ranked_items = self._ranked_items
        pool_size = min(POOL_SIZE, len(ranked_items))
        mixture_draw = rng.random(request_count)
        items = np.broadcast_to(ranked_items[:k], (request_count, k)).copy()
        is_random = (mixture_draw >= POPULAR_SHARE) & (mixture_draw < POPULAR_SHARE + POOL_SHARE)
        items[is_random] = ranked_items[_draw_distinct(rng, int(is_random.sum()), k, pool_size)]
        is_random = mixture_draw >= POPULAR_SHARE + POOL_SHARE
        items[is_random] = ranked_items[
            _draw_distinct(rng, int(is_random.sum()), k, len(ranked_items))
        ]
        rank_by_item = np.empty(len(self._clicks), np.int64)
        rank_by_item[ranked_items] = np.arange(len(ranked_items))
        rank = rank_by_item[items]
        propensity = (
            POPULAR_SHARE * (rank == np.arange(k))
            + POOL_SHARE * (rank < pool_size) / pool_size
            + ANY_SHARE / len(ranked_items)
        )
        for row, query in enumerate(requests.query):
            if query:
                items[row], propensity[row] = self._draw_search_slate(rng, query, rank_by_item)
        return Slates(items, propensity)

    def _draw_search_slate(
        self, rng: np.random.Generator, query: str, rank_by_item: Ints
    ) -> tuple[Ints, Floats]:
        k = self._list_size
        matches = self._search_box.find_items(query)
        matches = matches[np.isin(matches, self._ranked_items, assume_unique=True)]
        matches = matches[np.argsort(rank_by_item[matches])]
        shown_items = (
            matches[:k] if rng.random() < SEARCH_BEST_SHARE else rng.permutation(matches)[:k]
        )
        items = np.full(k, -1)
        propensity = np.zeros(k)
        items[: len(shown_items)] = shown_items
        if len(matches):
            propensity[: len(shown_items)] = SEARCH_BEST_SHARE * (
                shown_items == matches[: len(shown_items)]
            ) + (1 - SEARCH_BEST_SHARE) / len(matches)
        return items, propensity


def _draw_distinct(rng: np.random.Generator, n: int, k: int, range_size: int) -> Ints:
    """Return n draws of k distinct numbers below `range_size` in random order, shape (n, k)."""
    if range_size < 4 * k:
        return np.argsort(rng.random((n, range_size)), axis=1)[:, :k]
    draws = rng.integers(0, range_size, (n, k))
    while True:  # redrawing rows with a repeat keeps the rest uniform
        sorted_draws = np.sort(draws, axis=1)
        rows_with_repeats = np.flatnonzero(
            (sorted_draws[:, 1:] == sorted_draws[:, :-1]).any(axis=1)
        )
        if not len(rows_with_repeats):
            return draws
        draws[rows_with_repeats] = rng.integers(0, range_size, (len(rows_with_repeats), k))
