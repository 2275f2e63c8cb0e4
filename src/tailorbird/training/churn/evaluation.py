"""Evaluate a cut: metrics of the model and every baseline on the same people, with bootstrap
intervals.

    auc             of churned people
    ap, ap_gone     average precision of returning and of churned people
    log_loss        of P(gone)
    lift_10         churn rate in the riskiest tenth, relative to the overall rate
    calibration_…   calibration error, plain and debiased (L2)
    mae, bias       of expected purchases: mean absolute error, total ÷ true total − 1

Every person is one row, drawn Poisson(1) times in a replicate. All models share the replicates, so
differences are paired. `training.churn.rolling_origin` defines cuts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.training.churn.labels import Floats
from tailorbird.training.churn.model_choice import Cut
from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.evaluation.calibration import (
    Calibration,
    calibration_errors,
    measure_calibration,
)

OURS = "tailorbird"
REPLICATES = 500
TOP = 0.1
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
    calibration: Calibration
    slices: dict[str, Calibration]

    def best_baseline(self, figure: str) -> str:
        """Return the best baseline in a metric; NaN never wins."""
        sign = 1 if figure in HIGHER_IS_BETTER else -1
        value = {name: each[figure].value for name, each in self.results.items() if name != OURS}
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
        w = weight[self._order]
        positive = np.add.reduceat(w * self._label, self._starts)
        every = np.add.reduceat(w, self._starts)
        above, seen = np.cumsum(positive), np.cumsum(every)
        positives, total = above[-1], seen[-1]
        negative = every - positive
        if positives <= 0 or positives >= total:
            return float("nan"), float("nan"), float("nan")
        area = float(((above - positive / 2) * negative).sum() / (positives * (total - positives)))
        precision = np.divide(above, seen, out=np.zeros_like(above), where=seen > 0)
        average = float((precision * positive).sum() / positives)
        # Ties are equally likely to be among the first.
        first = float(
            np.interp(TOP * total, np.concatenate(([0.0], seen)), np.concatenate(([0.0], above)))
        )
        return area, average, first / (TOP * total) / (positives / total)


def evaluate_cut(cut: Cut, *, replicates: int = REPLICATES, seed: int = 0) -> CutMetrics:
    """Return all metrics of a cut."""
    resampler = _Resampler(len(cut.churned), replicates, seed)
    churn_probabilities = {OURS: cut.probability, **cut.baselines}
    purchase_predictions = {
        **({} if cut.purchases is None else {OURS: cut.purchases}),
        **cut.baseline_purchases,
    }
    values = {
        name: _bootstrap_metrics(p, cut, purchase_predictions.get(name), resampler)
        for name, p in churn_probabilities.items()
    }
    results = {
        name: {figure: resampler.interval(*pair) for figure, pair in each.items()}
        for name, each in values.items()
    }
    ours = values[OURS]
    differences = {
        name: {
            figure: resampler.interval(
                ours[figure][0] - each[figure][0], ours[figure][1] - each[figure][1]
            )
            for figure in _PAIRED
        }
        for name, each in values.items()
        if name != OURS
    }
    slices = {
        name: measure_calibration(cut.probability[rows], cut.churned[rows], bins=10)
        for name, rows in frequency_slices(cut).items()
        if rows.any()
    }
    return CutMetrics(
        cut, results, differences, measure_calibration(cut.probability, cut.churned), slices
    )


_PAIRED = ("auc", "ap", "ap_gone", "log_loss")


def frequency_slices(cut: Cut) -> dict[str, npt.NDArray[np.bool_]]:
    """Return masks of people by purchase count: one, a few, many."""
    count = cut.frequency
    return {
        "one purchase": count <= 1,
        "two to five": (count > 1) & (count <= 5),
        "more than five": count > 5,
    }


Replicates = tuple[float, Floats]  # a metric, and its value in each replicate


def _bootstrap_metrics(
    probability: Floats, cut: Cut, expected: Floats | None, resampler: "_Resampler"
) -> dict[str, Replicates]:
    """Return each metric with its value in each replicate."""
    churn_order, return_order = (
        SortedScores(probability, cut.churned),
        SortedScores(1 - probability, ~cut.churned),
    )
    ones = np.ones(len(probability))
    area, ap_churned, lift = churn_order.ranking_metrics(ones)
    drawn = np.array(
        [
            (*churn_order.ranking_metrics(w), return_order.ranking_metrics(w)[1])
            for w in resampler.weights
        ]
    )
    bins = measure_calibration(probability, cut.churned)
    errors = np.array([_calibration(bins, probability, cut.churned, w) for w in resampler.weights])
    losses = metrics.log_losses(probability, cut.churned)
    pairs: dict[str, Replicates] = {
        "auc": (area, drawn[:, 0]),
        "ap": (return_order.ranking_metrics(ones)[1], drawn[:, 3]),
        "ap_gone": (ap_churned, drawn[:, 1]),
        "log_loss": resampler.mean(losses),
        "lift_10": (lift, drawn[:, 2]),
        "calibration_error": (bins.error, errors[:, 0]),
        "calibration_error_debiased": (bins.debiased, errors[:, 1]),
    }
    if expected is not None:
        pairs["mae"] = resampler.mean(np.abs(expected - cut.bought))
        predicted, observed = resampler.mean(expected), resampler.mean(cut.bought)
        pairs["bias"] = (
            predicted[0] / max(observed[0], 1e-12) - 1,
            predicted[1] / np.maximum(observed[1], 1e-12) - 1,
        )
    return pairs


def _calibration(
    bins: Calibration, probability: Floats, label: npt.NDArray[np.bool_], weight: Floats
) -> tuple[float, float]:
    size = len(bins.count)
    count, predicted, observed = (
        metrics.totals(bins.bin, weight * each, size)
        for each in (np.ones(len(probability)), probability, label)
    )
    filled = np.maximum(count, 1e-12)
    return calibration_errors(count, predicted / filled, observed / filled)


class _Resampler:
    """Bootstrap weights, shape (replicates, n), drawn once for all metrics."""

    def __init__(self, rows: int, replicates: int, seed: int) -> None:
        self._rows, self._replicates, self._seed = rows, replicates, seed

    @cached_property
    def weights(self) -> npt.NDArray[np.float32]:
        return (
            np.random.default_rng(self._seed)
            .poisson(1.0, (self._replicates, self._rows))
            .astype(np.float32)
        )

    def mean(self, value: Floats) -> Replicates:
        return float(value.mean()), (self.weights @ value) / np.maximum(
            self.weights.sum(axis=1), 1e-12
        )

    def interval(self, value: float, draws: Floats) -> Interval:
        finite = draws[np.isfinite(draws)]
        if not len(finite):
            return Interval(value, float("nan"), float("nan"))
        low, high = np.quantile(finite, [0.025, 0.975])
        return Interval(value, float(low), float(high))


def flatten_intervals(
    results: Mapping[str, Mapping[str, Interval]],
) -> dict[str, dict[str, float | None]]:
    """Return the metrics as JSON, each with `_low` and `_high`."""
    rows: dict[str, dict[str, float | None]] = {}
    for name, figures in results.items():
        rows[name] = {}
        for figure, each in figures.items():
            bounds = zip(
                (figure, f"{figure}_low", f"{figure}_high"),
                (each.value, each.low, each.high),
                strict=True,
            )
            rows[name] |= {
                key: round(float(value), 6) if np.isfinite(value) else None for key, value in bounds
            }
    return rows
