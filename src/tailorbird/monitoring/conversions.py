"""Steps of conversion, revenue and calibration for `monitoring.retrain`, from the stored figures.

A conversion belongs to the period of its response, so recent periods lack those still to come. A
response of which less than `KNOWN_SHARE_MIN` of the conversions are known, by its age, is left out;
the others count 1 / F(age) times, see `figures.delays`. The error of F is part of the step's.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.experiments.statistics import Moments
from tailorbird.monitoring.figures.delays import DelayDistribution
from tailorbird.monitoring.figures.report import ages_of
from tailorbird.monitoring.retrain import LogRatioStep, RetrainCriteria

CELL_COLUMNS = (
    "minute",
    "slot",
    "version",
    "arm",
    "requests",
    "conversions",
    "revenue",
    "predicted_clicks",
    "scored_clicks",
    "counted_at",
)
KNOWN_SHARE_MIN = 0.5  # share of a response's conversions that is known, from which on it counts
# measure → its numerator, its denominator, and what is counted for `clicks_min`
_MEASURE_COLUMNS = {
    "conversion": ("conversions", "requests", "conversions"),
    "revenue": ("revenue", "requests", "conversions"),
    "calibration": ("scored_clicks", "predicted_clicks", "scored_clicks"),
}


def outcome_steps(
    cells: Mapping[str, pa.Table], criteria: RetrainCriteria, delays: DelayDistribution
) -> list[LogRatioStep]:
    """Return the steps of a time span: periods, merged until each arm has enough outcomes.

    Args:
        cells: `criteria.arm`, and its control if it has one → their cells, with `CELL_COLUMNS`.
        delays: of the slot's conversions.
    """
    arms = [criteria.arm, *([criteria.control] if criteria.control else [])]
    steps: list[LogRatioStep] = []
    periods = sorted(
        {start for arm in arms for start in _period_starts(cells[arm], criteria.period)}
    )
    pending_sums: dict[str, _OutcomeSums] = {}
    first_start: int | None = None
    for start in periods:
        first_start = start if first_start is None else first_start
        in_period = (pc.field("minute") >= start) & (pc.field("minute") < start + criteria.period)
        for arm in arms:
            sums = _OutcomeSums.of(cells[arm].filter(in_period), criteria.measure, delays)
            pending_sums[arm] = pending_sums[arm] + sums if arm in pending_sums else sums
        if any(pending_sums[arm].outcomes < criteria.clicks_min for arm in arms):
            continue
        variances = [pending_sums[arm].variance_of_log for arm in arms]
        if not all(math.isfinite(variance) for variance in variances):
            continue
        log_ratios = [math.log(pending_sums[arm].moments.ratio) for arm in arms]
        steps.append(LogRatioStep(first_start, log_ratios[0] - sum(log_ratios[1:]), sum(variances)))
        pending_sums = {}
        first_start = None
    return steps


class _OutcomeSums:
    """Totals of some cells, with the error that they share because delays are estimated."""

    def __init__(self, moments: Moments, outcomes: float, shared_error: float) -> None:
        self.moments = moments
        self.outcomes = outcomes
        self._shared_error = shared_error

    @classmethod
    def of(cls, cells: pa.Table, measure: str, delays: DelayDistribution) -> "_OutcomeSums":
        numerator, denominator, outcome_counts = (
            cells[name].to_numpy() for name in _MEASURE_COLUMNS[measure]
        )
        if measure == "calibration":
            is_usable = denominator > 0
            return cls(
                Moments.from_totals(numerator[is_usable], denominator[is_usable]),
                outcome_counts.sum(),
                0.0,
            )
        known_share, log_variance = delays.share_known(ages_of(cells))
        is_usable = (known_share >= KNOWN_SHARE_MIN) & (denominator > 0)
        corrected_totals = numerator[is_usable] / known_share[is_usable]
        shared_error = float(
            (corrected_totals * np.sqrt(log_variance[is_usable]))[
                known_share[is_usable] < 1.0
            ].sum()
        )
        moments = Moments.from_totals(corrected_totals, denominator[is_usable])
        return cls(moments, float(outcome_counts[is_usable].sum()), shared_error)

    def __add__(self, other: "_OutcomeSums") -> "_OutcomeSums":
        return _OutcomeSums(
            self.moments + other.moments,
            self.outcomes + other.outcomes,
            self._shared_error + other._shared_error,
        )

    @property
    def variance_of_log(self) -> float:
        """Variance by cells, as by people, and the shared error; NaN with too little."""
        if not self.moments.x > 0:
            return math.nan
        return self.moments.variance_of_log + (self._shared_error / self.moments.x) ** 2


def promised_steps(steps: list[LogRatioStep]) -> list[LogRatioStep]:
    """Return the reference of a calibration: what the scores promise, without an error."""
    return [LogRatioStep(step.start, 0.0, 1e-9) for step in steps[:1]]


def mirror_steps(steps: list[LogRatioStep]) -> list[LogRatioStep]:
    """Return steps whose rise is a fall, to find scores that promise too little."""
    return [replace(step, value=-step.value) for step in steps]


def _period_starts(cells: pa.Table, period: int) -> set[int]:
    return set(np.unique(cells["minute"].to_numpy() // period * period).tolist())
