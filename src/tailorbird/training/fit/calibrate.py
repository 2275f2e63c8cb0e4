"""Choice of a head's calibration, by log loss on the period after the ones it is fitted on.

    period     1   2   3   4   5     rows used neither for training nor for early stopping
    fit on     1 → evaluate on 2
    fit on     1   2 → evaluate on 3   …

The best method over all periods is fitted again on all rows, and used only if it beats the raw
output: a table that fits yesterday but not today makes probabilities worse. Expected amounts are
scaled by the same rule (`choose_scale`). The curves are in `ranking.calibration`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import DAY
from tailorbird.ranking.calibration import (
    Calibration,
    Floats,
    Identity,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_scale,
    fit_temperature,
)
from tailorbird.ranking.policy.targets import is_amount_head, parse_return
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.evaluation.metrics import deviances, log_losses

Ints = npt.NDArray[np.int64]
FitFunction = Callable[[Floats, Floats, Floats], Calibration]

# Positives that an isotonic table needs; with fewer, only a curve of few parameters is fitted.
ISOTONIC_POSITIVES_MIN = 300
# Positives before a period, and in it, for the period to be evaluated.
POSITIVES_MIN = 20
PERIOD_COUNT = 5  # periods for rows that cover fewer than three days
CALIBRATION_METHODS: dict[str, FitFunction] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
    "beta": fit_beta,
    "temperature": fit_temperature,
}
PROBABILITY_METHODS = ("beta", "temperature")


@dataclass(frozen=True)
class CalibrationChoice:
    """A calibration, and the losses that decided for it.

    Attributes:
        mean_losses: mean loss of each method over the evaluated periods, with `none` for the raw
            output where that is a probability; empty where too few periods could be evaluated.
        evaluated_periods: number of evaluated periods.
        loss_name: name of the loss.
    """

    calibration: Calibration
    mean_losses: dict[str, float]
    evaluated_periods: int
    loss_name: str = "log loss"

    @property
    def summary(self) -> str:
        """Describe the choice in one sentence."""
        name = self.calibration.name
        if not self.mean_losses:
            return f"{name}, as there is too little to choose by"
        loss_list = ", ".join(
            f"{method} {loss:.5f}"
            for method, loss in sorted(self.mean_losses.items(), key=lambda entry: entry[1])
        )
        periods_note = f"on the next of {self.evaluated_periods} periods"
        return f"{name}, by {self.loss_name} {periods_note}: {loss_list}"

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as JSON."""
        return {
            "method": self.calibration.name,
            "periods": self.evaluated_periods,
            "losses": {k: round(v, 6) for k, v in self.mean_losses.items()},
        }


def choose_calibration(
    raw_scores: Floats,
    label: npt.NDArray,
    period: Ints,
    weight: Floats | None = None,
    *,
    label_period: Ints | None = None,
    periods_min: int = 1,
    is_probability: bool = True,
) -> CalibrationChoice:
    """Choose a calibration by its loss on following periods, and fit it on all rows.

    Args:
        raw_scores: shape (n,), the model's output.
        label: shape (n,), above 0 is positive.
        period: shape (n,), ascending with time: a day, or an origin; see `assign_periods`.
        label_period: shape (n,), the first period in which the label of a row was known; by
            default the one after its own. Labels that look far ahead make neighbouring periods
            share outcomes, so that one would always confirm the other.
        periods_min: periods that must be evaluated. With fewer, `mean_losses` are empty and a
            probability stays as it is.
        is_probability: whether the raw output is a probability. If not, a calibration is always
            needed, and only methods for arbitrary scores qualify.
    """
    is_positive = (label > 0).astype(np.float64)
    weight = np.ones(raw_scores.size) if weight is None else weight
    methods = {
        name: fit
        for name, fit in CALIBRATION_METHODS.items()
        if is_probability or name not in PROBABILITY_METHODS
    }
    if is_positive.sum() < ISOTONIC_POSITIVES_MIN:
        del methods["isotonic"]
    loss_totals = dict.fromkeys((*(("none",) if is_probability else ()), *methods), 0.0)
    available_period = period + 1 if label_period is None else label_period
    total_weight = 0.0
    evaluated_periods = 0
    for current_period in np.unique(period)[1:]:
        is_past = available_period <= current_period
        is_current = period == current_period
        if min(is_positive[is_past].sum(), is_positive[is_current].sum()) < POSITIVES_MIN:
            continue
        evaluated_periods = evaluated_periods + 1
        total_weight = total_weight + float(weight[is_current].sum())
        for name in loss_totals:
            calibration = _fit_method(
                name, methods, raw_scores[is_past], is_positive[is_past], weight[is_past]
            )
            loss_totals[name] += float(
                weight[is_current]
                @ log_losses(calibration.apply(raw_scores[is_current]), is_positive[is_current])
            )
    if evaluated_periods < periods_min:
        if is_probability:
            return CalibrationChoice(Identity(), {}, evaluated_periods)
        return CalibrationChoice(
            (fit_isotonic if "isotonic" in methods else fit_platt)(raw_scores, is_positive, weight),
            {},
            evaluated_periods,
        )
    mean_losses = {name: value / total_weight for name, value in loss_totals.items()}
    # The raw output comes first, so it wins ties.
    best_method = min(mean_losses, key=lambda name: mean_losses[name])
    return CalibrationChoice(
        _fit_method(best_method, methods, raw_scores, is_positive, weight),
        mean_losses,
        evaluated_periods,
    )


