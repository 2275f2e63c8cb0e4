"""Exploration: a partly randomised slate, with the propensity of each item at its position.

The propensity is the probability of this item at this position, given the request and the order of
the candidates. Over all eligible items of a position it sums to 1, and a million draws agree with
it (`tests/ranking/test_exploration.py`). As declared in `slot.Explore`:

- `item`: one position is drawn evenly among the m explorable ones, at which something of the pool
  may stand, and shows an item drawn evenly from those of the pool that may stand there: 1 - rate/m
  for a ranked item, rate/(m * those) for an explored one.
- `swap`: neighbours (first and second, third and fourth … of the explorable ones) change places,
  each pair with probability rate: nobody moves by more than one place, so it costs little, and
  shows little beyond what is shown anyway. A pair that may not be swapped stays.
- `plackett_luce`: the explorable positions are filled one after the other, each item with a chance
  proportional to exp(value / temperature) among those left (Plackett 1975, Luce 1959). The marginal
  probability is an integral, see `plackett_luce`. Beyond `DRAWN_MAX` positions, only
  the first `DRAWN_MAX` are drawn, among the items ranked there. With `share` below 1, the other
  requests get the ranked slate, and both ways to show an item are in its propensity.

Pinned positions are never explored. Every slate that can be drawn satisfies quotas and promotions
as well as the ranked one does (`diversity.SlateConstraints`). The eligible positions, pairs and
pools are known before anything is drawn, so probabilities stay exact. `slate_distribution` has the
probability of any slate under each method, with which other policies are judged by the log.
"""

import numpy as np

from tailorbird.ranking.policy.diversity import SlateConstraints
from tailorbird.ranking.policy.slate_distribution import (
    UNCONSTRAINED,
    Floats,
    Rows,
    Slate,
    slate_distribution,
)
from tailorbird.ranking.slot import Explore

__all__ = ["Slate", "draw_slate", "draw_uniform_slate"]


def draw_slate(
    order: Rows,
    size: int,
    explore: Explore | None,
    rng: np.random.Generator | None,
    values: Floats | None = None,
    constraints: SlateConstraints = UNCONSTRAINED,
) -> Slate:
    """Draw a slate from an order of all candidates, best first, as `policy.arrange_slate` makes it.

    The exploration pool is the candidates right after the slate.

    Args:
        values: (n,) of the candidates, in their own order; only for `plackett_luce`.
        constraints: constraints that the order satisfies and the slate must satisfy.
    """
    if rng is None or explore is None or explore.rate <= 0 or order[:size].size < explore.first:
        shown = order[:size].copy()
        return Slate(shown, np.ones(shown.size), joint_propensities=np.ones(shown.size))
    distribution = slate_distribution(order, size, explore, values, constraints)
    shown = distribution.draw(rng)
    propensities, joint_propensities = distribution.propensities(shown)
    ranked_items = set(order[:size].tolist())
    explored_positions = [
        position for position, item in enumerate(shown.tolist(), 1) if item not in ranked_items
    ]
    return Slate(shown, propensities, tuple(explored_positions), joint_propensities)


def draw_uniform_slate(n: int, size: int, rng: np.random.Generator) -> Slate:
    """Draw a slate uniformly from n candidates: each is at each position with probability 1/n.

    It respects no quota, promotion or pin.
    """
    shown = rng.permutation(n)[:size].astype(np.intp)
    joint_propensities = (1.0 / np.arange(n, n - shown.size, -1)).cumprod()
    return Slate(shown, np.full(shown.size, 1.0 / max(n, 1)), joint_propensities=joint_propensities)
