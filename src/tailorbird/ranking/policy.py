"""The policy: from values to an ordered answer, with the exact probability of each item at its place.

The probability is that of showing this item at this position, given the request: with exploration as declared in
`ranking.slot.Explore`, 1 - rate/m for a ranked item at one of the m explorable positions, rate/(m * pool) for an
explored one there, and 1 elsewhere. Over what could be shown at a position they sum to 1.

Diversity stands in `ranking.diversity`; what an item may be shown at all, in `ranking.rules`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.diversity import limit_groups
from tailorbird.ranking.slot import Explore
from tailorbird.retrieval import Index

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """An answer.

    Attributes:
        items: (k,): places of the shown items in the candidates, best first.
        propensities: (k,): the probability of each at its position.
        explored: the position (from 1) that shows an explored item, 0 if none does.
    """

    items: Rows
    propensities: Floats
    explored: int = 0


def ranked(values: Floats, size: int, *, groups: npt.NDArray[np.integer] | None = None, per_group: int = 0) -> Rows:
    """All candidates in order: those of the answer first (`size` of them), then the rest by value.

    Args:
        values: (n,), higher is better; ties keep the candidates' order.
        size: of the answer.
        groups: (n,): a code such as the category, below 0 for none.
        per_group: at most this many of one group among the answer; 0 for no limit.
    """
    order = np.argsort(-values, kind="stable")
    if groups is None or per_group < 1:
        return order
    return order[limit_groups(groups[order], size, per_group)]


def choose(order: Rows, size: int, explore: Explore | None, rng: np.random.Generator | None) -> Choice:
    """The answer from an order that `ranked` (or a method of `diversity`) made.

    The pool is the candidates that come right after the answer. An explored item may exceed a limit of the diversity
    by one: a pool that depended on the position would make propensities depend on it too.
    """
    shown = order[:size].copy()
    propensities = np.ones(shown.size)
    if explore is None or explore.rate <= 0 or rng is None:
        return Choice(shown, propensities)
    pool = order[size : size + explore.pool]
    m = shown.size - explore.first + 1
    if m < 1 or not pool.size:
        return Choice(shown, propensities)
    propensities[explore.first - 1 :] = 1.0 - explore.rate / m
    if rng.random() >= explore.rate:
        return Choice(shown, propensities)
    position = explore.first + int(rng.integers(m))
    shown[position - 1] = pool[int(rng.integers(pool.size))]
    propensities[position - 1] = explore.rate / (m * pool.size)
    return Choice(shown, propensities, position)


def choose_evenly(n: int, size: int, rng: np.random.Generator) -> Choice:
    """An answer drawn evenly from n candidates: each stands at each position with probability 1/n. Heeds no diversity limit."""
    shown = rng.permutation(n)[:size].astype(np.intp)
    return Choice(shown, np.full(shown.size, 1.0 / max(n, 1)))


def baseline_values(policy: str, index: Index, rows: Rows, recent: Keys | None = None) -> Floats:
    """The values (n,) of a policy without a model: `popular`, `recent`, or `related`.

    `related` puts first what goes with the items of the person's sequence `recent` (keys, oldest first), then what is popular.
    """
    if policy == "recent":
        return index.first_seen[rows].astype(np.float64)
    popularity = index.popularity.astype(np.float64)
    if policy == "popular":
        return popularity[rows]
    if policy != "related":
        raise ValueError(f"{policy!r} is no baseline")
    values = popularity / max(float(popularity.max(initial=0.0)), 1.0)
    if recent is not None and recent.size:
        near = index.item_to_item(recent, len(index))
        values[near.rows] += near.scores / max(float(near.scores.max(initial=0.0)), 1e-12)
    return values[rows]
