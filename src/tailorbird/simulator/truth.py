"""The truth of the simulated site: exact expected value of any list for any visitor and time.

Use it to check experiments, estimates and models. It is not in the emitted events, and no learner
may read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.events import DAY
from tailorbird.simulator import behaviour
from tailorbird.simulator.search import SearchBox
from tailorbird.simulator.taste import Taste
from tailorbird.simulator.world import Floats, Ints

REWARD_WEIGHTS = {"click": 1.0, "purchase": 8.0}


@dataclass(frozen=True)
class ExpectedCounts:
    """Expected counts for each of n lists, shape (n,)."""

    seen: Floats
    clicks: Floats
    purchases: Floats

    def reward(self, weights: Mapping[str, float] = REWARD_WEIGHTS) -> Floats:
        return (
            weights.get("click", 0.0) * self.clicks + weights.get("purchase", 0.0) * self.purchases
        )


class Truth:
    """Exact expectations by user id, anonymous id or visitor number, item ids and time."""

    def __init__(self, taste: Taste, search_box: SearchBox, start: int) -> None:
        self._taste = taste
        self._search_box = search_box
        self._start = start

    def expected(
        self,
        users: Sequence[str | int],
        lists: Sequence[Sequence[str]],
        at: Sequence[int],
        queries: Sequence[str | None] | None = None,
    ) -> ExpectedCounts:
        """Return the expected counts of n lists: one user, list, time and optional query each.

        Lists may differ in length.
        """
        if not len(users):
            return ExpectedCounts(np.zeros(0), np.zeros(0), np.zeros(0))
        items = _pad_lists(lists)
        relevance = np.zeros(items.shape)
        for row, query in enumerate(queries or ()):
            if query:
                relevance[row] = self._search_box.relevance(query, items[row])
        has_item = items >= 0
        probabilities = behaviour.list_probabilities(
            self._taste, visitor_numbers(users), items, self._to_days(at), relevance
        )
        return ExpectedCounts(
            (probabilities.seen * has_item).sum(axis=1),
            (probabilities.click * has_item).sum(axis=1),
            (probabilities.purchase * has_item).sum(axis=1),
        )

    def expected_clicks(
        self, user: str | int, items: Sequence[str], at: int, query: str | None = None
    ) -> float:
        """Return the expected clicks on one list."""
        return float(self.expected([user], [items], [at], [query]).clicks[0])

    def expected_purchases(
        self, user: str | int, items: Sequence[str], at: int, query: str | None = None
    ) -> float:
        return float(self.expected([user], [items], [at], [query]).purchases[0])

    def expected_reward(
        self,
        user: str | int,
        items: Sequence[str],
        at: int,
        query: str | None = None,
        weights: Mapping[str, float] = REWARD_WEIGHTS,
    ) -> float:
        return float(self.expected([user], [items], [at], [query]).reward(weights)[0])

    def uplift(
        self,
        users: Sequence[str | int],
        treatment: Sequence[Sequence[str]],
        control: Sequence[Sequence[str]],
        at: Sequence[int],
        queries: Sequence[str | None] | None = None,
    ) -> float:
        """Return the true relative uplift in clicks per item seen between two policies' lists."""
        treatment_counts = self.expected(users, treatment, at, queries)
        control_counts = self.expected(users, control, at, queries)
        return float(
            (treatment_counts.clicks.sum() / treatment_counts.seen.sum())
            / (control_counts.clicks.sum() / control_counts.seen.sum())
            - 1.0
        )

    def best_list(
        self, user: str | int, at: int, size: int = 12, query: str | None = None
    ) -> list[str]:
        """Return the available list with the most expected clicks; no policy can do better."""
        day = (at - self._start) / DAY
        available_items = self._taste.items.list_available(day)
        utility = self._taste.utility(visitor_numbers([user]), available_items, np.array([day]))[0]
        if query:
            utility = utility + self._search_box.relevance(query, available_items)
        return [f"i{item:05d}" for item in available_items[np.argsort(-utility)[:size]].tolist()]

    def most_appealing_list(self, at: int, size: int = 12) -> list[str]:
        """Return the best list for all users, by the common part of their tastes."""
        day = (at - self._start) / DAY
        available_items = self._taste.items.list_available(day)
        return [
            f"i{item:05d}"
            for item in available_items[
                np.argsort(-self._taste.appeal(day)[available_items])[:size]
            ].tolist()
        ]

    def _to_days(self, at: Sequence[int]) -> Floats:
        return (np.asarray(at, np.int64) - self._start) / DAY


def visitor_numbers(users: Sequence[str | int]) -> Ints:
    """Return visitor numbers of user ids, anonymous ids (with or without `anon:`) or numbers."""
    return np.array(
        [int(user.removeprefix("anon:")[1:]) if isinstance(user, str) else user for user in users],
        np.int64,
    )


def _pad_lists(lists: Sequence[Sequence[str]]) -> Ints:
    """Return item ids as numbers, −1 past the end of a list, shape (n, k)."""
    items = np.full((len(lists), max((len(shown_ids) for shown_ids in lists), default=0)), -1)
    for row, shown_ids in enumerate(lists):
        items[row, : len(shown_ids)] = [int(item[1:]) for item in shown_ids]
    return items
