"""Binned columns: bins are learned once, so times and columns can be compared by counting.

Bin 0 holds missing values. Numeric columns get bins of about equal mass, or one per value where
there are few. The most frequent codes of a vocabulary get a bin each; all others share one.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation.metrics import totals

Column = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Bins of a column.

    Attributes:
        edges: numeric columns: upper ends of all bins but the last. Code columns: codes with a bin
            of their own, ascending.
        categorical: whether the column holds codes.
    """

    edges: Floats
    categorical: bool

    @property
    def size(self) -> int:
        """Return the number of bins, including the one for missing values."""
        return len(self.edges) + 2

    def assign(self, column: Column) -> Ints:
        """Return the bin of each value, shape (n,)."""
        value = column.astype(np.float64)
        if not self.categorical:
            return np.where(np.isnan(value), 0, 1 + np.searchsorted(self.edges, value, side="left"))
        index = np.minimum(np.searchsorted(self.edges, value), max(len(self.edges) - 1, 0))
        has_own_bin = self.edges[index] == value if len(self.edges) else np.zeros(len(value), bool)
        return np.where(value == 0, 0, np.where(has_own_bin, 2 + index, 1))


def learn_bins(column: Column, *, categorical: bool = False, bins_max: int = 10) -> Bins:
    """Learn the bins of a column: at most `bins_max`, plus one for missing values."""
    if categorical:
        codes, counts = np.unique(column[column > 0], return_counts=True)
        frequent = np.argsort(-counts, kind="stable")[: bins_max - 1]
        return Bins(np.sort(codes[frequent]).astype(np.float64), True)
    value = column[~np.isnan(column)].astype(np.float64)
    if not len(value):
        return Bins(np.zeros(0), False)
    distinct = np.unique(value)
    if len(distinct) == 1:  # a bin on each side of the only value, so that any other value shows
        return Bins(np.array([np.nextafter(distinct[0], -np.inf), distinct[0]]), False)
    if len(distinct) <= bins_max:
        return Bins(distinct[:-1], False)
    return Bins(
        np.unique(np.quantile(value, np.linspace(0, 1, bins_max + 1)[1:-1], method="inverted_cdf")),
        False,
    )


def mutual_information(first: Ints, second: Ints, first_size: int, second_size: int) -> float:
    """Return the mutual information of two binned columns in bits.

    Σ p(a, b) · log2(p(a, b) / (p(a) · p(b))); biased upwards by chance.
    """
    joint = totals(
        first * second_size + second, np.ones(len(first)), first_size * second_size
    ).reshape(first_size, second_size)
    joint /= max(len(first), 1)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log2(joint[filled] / independent[filled])).sum())


def entropy(bin_index: Ints, size: int) -> float:
    """Return the entropy −Σ p · log2 p of a binned column, in bits."""
    share = totals(bin_index, np.ones(len(bin_index)), size) / max(len(bin_index), 1)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def population_stability(before: Ints, after: Ints, size: int) -> float:
    """Return the population stability index of two samples of the same bins.

    Σ (q − p) · ln(q / p), with half a count added to each bin. By convention, below 0.1 is stable
    and above 0.25 is another population. Chance alone gives about bins · (1/n + 1/m).
    """
    p, q = (totals(bins, np.ones(len(bins)), size) + 0.5 for bins in (before, after))
    used = p + q > 1.0
    p, q = p[used] / p[used].sum(), q[used] / q[used].sum()
    return float(((q - p) * np.log(q / p)).sum())
