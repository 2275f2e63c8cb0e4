"""The effect by segment, by day of the week, and by days since a unit's first exposure (novelty).

Segments are disjoint, so that their effects can be shrunk. Units come on several days, so that the
effects of days are given as they are, with intervals that hold together (Bonferroni).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.events import DAY, EPOCH_WEEKDAY
from tailorbird.experiments.analysis.anytime import split_alpha
from tailorbird.experiments.analysis.estimates import Effect
from tailorbird.experiments.analysis.segments import ShrunkSegments, shrink_segments
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.measure import measure
from tailorbird.experiments.unit_values import history_values
from tailorbird.experiments.units import UnitEvents, UnitTable

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

UNITS_MIN = 50  # units of a row in each arm
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
AGE_BIN_STARTS = (
    0,
    1,
    2,
    4,
    7,
    14,
    28,
    36_500,
)  # days since the first exposure at which a row begins
BY_WEEKDAY = "day of the week"
BY_AGE = "days since the first exposure"
UNDIVIDED_KINDS = ("quantile", "return")  # kinds whose values do not belong to a day


@dataclass(frozen=True)
class SegmentResult:
    """Effects by the values of a column, shrunk towards their mean."""

    column: str
    arm: str
    segments: ShrunkSegments


@dataclass(frozen=True)
class DayEffect:
    """The uplift of what was served on some days, to so many units."""

    name: str
    units: int
    uplift: float
    low: float
    high: float


@dataclass(frozen=True)
class DayView:
    """The uplift of the primary metric by `by`; days are in UTC."""

    by: str
    arm: str
    rows: tuple[DayEffect, ...]


def segment_effects(
    table: UnitTable, experiment: Experiment, until: int
) -> tuple[SegmentResult, ...]:
    """Return the effects by each declared segment that has enough units in two values."""
    results = []
    history = history_values(table, experiment.metric)
    for column in experiment.segments:
        values = table.segments[column]
        for treatment_index, arm in enumerate(experiment.treatments, 1):
            value_names = []
            effects = []
            for value in np.unique(values).tolist():
                unit_mask = values == value
                if _smallest_arm_size(table, unit_mask, treatment_index) < UNITS_MIN:
                    continue
                effect = measure(
                    table,
                    experiment.metric,
                    treatment_index,
                    until,
                    history_covariates=history,
                    unit_mask=unit_mask,
                ).effect
                if effect is not None:
                    value_names.append(value or "unknown")
                    effects.append(effect)
            if len(effects) > 1:
                results.append(SegmentResult(column, arm, shrink_segments(value_names, effects)))
    return tuple(results)


def day_effects(table: UnitTable, experiment: Experiment, until: int) -> tuple[DayView, ...]:
    """Return the effect by day of the week and by age, where two rows have enough units."""
    if experiment.metric.kind in UNDIVIDED_KINDS or not len(table):
        return ()
    history = history_values(table, experiment.metric)
    views = []
    for treatment_index, arm in enumerate(experiment.treatments, 1):
        for by, row_masks in (
            (BY_WEEKDAY, _iterate_weekday_masks(table)),
            (BY_AGE, _iterate_age_masks(table)),
        ):
            effects: list[tuple[str, int, Effect]] = []
            for name, slot_mask, site_mask in row_masks:
                is_served = np.zeros(len(table), bool)
                is_served[table.slot_events.unit[slot_mask & (table.slot_events.ts < until)]] = True
                if _smallest_arm_size(table, is_served, treatment_index) < UNITS_MIN:
                    continue
                restricted_table = _restrict(table, slot_mask, site_mask)
                effect = measure(
                    restricted_table,
                    experiment.metric,
                    treatment_index,
                    until,
                    history_covariates=history,
                ).effect
                if effect is not None:
                    units = int((is_served & np.isin(table.arm, (0, treatment_index))).sum())
                    effects.append((name, units, effect))
            if len(effects) > 1:
                alpha = split_alpha(1 - experiment.level, len(effects))
                rows = tuple(
                    DayEffect(name, units, effect.uplift, *effect.interval(alpha=alpha))
                    for name, units, effect in effects
                )
                views.append(DayView(by, arm, rows))
    return tuple(views)


def _iterate_weekday_masks(table: UnitTable) -> Iterator[tuple[str, Bools, Bools]]:
    """Yield the name, slot rows and site rows of each day of the week."""
    slot_day, site_day = (
        (ts // DAY + EPOCH_WEEKDAY) % 7
        for ts in (table.slot_events.response_ts, table.site_events.ts)
    )
    for number, name in enumerate(WEEKDAYS):
        yield name, slot_day == number, site_day == number


def _iterate_age_masks(table: UnitTable) -> Iterator[tuple[str, Bools, Bools]]:
    """Yield the name, slot rows and site rows of each range of ages.

    An event has the age of the response that it belongs to. All units stay in: those that left
    count as having done nothing, as a treatment may be why they left.
    """
    slot_age = _age_days(table, table.slot_events.unit, table.slot_events.response_ts)
    site_age = _age_days(table, table.site_events.unit, table.site_events.ts)
    age_max = int(slot_age.max()) if len(slot_age) else 0
    for low, high in pairwise(AGE_BIN_STARTS):
        if low > age_max:
            return
        name = f"{low}" if high == low + 1 else f"{low} to {high - 1}"
        name = f"{low} or more" if high == AGE_BIN_STARTS[-1] else name
        slot_mask, site_mask = ((age >= low) & (age < high) for age in (slot_age, site_age))
        yield name, slot_mask, site_mask


def _age_days(table: UnitTable, unit: Ints, ts: Ints) -> Ints:
    return (ts - table.first_exposure_ts[unit]) // DAY


def _restrict(table: UnitTable, slot_mask: Bools, site_mask: Bools) -> UnitTable:
    return replace(
        table,
        slot_events=_select_events(table.slot_events, slot_mask),
        response_sizes=table.response_sizes[slot_mask],
        site_events=_select_events(table.site_events, site_mask),
    )


def _select_events(events: UnitEvents, mask: Bools) -> UnitEvents:
    return UnitEvents(
        unit=events.unit[mask],
        ts=events.ts[mask],
        response_row=events.response_row[mask],
        response_ts=events.response_ts[mask],
        kind=events.kind[mask],
        revenue=events.revenue[mask],
        dwell_s=events.dwell_s[mask],
    )


def _smallest_arm_size(table: UnitTable, unit_mask: Bools, treatment_index: int) -> int:
    return min(int((table.arm[unit_mask] == arm_index).sum()) for arm_index in (0, treatment_index))
