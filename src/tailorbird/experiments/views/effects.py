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
from tailorbird.experiments.analysis.segments import Segments, shrink_segments
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.measure import measure
from tailorbird.experiments.units import Rows, UnitTable, history_values

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

UNITS_MIN = 50  # units of a row in each arm
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
AGES = (0, 1, 2, 4, 7, 14, 28, 36_500)  # days since the first exposure at which a row begins
BY_WEEKDAY, BY_AGE = "day of the week", "days since the first exposure"
UNDIVIDED_KINDS = ("quantile", "return")  # kinds whose values do not belong to a day


@dataclass(frozen=True)
class SegmentResult:
    """Effects by the values of a column, shrunk towards their mean."""

    column: str
    arm: str
    segments: Segments


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
        for number, arm in enumerate(experiment.treatments, 1):
            names, effects = [], []
            for value in np.unique(values).tolist():
                mask = values == value
                if _smallest_arm(table, mask, number) < UNITS_MIN:
                    continue
                effect = measure(
                    table, experiment.metric, number, until, history=history, unit_mask=mask
                ).effect
                if effect is not None:
                    names.append(value or "unknown")
                    effects.append(effect)
            if len(effects) > 1:
                results.append(SegmentResult(column, arm, shrink_segments(names, effects)))
    return tuple(results)


def day_effects(table: UnitTable, experiment: Experiment, until: int) -> tuple[DayView, ...]:
    """Return the effect by day of the week and by age, where two rows have enough units."""
    if experiment.metric.kind in UNDIVIDED_KINDS or not len(table):
        return ()
    history = history_values(table, experiment.metric)
    views = []
    for number, arm in enumerate(experiment.treatments, 1):
        for by, parts in ((BY_WEEKDAY, _weekdays(table)), (BY_AGE, _ages(table))):
            effects: list[tuple[str, int, Effect]] = []
            for name, in_slot, on_site in parts:
                is_served = np.zeros(len(table), bool)
                is_served[table.slot_rows.unit[in_slot & (table.slot_rows.ts < until)]] = True
                if _smallest_arm(table, is_served, number) < UNITS_MIN:
                    continue
                part = _restrict(table, in_slot, on_site)
                effect = measure(part, experiment.metric, number, until, history=history).effect
                if effect is not None:
                    units = int((is_served & np.isin(table.arm, (0, number))).sum())
                    effects.append((name, units, effect))
            if len(effects) > 1:
                alpha = split_alpha(1 - experiment.level, len(effects))
                rows = tuple(
                    DayEffect(name, units, effect.uplift, *effect.interval(alpha=alpha))
                    for name, units, effect in effects
                )
                views.append(DayView(by, arm, rows))
    return tuple(views)


def _weekdays(table: UnitTable) -> Iterator[tuple[str, Bools, Bools]]:
    """Yield the name, slot rows and site rows of each day of the week."""
    slot_day, site_day = (
        (ts // DAY + EPOCH_WEEKDAY) % 7 for ts in (table.slot_rows.response_ts, table.site_rows.ts)
    )
    for number, name in enumerate(WEEKDAYS):
        yield name, slot_day == number, site_day == number


def _ages(table: UnitTable) -> Iterator[tuple[str, Bools, Bools]]:
    """Yield the name, slot rows and site rows of each range of ages.

    An event has the age of the response that it belongs to. All units stay in: those that left
    count as having done nothing, as a treatment may be why they left.
    """
    slot_age = _age(table, table.slot_rows.unit, table.slot_rows.response_ts)
    site_age = _age(table, table.site_rows.unit, table.site_rows.ts)
    newest = int(slot_age.max()) if len(slot_age) else 0
    for low, high in pairwise(AGES):
        if low > newest:
            return
        name = f"{low}" if high == low + 1 else f"{low} to {high - 1}"
        name = f"{low} or more" if high == AGES[-1] else name
        in_slot, on_site = ((age >= low) & (age < high) for age in (slot_age, site_age))
        yield name, in_slot, on_site


def _age(table: UnitTable, unit: Ints, ts: Ints) -> Ints:
    return (ts - table.first[unit]) // DAY


def _restrict(table: UnitTable, in_slot: Bools, on_site: Bools) -> UnitTable:
    return replace(
        table,
        slot_rows=_select(table.slot_rows, in_slot),
        response_sizes=table.response_sizes[in_slot],
        site_rows=_select(table.site_rows, on_site),
    )


def _select(rows: Rows, mask: Bools) -> Rows:
    return Rows(
        rows.unit[mask],
        rows.ts[mask],
        rows.response[mask],
        rows.response_ts[mask],
        rows.kind[mask],
        rows.revenue[mask],
        rows.dwell_s[mask],
    )


def _smallest_arm(table: UnitTable, mask: Bools, treatment: int) -> int:
    return min(int((table.arm[mask] == value).sum()) for value in (0, treatment))
