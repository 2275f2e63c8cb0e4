"""Performance without labels yet: what calibrated click probabilities promise on the items seen.

Confidence-based performance estimation (CBPE), as in NannyML: if p is calibrated, an item with p is
clicked with probability p. So clicks, non-clicks, CTR and AUC have expected values before a click
is known. This holds under covariate shift only: other people or items may come, but p stays right
for each. If people change what they like, labels are needed.

Probabilities are counted in bins of a tenth in the logit, clicked or not, so that cells add up.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

LOGIT_LOW, LOGIT_STEP, BINS = -12.0, 0.1, 200
DRAWS = 400

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Performance:
    """Expected CTR and AUC with 95 % intervals, and the AUC so far; NaN where nothing is known."""

    ctr: float
    ctr_low: float
    ctr_high: float
    auc: float
    auc_low: float
    auc_high: float
    auc_observed: float


UNKNOWN = Performance(*[math.nan] * 7)


@dataclass(frozen=True)
class Scored:
    """Seen items with a click probability: their response, shape (n,), and whether clicked."""

    row: Ints
    probability: Floats
    is_clicked: npt.NDArray[np.bool_]

    def sums(self, responses: int) -> dict[str, Floats]:
        """Return the expected clicks and the clicks of each response."""
        return {
            name: np.bincount(self.row, values, responses).astype(np.float64)
            for name, values in (
                ("predicted_clicks", self.probability),
                ("scored_clicks", self.is_clicked),
            )
        }

    def codes_by_cell(self, cell: Ints, count: int) -> tuple[pa.Array, pa.Array]:
        """Return the codes in each cell, and how often each occurs.

        Args:
            cell: of each response.
            count: number of cells.
        """
        codes = codes_of(self.probability, self.is_clicked)
        pairs, counts = np.unique(cell[self.row] * 2 * BINS + codes, return_counts=True)
        offsets = np.searchsorted(pairs, np.arange(count + 1) * 2 * BINS).astype(np.int32)
        return (
            pa.ListArray.from_arrays(offsets, pa.array((pairs % (2 * BINS)).astype(np.int16))),
            pa.ListArray.from_arrays(offsets, pa.array(counts.astype(np.int32))),
        )


def codes_of(probability: Floats, is_clicked: npt.NDArray[np.bool_]) -> Ints:
    """Return the code of each seen item: twice the bin of its probability, plus one if clicked."""
    inside = np.clip(probability, 1e-9, 1.0 - 1e-9)
    bins = np.floor((np.log(inside / (1.0 - inside)) - LOGIT_LOW) / LOGIT_STEP)
    return 2 * np.clip(bins, 0, BINS - 1).astype(np.int64) + is_clicked


def expect_performance(codes: Ints, counts: Floats, predicted: float) -> Performance:
    """Return what the probabilities of seen items promise, and the AUC of the clicks so far.

    Args:
        codes, counts: of seen items, see `codes_of`, shape (n,).
        predicted: sum of the probabilities, which corrects those of the bins.
    """
    table = np.bincount(codes, counts, 2 * BINS).reshape(BINS, 2)
    used_bins = table.sum(axis=1) > 0
    seen, clicked = table.sum(axis=1)[used_bins], table[used_bins, 1]
    if not seen.sum():
        return UNKNOWN
    middle = LOGIT_LOW + LOGIT_STEP * (np.flatnonzero(used_bins) + 0.5)
    probability = 1.0 / (1.0 + np.exp(-middle))
    expected = (seen * probability).sum()
    probability = np.minimum(probability * predicted / expected, 1.0)
    rng = np.random.default_rng(0)  # the same figures for the same cells
    draws = rng.binomial(seen.astype(np.int64), probability, (DRAWS, len(seen))).astype(np.float64)
    ctr = np.quantile(draws.sum(axis=1) / seen.sum(), (0.025, 0.975))
    auc = auc_of(draws, seen)
    low, high = (
        np.quantile(auc[np.isfinite(auc)], (0.025, 0.975))
        if np.isfinite(auc).any()
        else (math.nan, math.nan)
    )
    return Performance(
        predicted / float(seen.sum()),
        float(ctr[0]),
        float(ctr[1]),
        float(auc_of((seen * probability)[None, :], seen)[0]),
        float(low),
        float(high),
        float(auc_of(clicked[None, :], seen)[0]),
    )


def auc_of(positives: Floats, total: Floats) -> Floats:
    """Return the area under the ROC curve from counts by ascending score; ties count by half.

    Args:
        positives: shape (n, bins); expected counts give the expected area.
        total: shape (bins,).
    """
    negatives = total - positives
    below = np.cumsum(negatives, axis=1) - 0.5 * negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    won = (positives * below).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(won), math.nan), where=pairs > 0)
