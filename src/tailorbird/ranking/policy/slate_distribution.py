"""Distributions of slates: draw a slate, and tell the probability of any slate.

`exploration` explains the methods. `propensities` of a slate gives two probabilities per position:
of this item at this position, and of the whole slate down to it. Off-policy evaluation divides
those of an evaluated policy by those that a response logged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.policy.diversity import SlateConstraints
from tailorbird.ranking.policy.plackett_luce import position_probabilities
from tailorbird.ranking.slot import Explore

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
DRAWN_MAX = 30  # The cost of a draw grows with the square of the positions times the pool.
UNCONSTRAINED = SlateConstraints()


@dataclass(frozen=True)
class Slate:
    """A slate.

    Attributes:
        items: (k,): places of the shown items in the candidates, best first.
        propensities: (k,): the probability of each at its position.
        explored_positions: positions (from 1) that show an item which its value alone would not have
            brought into the answer.
        joint_propensities: (k,): the probability of the slate down to each position.
        teams: of an interleaved slate (k,): which ranking picked the item, 0 or 1; -1 for neither.
    """

    items: Rows
    propensities: Floats
    explored_positions: tuple[int, ...] = ()
    joint_propensities: Floats = field(default_factory=lambda: np.zeros(0))
    teams: tuple[int, ...] = ()


class SlateDistribution(Protocol):
    """A distribution over slates of the candidates of one request."""

    def draw(self, rng: np.random.Generator) -> Rows:
        """Draw a slate (k,): places in the candidates, best first."""
        ...

    def propensities(self, shown: Rows) -> tuple[Floats, Floats]:
        """Return the probability of each item at its position, and of the slate down to it.

        Args:
            shown: (k,), -1 for an item that is no candidate. It may be longer than a drawn slate.
        """
        ...


def slate_distribution(
    order: Rows,
    size: int,
    explore: Explore | None,
    values: Floats | None = None,
    constraints: SlateConstraints = UNCONSTRAINED,
) -> SlateDistribution:
    """Return the distribution that a slot's exploration makes of an order; see `draw_slate`."""
    ranked = order[:size]
    if explore is None or explore.rate <= 0 or ranked.size < explore.first:
        return RankedSlate(ranked)
    if explore.method == "swap":
        return SwappedPairs.from_order(order, ranked, explore, constraints)
    if explore.method == "plackett_luce":
        assert values is not None
        return PlackettLuce.from_order(order, ranked, explore, values)
    return OneExplored.from_order(order, ranked, explore, constraints)


@dataclass(frozen=True)
class RankedSlate:
    """The slate by value, for sure."""

    ranked: Rows

    def draw(self, rng: np.random.Generator) -> Rows:
        return self.ranked.copy()

    def propensities(self, shown: Rows) -> tuple[Floats, Floats]:
        return _certain_propensities(match_positions(shown, self.ranked))


@dataclass(frozen=True)
class OneExplored:
    """The ranked slate, with at most one position from the pool: `item`.

    Attributes:
        pool_by_position: explorable position → the items that may stand there.
    """

    ranked: Rows
    rate: float
    pool_by_position: Mapping[int, Rows]

    @classmethod
    def from_order(
        cls, order: Rows, ranked: Rows, explore: Explore, constraints: SlateConstraints
    ) -> "OneExplored":
        pool = order[ranked.size : ranked.size + explore.pool]
        positions = [
            position
            for position in range(explore.first - 1, ranked.size)
            if position not in constraints.fixed_positions
        ]
        pool_by_position = dict.fromkeys(positions, pool)
        if not constraints.is_unconstrained:
            pool_by_position = {
                position: pool[constraints.added_violations(ranked, position, pool) <= 0]
                for position in positions
            }
        return cls(
            ranked,
            explore.rate,
            {position: items for position, items in pool_by_position.items() if items.size},
        )

    def draw(self, rng: np.random.Generator) -> Rows:
        shown = self.ranked.copy()
        positions = list(self.pool_by_position)
        if not positions or rng.random() >= self.rate:
            return shown
        position = positions[int(rng.integers(len(positions)))]
        pool = self.pool_by_position[position]
        shown[position] = pool[int(rng.integers(pool.size))]
        return shown

    def propensities(self, shown: Rows) -> tuple[Floats, Floats]:
        is_ranked = match_positions(shown, self.ranked)
        positions = list(self.pool_by_position)
        explored_probability = np.zeros(shown.size)
        for position in np.flatnonzero(~is_ranked).tolist():
            pool = self.pool_by_position.get(position)
            if pool is not None and (pool == shown[position]).any():
                explored_probability[position] = self.rate / (len(positions) * pool.size)
        if not positions:
            return _certain_propensities(is_ranked)
        can_explore = np.zeros(max(shown.size, self.ranked.size), bool)
        can_explore[positions] = True
        can_explore = can_explore[: shown.size]
        position_rate = self.rate / len(positions)
        marginal = np.where(is_ranked, 1.0 - position_rate * can_explore, explored_probability)
        change_counts = (~is_ranked).cumsum()
        unchanged_probability = (1.0 - position_rate * can_explore.cumsum()).clip(0.0)
        joint = np.where(
            change_counts == 0,
            unchanged_probability,
            (change_counts == 1) * explored_probability.cumsum(),
        )
        return marginal, joint


