"""Team-draft interleaving: one slate drafted from two rankings, with exact propensities.

In each round a fair coin decides which ranking picks first; each then picks its best item that is
not in the slate yet (Radlinski, Kurup and Joachims, CIKM 2008; Chapelle, Joachims, Radlinski and
Yue, TOIS 2012). An item belongs to the team of the ranking that picked it, so each position belongs
to either team with probability 1/2, whatever the rankings are.

The taken items are always a prefix of the one ranking and a prefix of the other, so a state is two
numbers, there are O(k) of them at each position, and every probability is exact. Where only one
ranking could pick, which would be unfair, the remaining items belong to no team.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from tailorbird.ranking.policy.slate_distribution import Floats, Rows, Slate

NO_TEAM = -1
State = tuple[int, int]  # items taken from the top of each ranking without a gap


class _Round(NamedTuple):
    """The picks of one round, with their teams, and the state after them."""

    items: tuple[int, ...]
    teams: tuple[int, ...]
    state: State


class TeamDraft:
    """The distribution over slates that are drafted from two rankings.

    Args:
        first, second: places of items among the candidates, best first, each item once.
        size: of the slate.
    """

    def __init__(self, first: Rows, second: Rows, size: int) -> None:
        self._rankings: tuple[list[int], list[int]] = (first.tolist(), second.tolist())
        self._size = size
        self._place = tuple(
            {item: place for place, item in enumerate(ranking)} for ranking in self._rankings
        )

    def draft(self, rng: np.random.Generator) -> Slate:
        """Draw a slate with its propensities and teams."""
        items, teams, state = list[int](), list[int](), self._skip((0, 0))
        while len(items) < self._size and (rounds := self._rounds(state)):
            drawn = rounds[int(rng.integers(len(rounds)))]
            items += drawn.items
            teams += drawn.teams
            state = drawn.state
        shown = np.array(items[: self._size], np.intp)
        propensities, joint = self.propensities(shown)
        return Slate(shown, propensities, joint=joint, teams=tuple(teams[: self._size]))

    def draw(self, rng: np.random.Generator) -> Rows:
        """Draw a slate (k,): places in the candidates, best first."""
        return self.draft(rng).items

    def propensities(self, shown: Rows) -> tuple[Floats, Floats]:
        """Return the probability of each item at its position, and of the slate down to it.

        Args:
            shown: (k,), -1 for an item that is no candidate.
        """
        slate = shown[: self._size].tolist()
        marginal, joint = np.zeros(shown.size), np.zeros(shown.size)
        # By position: state → its probability, and that of the slate down to the position.
        levels: list[dict[State, list[float]]] = [defaultdict(lambda: [0.0, 0.0]) for _ in slate]
        if slate:
            levels[0][self._skip((0, 0))] = [1.0, 1.0]
        for position, states in enumerate(levels):
            for state, (reached, agreed) in states.items():
                rounds = self._rounds(state)
                for picks in rounds:
                    chance, same = reached / len(rounds), agreed / len(rounds)
                    for at, item in enumerate(picks.items[: len(slate) - position], position):
                        agrees = slate[at] == item
                        marginal[at] += chance * agrees
                        same *= agrees
                        joint[at] += same
                    after = position + len(picks.items)
                    if after < len(slate):
                        totals = levels[after][picks.state]
                        totals[0] += chance
                        totals[1] += same
        return marginal, joint

    def _rounds(self, state: State) -> tuple[_Round, ...]:
        """Return the equally likely rounds from a state; none at the end of both rankings."""
        is_over = [at >= len(ranking) for at, ranking in zip(state, self._rankings, strict=True)]
        if all(is_over):
            return ()
        if not any(is_over):
            rounds = (self._pick(state, (0, 1)), self._pick(state, (1, 0)))
            if len(rounds[0].items) == len(rounds[1].items):
                return rounds
        alone = self._pick(state, (int(is_over[0]),))
        return (alone._replace(teams=(NO_TEAM,)),)

    def _pick(self, state: State, teams: tuple[int, ...]) -> _Round:
        """Let the teams pick an item each in turn, those that have one left."""
        items, picked = list[int](), list[int]()
        for team in teams:
            if state[team] < len(self._rankings[team]):
                items.append(self._rankings[team][state[team]])
                picked.append(team)
                first, second = state
                state = self._skip((first + 1, second) if team == 0 else (first, second + 1))
        return _Round(tuple(items), tuple(picked), state)

    def _skip(self, state: State) -> State:
        """Skip the items that the other ranking has taken."""
        first, second = state
        while first < len(self._rankings[0]) and self._is_taken(0, first, second):
            first += 1
        while second < len(self._rankings[1]) and self._is_taken(1, second, first):
            second += 1
        return first, second

    def _is_taken(self, team: int, at: int, taken_by_other: int) -> bool:
        place = self._place[1 - team].get(self._rankings[team][at])
        return place is not None and place < taken_by_other
