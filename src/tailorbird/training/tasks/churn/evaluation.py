"""Evaluate a cut: metrics of the model and every baseline on the same people, with bootstrap
intervals.

    auc             of churned people
    ap, ap_gone     average precision of returning and of churned people
    log_loss        of P(gone)
    lift_10         churn rate in the riskiest tenth, relative to the overall rate
    calibration_…   calibration error, plain and debiased (L2)
    mae, bias       of expected purchases: mean absolute error, total ÷ true total − 1

Every person is one row, drawn Poisson(1) times in a replicate. All models share the replicates, so
differences are paired. `training.tasks.churn.rolling_origin` defines cuts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.evaluation.calibration import CalibrationBins, measure_calibration
from tailorbird.training.tasks.churn.labels import Floats
from tailorbird.training.tasks.churn.model_choice import Cut

MODEL_NAME = "tailorbird"
REPLICATES = 500
TOP_SHARE = 0.1
HIGHER_IS_BETTER = ("auc", "ap", "ap_gone", "lift_10")


@dataclass(frozen=True)
class CutMetrics:
    """The evaluation of a cut.

    Attributes:
        results: model or baseline → metric → interval.
        differences: baseline → metric → paired interval of model − baseline.
        calibration: of the model, for the reliability diagram; `slices`: by group of people.
    """

    cut: Cut
    results: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    calibration: CalibrationBins
    slices: dict[str, CalibrationBins]

    def best_baseline(self, metric: str) -> str:
        """Return the best baseline in a metric; NaN never wins."""
        sign = 1 if metric in HIGHER_IS_BETTER else -1
        value_by_name = {
            name: result[metric].value
            for name, result in self.results.items()
            if name != MODEL_NAME
        }
        return max(
            value_by_name,
            key=lambda name: (
                sign * value_by_name[name] if np.isfinite(value_by_name[name]) else -np.inf
            ),
        )


class SortedScores:
    """Scores sorted once, so that a replicate's AUC, AP and lift are sums over tied groups.

    Args:
        score: shape (n,), higher is more likely.
        label: shape (n,).
    """

    def __init__(self, score: Floats, label: npt.NDArray[np.bool_]) -> None:
        self._order = np.argsort(-score, kind="stable")
        sorted_score = score[self._order]
        self._tie_starts = np.flatnonzero(np.diff(sorted_score, prepend=np.inf) != 0)
        self._label = label[self._order].astype(np.float64)

    def ranking_metrics(self, weight: Floats) -> tuple[float, float, float]:
        """Return AUC, average precision and lift of the first tenth, with row weights."""
        sorted_weight = weight[self._order]
        positive_weight = np.add.reduceat(sorted_weight * self._label, self._tie_starts)
        group_weight = np.add.reduceat(sorted_weight, self._tie_starts)
        cumulative_positive = np.cumsum(positive_weight)
        cumulative_weight = np.cumsum(group_weight)
        total_positive = cumulative_positive[-1]
        total_weight = cumulative_weight[-1]
        negative_weight = group_weight - positive_weight
        if total_positive <= 0 or total_positive >= total_weight:
            return float("nan"), float("nan"), float("nan")
        auc = float(
            ((cumulative_positive - positive_weight / 2) * negative_weight).sum()
            / (total_positive * (total_weight - total_positive))
        )
        precision = np.divide(
            cumulative_positive,
            cumulative_weight,
            out=np.zeros_like(cumulative_positive),
            where=cumulative_weight > 0,
        )
        average_precision = float((precision * positive_weight).sum() / total_positive)
        # Ties are equally likely to be among the first.
        positives_in_top = float(
            np.interp(
                TOP_SHARE * total_weight,
                np.concatenate(([0.0], cumulative_weight)),
                np.concatenate(([0.0], cumulative_positive)),
            )
        )
        return (
            auc,
            average_precision,
            positives_in_top / (TOP_SHARE * total_weight) / (total_positive / total_weight),
        )


def evaluate_cut(cut: Cut, *, replicates: int = REPLICATES, seed: int = 0) -> CutMetrics:
    """Return all metrics of a cut."""
    person_rows = np.arange(len(cut.churned))
    bootstrap = Bootstrap(person_rows, replicates=replicates, seed=seed)
    expected_purchases = {
        **({} if cut.purchases is None else {MODEL_NAME: cut.purchases}),
        **cut.baseline_expected_purchases,
    }
    values_by_model: dict[str, Mapping[str, float]] = {}
    replicates_by_model: dict[str, Mapping[str, Floats]] = {}
    results: dict[str, dict[str, Interval]] = {}
    for name, probability in {MODEL_NAME: cut.probability, **cut.baselines}.items():
        prediction_metrics = _PredictionMetrics(cut, probability, expected_purchases.get(name))
        values_by_model[name] = dict(
            zip(
                prediction_metrics.names, prediction_metrics(np.ones(len(person_rows))), strict=True
            )
        )
        replicates_by_model[name] = dict(
            zip(
                prediction_metrics.names,
                bootstrap.resample_metrics(prediction_metrics).T,
                strict=True,
            )
        )
        results[name] = {
            metric: bootstrap.interval(
                values_by_model[name][metric], replicates_by_model[name][metric]
            )
            for metric in prediction_metrics.names
        }
        results[name] |= zip(
            ("calibration_error", "calibration_error_debiased"),
            bootstrap.calibration_errors(
                measure_calibration(probability, cut.churned), probability, cut.churned, person_rows
            ),
            strict=True,
        )
    differences = {
        name: {
            metric: bootstrap.interval(
                values_by_model[MODEL_NAME][metric] - values_by_model[name][metric],
                replicates_by_model[MODEL_NAME][metric] - replicates_by_model[name][metric],
            )
            for metric in _PAIRED_METRICS
        }
        for name in cut.baselines
    }
    slices = {
        name: measure_calibration(cut.probability[rows], cut.churned[rows], bin_count=10)
        for name, rows in slice_by_frequency(cut).items()
        if rows.any()
    }
    return CutMetrics(
        cut, results, differences, measure_calibration(cut.probability, cut.churned), slices
    )


_PAIRED_METRICS = ("auc", "ap", "ap_gone", "log_loss")


def slice_by_frequency(cut: Cut) -> dict[str, npt.NDArray[np.bool_]]:
    """Return masks of people by purchase count: one, a few, many."""
    purchase_count = cut.frequency
    return {
        "one purchase": purchase_count <= 1,
        "two to five": (purchase_count > 1) & (purchase_count <= 5),
        "more than five": purchase_count > 5,
    }


class _PredictionMetrics:
    """The figures of a prediction, as a function of row weights."""

    def __init__(self, cut: Cut, probability: Floats, expected_purchases: Floats | None) -> None:
        self._bought = cut.bought
        self._expected_purchases = expected_purchases
        self._errors = (
            np.zeros(0) if expected_purchases is None else np.abs(expected_purchases - cut.bought)
        )
        self._sorted_churn_scores = SortedScores(probability, cut.churned)
        self._sorted_return_scores = SortedScores(1 - probability, ~cut.churned)
        self._losses = metrics.log_losses(probability, cut.churned)
        self.names = (
            *("auc", "ap", "ap_gone", "log_loss", "lift_10"),
            *(() if expected_purchases is None else ("mae", "bias")),
        )

    def __call__(self, weight: Floats) -> list[float]:
        def weighted_mean(value: Floats) -> float:
            return float(weight @ value / np.maximum(weight.sum(), 1e-12))

        auc, ap_churned, lift = self._sorted_churn_scores.ranking_metrics(weight)
        ap_returning = self._sorted_return_scores.ranking_metrics(weight)[1]
        values = [auc, ap_returning, ap_churned, weighted_mean(self._losses), lift]
        if self._expected_purchases is not None:
            total_ratio = weighted_mean(self._expected_purchases) / max(
                weighted_mean(self._bought), 1e-12
            )
            values += [weighted_mean(self._errors), total_ratio - 1]
        return values