def choose_scale(
    raw_amounts: Floats,
    amount: npt.NDArray,
    period: Ints,
    weight: Floats | None = None,
    *,
    label_period: Ints | None = None,
) -> CalibrationChoice:
    """Choose between a scale factor and the raw output for expected amounts, by Poisson deviance.

    The deviance is smallest where the mean is right.

    Args:
        raw_amounts: shape (n,), expected amounts.
        amount: shape (n,), observed amounts ≥ 0.
        period, label_period: as in `choose_calibration`.
    """
    weight = np.ones(raw_amounts.size) if weight is None else weight
    amount = amount.astype(np.float64)
    losses = {"none": 0.0, "scale": 0.0}
    total_weight = 0.0
    evaluated_periods = 0
    available_period = period + 1 if label_period is None else label_period
    for current_period in np.unique(period)[1:]:
        is_past = available_period <= current_period
        is_current = period == current_period
        if (
            min(np.count_nonzero(amount[is_past]), np.count_nonzero(amount[is_current]))
            < POSITIVES_MIN
        ):
            continue
        evaluated_periods = evaluated_periods + 1
        total_weight = total_weight + float(weight[is_current].sum())
        for name, calibration in (
            ("none", Identity()),
            ("scale", fit_scale(raw_amounts[is_past], amount[is_past], weight[is_past])),
        ):
            losses[name] += float(
                weight[is_current]
                @ deviances(calibration.apply(raw_amounts[is_current]), amount[is_current])
            )
    if not evaluated_periods:
        return CalibrationChoice(Identity(), {}, 0)
    losses = {name: value / total_weight for name, value in losses.items()}
    best_calibration = (
        Identity() if losses["none"] <= losses["scale"] else fit_scale(raw_amounts, amount, weight)
    )
    return CalibrationChoice(best_calibration, losses, evaluated_periods, "Poisson deviance")


def choose_head_calibration(
    head: str,
    raw_scores: Floats,
    validation: Dataset,
    label_window_us: int,
    *,
    is_probability: bool,
) -> CalibrationChoice:
    """Choose the calibration of a head by the following days of the validation part.

    Labels known days later are evaluated by the day after they are known.

    Args:
        raw_scores: output for each row of the validation part.
        label_window_us: microseconds until the label of a row is known.
        is_probability: whether classification heads return probabilities.
    """
    is_labelled = np.isfinite(validation.labels[head])
    return_target = parse_return(head)
    t = validation.t[validation.request_index][is_labelled]
    periods = assign_periods(t)
    weight = validation.weight[is_labelled]
    label_delay = return_target.until_us if return_target else label_window_us
    label_period = assign_periods(t, label_delay) + 1 if label_delay >= DAY else None
    if is_amount_head(head):
        return choose_scale(
            raw_scores[is_labelled],
            validation.labels[head][is_labelled],
            periods,
            weight,
            label_period=label_period,
        )
    is_probability = is_probability or return_target is not None
    return choose_calibration(
        raw_scores[is_labelled],
        validation.labels[head][is_labelled],
        periods,
        weight,
        label_period=label_period,
        is_probability=is_probability,
    )


def assign_periods(t: Ints, offset_us: int = 0) -> Ints:
    """Return the period of each row, shape (n,).

    A period is a day (UTC), or one of five parts of equal size if there are fewer than three days.

    Args:
        offset_us: return the periods of the times this much later instead.
    """
    if len(np.unique(t // DAY)) >= 3:
        return (t + offset_us) // DAY
    period_edges = np.quantile(t, np.linspace(0, 1, PERIOD_COUNT + 1)[1:-1])
    return np.searchsorted(period_edges, t + offset_us, side="right").astype(np.int64)


def _fit_method(
    name: str,
    methods: dict[str, FitFunction],
    raw_scores: Floats,
    is_positive: Floats,
    weight: Floats,
) -> Calibration:
    if name == "none":
        return Identity()
    if name == "isotonic" and is_positive.sum() < ISOTONIC_POSITIVES_MIN:
        return fit_platt(
            raw_scores, is_positive, weight
        )  # too few positives for a table at that time
    return methods[name](raw_scores, is_positive, weight)
