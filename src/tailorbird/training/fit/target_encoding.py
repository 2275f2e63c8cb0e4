"""Target encoding in time order: the positive rate of a value, from labels known at that time.

    rate(value, t) = (hits + s · mean) / (rows + s)

Sums are over the rows of that value whose label was known at t; the mean is over all such rows. A
label is known when its label window has passed. At the end of the window all rows are known:
serving gets that table.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.policy.targets import parse_return

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Numbers = Ints | Floats


@dataclass(frozen=True)
class LabelledRows:
    """Times and labels of training rows.

    Attributes:
        t: shape (n,), microseconds.
        labels: head → shape (n,), NaN where unknown.
        weight: shape (n,), number of rows of the full set that each stands for.
        label_window: microseconds after t until a label is known; labels known at once count from
            the next microsecond on. A return label is known when its own window has passed.
    """

    t: Ints
    labels: Mapping[str, npt.NDArray]
    weight: Floats
    label_window: int

    def label_times(self, head: str) -> Ints:
        """Return when the label of each row is known, shape (n,)."""
        target = parse_return(head)
        return self.t + (target.until if target else max(self.label_window, 1))


def final_rates(
    keys: Keys, vocabulary: Keys, head: str, labelled: LabelledRows, smoothing: float
) -> tuple[Floats, float]:
    """Return the rate of each key of the vocabulary, and the overall mean (0 without rows)."""
    weight, positive_weight = _weights_in_units(labelled, head)
    mean = float(positive_weight.sum() / weight.sum()) if weight.sum() else 0.0
    if not len(vocabulary):
        return np.zeros(0), mean
    order = np.argsort(vocabulary)
    index = np.minimum(np.searchsorted(vocabulary[order], keys), len(vocabulary) - 1)
    in_vocabulary = vocabulary[order][index] == keys
    hits, rows = (
        np.bincount(order[index[in_vocabulary]], amount[in_vocabulary], minlength=len(vocabulary))
        for amount in (positive_weight, weight)
    )
    return _smooth_means(hits, rows, mean, smoothing * _weight_unit(labelled)), mean


def rates_in_time(
    keys: Keys, is_rare: Bools, head: str, labelled: LabelledRows, smoothing: float
) -> Floats:
    """Return the rate of each row's key as of the row's time; NaN where nothing was known yet.

    Rows marked in `is_rare` get the mean.
    """
    weight, positive_weight = _weights_in_units(labelled, head)
    hits, rows = _prior_sums(np.zeros(len(keys), np.int64), labelled, head, positive_weight, weight)
    mean = np.divide(hits, rows, out=np.full(len(keys), np.nan), where=rows > 0)
    _, code = np.unique(keys, return_inverse=True)
    hits, rows = _prior_sums(code.astype(np.int64), labelled, head, positive_weight, weight)
    return np.where(
        is_rare, mean, _smooth_means(hits, rows, mean, smoothing * _weight_unit(labelled))
    )


def _weight_unit(labelled: LabelledRows) -> float:
    """Return the unit of integer weights.

    Sums of integers are exact below 2^53, so no label leaks into a rate by rounding.
    """
    total = float(labelled.weight.sum())
    return 2.0 ** min(20, 51 - max(math.frexp(total)[1], 0))


def _weights_in_units(labelled: LabelledRows, head: str) -> tuple[Ints, Ints]:
    """Return each row's weight and positive weight, in units; 0 where the label is unknown."""
    label = labelled.labels[head]
    weight = np.rint(labelled.weight * _weight_unit(labelled)).astype(np.int64) * np.isfinite(label)
    return weight, weight * (label > 0)


def _smooth_means(hits: Numbers, rows: Numbers, mean: Floats | float, smoothing: float) -> Floats:
    denominator = rows + smoothing
    rate = np.divide(
        hits + smoothing * mean, denominator, out=np.full(len(hits), np.nan), where=denominator > 0
    )
    return np.clip(np.where(denominator > 0, rate, mean), 0.0, 1.0)


def _prior_sums(code: Ints, labelled: LabelledRows, head: str, *amounts: Ints) -> list[Ints]:
    """Return for each amount the sum over rows of the same code known at each row's time.

    Rows are sorted by (code, time known), packed into one number; each sum is the difference of two
    running sums.
    """
    times, rank = np.unique(labelled.label_times(head), return_inverse=True)
    rank_bits = len(times).bit_length()
    packed_keys = (code << rank_bits) | rank
    order = np.argsort(packed_keys)
    # Labels known by then have a smaller rank.
    queries = (code << rank_bits) | np.searchsorted(times, labelled.t, side="right")
    until, start = (
        np.searchsorted(packed_keys[order], queries),
        np.searchsorted(packed_keys[order], code << rank_bits),
    )
    running = [np.concatenate(([0], np.cumsum(amount[order]))) for amount in amounts]
    return [sums[until] - sums[start] for sums in running]
