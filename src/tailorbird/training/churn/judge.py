"""Figures of a cut: the model beside every baseline on the same people, with intervals from
resampling them.

    auc             of who left                        ap          average precision of who came back, ap_gone of who left
    log_loss        of P(gone)                         lift_10     rate of leaving among the tenth most likely to, for that of all
    calibration_…   error, and debiased (L2)           mae, bias   of the expected purchases: mean error, total ÷ true total − 1

Every person is one row, drawn Poisson(1) times in a replicate; all models share the replicates, so
differences are paired. What a cut is stands in `training.churn.walk`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.training import metrics
from tailorbird.training.bootstrap import Interval
from tailorbird.training.churn.labels import Floats
from tailorbird.training.churn.walk import Cut

OURS = "tailorbird"
REPLICATES = 500
TOP = 0.1
FIGURES = (
    "auc",
    "ap",
    "ap_gone",
    "log_loss",
    "lift_10",
    "calibration_error",
    "calibration_error_debiased",
    "mae",
    "bias",
)
HIGHER = ("auc", "ap", "ap_gone", "lift_10")  # better where higher; of the others the lower is


@dataclass(frozen=True)
class CutFigures:
    """What came of a cut.

    Attributes:
        results: model or baseline → figure → interval.
        differences: baseline → figure → paired interval of ours − theirs, for AUC, AP, log loss.
        calibration: of ours, for the reliability diagram; `slices` of some kinds of people.
    """

    cut: Cut
    results: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    calibration: metrics.Calibration
    slices: dict[str, metrics.Calibration]

    def best(self, figure: str) -> str:
        """The baseline that is best in a figure; one whose figure is no number is not."""
        sign = 1 if figure in HIGHER else -1
        value = {name: each[figure].value for name, each in self.results.items() if name != OURS}
        return max(
            value, key=lambda name: sign * value[name] if np.isfinite(value[name]) else -np.inf
        )


class Ordered:
    """Scores sorted once, so that a replicate's AUC, AP and lift are sums over groups of equal
    scores.

    Args:
        score: shape (n,), higher is more likely.
        label: shape (n,).
    """

    def __init__(self, score: Floats, label: npt.NDArray[np.bool_]) -> None:
        self._order = np.argsort(-score, kind="stable")
        ordered = score[self._order]
        self._starts = np.flatnonzero(np.diff(ordered, prepend=np.inf) != 0)
        self._label = label[self._order].astype(np.float64)

    def figures(self, weight: Floats) -> tuple[float, float, float]:
        """AUC, average precision and lift of the first tenth, where row i counts weight[i] times."""
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
        # within a group of equal scores, each is as likely to be among the first
        first = float(
            np.interp(TOP * total, np.concatenate(([0.0], seen)), np.concatenate(([0.0], above)))
        )
        return area, average, first / (TOP * total) / (positives / total)


def judge(cut: Cut, *, replicates: int = REPLICATES, seed: int = 0) -> CutFigures:
    """All figures of a cut."""
    draw = _Draw(len(cut.gone), replicates, seed)
    gone = {OURS: cut.probability, **cut.baselines}
    counted = {**({} if cut.purchases is None else {OURS: cut.purchases}), **cut.baseline_purchases}
    values = {name: _draws(p, cut, counted.get(name), draw) for name, p in gone.items()}
    results = {
        name: {figure: draw.interval(*pair) for figure, pair in each.items()}
        for name, each in values.items()
    }
    ours = values[OURS]
    differences = {
        name: {
            figure: draw.interval(
                ours[figure][0] - each[figure][0], ours[figure][1] - each[figure][1]
            )
            for figure in _PAIRED
        }
        for name, each in values.items()
        if name != OURS
    }
    slices = {
        name: metrics.calibration(cut.probability[rows], cut.gone[rows], bins=10)
        for name, rows in slices_of(cut).items()
        if rows.any()
    }
    return CutFigures(
        cut, results, differences, metrics.calibration(cut.probability, cut.gone), slices
    )


_PAIRED = ("auc", "ap", "ap_gone", "log_loss")


def slices_of(cut: Cut) -> dict[str, npt.NDArray[np.bool_]]:
    """Kinds of people: those who had bought once, a few times, often."""
    count = cut.frequency
    return {
        "one purchase": count <= 1,
        "two to five": (count > 1) & (count <= 5),
        "more than five": count > 5,
    }


Pair = tuple[float, Floats]  # a figure, and what it was in each replicate


def _draws(gone: Floats, cut: Cut, expected: Floats | None, draw: "_Draw") -> dict[str, Pair]:
    """Each figure, and what it was in each replicate."""
    left, back = Ordered(gone, cut.gone), Ordered(1 - gone, ~cut.gone)
    ones = np.ones(len(gone))
    area, ap_gone, lift = left.figures(ones)
    drawn = np.array([(*left.figures(w), back.figures(w)[1]) for w in draw.weights])
    bins = metrics.calibration(gone, cut.gone)
    errors = np.array([_calibration(bins, gone, cut.gone, w) for w in draw.weights])
    losses = metrics.log_losses(gone, cut.gone)
    found: dict[str, Pair] = {
        "auc": (area, drawn[:, 0]),
        "ap": (back.figures(ones)[1], drawn[:, 3]),
        "ap_gone": (ap_gone, drawn[:, 1]),
        "log_loss": draw.mean(losses),
        "lift_10": (lift, drawn[:, 2]),
        "calibration_error": (bins.error, errors[:, 0]),
        "calibration_error_debiased": (bins.debiased, errors[:, 1]),
    }
    if expected is not None:
        found["mae"] = draw.mean(np.abs(expected - cut.bought))
        told, true = draw.mean(expected), draw.mean(cut.bought)
        found["bias"] = told[0] / max(true[0], 1e-12) - 1, told[1] / np.maximum(true[1], 1e-12) - 1
    return found


def _calibration(
    bins: metrics.Calibration, gone: Floats, label: npt.NDArray[np.bool_], weight: Floats
) -> tuple[float, float]:
    size = len(bins.count)
    count, predicted, observed = (
        metrics.totals(bins.bin, weight * each, size) for each in (np.ones(len(gone)), gone, label)
    )
    filled = np.maximum(count, 1e-12)
    return metrics.calibration_errors(count, predicted / filled, observed / filled)


class _Draw:
    """The replicates: shape (replicates, n), drawn once for all figures."""

    def __init__(self, rows: int, replicates: int, seed: int) -> None:
        self._rows, self._replicates, self._seed = rows, replicates, seed

    @cached_property
    def weights(self) -> npt.NDArray[np.float32]:
        return (
            np.random.default_rng(self._seed)
            .poisson(1.0, (self._replicates, self._rows))
            .astype(np.float32)
        )

    def mean(self, value: Floats) -> Pair:
        return float(value.mean()), (self.weights @ value) / np.maximum(
            self.weights.sum(axis=1), 1e-12
        )

    def interval(self, value: float, draws: Floats) -> Interval:
        known = draws[np.isfinite(draws)]
        if not len(known):
            return Interval(value, float("nan"), float("nan"))
        low, high = np.quantile(known, [0.025, 0.975])
        return Interval(value, float(low), float(high))


def flat(results: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, float | None]]:
    """As JSON: each figure with `_low` and `_high` beside it."""
    out: dict[str, dict[str, float | None]] = {}
    for name, figures in results.items():
        out[name] = {}
        for figure, each in figures.items():
            ends = zip(
                (figure, f"{figure}_low", f"{figure}_high"),
                (each.value, each.low, each.high),
                strict=True,
            )
            out[name] |= {
                key: round(float(value), 6) if np.isfinite(value) else None for key, value in ends
            }
    return out
