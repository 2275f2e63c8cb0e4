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

LOGIT_LOW = -12.0
LOGIT_STEP = 0.1
BIN_COUNT = 200
DRAW_COUNT = 400

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ExpectedPerformance:
    """Expected CTR and AUC with 95 % intervals, and the AUC so far; NaN where nothing is known."""

    ctr: float
    ctr_low: float
    ctr_high: float
    auc: float
    auc_low: float
    auc_high: float
    auc_observed: float


UNKNOWN_PERFORMANCE = ExpectedPerformance(*[math.nan] * 7)


@dataclass(frozen=True)
class ScoredImpressions:
    """Seen items with a click probability: their response, shape (n,), and whether clicked."""

    response_index: Ints
    probability: Floats
    is_clicked: npt.NDArray[np.bool_]

    def click_sums(self, response_count: int) -> dict[str, Floats]:
        """Return the expected clicks and the clicks of each response."""
        return {
            name: np.bincount(self.response_index, values, response_count).astype(np.float64)
            for name, values in (
                ("predicted_clicks", self.probability),
                ("scored_clicks", self.is_clicked),
            )
        }

    def codes_by_cell(self, cell_of_response: Ints, cell_count: int) -> tuple[pa.Array, pa.Array]:
        """Return the codes in each cell, and how often each occurs.

        Args:
            cell_of_response: of each response.
            cell_count: number of cells.
        """
        codes = encode_seen(self.probability, self.is_clicked)
        cell_codes, counts = np.unique(
            cell_of_response[self.response_index] * 2 * BIN_COUNT + codes, return_counts=True
        )
        offsets = np.searchsorted(cell_codes, np.arange(cell_count + 1) * 2 * BIN_COUNT).astype(
            np.int32
        )
        return (
            pa.ListArray.from_arrays(
                offsets, pa.array((cell_codes % (2 * BIN_COUNT)).astype(np.int16))
            ),
            pa.ListArray.from_arrays(offsets, pa.array(counts.astype(np.int32))),
        )


def encode_seen(probability: Floats, is_clicked: npt.NDArray[np.bool_]) -> Ints:
    """Return the code of each seen item: twice the bin of its probability, plus one if clicked."""
    clipped = np.clip(probability, 1e-9, 1.0 - 1e-9)
    bins = np.floor((np.log(clipped / (1.0 - clipped)) - LOGIT_LOW) / LOGIT_STEP)
    return 2 * np.clip(bins, 0, BIN_COUNT - 1).astype(np.int64) + is_clicked


def expect_performance(codes: Ints, counts: Floats, predicted_clicks: float) -> ExpectedPerformance:
    """Return what the probabilities of seen items promise, and the AUC of the clicks so far.

    Args:
        codes, counts: of seen items, see `encode_seen`, shape (n,).
        predicted_clicks: sum of the probabilities, which corrects those of the bins.
    """
    counts_by_bin = np.bincount(codes, counts, 2 * BIN_COUNT).reshape(BIN_COUNT, 2)
    used_bins = counts_by_bin.sum(axis=1) > 0
    seen = counts_by_bin.sum(axis=1)[used_bins]
    clicked = counts_by_bin[used_bins, 1]
    if not seen.sum():
        return UNKNOWN_PERFORMANCE
    bin_logits = LOGIT_LOW + LOGIT_STEP * (np.flatnonzero(used_bins) + 0.5)
    probability = 1.0 / (1.0 + np.exp(-bin_logits))
    expected = (seen * probability).sum()
    probability = np.minimum(probability * predicted_clicks / expected, 1.0)
    rng = np.random.default_rng(0)  # the same figures for the same cells
    draws = rng.binomial(seen.astype(np.int64), probability, (DRAW_COUNT, len(seen))).astype(
        np.float64
    )
    ctr_low, ctr_high = np.quantile(draws.sum(axis=1) / seen.sum(), (0.025, 0.975))
    auc = auc_of(draws, seen)  # (DRAW_COUNT,)
    auc_low, auc_high = (
        np.quantile(auc[np.isfinite(auc)], (0.025, 0.975))
        if np.isfinite(auc).any()
        else (math.nan, math.nan)
    )
    return ExpectedPerformance(
        ctr=predicted_clicks / float(seen.sum()),
        ctr_low=float(ctr_low),
        ctr_high=float(ctr_high),
        auc=float(auc_of((seen * probability)[None, :], seen)[0]),
        auc_low=float(auc_low),
        auc_high=float(auc_high),
        auc_observed=float(auc_of(clicked[None, :], seen)[0]),
    )


def auc_of(positives: Floats, seen: Floats) -> Floats:
    """Return the area under the ROC curve from counts by ascending score; ties count by half.

    Args:
        positives: shape (n, bins); expected counts give the expected area.
        seen: shape (bins,).
    """
    negatives = seen - positives
    negatives_below = np.cumsum(negatives, axis=1) - 0.5 * negatives
    pair_count = positives.sum(axis=1) * negatives.sum(axis=1)
    won_pair_count = (positives * negatives_below).sum(axis=1)
    return np.divide(
        won_pair_count, pair_count, out=np.full(len(won_pair_count), math.nan), where=pair_count > 0
    )


def auc_interval(auc: float, clicks: int, seen: int) -> tuple[float, float]:
    """Return the 95 % interval of an AUC (Hanley and McNeil, Radiology 1982)."""
    others = seen - clicks
    if clicks < 1 or others < 1:
        return math.nan, math.nan
    both_above = auc / (2.0 - auc)  # two clicked items above one that was not
    one_above = 2.0 * auc**2 / (1.0 + auc)
    variance = (
        auc * (1.0 - auc)
        + (clicks - 1) * (both_above - auc**2)
        + (others - 1) * (one_above - auc**2)
    ) / (clicks * others)
    error = 1.96 * math.sqrt(max(variance, 0.0))
    return max(auc - error, 0.0), min(auc + error, 1.0)
