"""Which calibration a head gets: each is fitted on what came before and judged by log loss on the
period that follows.

    periods    1   2   3   4   5           of the rows that neither trees nor early stopping counted as training
    fitted on  1 → judged on 2
               1   2 → judged on 3   …

The best one over all periods is fitted again on everything, and taken only if it beats the raw
output there: a table that fits yesterday and not today makes probabilities worse. Expected amounts
are scaled, by the same rule (`choose_scale`). The curves themselves are in `ranking.calibration`.
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
from tailorbird.ranking.targets import is_amount, return_of
from tailorbird.training.dataset import Dataset
from tailorbird.training.metrics import deviances, log_losses

Ints = npt.NDArray[np.int64]
Fit = Callable[[Floats, Floats, Floats], Calibration]

POSITIVES_ISOTONIC = (
    300  # to fit a table on; below, the few numbers of a curve are all that can be learned
)
POSITIVES_MIN = 20  # of the rows before a period, and of the period, for it to be judged
PERIODS = 5  # that rows of fewer than three days are cut into
METHODS: dict[str, Fit] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
    "beta": fit_beta,
    "temperature": fit_temperature,
}
OF_PROBABILITIES = ("beta", "temperature")


@dataclass(frozen=True)
class Chosen:
    """A calibration, and why it was taken.

    Attributes:
        losses: method → mean loss over the periods that it was judged on, `none` (the raw output)
            included where that is a probability; empty where too few periods could be judged.
        periods: how many were judged.
        by: what loss it is.
    """

    calibration: Calibration
    losses: dict[str, float]
    periods: int
    by: str = "log loss"

    @property
    def told(self) -> str:
        """A sentence."""
        name = self.calibration.name
        if not self.losses:
            return f"{name}, as there is too little to choose by"
        listed = ", ".join(
            f"{method} {loss:.5f}"
            for method, loss in sorted(self.losses.items(), key=lambda entry: entry[1])
        )
        return f"{name}, by {self.by} on the next of {self.periods} periods: {listed}"

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "method": self.calibration.name,
            "periods": self.periods,
            "losses": {k: round(v, 6) for k, v in self.losses.items()},
        }


def choose(
    raw: Floats,
    label: npt.NDArray,
    period: Ints,
    weight: Floats | None = None,
    *,
    known_from: Ints | None = None,
    periods_min: int = 1,
    probability: bool = True,
) -> Chosen:
    """Choose by the period after, and fit on all.

    Args:
        raw: shape (n,), the model's output.
        label: shape (n,), above 0 is positive.
        period: shape (n,), ascending with time: a day, or an origin; see `periods_of`.
        known_from: shape (n,), the first period that a row's label was known in; the one after its
            own by default. Where labels look far ahead, neighbouring periods share what they look
            at, and one would confirm the other whatever comes.
        periods_min: so many must be judged, else nothing is chosen and `losses` are empty: a
            probability stays as it is.
        probability: whether the raw output is one: else something must be taken, and only what
            takes any score can be.
    """
    target = (label > 0).astype(np.float64)
    weight = np.ones(raw.size) if weight is None else weight
    methods = {
        name: fit for name, fit in METHODS.items() if probability or name not in OF_PROBABILITIES
    }
    if target.sum() < POSITIVES_ISOTONIC:
        del methods["isotonic"]
    total = dict.fromkeys((*(("none",) if probability else ()), *methods), 0.0)
    known = period + 1 if known_from is None else known_from
    mass, judged = 0.0, 0
    for each in np.unique(period)[1:]:
        before, now = known <= each, period == each
        if min(target[before].sum(), target[now].sum()) < POSITIVES_MIN:
            continue
        judged, mass = judged + 1, mass + float(weight[now].sum())
        for name in total:
            fitted = _fitted(name, methods, raw[before], target[before], weight[before])
            total[name] += float(weight[now] @ log_losses(fitted.apply(raw[now]), target[now]))
    if judged < periods_min:
        if probability:
            return Chosen(Identity(), {}, judged)
        return Chosen(
            (fit_isotonic if "isotonic" in methods else fit_platt)(raw, target, weight), {}, judged
        )
    losses = {name: value / mass for name, value in total.items()}
    best = min(
        losses, key=lambda name: losses[name]
    )  # the raw output stands first, and is taken where none beats it
    return Chosen(_fitted(best, methods, raw, target, weight), losses, judged)


def choose_scale(
    raw: Floats,
    amount: npt.NDArray,
    period: Ints,
    weight: Floats | None = None,
    *,
    known_from: Ints | None = None,
) -> Chosen:
    """The same for expected amounts: a factor, or the output as it is, by the Poisson deviance,
    which is least where the mean is right.

    Args:
        raw: shape (n,), what the model expects.
        amount: shape (n,), from 0 on.
        period, known_from: as in `choose`.
    """
    weight = np.ones(raw.size) if weight is None else weight
    amount = amount.astype(np.float64)
    losses, mass, judged = {"none": 0.0, "scale": 0.0}, 0.0, 0
    known = period + 1 if known_from is None else known_from
    for each in np.unique(period)[1:]:
        before, now = known <= each, period == each
        if min(np.count_nonzero(amount[before]), np.count_nonzero(amount[now])) < POSITIVES_MIN:
            continue
        judged, mass = judged + 1, mass + float(weight[now].sum())
        for name, calibration in (
            ("none", Identity()),
            ("scale", fit_scale(raw[before], amount[before], weight[before])),
        ):
            losses[name] += float(weight[now] @ deviances(calibration.apply(raw[now]), amount[now]))
    if not judged:
        return Chosen(Identity(), {}, 0)
    losses = {name: value / mass for name, value in losses.items()}
    taken = Identity() if losses["none"] <= losses["scale"] else fit_scale(raw, amount, weight)
    return Chosen(taken, losses, judged, "Poisson deviance")


def choose_for(
    head: str, raw: Floats, held: Dataset, label_window: int, *, probability: bool
) -> Chosen:
    """A head's calibration, by the next day within the held part; of what is known days later, by
    the day after it is known.

    Args:
        raw: of each row of the held part.
        label_window: microseconds until a row's label is known.
        probability: whether the raw output of heads of classes is one.
    """
    known, asked = np.isfinite(held.labels[head]), return_of(head)
    t = held.t[held.request][known]
    periods, weight, far = periods_of(t), held.weight[known], asked.until if asked else label_window
    from_then = periods_of(t, far) + 1 if far >= DAY else None
    if is_amount(head):
        return choose_scale(
            raw[known], held.labels[head][known], periods, weight, known_from=from_then
        )
    probability = probability or asked is not None
    return choose(
        raw[known],
        held.labels[head][known],
        periods,
        weight,
        known_from=from_then,
        probability=probability,
    )


def periods_of(t: Ints, later: int = 0) -> Ints:
    """The period of each row, shape (n,): its day (UTC), or one of five parts of equal size where
    there are fewer than three days.

    Args:
        later: of the moments so many microseconds after the rows instead, by the same periods.
    """
    if len(np.unique(t // DAY)) >= 3:
        return (t + later) // DAY
    edges = np.quantile(t, np.linspace(0, 1, PERIODS + 1)[1:-1])
    return np.searchsorted(edges, t + later, side="right").astype(np.int64)


def _fitted(
    name: str, methods: dict[str, Fit], raw: Floats, target: Floats, weight: Floats
) -> Calibration:
    if name == "none":
        return Identity()
    if name == "isotonic" and target.sum() < POSITIVES_ISOTONIC:
        return fit_platt(raw, target, weight)  # what it would have been that day
    return methods[name](raw, target, weight)
