"""Calibration: predicted probabilities against observed rates."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation.metrics import Floats, Ints, divide, sum_by_index


@dataclass(frozen=True)
class CalibrationBins:
    """Reliability diagram with bins of equal mass, and two summaries of it.

    Attributes:
        row_bins: shape (n,), the bin of each row.
        counts, predicted, observed: shape (bins,).
        ece: ECE, Σ count/n · |predicted − observed|. It is above 0 even for a perfect model, by
            chance, and more so with fewer rows: compare models on the same rows only, and use
            `debiased_error` for the size of the error.
        debiased_error: √max(0, Σ count/n · ((predicted − observed)² − observed(1 − observed)/(count
            − 1))), an L2 error minus the expected noise (Kumar, Liang, Ma, NeurIPS 2019, section
            5).
    """

    row_bins: Ints
    counts: Floats
    predicted: Floats
    observed: Floats
    ece: float
    debiased_error: float

    @property
    def mean_predicted(self) -> float:
        """The mean prediction over all rows."""
        return float(np.nansum(self.counts * self.predicted) / self.counts.sum())

    @property
    def mean_observed(self) -> float:
        """The mean observed rate over all rows."""
        return float(np.nansum(self.counts * self.observed) / self.counts.sum())


def measure_calibration(
    probability: npt.NDArray[np.floating], label: npt.NDArray, bin_count: int = 15
) -> CalibrationBins:
    """Bin predictions by equal mass; equal predictions always share a bin."""
    p = probability.astype(np.float64)
    bin_edges = (
        np.unique(np.quantile(p, np.linspace(0, 1, bin_count + 1)[1:-1])) if len(p) else np.zeros(0)
    )
    row_bins = np.searchsorted(bin_edges, p, side="left")
    bin_count = len(bin_edges) + 1
    counts = sum_by_index(row_bins, np.ones(len(p)), bin_count)
    predicted = divide(sum_by_index(row_bins, p, bin_count), counts)
    observed = divide(sum_by_index(row_bins, label > 0, bin_count), counts)
    return CalibrationBins(
        row_bins, counts, predicted, observed, *calibration_errors(counts, predicted, observed)
    )


def calibration_errors(counts: Floats, predicted: Floats, observed: Floats) -> tuple[float, float]:
    """Return the ECE and the debiased L2 error from the bins; see `CalibrationBins`."""
    is_filled = counts > 0
    shares = counts[is_filled] / counts.sum()
    gap = predicted[is_filled] - observed[is_filled]
    noise = observed[is_filled] * (1 - observed[is_filled]) / np.maximum(counts[is_filled] - 1, 1)
    return float((shares * np.abs(gap)).sum()), float(
        np.sqrt(max(0.0, (shares * (gap**2 - noise)).sum()))
    )
