"""Diversity of an answer: a limit per group, or maximal marginal relevance. Both reorder; neither leaves anything out."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


def limit_groups(groups: npt.NDArray[np.integer], size: int, per_group: int) -> Rows:
    """Places of ordered items such that the first `size` hold at most `per_group` of a group, in their order otherwise.

    Where too few are left within the limit, the best of the others fill the answer: a short answer helps nobody.

    Args:
        groups: (n,): the group of each item, best first; below 0 is no group.
    """
    by_group = np.argsort(groups, kind="stable")
    sorted_groups = groups[by_group]
    first = np.searchsorted(sorted_groups, sorted_groups)
    occurrence = np.empty(groups.size, np.intp)
    occurrence[by_group] = np.arange(groups.size) - first
    within = (occurrence < per_group) | (groups < 0)
    answer = np.flatnonzero(within)[:size]
    rest = np.setdiff1d(np.arange(groups.size), answer, assume_unique=True)
    return np.concatenate([answer, rest])


def mmr(values: Floats, similarity: npt.NDArray[np.floating], size: int, *, balance: float = 0.7) -> Rows:
    """An order by maximal marginal relevance: each next item maximises balance * value - (1 - balance) * likeness to those before.

    Source: Carbonell and Goldstein, SIGIR 1998. Values are scaled to [0, 1] first, so that `balance` means the same for
    every slot. O(size * n).

    Args:
        values: (n,).
        similarity: (n, n), in [0, 1].
        size: how many places are chosen so; the rest follows by value.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    nearest = np.zeros(values.size)
    left = np.ones(values.size, bool)
    chosen: list[int] = []
    for _ in range(min(size, values.size)):
        gain = balance * scaled - (1.0 - balance) * nearest
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, similarity[best])
    rest = np.argsort(-values, kind="stable")
    return np.concatenate([np.array(chosen, np.intp), rest[left[rest]]])
