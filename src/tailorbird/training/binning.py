"""Columns as few bins: learned once, constant afterwards, so that two times or two columns can be
compared by counting.

Bin 0 holds what is missing. Numeric columns get bins of about equal mass, or one for each value
where there are few; codes of a vocabulary get one for each of the most frequent, and one for all
others.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.metrics import totals

Column = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Attributes:
    edges: numeric: upper ends of all bins but the last. Codes: those with a bin of their own,
    ascending. categorical: which of the two.
    """

    edges: Floats
    categorical: bool

    @property
    def size(self) -> int:
        """How many bins, the one for missing included."""
        return len(self.edges) + 2

    def place(self, column: Column) -> Ints:
        """The bin of each value, shape (n,)."""
        value = column.astype(np.float64)
        if not self.categorical:
            return np.where(np.isnan(value), 0, 1 + np.searchsorted(self.edges, value, side="left"))
        at = np.minimum(np.searchsorted(self.edges, value), max(len(self.edges) - 1, 0))
        known = self.edges[at] == value if len(self.edges) else np.zeros(len(value), bool)
        return np.where(value == 0, 0, np.where(known, 2 + at, 1))


def learn_bins(column: Column, *, categorical: bool = False, bins_max: int = 10) -> Bins:
    """Bins for a column; `bins_max` beside the one for missing."""
    if categorical:
        codes, counts = np.unique(column[column > 0], return_counts=True)
        most = np.argsort(-counts, kind="stable")[: bins_max - 1]
        return Bins(np.sort(codes[most]).astype(np.float64), True)
    value = column[~np.isnan(column)].astype(np.float64)
    if not len(value):
        return Bins(np.zeros(0), False)
    distinct = np.unique(value)
    if len(distinct) == 1:  # both sides of the only value, so that any other shows
        return Bins(np.array([np.nextafter(distinct[0], -np.inf), distinct[0]]), False)
    if len(distinct) <= bins_max:
        return Bins(distinct[:-1], False)
    return Bins(
        np.unique(np.quantile(value, np.linspace(0, 1, bins_max + 1)[1:-1], method="inverted_cdf")),
        False,
    )


def information(first: Ints, second: Ints, first_size: int, second_size: int) -> float:
    """Mutual information of two binned columns in bits: Σ p(a, b) · log2(p(a, b) / (p(a) · p(b)));
    biased upwards by chance.
    """
    joint = totals(
        first * second_size + second, np.ones(len(first)), first_size * second_size
    ).reshape(first_size, second_size)
    joint /= max(len(first), 1)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log2(joint[filled] / apart[filled])).sum())


def entropy(place: Ints, size: int) -> float:
    """−Σ p · log2 p of a binned column, in bits."""
    share = totals(place, np.ones(len(place)), size) / max(len(place), 1)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def drift(before: Ints, after: Ints, size: int) -> float:
    """Population stability index Σ (q − p) · ln(q / p) between two sets of the same bins; half a
    value is added to each bin.

    By custom, below 0.1 is stable and above 0.25 is another population. Chance alone gives about
    bins · (1/n + 1/m).
    """
    p, q = (totals(each, np.ones(len(each)), size) + 0.5 for each in (before, after))
    used = p + q > 1.0
    p, q = p[used] / p[used].sum(), q[used] / q[used].sum()
    return float(((q - p) * np.log(q / p)).sum())
