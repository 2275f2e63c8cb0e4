"""Team-draft interleaving: one slate drafted from two rankings, with exact propensities.

In each round a fair coin decides which ranking picks first; each then picks its best item that is
not in the slate yet (Radlinski, Kurup and Joachims, CIKM 2008; Chapelle, Joachims, Radlinski and
Yue, TOIS 2012). An item belongs to the team of the ranking that picked it, so each position belongs
to either team with probability 1/2, whatever the rankings are.

The items that a slate has so far decide what may follow, and most orders of picks take the same
items, so few states are reached and every probability is exact. Where only one ranking could pick,
which would be unfair, the remaining items belong to no team. They are also those that break a limit
where nothing else is left, as in a slate of one ranking.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tailorbird.ranking.policy.diversity import Codes
from tailorbird.ranking.policy.slate_distribution import Floats, Rows, Slate

NO_TEAM = -1
State = frozenset[int]  # the items in the slate so far


class _DraftRound(NamedTuple):
    """The picks of one round, with their teams, and the state after them."""

    items: tuple[int, ...]
    teams: tuple[int, ...]
    state: State


class TeamDraft:
    """The distribution over slates that are drafted from two rankings.

    Args:
        first, second: places of items among the candidates, best first, each item once.
        size: of the slate.
        limits: codes of all candidates, and how many items of the slate may share one; codes below
            0 are free.
    """

    def __init__(
        self, first: Rows, second: Rows, size: int, limits: Sequence[tuple[Codes, int]] = ()
    ) -> None:
        self._rankings: tuple[list[int], list[int]] = (first.tolist(), second.tolist())
        self._size = size
        self._limits = [(codes.tolist(), most) for codes, most in limits]

    def draft(self, rng: np.random.Generator) -> Slate:
        """Draw a slate with its propensities and teams."""
        shown, teams = self.draw_picks(rng)
        propensities, joint = self.propensities(shown)
        return Slate(shown, propensities, joint_propensities=joint, teams=teams)

    def draw_picks(self, rng: np.random.Generator) -> tuple[Rows, tuple[int, ...]]:
        """Draw the items of a slate (k,), best first, and the team of each."""
        items = list[int]()
        teams = list[int]()
        state = State()
        while len(items) < self._size and (rounds := self._rounds(state)):
            drawn_round = rounds[int(rng.integers(len(rounds)))]
            items += drawn_round.items
            teams += drawn_round.teams
            state = drawn_round.state
        return np.array(items[: self._size], np.intp), tuple(teams[: self._size])

    def draw(self, rng: np.random.Generator) -> Rows:
        """Draw a slate (k,): places in the candidates, best first."""
        return self.draw_picks(rng)[0]

    def propensities(self, shown: Rows) -> tuple[Floats, Floats]:
        """Return the probability of each item at its position, and of the slate down to it.

        Args:
            shown: (k,), -1 for an item that is no candidate.
        """
        slate = shown[: self._size].tolist()
        marginal = np.zeros(shown.size)
        joint = np.zeros(shown.size)
        # By position: state → its probability, and that of the slate down to the position.
        states_by_position: list[dict[State, list[float]]] = [
            defaultdict(lambda: [0.0, 0.0]) for _ in slate
        ]
        if slate:
            states_by_position[0][State()] = [1.0, 1.0]
        for position, states in enumerate(states_by_position):
            for state, (state_probability, agreed_probability) in states.items():
                rounds = self._rounds(state)
                for draft_round in rounds:
                    round_probability = state_probability / len(rounds)
                    slate_probability = agreed_probability / len(rounds)
                    for slate_position, item in enumerate(
                        draft_round.items[: len(slate) - position], position
                    ):
                        agrees = slate[slate_position] == item
                        marginal[slate_position] += round_probability * agrees
                        slate_probability *= agrees
                        joint[slate_position] += slate_probability
                    next_position = position + len(draft_round.items)
                    if next_position < len(slate):
                        totals = states_by_position[next_position][draft_round.state]
                        totals[0] += round_probability
                        totals[1] += slate_probability
        return marginal, joint

    def _rounds(self, state: State) -> tuple[_DraftRound, ...]:
        """Return the equally likely rounds from a state; none at the end of both rankings."""
        rounds = self._pick(state, (0, 1)), self._pick(state, (1, 0))
        if len(rounds[0].items) == len(rounds[1].items) and rounds[0].teams != rounds[1].teams:
            return rounds
        remaining_items = [
            item for ranking in self._rankings for item in ranking if item not in state
        ]
        best = max(rounds, key=lambda draft_round: len(draft_round.items)).items or remaining_items
        return (_DraftRound((best[0],), (NO_TEAM,), state | {best[0]}),) if best else ()

    def _pick(self, state: State, teams: tuple[int, int]) -> _DraftRound:
        """Let the teams pick an item each in turn, those that have one left."""
        items = list[int]()
        picking_teams = list[int]()
        for team in teams:
            if (item := self._find_best(team, state)) is not None:
                items.append(item)
                picking_teams.append(team)
                state |= {item}
        return _DraftRound(tuple(items), tuple(picking_teams), state)

    def _find_best(self, team: int, state: State) -> int | None:
        """Return the best item of a ranking that may follow the items of a state."""
        exhausted = [
            (codes, {code for code in kinds if code >= 0 and kinds.count(code) >= most})
            for codes, most in self._limits
            if (kinds := [codes[item] for item in state])
        ]
        for item in self._rankings[team]:
            if item not in state and not any(codes[item] in kinds for codes, kinds in exhausted):
                return item
        return None
