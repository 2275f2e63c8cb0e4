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
  probability is an integral, computed to 1e-6, see `marginals`. Beyond `DRAWN_MAX` positions, only
  the first `DRAWN_MAX` are drawn, among the items ranked there.

Pinned positions are never explored. Every slate that can be drawn satisfies quotas and promotions
as well as the ranked one does (`diversity.SlateConstraints`). The eligible positions, pairs and
pools are known before anything is drawn, so probabilities stay exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.policy.diversity import SlateConstraints
from tailorbird.ranking.slot import Explore

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
NODES = 64  # of the integral over time
DRAWN_MAX = 30  # The cost of a draw grows with the square of the positions times the pool.
UNCONSTRAINED = SlateConstraints()


@dataclass(frozen=True)
class Slate:
    """A slate.

    Attributes:
        items: (k,): places of the shown items in the candidates, best first.
        propensities: (k,): the probability of each at its position.
        explored: the positions (from 1) that show an item which its value alone would not have
            brought into the answer.
    """

    items: Rows
    propensities: Floats
    explored: tuple[int, ...] = ()


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
    shown = order[:size].copy()
    if explore is None or explore.rate <= 0 or rng is None or shown.size < explore.first:
        return Slate(shown, np.ones(shown.size))
    if explore.method == "swap":
        return _explore_swaps(order, shown, explore, rng, constraints)
    if explore.method == "plackett_luce":
        assert values is not None
        return _draw_plackett_luce(order, shown.size, explore, rng, values)
    return _explore_one(order, shown, explore, rng, constraints)


def draw_uniform_slate(n: int, size: int, rng: np.random.Generator) -> Slate:
    """Draw a slate uniformly from n candidates: each is at each position with probability 1/n.

    It respects no quota, promotion or pin.
    """
    shown = rng.permutation(n)[:size].astype(np.intp)
    return Slate(shown, np.full(shown.size, 1.0 / max(n, 1)))


def _explore_one(
    order: Rows,
    shown: Rows,
    explore: Explore,
    rng: np.random.Generator,
    constraints: SlateConstraints,
) -> Slate:
    propensities = np.ones(shown.size)
    pool = order[shown.size : shown.size + explore.pool]
    positions = [at for at in range(explore.first - 1, shown.size) if at not in constraints.fixed]
    eligible: dict[int, Rows] = {}
    if not constraints.is_unconstrained:
        eligible = {
            at: pool[constraints.added_violations(shown, at, pool) <= 0] for at in positions
        }
        positions = [at for at in positions if eligible[at].size]
    if not pool.size or not positions:
        return Slate(shown, propensities)
    propensities[positions] = 1.0 - explore.rate / len(positions)
    if rng.random() >= explore.rate:
        return Slate(shown, propensities)
    at = positions[int(rng.integers(len(positions)))]
    pool = eligible.get(at, pool)
    shown[at] = pool[int(rng.integers(pool.size))]
    propensities[at] = explore.rate / (len(positions) * pool.size)
    return Slate(shown, propensities, (at + 1,))


