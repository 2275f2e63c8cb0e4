"""Metric values and covariates of an experiment's units, at any time of the experiment."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.events import DAY
from tailorbird.experiments.metrics import Metric
from tailorbird.experiments.outcomes import IMPRESSION, KINDS, RESPONSE
from tailorbird.experiments.units import UnitEvents, UnitTable

STRATA_MAX = 10  # values of a segment that are covariates
STRATUM_UNITS_MIN = 100

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MetricValues:
    """Values of included units: numerator, denominator of a ratio, and arm; shape (units,)."""

    unit: Ints
    arm: Ints
    x: Floats
    y: Floats | None


def metric_values(table: UnitTable, metric: Metric, until: int) -> MetricValues:
    """Return the values of the units that entered before a time, by what they did before it."""
    entered_before = until - (metric.window_us or 0) if metric.kind == "return" else until
    included_units = np.flatnonzero(table.first_exposure_ts < entered_before)
    x, y = _unit_totals(table, metric, until)
    return MetricValues(
        included_units,
        table.arm[included_units],
        x[included_units],
        None if y is None else y[included_units],
    )


def history_values(table: UnitTable, metric: Metric) -> Floats:
    """Return covariates of all units from before exposure, shape (units, columns), for CUPED.

    They are the numerator and denominator of the same metric in the slot, the activity, and an
    indicator of each common segment: regression on indicators is post-stratification.
    """
    events = table.history_events
    n = len(table)
    kind = _kind_index(metric)
    columns = [
        _sum_by_unit(events.unit, _event_values(events, metric, events.kind == kind), n),
        _sum_by_unit(events.unit, (events.kind == IMPRESSION).astype(np.float64), n),
        _sum_by_unit(events.unit, (events.kind == RESPONSE).astype(np.float64), n),
    ]
    return np.stack([*columns, *_strata(table)], axis=1)


def _strata(table: UnitTable) -> list[Floats]:
    """Return an indicator for each common value of a segment but the most common."""
    indicators = []
    for values in table.segments.values():
        distinct_values, counts = np.unique(values, return_counts=True)
        common_indexes = np.argsort(-counts, kind="stable")[1 : STRATA_MAX + 1]
        indicators += [
            (values == distinct_values[index]).astype(np.float64)
            for index in common_indexes
            if counts[index] >= STRATUM_UNITS_MIN
        ]
    return indicators


def _unit_totals(table: UnitTable, metric: Metric, until: int) -> tuple[Floats, Floats | None]:
    n = len(table)
    if metric.kind == "return":
        events = table.site_events
        since_exposure_us = events.ts - table.first_exposure_ts[events.unit]
        is_return = (events.ts // DAY > table.first_exposure_ts[events.unit] // DAY) & (
            events.ts < until
        )
        is_return &= since_exposure_us <= (metric.window_us or 0)
        return np.minimum(_sum_by_unit(events.unit, is_return.astype(np.float64), n), 1.0), None
    if metric.scope == "site":
        events = table.site_events
        event_type = metric.event_type
        event_code = table.event_types.index(event_type) if event_type in table.event_types else -2
        is_event = (
            (events.kind == event_code)
            & (events.ts < until)
            & (events.ts >= table.first_exposure_ts[events.unit])
        )
        if metric.window_us is not None:
            is_event &= events.ts - table.first_exposure_ts[events.unit] < metric.window_us
    else:
        events = table.slot_events
        is_event = (events.kind == _kind_index(metric)) & (events.ts < until)
        if metric.window_us is not None:
            is_event &= events.ts - events.response_ts < metric.window_us
    if metric.dwell_s:
        is_event &= events.dwell_s >= metric.dwell_s
    if metric.kind == "success":
        return _successes(events, is_event, until, n)
    x = _sum_by_unit(events.unit, _event_values(events, metric, is_event), n)
    if metric.kind == "conversion":
        x = np.minimum(x, 1.0)
    if metric.kind != "ratio":
        return x, None
    is_before_end = events.ts < until
    if metric.per == "answer":
        denominator_values = np.where(
            (events.kind == RESPONSE) & is_before_end, table.response_sizes, 0.0
        )
    else:
        denominator_values = ((events.kind == IMPRESSION) & is_before_end).astype(np.float64)
    return x, _sum_by_unit(events.unit, denominator_values, n)


def _successes(
    events: UnitEvents, is_event: Bools, until: int, unit_count: int
) -> tuple[Floats, Floats]:
    """Return each unit's responses with such an event, and all of its responses."""
    first_index = np.unique(events.response_row[is_event], return_index=True)[1]
    is_response = (events.kind == RESPONSE) & (events.ts < until)
    return (
        _sum_by_unit(events.unit[is_event][first_index], np.ones(len(first_index)), unit_count),
        _sum_by_unit(events.unit, is_response.astype(np.float64), unit_count),
    )


def _event_values(events: UnitEvents, metric: Metric, is_counted: Bools) -> Floats:
    values = {"count": 1.0, "revenue": events.revenue, "dwell_s": events.dwell_s}[
        metric.event_value
    ]
    return np.where(is_counted, values, 0.0)


def _kind_index(metric: Metric) -> int:
    return KINDS.index(metric.event_type) if metric.event_type in KINDS else -2


def _sum_by_unit(unit: Ints, values: Floats, unit_count: int) -> Floats:
    return np.bincount(unit, weights=values, minlength=unit_count).astype(np.float64)
