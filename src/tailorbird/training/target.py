"""Target encoding in time order: how often rows with a value led to a head, from nothing but what
was known.

    rate(value, t) = (hits + s · mean) / (rows + s)     over rows of that value whose label was known at t; the mean is of all such rows

A row's label is known when its label window has passed. At the end of the window all rows are
known: that table is what serving gets.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.targets import return_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Numbers = Ints | Floats


@dataclass(frozen=True)
class Labelled:
    """When training rows were, and what came of them.

    Attributes:
        t: shape (n,), microseconds.
        labels: head → shape (n,), NaN where unknown.
        weight: shape (n,), how many rows of the full set each stands for.
        label_window: microseconds after t until a label is known; what is known at once counts from
            the next microsecond on. A label of returning is known when its own window is over.
    """

    t: Ints
    labels: Mapping[str, npt.NDArray]
    weight: Floats
    label_window: int

    def known_at(self, head: str) -> Ints:
        """When a label of each row is known."""
        asked = return_of(head)
        return self.t + (asked.until if asked else max(self.label_window, 1))


def final_rates(
    keys: Keys, kept: Keys, head: str, labelled: Labelled, smoothing: float
) -> tuple[Floats, float]:
    """The rate of each kept key over all rows, and the mean of all (0 without rows)."""
    weight, hit = _units(labelled, head)
    mean = float(hit.sum() / weight.sum()) if weight.sum() else 0.0
    if not len(kept):
        return np.zeros(0), mean
    order = np.argsort(kept)
    at = np.minimum(np.searchsorted(kept[order], keys), len(kept) - 1)
    known = kept[order][at] == keys
    hits, rows = (
        np.bincount(order[at[known]], amount[known], minlength=len(kept))
        for amount in (hit, weight)
    )
    return _smoothed(hits, rows, mean, smoothing * _unit(labelled)), mean


def rates_in_time(
    keys: Keys, unknown: Bools, head: str, labelled: Labelled, smoothing: float
) -> Floats:
    """The rate of each row's key as of the row's time; NaN where nothing was known yet. Rows that
    are `unknown` get the mean.
    """
    weight, hit = _units(labelled, head)
    hits, rows = _before(np.zeros(len(keys), np.int64), labelled, head, hit, weight)
    mean = np.divide(hits, rows, out=np.full(len(keys), np.nan), where=rows > 0)
    _, code = np.unique(keys, return_inverse=True)
    hits, rows = _before(code.astype(np.int64), labelled, head, hit, weight)
    return np.where(unknown, mean, _smoothed(hits, rows, mean, smoothing * _unit(labelled)))


def _unit(labelled: Labelled) -> float:
    """Weights are counted in whole parts of this: sums are exact below 2^53, so that no label
    reaches a rate by a rounding.
    """
    total = float(labelled.weight.sum())
    return 2.0 ** min(20, 51 - max(math.frexp(total)[1], 0))


def _units(labelled: Labelled, head: str) -> tuple[Ints, Ints]:
    """Of each row its weight, and its weight if it led to the head, in units; 0 where that is not
    known.
    """
    label = labelled.labels[head]
    weight = np.rint(labelled.weight * _unit(labelled)).astype(np.int64) * np.isfinite(label)
    return weight, weight * (label > 0)


def _smoothed(hits: Numbers, rows: Numbers, mean: Floats | float, smoothing: float) -> Floats:
    below = rows + smoothing
    rate = np.divide(
        hits + smoothing * mean, below, out=np.full(len(hits), np.nan), where=below > 0
    )
    return np.clip(np.where(below > 0, rate, mean), 0.0, 1.0)


def _before(code: Ints, labelled: Labelled, head: str, *amounts: Ints) -> list[Ints]:
    """Of each amount its sum over the rows of the same code that were known at each row's time.

    Rows are sorted by (code, when they were known), packed into one number; each sum is the
    difference of two running sums.
    """
    times, rank = np.unique(labelled.known_at(head), return_inverse=True)
    bits = len(times).bit_length()
    packed = (code << bits) | rank
    order = np.argsort(packed)
    asked = (code << bits) | np.searchsorted(
        times, labelled.t, side="right"
    )  # what is known by then has a smaller rank
    until, start = (
        np.searchsorted(packed[order], asked),
        np.searchsorted(packed[order], code << bits),
    )
    running = [np.concatenate(([0], np.cumsum(amount[order]))) for amount in amounts]
    return [sums[until] - sums[start] for sums in running]
