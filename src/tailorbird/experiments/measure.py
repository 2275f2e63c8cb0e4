"""The effect of a treatment on a metric at a time, adjusted by what preceded the exposure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.adjust import cuped
from tailorbird.experiments.analysis.estimates import Effect, Estimate
from tailorbird.experiments.metrics import Metric
from tailorbird.experiments.unit_values import MetricValues, history_values, metric_values
from tailorbird.experiments.units import UnitTable

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
    treatment_index: int,
    until: int,
    *,
    is_adjusted: bool = True,
    history_covariates: Floats | None = None,
    unit_mask: Mask | None = None,
) -> Measurement:
    """Measure a treatment against the control by all that happened before a time.

    Args:
        treatment_index: index into the table's arms; the control is 0.
        history_covariates: `history_values` of the metric, for callers that measure it more than once.
        unit_mask: restricts to some of the table's units, shape (units,).
    """
    values = metric_values(table, metric, until)
    is_included = (values.arm == treatment_index) | (values.arm == 0)
    if unit_mask is not None:
        is_included &= unit_mask[values.unit]
    y = None if values.y is None else values.y[is_included]
    values = MetricValues(
        values.unit[is_included], values.arm[is_included], values.x[is_included], y
    )
    is_treated = values.arm == treatment_index
    if metric.kind == "quantile":
        treated, untreated = (
            estimates.quantile(values.x[mask], metric.quantile)
            for mask in (is_treated, ~is_treated)
        )
        return Measurement(treated, untreated, estimates.compare(treated, untreated))
    values_by_unit = unit_values(values, metric, is_treated)
    variance_ratio = 1.0
    if is_adjusted and len(values_by_unit):
        covariates = (
            history_values(table, metric) if history_covariates is None else history_covariates
        )
        adjusted_values = cuped(values_by_unit, covariates[values.unit], values.arm)
        values_by_unit = adjusted_values.values
        variance_ratio = adjusted_values.variance_ratio
    treated, untreated = (
        estimates.mean(values_by_unit[mask]) for mask in (is_treated, ~is_treated)
    )
    return Measurement(treated, untreated, estimates.compare(treated, untreated), variance_ratio)


def unit_values(values: MetricValues, metric: Metric, is_treated: Mask) -> Floats:
    """Return a value per unit whose mean in each arm is the arm's estimate."""
    if values.y is None:
        x = values.x
        return estimates.winsorise(x, metric.winsorise) if metric.winsorise else x
    linearised = np.zeros(len(values.x))
    for mask in (is_treated, ~is_treated):
        x = values.x[mask]
        y = values.y[mask]
        if y.sum() > 0:
            linearised[mask] = estimates.linearise(x, y)
    return linearised