@dataclass(frozen=True)
class SwappedPairs:
    """The ranked slate, with independently swapped neighbours: `swap`.

    A pair that reaches past the end exchanges the last item of the slate for the next one.

    Attributes:
        extended_ranking: the ranked items, and the one after them where a pair includes it.
        pair_starts: the upper position of each pair.
    """

    extended_ranking: Rows
    size: int
    rate: float
    pair_starts: Rows

    @classmethod
    def from_order(
        cls, order: Rows, ranked: Rows, explore: Explore, constraints: SlateConstraints
    ) -> "SwappedPairs":
        start = explore.first - 1
        extended_size = min(order.size, ranked.size + (ranked.size - start) % 2)
        pair_starts = start + 2 * np.arange((extended_size - start) // 2)
        swappable = _swappable_pairs(order, ranked.size, pair_starts.tolist(), constraints)
        return cls(order[:extended_size], ranked.size, explore.rate, np.array(swappable, np.intp))

    def draw(self, rng: np.random.Generator) -> Rows:
        return self._swap(self.pair_starts[rng.random(self.pair_starts.size) < self.rate])[
            : self.size
        ]

    def propensities(self, shown: Rows) -> tuple[Floats, Floats]:
        as_ranked = match_positions(shown, self.extended_ranking[: self.size])
        as_swapped = match_positions(shown, self._swap(self.pair_starts)[: self.size])
        upper = self.pair_starts[self.pair_starts < shown.size]
        lower = self.pair_starts[self.pair_starts + 1 < shown.size] + 1
        is_paired = np.zeros(shown.size, bool)
        is_paired[upper] = True
        is_paired[lower] = True
        marginal = np.where(as_ranked, 1.0 - self.rate, np.where(as_swapped, self.rate, 0.0))
        marginal = np.where(is_paired, marginal, as_ranked.astype(np.float64))
        # The lower item of a pair is certain once the upper one is known.
        conditional = marginal.copy()
        conditional[lower] = np.where(
            as_ranked[lower - 1], as_ranked[lower], as_swapped[lower - 1] & as_swapped[lower]
        )
        return marginal, conditional.cumprod()

    def _swap(self, pair_starts: Rows) -> Rows:
        swapped = self.extended_ranking.copy()
        swapped[pair_starts] = self.extended_ranking[pair_starts + 1]
        swapped[pair_starts + 1] = self.extended_ranking[pair_starts]
        return swapped


@dataclass(frozen=True)
class PlackettLuce:
    """A share of slates drawn by value, the others as ranked: `plackett_luce`.

    Attributes:
        start: the first drawn position, from 0.
        count: the number of drawn positions.
        pool: the items that may be drawn, best first; their `strengths`.
    """

    ranked: Rows
    share: float
    start: int
    count: int
    pool: Rows
    strengths: Floats

    @classmethod
    def from_order(
        cls, order: Rows, ranked: Rows, explore: Explore, values: Floats
    ) -> "PlackettLuce":
        start = explore.first - 1
        size = ranked.size
        end = min(size, start + DRAWN_MAX)
        pool = order[start : end if end < size else size + explore.pool]
        strengths = _strengths(values[pool], explore.temperature)
        return cls(ranked, explore.share, start, end - start, pool, strengths)

    def draw(self, rng: np.random.Generator) -> Rows:
        shown = self.ranked.copy()
        if self.share < 1 and rng.random() >= self.share:
            return shown
        # Gumbel noise: the order of log-strength + noise is a draw of the model (Yellott 1977).
        noisy_log_strengths = np.log(self.strengths) + rng.gumbel(size=self.pool.size)
        drawn_positions = np.argsort(-noisy_log_strengths, kind="stable")[: self.count]
        shown[self.start : self.start + self.count] = self.pool[drawn_positions]
        return shown

    def propensities(self, shown: Rows) -> tuple[Floats, Floats]:
        is_ranked = match_positions(shown, self.ranked).astype(np.float64)
        marginal = is_ranked.copy()
        conditional = is_ranked.copy()
        drawn_range = slice(self.start, min(self.start + self.count, shown.size))
        pool_positions = find_positions(shown[drawn_range], self.pool)
        is_in_pool = pool_positions >= 0
        positions = np.maximum(pool_positions, 0)
        marginal[drawn_range] = np.where(is_in_pool, marginals(self.strengths, positions), 0.0)
        taken_strength = np.where(is_in_pool, self.strengths[positions], 0.0)
        remaining_strength = self.strengths.sum() - np.concatenate(
            [[0.0], np.cumsum(taken_strength)[:-1]]
        )
        conditional[drawn_range] = taken_strength / np.maximum(
            remaining_strength, taken_strength.clip(1e-300)
        )
        joint: Floats = conditional.cumprod()
        if self.share >= 1:
            return marginal, joint
        return (
            self.share * marginal + (1.0 - self.share) * is_ranked,
            self.share * joint + (1.0 - self.share) * is_ranked.cumprod(),
        )


def _certain_propensities(is_ranked: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the propensities of a slate that is drawn for sure."""
    marginal = is_ranked.astype(np.float64)
    return marginal, marginal.cumprod()


def match_positions(shown: Rows, ranked: Rows) -> npt.NDArray[np.bool_]:
    """Return where a slate shows what another one shows; nowhere beyond its end."""
    if shown.size == ranked.size:
        return shown == ranked
    is_equal = np.zeros(shown.size, bool)
    common_size = min(shown.size, ranked.size)
    is_equal[:common_size] = shown[:common_size] == ranked[:common_size]
    return is_equal


def find_positions(items: npt.NDArray[np.integer], pool: npt.NDArray[np.integer]) -> Rows:
    """Return the place of each item in a pool, -1 for one that is not there."""
    if not pool.size:
        return np.full(items.size, -1, np.intp)
    order = np.argsort(pool)
    sorted_positions = np.minimum(np.searchsorted(pool, items, sorter=order), pool.size - 1)
    return np.where(pool[order[sorted_positions]] == items, order[sorted_positions], -1)


def _swappable_pairs(
    order: Rows, size: int, pair_starts: Sequence[int], constraints: SlateConstraints
) -> list[int]:
    """Return the starts of pairs that may be swapped independently of each other.

    A quota of the first positions or a promotion constrains sets of first items. Each pair changes
    at most one such set that no other pair changes, so each can be tested alone. No window of a
    quota may see two of the pairs.
    """
    pair_starts = [
        start
        for start in pair_starts
        if start not in constraints.fixed_positions and start + 1 not in constraints.fixed_positions
    ]
    if constraints.is_unconstrained:
        return pair_starts
    violations_max = constraints.count_violations(order[:size])
    swappable_starts: list[int] = []
    for start in pair_starts:
        swapped = order.copy()
        swapped[[start, start + 1]] = order[[start + 1, start]]
        if (
            constraints.window_max
            and swappable_starts
            and start - (swappable_starts[-1] + 1) < constraints.window_max - 1
        ):
            continue
        if constraints.count_violations(swapped[:size]) <= violations_max:
            swappable_starts.append(start)
    return swappable_starts


def _strengths(values: Floats, temperature: float) -> Floats:
    """Return exp(value / temperature) of values scaled to [0, 1].

    So a temperature means the same for every slot.
    """
    low = float(values.min())
    high = float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros(values.size)
    return np.exp((scaled - 1.0) / temperature)


def marginals(strengths: Floats, pool_positions: Rows) -> Floats:
    """Return the probability (k,) that item `pool_positions[j]` of a Plackett-Luce order is at j.

    Args:
        strengths: (n,), above 0.
    """
    probabilities = position_probabilities(strengths, pool_positions, pool_positions.size)
    return probabilities.diagonal()


def marginal_table(strengths: Floats, size: int) -> Floats:
    """Return the probability of each item at each of the first positions, shape (n, size)."""
    return position_probabilities(strengths, np.arange(strengths.size), size)