def _explore_swaps(
    order: Rows,
    shown: Rows,
    explore: Explore,
    rng: np.random.Generator,
    constraints: SlateConstraints,
) -> Slate:
    """Swap neighbouring pairs at random.

    A pair that reaches past the end exchanges the last item of the slate for the next one.
    """
    start = explore.first - 1
    reach = min(order.size, shown.size + (shown.size - start) % 2)
    pairs = start + 2 * np.arange((reach - start) // 2)
    pairs = np.array(_swappable_pairs(order, shown.size, pairs.tolist(), constraints), np.intp)
    swaps = rng.random(pairs.size) < explore.rate
    moved = order[:reach].copy()
    swapped = pairs[swaps]
    moved[swapped], moved[swapped + 1] = order[swapped + 1], order[swapped]
    propensities = np.ones(reach)
    probability = np.where(swaps, explore.rate, 1.0 - explore.rate)
    propensities[pairs], propensities[pairs + 1] = probability, probability
    explored = (shown.size,) if moved[shown.size - 1] not in shown else ()
    return Slate(moved[: shown.size], propensities[: shown.size], explored)


def _swappable_pairs(
    order: Rows, size: int, pairs: Sequence[int], constraints: SlateConstraints
) -> list[int]:
    """Return the starts of pairs that may be swapped independently of each other.

    A quota of the first positions or a promotion constrains sets of first items. Each pair changes
    at most one such set that no other pair changes, so each can be tested alone. No window of a
    quota may see two of the pairs.
    """
    pairs = [at for at in pairs if at not in constraints.fixed and at + 1 not in constraints.fixed]
    if constraints.is_unconstrained:
        return pairs
    allowed = constraints.count_violations(order[:size])
    swappable: list[int] = []
    for at in pairs:
        swapped = order.copy()
        swapped[[at, at + 1]] = order[[at + 1, at]]
        if (
            constraints.window_max
            and swappable
            and at - (swappable[-1] + 1) < constraints.window_max - 1
        ):
            continue
        if constraints.count_violations(swapped[:size]) <= allowed:
            swappable.append(at)
    return swappable


def _draw_plackett_luce(
    order: Rows, size: int, explore: Explore, rng: np.random.Generator, values: Floats
) -> Slate:
    start = explore.first - 1
    end = min(size, start + DRAWN_MAX)
    pool = order[start : end if end < size else size + explore.pool]
    strengths = _strengths(values[pool], explore.temperature)
    # Gumbel noise: the order of log-strength + noise is a draw of the model (Yellott 1977).
    drawn = np.argsort(-(np.log(strengths) + rng.gumbel(size=pool.size)), kind="stable")[
        : end - start
    ]
    shown = np.concatenate([order[:start], pool[drawn], order[end:size]])
    propensities = np.concatenate(
        [np.ones(start), marginals(strengths, drawn), np.ones(size - end)]
    )
    explored = tuple((np.flatnonzero(drawn >= size - start) + start + 1).tolist())
    return Slate(shown, propensities, explored)


def _strengths(values: Floats, temperature: float) -> Floats:
    """Return exp(value / temperature) of values scaled to [0, 1].

    So a temperature means the same for every slot.
    """
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros(values.size)
    return np.exp((scaled - 1.0) / temperature)


def marginals(strengths: Floats, places: Rows) -> Floats:
    """Return the probability (k,) that item `places[j]` of a Plackett-Luce order is at position j.

    Item i arrives at an exponential time with its strength as the rate. It is at position j if
    exactly j others arrive before it: P = ∫ s_i exp(-s_i t) Pr[j of the others by t] dt, where the
    number of the others by t is Poisson-binomial. With u = exp(-s_i t) this is ∫₀¹ Pr[j of the
    others before −ln(u)/s_i] du, by Gauss-Legendre over pieces of [0, 1]. O(n * k * nodes), all k
    at once.

    Args:
        strengths: (n,), above 0.
    """
    k = places.size
    at, weights = _nodes()
    # arrival[i, l, q]: item l has arrived by the time of node q of item i
    time = -np.log(at)[None, :] / strengths[places][:, None]
    ways = np.zeros(
        (k, NODES, k)
    )  # ways[i, q, j]: the probability that j of the others processed so far have arrived
    ways[:, :, 0] = 1.0
    rows = np.arange(k)
    for other in range(strengths.size):
        arrival = -np.expm1(-strengths[other] * time)
        arrival[rows[places == other]] = 0.0  # an item is not its own competitor
        taken = ways[:, :, :-1] * arrival[:, :, None]
        ways *= 1.0 - arrival[:, :, None]
        ways[:, :, 1:] += taken
    return np.clip(np.einsum("q,iq->i", weights, ways[rows, :, rows]), 1e-12, 1.0)


@cache
def _nodes() -> tuple[Floats, Floats]:
    """Return quadrature points and weights over (0, 1), denser near both ends.

    Rare orders have their mass there.
    """
    x, w = np.polynomial.legendre.leggauss(NODES)
    half = (x + 1.0) / 2.0
    # u = half² (3 - 2 half): its slope is 0 at both ends
    return half * half * (3.0 - 2.0 * half), w / 2.0 * 6.0 * half * (1.0 - half)
