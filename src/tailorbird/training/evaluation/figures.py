"""Figures of an evaluation: of each model, of each head, and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.amounts import AmountFigures
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

K = 10

LISTWISE = (f"ndcg_{K}", f"recall_{K}", "hr_20", "mrr", "list_auc", f"novelty_{K}")
PRIMARY_METRIC = f"ndcg_{K}"


@dataclass(frozen=True)
class HeadFigures:
    """Pointwise metrics of a head's probabilities, with its calibration by slice.

    Attributes:
        log_loss_mean: log loss of a constant mean.
    """

    auc: Interval
    log_loss: Interval
    log_loss_mean: float
    calibration_error: Interval
    calibration: CalibrationBins
    positives: int
    rows: int
    slices: dict[str, CalibrationBins] = field(default_factory=dict)

    @property
    def mean_ratio(self) -> float:
        """Return the ratio of the mean prediction to the observed mean."""
        rows = self.calibration.count
        predicted, observed = (
            float(np.nansum(rows * rates))
            for rates in (self.calibration.predicted, self.calibration.observed)
        )
        return predicted / max(observed, 1e-12)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one evaluation.

    Attributes:
        model: name of the evaluated model.
        figures: model or baseline → metric → interval.
        differences: baseline → paired interval of (model − baseline) in `PRIMARY_METRIC`.
        slices: slice → (requests, model → interval of `PRIMARY_METRIC`).
        cold: cold-start curves by earlier events of the user (`people`) and of the item (`items`).
        heads: head → metrics of the model's probabilities.
        amounts: head → metrics of the model's expected amounts.
        requests, people: requests with a positive, and their users.
        rows: rows of the test part.
    """

    model: str
    figures: dict[str, dict[str, Interval]]
    differences: dict[str, Interval]
    slices: dict[str, tuple[int, dict[str, Interval]]]
    heads: dict[str, HeadFigures]
    requests: int
    people: int
    rows: int
    about: dict[str, Any] = field(default_factory=dict)
    amounts: dict[str, AmountFigures] = field(default_factory=dict)
    cold: dict[str, tuple[ColdStartStep, ...]] = field(default_factory=dict)

    @property
    def best_baseline(self) -> str:
        """Return the name of the baseline with the best `PRIMARY_METRIC`, "" without any."""
        baselines = {
            name: figures[PRIMARY_METRIC].value
            for name, figures in self.figures.items()
            if name != self.model
        }
        return max(baselines, key=lambda name: baselines[name]) if baselines else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON; each interval adds `_low` and `_high` keys."""
        return {
            "results": flatten_tables(self.figures),
            "differences": {
                name: flatten_intervals({PRIMARY_METRIC: gain})
                for name, gain in self.differences.items()
            },
            "slices": {
                name: {
                    "requests": count,
                    **{
                        model: flatten_intervals({PRIMARY_METRIC: figure})
                        for model, figure in figures.items()
                    },
                }
                for name, (count, figures) in self.slices.items()
            },
            "cold_start": {
                name: [step.to_dict() for step in steps] for name, steps in self.cold.items()
            },
            "heads": {name: _head_to_dict(head) for name, head in self.heads.items()},
            "amounts": {name: figures.to_dict() for name, figures in self.amounts.items()},
            "requests": self.requests,
            "people": self.people,
            "rows": self.rows,
        }


def head_figures(
    probability: Floats,
    label: npt.NDArray,
    request: Ints,
    bootstrap: Bootstrap,
    masks: Mapping[str, npt.NDArray[np.bool_]],
) -> HeadFigures:
    losses = metrics.log_losses(probability, label)
    size = len(bootstrap.person)
    rate = float(np.mean(label > 0))
    # The mean over rows is a ratio of sums over requests.
    loss = bootstrap.ratio(
        metrics.totals(request, losses, size), metrics.totals(request, np.ones(len(request)), size)
    )
    auc = bootstrap.auc(
        metrics.auc(probability, label), metrics.auc_influence(probability, label), request
    )
    calibration = measure_calibration(probability, label)
    error, _ = bootstrap.calibration_errors(calibration, probability, label, request)
    mean = metrics.log_loss(np.full(len(label), rate), label)
    slice_rows = {name: mask[request] for name, mask in masks.items()}
    slices = {
        name: measure_calibration(probability[rows], label[rows])
        for name, rows in slice_rows.items()
        if rows.any()
    }
    return HeadFigures(
        auc, loss, mean, error, calibration, int(np.count_nonzero(label)), len(label), slices
    )


def _head_to_dict(head: HeadFigures) -> dict[str, Any]:
    figures = flatten_intervals(
        {"auc": head.auc, "log_loss": head.log_loss, "calibration_error": head.calibration_error}
    )
    scalars = {
        "log_loss_mean": round_finite(head.log_loss_mean),
        "calibration_error_debiased": round_finite(head.calibration.debiased),
    }
    slices = {name: _calibration_to_dict(calibration) for name, calibration in head.slices.items()}
    return {
        **figures,
        **scalars,
        "positives": head.positives,
        "rows": head.rows,
        "calibration_slices": slices,
    }


def _calibration_to_dict(calibration: CalibrationBins) -> dict[str, Any]:
    """Return rows, mean prediction, observed mean and debiased error of a slice."""
    rows = calibration.count.sum()
    means = {
        name: round_finite(float(np.nansum(calibration.count * value) / rows))
        for name, value in _bin_means(calibration)
    }
    return {
        "rows": int(rows),
        **means,
        "calibration_error_debiased": round_finite(calibration.debiased),
    }


def _bin_means(calibration: CalibrationBins) -> tuple[tuple[str, Floats], ...]:
    return ("predicted", calibration.predicted), ("observed", calibration.observed)
