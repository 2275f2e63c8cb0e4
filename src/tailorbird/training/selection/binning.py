"""Binned columns: bins are learned once, so times and columns can be compared by counting.

Bin 0 holds missing values. Numeric columns get bins of about equal mass, or one per value where
there are few. The most frequent codes of a vocabulary get a bin each; all others share one.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation.metrics import sum_by_index

Column = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Bins of a column.

    Attributes:
        edges: numeric columns: upper ends of all bins but the last. Code columns: codes with a bin
            of their own, ascending.
        is_categorical: whether the column holds codes.
    """

    edges: Floats
    is_categorical: bool

    @property
    def bin_count(self) -> int:
        """Return the number of bins, including the one for missing values."""
        return len(self.edges) + 2

    def assign(self, column: Column) -> Ints:
        """Return the bin of each value, shape (n,)."""
        values = column.astype(np.float64)
        if not self.is_categorical:
            return np.where(
                np.isnan(values), 0, 1 + np.searchsorted(self.edges, values, side="left")
            )
        code_index = np.minimum(np.searchsorted(self.edges, values), max(len(self.edges) - 1, 0))
        has_own_bin = (
            self.edges[code_index] == values if len(self.edges) else np.zeros(len(values), bool)
        )
        return np.where(values == 0, 0, np.where(has_own_bin, 2 + code_index, 1))


def learn_bins(column: Column, *, is_categorical: bool = False, bins_max: int = 10) -> Bins:
    """Learn the bins of a column: at most `bins_max`, plus one for missing values."""
    if is_categorical:
        codes, counts = np.unique(column[column > 0], return_counts=True)
        frequent_indexes = np.argsort(-counts, kind="stable")[: bins_max - 1]
        return Bins(np.sort(codes[frequent_indexes]).astype(np.float64), True)
    values = column[~np.isnan(column)].astype(np.float64)
    if not len(values):
        return Bins(np.zeros(0), False)
    distinct_values = np.unique(values)
    if (
        len(distinct_values) == 1
    ):  # a bin on each side of the only value, so that any other value shows
        return Bins(
            np.array([np.nextafter(distinct_values[0], -np.inf), distinct_values[0]]), False
        )
    if len(distinct_values) <= bins_max:
        return Bins(distinct_values[:-1], False)
    return Bins(
        np.unique(
            np.quantile(values, np.linspace(0, 1, bins_max + 1)[1:-1], method="inverted_cdf")
        ),
        False,
    )


def mutual_information(
    first_bins: Ints, second_bins: Ints, first_bin_count: int, second_bin_count: int
) -> float:
    """Return the mutual information of two binned columns in bits.

    Σ p(a, b) · log2(p(a, b) / (p(a) · p(b))); biased upwards by chance.
    """
    joint_shares = sum_by_index(
        first_bins * second_bin_count + second_bins,
        np.ones(len(first_bins)),
        first_bin_count * second_bin_count,
    ).reshape(first_bin_count, second_bin_count)
    joint_shares /= max(len(first_bins), 1)
    independent_shares = joint_shares.sum(axis=1, keepdims=True) * joint_shares.sum(
        axis=0, keepdims=True
    )
    is_filled = joint_shares > 0
    return float(
        (
            joint_shares[is_filled]
            * np.log2(joint_shares[is_filled] / independent_shares[is_filled])
        ).sum()
    )


def entropy(bin_index: Ints, bin_count: int) -> float:
    """Return the entropy −Σ p · log2 p of a binned column, in bits."""
    bin_shares = sum_by_index(bin_index, np.ones(len(bin_index)), bin_count) / max(
        len(bin_index), 1
    )
    bin_shares = bin_shares[bin_shares > 0]
    return float(-(bin_shares * np.log2(bin_shares)).sum())


def population_stability(earlier_bins: Ints, later_bins: Ints, bin_count: int) -> float:
    """Return the population stability index of two samples of the same bins.

    Σ (q − p) · ln(q / p), with half a count added to each bin. By convention, below 0.1 is stable
    and above 0.25 is another population. Chance alone gives about bins · (1/n + 1/m).
    """
    p, q = (
        sum_by_index(bin_index, np.ones(len(bin_index)), bin_count) + 0.5
        for bin_index in (earlier_bins, later_bins)
    )
    is_filled = p + q > 1.0
    p = p[is_filled] / p[is_filled].sum()
    q = q[is_filled] / q[is_filled].sum()
    return float(((q - p) * np.log(q / p)).sum())
