"""The effect of a treatment on a metric at a time, adjusted by what preceded the exposure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.adjust import cuped
from tailorbird.experiments.analysis.estimates import Effect, Estimate
from tailorbird.experiments.metrics import Metric
from tailorbird.experiments.units import MetricValues, UnitTable, history_values, metric_values

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measurement:
    """A metric in both arms, its effect (None with too little data), and what CUPED left.

    `variance_ratio` is the share of the variance that the adjustment keeps; 1 without.
    """

    treatment: Estimate
    control: Estimate
    effect: Effect | None
    variance_ratio: float = 1.0


def measure(
    table: UnitTable,
    metric: Metric,
    treatment: int,
    until: int,
    *,
    is_adjusted: bool = True,
    history: Floats | None = None,
    unit_mask: Mask | None = None,
) -> Measurement:
    """Measure a treatment against the control by all that happened before a time.

    Args:
        treatment: index into the table's arms; the control is 0.
        history: `history_values` of the metric, for callers that measure it more than once.
        unit_mask: restricts to some of the table's units, shape (units,).
    """
    values = metric_values(table, metric, until)
    is_included = (values.arm == treatment) | (values.arm == 0)
    if unit_mask is not None:
        is_included &= unit_mask[values.unit]
    y = None if values.y is None else values.y[is_included]
    values = MetricValues(
        values.unit[is_included], values.arm[is_included], values.x[is_included], y
    )
    is_treated = values.arm == treatment
    if metric.kind == "quantile":
        treated, untreated = (
            estimates.quantile(values.x[mask], metric.quantile)
            for mask in (is_treated, ~is_treated)
        )
        return Measurement(treated, untreated, estimates.compare(treated, untreated))
    units = unit_values(values, metric, is_treated)
    ratio = 1.0
    if is_adjusted and len(units):
        covariates = history_values(table, metric) if history is None else history
        adjusted = cuped(units, covariates[values.unit], values.arm)
        units, ratio = adjusted.values, adjusted.variance_ratio
    treated, untreated = (estimates.mean(units[mask]) for mask in (is_treated, ~is_treated))
    return Measurement(treated, untreated, estimates.compare(treated, untreated), ratio)


def unit_values(values: MetricValues, metric: Metric, is_treated: Mask) -> Floats:
    """Return a value per unit whose mean in each arm is the arm's estimate."""
    if values.y is None:
        x = values.x
        return estimates.winsorise(x, metric.winsorise) if metric.winsorise else x
    result = np.zeros(len(values.x))
    for mask in (is_treated, ~is_treated):
        x, y = values.x[mask], values.y[mask]
        if y.sum() > 0:
            result[mask] = estimates.linearise(x, y)
    return result
