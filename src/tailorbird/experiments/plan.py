"""Plan an experiment from the lake's own variance: units, days and detectable effect.

For each stopping rule, with and without CUPED. A sequential plan of 14 analyses needs about 1.04 of
the fixed sample (O'Brien–Fleming-like) and a confidence sequence about 1.75 of it; each stops
early where the effect is real. Figures beyond the lake's span are extrapolated, and say so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, parse_duration
from tailorbird.events.contract.schema import micros
from tailorbird.experiments.analysis.adjust import cuped
from tailorbird.experiments.analysis.anytime import anytime_bound, split_alpha
from tailorbird.experiments.analysis.sequential import complete_design, fixed_drift, plan_design
from tailorbird.experiments.assign import SPENDING_FUNCTIONS, Experiment
from tailorbird.experiments.drawing import plan_svg
from tailorbird.experiments.measure import unit_values
from tailorbird.experiments.stages import planned_stage_count
from tailorbird.experiments.unit_values import history_values, metric_values
from tailorbird.experiments.units import UnitTable, load_units
from tailorbird.experiments.views.tables import plan_frame, plot_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailorbird.platform.frames import Frame

UNITS_MIN = 50
DAYS_MAX = 365


@dataclass(frozen=True)
class RulePlan:
    """What a stopping rule needs.

    Attributes:
        sample_ratio: planned sample over that of a fixed test.
        expected_share: share of it that is used on average if the planned effect is real.
        units: that take part in all arms; `days` until they have; NaN beyond a year.
        detectable: effect that the planned duration finds with the planned power.
    """

    rule: str
    is_adjusted: bool
    sample_ratio: float
    expected_share: float
    units: float
    days: float
    detectable: float


@dataclass(frozen=True)
class DrawnShare:
    """What the log tells of an arm if a share of the slot's slates is drawn.

    Attributes:
        share: of requests whose whole slate is drawn (Plackett–Luce).
        half_width: of the 95 % interval of the difference from the control after the planned
            duration, as a share of the control's value.
        effective: effective sample size of the position that has the least; without `is_enough` an
            estimate is refused.
        cost: share of the outcome that the model expects to lose by drawing.
        unsupported: share of the arm's choices that no drawn slate shows.
    """

    arm: str
    share: float
    half_width: float
    effective: float
    is_enough: bool
    cost: float
    unsupported: float


@dataclass(frozen=True, repr=False)
class Plan:
    """The plan of an experiment.

    Attributes:
        mean, relative_variance: of a unit's value in the planned duration; the variance is over the
            mean squared.
        variance_ratio: share of the variance that CUPED leaves.
        days, units: by day of the lake: distinct units so far. `detectable_by_day`: rule → effect.
        observed_days: of the lake; more is extrapolated.
        drawn_shares: what off-policy evaluation could tell of the arms, where it was asked for.
    """

    experiment: str
    slot: str
    metric: str
    effect: float
    power: float
    level: float
    duration_days: float
    mean: float
    relative_variance: float
    variance_ratio: float
    units_planned: float
    observed_days: int
    days: tuple[int, ...]
    units: tuple[float, ...]
    detectable_by_day: dict[str, tuple[float, ...]]
    rules: tuple[RulePlan, ...]
    stopping: str
    verdict: str
    drawn_shares: tuple[DrawnShare, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return msgspec.to_builtins(self)

    def __repr__(self) -> str:
        return f"{self.experiment} in slot {self.slot}: {self.verdict}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.verdict)}</p>{plan_svg(self)}{self.to_frame().to_html()}"

    def to_frame(self) -> "Frame":
        """Return what each stopping rule needs as a table."""
        return plan_frame(self)

    def plot(self) -> "Figure":
        """Draw the detectable effect by days."""
        return plot_plan(self)


@dataclass(frozen=True)
class _Growth:
    """Units and relative variance by day, continued beyond the lake by power laws."""

    units: np.ndarray
    relative_variance: np.ndarray

    def units_after(self, day: float) -> float:
        return _extrapolate(self.units, day)

    def variance_after(self, day: float) -> float:
        return _extrapolate(self.relative_variance, day)


def plan_experiment(
    events: pa.Table, experiment: Experiment, *, now: int, attribution: int, days: int
) -> Plan:
    """Plan from the slot's last days in the lake.

    Args:
        events: with `units.UNIT_COLUMNS`, from `history` before these days on.
        days: fewer if the slot's first response is younger.

    Raises:
        NotReadyError: the lake has too few units of the slot.
    """
    history = parse_duration(experiment.history)
    start = now - days * DAY
    table = load_units(
        events,
        experiment.slot,
        ("all",),
        experiment=None,
        start=start,
        stop=now,
        attribution=attribution,
        unit=experiment.unit,
        history=history,
        exposure=experiment.exposure,
    )
    if len(table) < UNITS_MIN:
        raise NotReadyError(
            f"slot {experiment.slot} had {len(table)} units in {days} days",
            where=f"experiment {experiment.name}",
            fix="plan once the lake has a few days of its responses",
        )
    full_days = max((now - int(table.first_exposure_ts.min())) // DAY, 1)
    if full_days + 1 < days:  # the first day is in part before the first response
        return plan_experiment(events, experiment, now=now, attribution=attribution, days=full_days)
    duration_days = parse_duration(experiment.duration) / DAY
    growth, mean = _observe_growth(table, experiment, start, days)
    variance_ratio = _variance_ratio(events, experiment, now, attribution)
    arm_shares = [experiment.arms[arm] for arm in (experiment.control_arm, *experiment.treatments)]
    enrolled_share = experiment.share * (1 - experiment.holdout) * sum(arm_shares)
    # Variance of the difference from the control over that of a mean of all units.
    variance_scale = sum(arm_shares) * (
        1 / arm_shares[0] + 1 / min(arm_shares[1:], default=arm_shares[0])
    )
    alpha = split_alpha(1 - experiment.level, len(experiment.treatments))
    horizon_days = range(1, max(days, math.ceil(duration_days)) + 1)
    rules = []
    detectable_by_rule = {}
    for rule_name, drift, sample_ratio, expected_share in _stopping_rules(experiment, alpha):
        for is_adjusted in (False, True):
            variance_share = variance_ratio if is_adjusted else 1.0

            def detectable(
                day: float, variance_share: float = variance_share, drift: float = drift
            ) -> float:
                units = growth.units_after(day) * enrolled_share
                return math.expm1(
                    drift
                    * math.sqrt(
                        variance_share * growth.variance_after(day) * variance_scale / units
                    )
                )

            needed_days = _days_until(detectable, experiment.effect)
            variance_day = needed_days if math.isfinite(needed_days) else duration_days
            log_effect = math.log1p(experiment.effect)
            units = (
                variance_share
                * growth.variance_after(variance_day)
                * variance_scale
                * (drift / log_effect) ** 2
            )
            rules.append(
                RulePlan(
                    rule=rule_name,
                    is_adjusted=is_adjusted,
                    sample_ratio=sample_ratio,
                    expected_share=expected_share,
                    units=units,
                    days=needed_days,
                    detectable=detectable(duration_days),
                )
            )
            rule_label = f"{rule_name}, CUPED" if is_adjusted else rule_name
            detectable_by_rule[rule_label] = tuple(detectable(day) for day in horizon_days)
    return Plan(
        experiment=experiment.name,
        slot=experiment.slot,
        metric=experiment.metric.name,
        effect=experiment.effect,
        power=experiment.power,
        level=experiment.level,
        duration_days=duration_days,
        mean=mean,
        relative_variance=growth.variance_after(duration_days),
        variance_ratio=variance_ratio,
        units_planned=growth.units_after(duration_days) * enrolled_share,
        observed_days=days,
        days=tuple(horizon_days),
        units=tuple(growth.units_after(day) * enrolled_share for day in horizon_days),
        detectable_by_day=detectable_by_rule,
        rules=tuple(rules),
        stopping=experiment.stopping,
        verdict=_verdict(experiment, rules, duration_days),
    )


def _observe_growth(
    table: UnitTable, experiment: Experiment, start: int, days: int
) -> tuple[_Growth, float]:
    day_units = []
    day_variances = []
    mean = math.nan
    for day in range(1, days + 1):
        values = metric_values(table, experiment.metric, start + day * DAY)
        y = np.ones(len(values.x)) if values.y is None else values.y
        values_by_unit = unit_values(values, experiment.metric, np.ones(len(values.x), bool))
        mean = float(values_by_unit.mean()) if len(values_by_unit) and y.sum() > 0 else math.nan
        day_units.append(float(len(values.x)))
        day_variances.append(float(values_by_unit.var() / mean**2) if mean > 0 else math.nan)
    if not mean > 0:
        raise NotReadyError(
            f"nobody in the lake has {experiment.metric.name}",
            where=f"experiment {experiment.name}",
            fix="choose a metric that the slot's events have",
        )
    variance_by_day = np.array(day_variances)
    first_variance = float(variance_by_day[np.isfinite(variance_by_day)][0])
    return _Growth(
        np.array(day_units), np.where(np.isfinite(variance_by_day), variance_by_day, first_variance)
    ), mean


def _variance_ratio(events: pa.Table, experiment: Experiment, now: int, attribution: int) -> float:
    """Return the variance that CUPED leaves in a window of the planned length.

    The units' history precedes the window. If the lake is short, it is half of it.
    """
    log_span_us = now - int(micros(events["ts"]).min())
    table = load_units(
        events,
        experiment.slot,
        ("all",),
        experiment=None,
        start=now - min(parse_duration(experiment.duration), log_span_us // 2),
        stop=now,
        attribution=attribution,
        unit=experiment.unit,
        history=parse_duration(experiment.history),
        exposure=experiment.exposure,
    )
    values = metric_values(table, experiment.metric, now)
    values_by_unit = unit_values(values, experiment.metric, np.ones(len(values.x), bool))
    covariates = history_values(table, experiment.metric)[values.unit]
    return cuped(values_by_unit, covariates, np.zeros(len(values_by_unit))).variance_ratio


def _stopping_rules(experiment: Experiment, alpha: float) -> list[tuple[str, float, float, float]]:
    """Return the rules with their drift, sample over a fixed test's, and expected share of it.

    The drift is the mean of z at the planned information, if the planned effect is real.
    """
    stages = planned_stage_count(experiment)
    power = experiment.power
    designs = {
        spending: plan_design(stages, alpha=alpha, power=power, spending=spending)
        for spending in SPENDING_FUNCTIONS
    }
    information_times = np.arange(1, max(stages, 14) + 1) / max(stages, 14)
    bounds = anytime_bound(1e6 * information_times, tuned_for_units=1e6, alpha=alpha)
    designs["anytime"] = complete_design(
        information_times, bounds, alpha=alpha, power=power, drift_factor_max=4.0
    )
    return [
        ("fixed", fixed_drift(alpha, power), 1.0, 1.0),
        *(
            (name, design.drift, design.inflation, design.expected_share)
            for name, design in designs.items()
        ),
    ]


def _days_until(detectable: Callable[[float], float], effect: float) -> float:
    for day in range(1, DAYS_MAX + 1):
        if detectable(day) <= effect:
            return float(day)
    return math.nan


def _extrapolate(values: np.ndarray, day: float) -> float:
    """Return the value of a day, by the growth of the second half of the days beyond them."""
    n = len(values)
    if day <= n:
        return float(np.interp(day, np.arange(1, n + 1), values))
    middle_day = max(n // 2, 1)
    if middle_day == n or not (values[middle_day - 1] > 0 and values[-1] > 0):
        return float(values[-1] * day / n)
    slope = math.log(values[-1] / values[middle_day - 1]) / math.log(n / middle_day)
    return float(values[-1] * (day / n) ** slope)


def _verdict(experiment: Experiment, rules: list[RulePlan], duration_days: float) -> str:
    rule_name = (
        experiment.spending if experiment.stopping == "group_sequential" else experiment.stopping
    )
    chosen_rule = next(rule for rule in rules if rule.rule == rule_name and rule.is_adjusted)
    sample_text = f"{chosen_rule.sample_ratio:.3f} times the sample of a fixed test"
    if math.isnan(chosen_rule.days):
        return (
            f"An effect of {experiment.effect:+.1%} cannot be found within a year; {duration_days:g} "
            f"days find {chosen_rule.detectable:+.1%}. The rule needs {sample_text}."
        )
    length_text = "enough" if chosen_rule.days <= duration_days else "too short"
    return (
        f"{duration_days:g} days are {length_text}: an effect of {experiment.effect:+.1%} needs "
        f"{chosen_rule.units:,.0f} units, about {chosen_rule.days:.0f} days. The rule needs {sample_text}, and on "
        f"average uses {chosen_rule.expected_share:.0%} of it."
    )
