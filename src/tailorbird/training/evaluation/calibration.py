"""Calibration: predicted probabilities against observed rates."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation.metrics import Floats, Ints, divide, totals


@dataclass(frozen=True)
class CalibrationBins:
    """Reliability diagram with bins of equal mass, and two summaries of it.

    Attributes:
        bin: shape (n,), the bin of each row.
        count, predicted, observed: shape (bins,).
        error: ECE, Σ count/n · |predicted − observed|. It is above 0 even for a perfect model, by
            chance, and more so with fewer rows: compare models on the same rows only, and use
            `debiased` for the size of the error.
        debiased: √max(0, Σ count/n · ((predicted − observed)² − observed(1 − observed)/(count −
            1))), an L2 error minus the expected noise (Kumar, Liang, Ma, NeurIPS 2019, section 5).
    """

    bin: Ints
    count: Floats
    predicted: Floats
    observed: Floats
    error: float
    debiased: float

    @property
    def mean_predicted(self) -> float:
        """The mean prediction over all rows."""
        return float(np.nansum(self.count * self.predicted) / self.count.sum())

    @property
    def mean_observed(self) -> float:
        """The mean observed rate over all rows."""
        return float(np.nansum(self.count * self.observed) / self.count.sum())


def measure_calibration(
    probability: npt.NDArray[np.floating], label: npt.NDArray, bins: int = 15
) -> CalibrationBins:
    """Bin predictions by equal mass; equal predictions always share a bin."""
    p = probability.astype(np.float64)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1])) if len(p) else np.zeros(0)
    index = np.searchsorted(edges, p, side="left")
    bins = len(edges) + 1
    count = totals(index, np.ones(len(p)), bins)
    predicted = divide(totals(index, p, bins), count)
    observed = divide(totals(index, label > 0, bins), count)
    return CalibrationBins(
        index, count, predicted, observed, *calibration_errors(count, predicted, observed)
    )


def calibration_errors(count: Floats, predicted: Floats, observed: Floats) -> tuple[float, float]:
    """Return the ECE and the debiased L2 error from the bins; see `CalibrationBins`."""
    filled = count > 0
    share = count[filled] / count.sum()
    gap = predicted[filled] - observed[filled]
    noise = observed[filled] * (1 - observed[filled]) / np.maximum(count[filled] - 1, 1)
    return float((share * np.abs(gap)).sum()), float(
        np.sqrt(max(0.0, (share * (gap**2 - noise)).sum()))
    )
