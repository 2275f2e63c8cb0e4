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
        label_window_us: microseconds after t until a label is known; labels known at once count
            from the next microsecond on. A return label is known when its own window has passed.
    """

    t: Ints
    labels: Mapping[str, npt.NDArray]
    weight: Floats
    label_window_us: int

    def label_times(self, head: str) -> Ints:
        """Return when the label of each row is known, shape (n,)."""
        target = parse_return(head)
        return self.t + (target.until_us if target else max(self.label_window_us, 1))


def final_rates(
    keys: Keys, vocabulary: Keys, head: str, labelled_rows: LabelledRows, smoothing: float
) -> tuple[Floats, float]:
    """Return the rate of each key of the vocabulary, and the overall mean (0 without rows)."""
    weight, positive_weight = _weights_in_units(labelled_rows, head)
    mean_rate = float(positive_weight.sum() / weight.sum()) if weight.sum() else 0.0
    if not len(vocabulary):
        return np.zeros(0), mean_rate
    order = np.argsort(vocabulary)
    index = np.minimum(np.searchsorted(vocabulary[order], keys), len(vocabulary) - 1)
    in_vocabulary = vocabulary[order][index] == keys
    positive_sums, weight_sums = (
        np.bincount(order[index[in_vocabulary]], amount[in_vocabulary], minlength=len(vocabulary))
        for amount in (positive_weight, weight)
    )
    return _smooth_rates(
        positive_sums, weight_sums, mean_rate, smoothing * _weight_unit(labelled_rows)
    ), mean_rate


def rates_in_time(
    keys: Keys, is_rare: Bools, head: str, labelled_rows: LabelledRows, smoothing: float
) -> Floats:
    """Return the rate of each row's key as of the row's time; NaN where nothing was known yet.

    Rows marked in `is_rare` get the mean.
    """
    weight, positive_weight = _weights_in_units(labelled_rows, head)
    positive_sums, weight_sums = _prior_sums(
        np.zeros(len(keys), np.int64), labelled_rows, head, positive_weight, weight
    )
    mean_rate = np.divide(
        positive_sums, weight_sums, out=np.full(len(keys), np.nan), where=weight_sums > 0
    )
    _, key_codes = np.unique(keys, return_inverse=True)
    positive_sums, weight_sums = _prior_sums(
        key_codes.astype(np.int64), labelled_rows, head, positive_weight, weight
    )
    return np.where(
        is_rare,
        mean_rate,
        _smooth_rates(
            positive_sums, weight_sums, mean_rate, smoothing * _weight_unit(labelled_rows)
        ),
    )


def _weight_unit(labelled_rows: LabelledRows) -> float:
    """Return the unit of integer weights.

    Sums of integers are exact below 2^53, so no label leaks into a rate by rounding.
    """
    total = float(labelled_rows.weight.sum())
    return 2.0 ** min(20, 51 - max(math.frexp(total)[1], 0))


def _weights_in_units(labelled_rows: LabelledRows, head: str) -> tuple[Ints, Ints]:
    """Return each row's weight and positive weight, in units; 0 where the label is unknown."""
    label = labelled_rows.labels[head]
    weight = np.rint(labelled_rows.weight * _weight_unit(labelled_rows)).astype(
        np.int64
    ) * np.isfinite(label)
    return weight, weight * (label > 0)


def _smooth_rates(
    positive_sums: Numbers, weight_sums: Numbers, mean_rate: Floats | float, smoothing: float
) -> Floats:
    denominator = weight_sums + smoothing
    rate = np.divide(
        positive_sums + smoothing * mean_rate,
        denominator,
        out=np.full(len(positive_sums), np.nan),
        where=denominator > 0,
    )
    return np.clip(np.where(denominator > 0, rate, mean_rate), 0.0, 1.0)


def _prior_sums(
    key_codes: Ints, labelled_rows: LabelledRows, head: str, *amounts: Ints
) -> list[Ints]:
    """Return for each amount the sum over rows of the same code known at each row's time.

    Rows are sorted by (code, time known), packed into one number; each sum is the difference of two
    running sums.
    """
    known_times, known_time_rank = np.unique(labelled_rows.label_times(head), return_inverse=True)
    rank_bits = len(known_times).bit_length()
    packed_keys = (key_codes << rank_bits) | known_time_rank
    order = np.argsort(packed_keys)
    # Labels known by then have a smaller rank.
    queries = (key_codes << rank_bits) | np.searchsorted(known_times, labelled_rows.t, side="right")
    stop = np.searchsorted(packed_keys[order], queries)
    start = np.searchsorted(packed_keys[order], key_codes << rank_bits)
    running_sums = [np.concatenate(([0], np.cumsum(amount[order]))) for amount in amounts]
    return [sums[stop] - sums[start] for sums in running_sums]
