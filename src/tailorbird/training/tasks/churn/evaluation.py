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

    def best_baseline(self, figure: str) -> str:
        """Return the best baseline in a metric; NaN never wins."""
        sign = 1 if figure in HIGHER_IS_BETTER else -1
        value = {
            name: result[figure].value
            for name, result in self.results.items()
            if name != MODEL_NAME
        }
        return max(
            value, key=lambda name: sign * value[name] if np.isfinite(value[name]) else -np.inf
        )


class SortedScores:
    """Scores sorted once, so that a replicate's AUC, AP and lift are sums over tied groups.

    Args:
        score: shape (n,), higher is more likely.
        label: shape (n,).
    """

    def __init__(self, score: Floats, label: npt.NDArray[np.bool_]) -> None:
        self._order = np.argsort(-score, kind="stable")
        ordered = score[self._order]
        self._starts = np.flatnonzero(np.diff(ordered, prepend=np.inf) != 0)
        self._label = label[self._order].astype(np.float64)

    def ranking_metrics(self, weight: Floats) -> tuple[float, float, float]:
        """Return AUC, average precision and lift of the first tenth, with row weights."""
        ordered_weight = weight[self._order]
        positive = np.add.reduceat(ordered_weight * self._label, self._starts)
        group_weight = np.add.reduceat(ordered_weight, self._starts)
        positives_so_far, weight_so_far = np.cumsum(positive), np.cumsum(group_weight)
        positives, total = positives_so_far[-1], weight_so_far[-1]
        negative = group_weight - positive
        if positives <= 0 or positives >= total:
            return float("nan"), float("nan"), float("nan")
        auc = float(
            ((positives_so_far - positive / 2) * negative).sum() / (positives * (total - positives))
        )
        precision = np.divide(
            positives_so_far,
            weight_so_far,
            out=np.zeros_like(positives_so_far),
            where=weight_so_far > 0,
        )
        average_precision = float((precision * positive).sum() / positives)
        # Ties are equally likely to be among the first.
        positives_in_top = float(
            np.interp(
                TOP_SHARE * total,
                np.concatenate(([0.0], weight_so_far)),
                np.concatenate(([0.0], positives_so_far)),
            )
        )
        return auc, average_precision, positives_in_top / (TOP_SHARE * total) / (positives / total)


def evaluate_cut(cut: Cut, *, replicates: int = REPLICATES, seed: int = 0) -> CutMetrics:
    """Return all metrics of a cut."""
    people = np.arange(len(cut.churned))
    bootstrap = Bootstrap(people, replicates=replicates, seed=seed)
    expected_purchases = {
        **({} if cut.purchases is None else {MODEL_NAME: cut.purchases}),
        **cut.baseline_expected_purchases,
    }
    values_by_model: dict[str, Mapping[str, float]] = {}
    replicates_by_model: dict[str, Mapping[str, Floats]] = {}
    results: dict[str, dict[str, Interval]] = {}
    for name, probability in {MODEL_NAME: cut.probability, **cut.baselines}.items():
        figures = _PredictionMetrics(cut, probability, expected_purchases.get(name))
        values_by_model[name] = dict(zip(figures.names, figures(np.ones(len(people))), strict=True))
        replicates_by_model[name] = dict(zip(figures.names, bootstrap.draw(figures).T, strict=True))
        results[name] = {
            figure: bootstrap.interval(
                values_by_model[name][figure], replicates_by_model[name][figure]
            )
            for figure in figures.names
        }
        results[name] |= zip(
            ("calibration_error", "calibration_error_debiased"),
            bootstrap.calibration_errors(
                measure_calibration(probability, cut.churned), probability, cut.churned, people
            ),
            strict=True,
        )
    differences = {
        name: {
            figure: bootstrap.interval(
                values_by_model[MODEL_NAME][figure] - values_by_model[name][figure],
                replicates_by_model[MODEL_NAME][figure] - replicates_by_model[name][figure],
            )
            for figure in _PAIRED_METRICS
        }
        for name in cut.baselines
    }
    slices = {
        name: measure_calibration(cut.probability[rows], cut.churned[rows], bins=10)
        for name, rows in frequency_slices(cut).items()
        if rows.any()
    }
    return CutMetrics(
        cut, results, differences, measure_calibration(cut.probability, cut.churned), slices
    )


_PAIRED_METRICS = ("auc", "ap", "ap_gone", "log_loss")


def frequency_slices(cut: Cut) -> dict[str, npt.NDArray[np.bool_]]:
    """Return masks of people by purchase count: one, a few, many."""
    count = cut.frequency
    return {
        "one purchase": count <= 1,
        "two to five": (count > 1) & (count <= 5),
        "more than five": count > 5,
    }


class _PredictionMetrics:
    """The figures of a prediction, as a function of row weights."""

    def __init__(self, cut: Cut, probability: Floats, expected: Floats | None) -> None:
        self._bought, self._expected = cut.bought, expected
        self._errors = np.zeros(0) if expected is None else np.abs(expected - cut.bought)
        self._churn_order = SortedScores(probability, cut.churned)
        self._return_order = SortedScores(1 - probability, ~cut.churned)
        self._losses = metrics.log_losses(probability, cut.churned)
        self.names = (
            *("auc", "ap", "ap_gone", "log_loss", "lift_10"),
            *(() if expected is None else ("mae", "bias")),
        )

    def __call__(self, weight: Floats) -> list[float]:
        def mean(value: Floats) -> float:
            return float(weight @ value / np.maximum(weight.sum(), 1e-12))

        area, ap_churned, lift = self._churn_order.ranking_metrics(weight)
        ap_returning = self._return_order.ranking_metrics(weight)[1]
        figures = [area, ap_returning, ap_churned, mean(self._losses), lift]
        if self._expected is not None:
            total_ratio = mean(self._expected) / max(mean(self._bought), 1e-12)
            figures += [mean(self._errors), total_ratio - 1]
        return figures
