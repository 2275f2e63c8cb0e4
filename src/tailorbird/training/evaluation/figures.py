"""Metrics of an evaluation: of each model, of each head, and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.amounts import AmountMetrics
from tailorbird.training.evaluation.bootstrap import (
    Bootstrap,
    Interval,
    flatten_intervals,
    flatten_tables,
    round_finite,
)
from tailorbird.training.evaluation.calibration import CalibrationBins, measure_calibration
from tailorbird.training.evaluation.cold_start import ColdStartStep

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOP_K = 10

LISTWISE_METRICS = (
    f"ndcg_{TOP_K}",
    f"recall_{TOP_K}",
    "hr_20",
    "mrr",
    "list_auc",
    f"novelty_{TOP_K}",
)
PRIMARY_METRIC = f"ndcg_{TOP_K}"


@dataclass(frozen=True)
class HeadMetrics:
    """Pointwise metrics of a head's probabilities, with its calibration by slice.

    Attributes:
        log_loss_of_mean: log loss of a constant mean.
    """

    auc: Interval
    log_loss: Interval
    log_loss_of_mean: float
    calibration_error: Interval
    calibration_bins: CalibrationBins
    positive_count: int
    row_count: int
    calibration_by_slice: dict[str, CalibrationBins] = field(default_factory=dict)

    @property
    def mean_ratio(self) -> float:
        """Return the ratio of the mean prediction to the observed mean."""
        row_counts = self.calibration_bins.counts
        predicted_total, observed_total = (
            float(np.nansum(row_counts * rates))
            for rates in (self.calibration_bins.predicted, self.calibration_bins.observed)
        )
        return predicted_total / max(observed_total, 1e-12)


class SliceIntervals(NamedTuple):
    """The requests of a slice, and the interval of `PRIMARY_METRIC` by model or baseline."""

    request_count: int
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one evaluation.

    Attributes:
        model_name: the evaluated model.
        intervals: model or baseline → metric → interval.
        differences: baseline → paired interval of (model − baseline) in `PRIMARY_METRIC`.
        slices: by name.
        cold_start_curves: by earlier events of the user (`people`) and of the item (`items`).
        head_metrics: head → metrics of the model's probabilities.
        amount_metrics: head → metrics of the model's expected amounts.
        request_count, user_count: requests with a positive, and their users.
        row_count: rows of the test part.
    """

    model_name: str
    intervals: dict[str, dict[str, Interval]]
    differences: dict[str, Interval]
    slices: dict[str, SliceIntervals]
    head_metrics: dict[str, HeadMetrics]
    request_count: int
    user_count: int
    row_count: int
    data_summary: dict[str, Any] = field(default_factory=dict)
    amount_metrics: dict[str, AmountMetrics] = field(default_factory=dict)
    cold_start_curves: dict[str, tuple[ColdStartStep, ...]] = field(default_factory=dict)

    @property
    def best_baseline(self) -> str:
        """Return the name of the baseline with the best `PRIMARY_METRIC`, "" without any."""
        primary_by_baseline = {
            name: intervals[PRIMARY_METRIC].value
            for name, intervals in self.intervals.items()
            if name != self.model_name
        }
        return (
            max(primary_by_baseline, key=lambda name: primary_by_baseline[name])
            if primary_by_baseline
            else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON; each interval adds `_low` and `_high` keys."""
        return {
            "results": flatten_tables(self.intervals),
            "differences": {
                name: flatten_intervals({PRIMARY_METRIC: gain})
                for name, gain in self.differences.items()
            },
            "slices": {
                name: {
                    "requests": count,
                    **{
                        model: flatten_intervals({PRIMARY_METRIC: interval})
                        for model, interval in metrics.items()
                    },
                }
                for name, (count, metrics) in self.slices.items()
            },
            "cold_start": {
                name: [step.to_dict() for step in steps]
                for name, steps in self.cold_start_curves.items()
            },
            "heads": {name: _head_to_dict(head) for name, head in self.head_metrics.items()},
            "amounts": {name: metrics.to_dict() for name, metrics in self.amount_metrics.items()},
            "requests": self.request_count,
            "people": self.user_count,
            "rows": self.row_count,
        }


def compute_head_metrics(
    probability: Floats,
    label: npt.NDArray,
    request_index: Ints,
    bootstrap: Bootstrap,
    slice_masks: Mapping[str, npt.NDArray[np.bool_]],
) -> HeadMetrics:
    losses = metrics.log_losses(probability, label)
    request_count = len(bootstrap.person_codes)
    positive_rate = float(np.mean(label > 0))
    # The mean over rows is a ratio of sums over requests.
    log_loss = bootstrap.ratio(
        metrics.sum_by_index(request_index, losses, request_count),
        metrics.sum_by_index(request_index, np.ones(len(request_index)), request_count),
    )
    auc = bootstrap.auc(
        metrics.auc(probability, label), metrics.auc_influence(probability, label), request_index
    )
    calibration = measure_calibration(probability, label)
    calibration_error, _ = bootstrap.calibration_errors(
        calibration, probability, label, request_index
    )
    log_loss_of_mean = metrics.log_loss(np.full(len(label), positive_rate), label)
    row_masks = {name: mask[request_index] for name, mask in slice_masks.items()}
    slices = {
        name: measure_calibration(probability[row_mask], label[row_mask])
        for name, row_mask in row_masks.items()
        if row_mask.any()
    }
    return HeadMetrics(
        auc=auc,
        log_loss=log_loss,
        log_loss_of_mean=log_loss_of_mean,
        calibration_error=calibration_error,
        calibration_bins=calibration,
        positive_count=int(np.count_nonzero(label)),
        row_count=len(label),
        calibration_by_slice=slices,
    )


def _head_to_dict(head: HeadMetrics) -> dict[str, Any]:
    interval_values = flatten_intervals(
        {"auc": head.auc, "log_loss": head.log_loss, "calibration_error": head.calibration_error}
    )
    scalars = {
        "log_loss_mean": round_finite(head.log_loss_of_mean),
        "calibration_error_debiased": round_finite(head.calibration_bins.debiased_error),
    }
    slices = {
        name: _calibration_to_dict(calibration)
        for name, calibration in head.calibration_by_slice.items()
    }
    return {
        **interval_values,
        **scalars,
        "positives": head.positive_count,
        "rows": head.row_count,
        "calibration_slices": slices,
    }


def _calibration_to_dict(calibration: CalibrationBins) -> dict[str, Any]:
    """Return rows, mean prediction, observed mean and debiased error of a slice."""
    row_count = calibration.counts.sum()
    means = {
        name: round_finite(float(np.nansum(calibration.counts * value) / row_count))
        for name, value in _bin_means(calibration)
    }
    return {
        "rows": int(row_count),
        **means,
        "calibration_error_debiased": round_finite(calibration.debiased_error),
    }


def _bin_means(calibration: CalibrationBins) -> tuple[tuple[str, Floats], ...]:
    return ("predicted", calibration.predicted), ("observed", calibration.observed)
