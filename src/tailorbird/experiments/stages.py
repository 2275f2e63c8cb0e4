"""The primary metric at each analysis of an experiment, with the boundary of its stopping rule."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from tailorbird.events import parse_duration
from tailorbird.experiments.analysis.anytime import anytime_bound
from tailorbird.experiments.analysis.estimates import Effect, to_uplift
from tailorbird.experiments.analysis.sequential import (
    Z_MAX,
    compute_boundaries,
    conditional_power,
    estimate_after_stopping,
    fixed_drift,
    plan_design,
    select_stages,
)
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.measure import Measurement, measure
from tailorbird.experiments.unit_values import history_values
from tailorbird.experiments.units import UnitTable

UNITS_MIN = 100  # units of both arms before the first analysis
STAGES_MAX = 200
FUTILITY_POWER = 0.1  # conditional power below which stopping is suggested


@dataclass(frozen=True)
class Stage:
    """One analysis.

    Attributes:
        at: events before this time count, microseconds.
        information: share of the planned information.
        uplift, low, high: with the interval that the stopping rule allows at this analysis.
        z, bound: the statistic, and the value that it must exceed.
    """

    at: int
    units: int
    information: float
    uplift: float
    low: float
    high: float
    z: float
    bound: float


@dataclass(frozen=True)
class AnalysisPath:
    """All analyses of a treatment, and what they conclude.

    Attributes:
        uplift, low, high, p: to report: after stopping, median-unbiased with the stage-wise
            interval.
        is_conclusive: whether the rule allows a conclusion, and there is a difference.
        is_futile: whether the planned effect has become unlikely to be found.
        newest_measurement: the newest measurement.
    """

    stages: tuple[Stage, ...]
    uplift: float
    low: float
    high: float
    p: float
    is_conclusive: bool
    is_futile: bool
    newest_measurement: Measurement


class _Look(NamedTuple):
    """What was measured from the events before a time, microseconds."""

    at: int
    measurement: Measurement
    effect: Effect


def planned_information(experiment: Experiment, alpha: float) -> float:
    """Return the information that the planned effect and power need under the stopping rule."""
    # The drift is the mean of z at the planned information, if the planned effect is real.
    drift = fixed_drift(alpha, experiment.power)
    if experiment.stopping == "group_sequential":
        drift = plan_design(
            planned_stage_count(experiment),
            alpha=alpha,
            power=experiment.power,
            spending=experiment.spending,
        ).drift
    return (drift / math.log1p(experiment.effect)) ** 2


def planned_stage_count(experiment: Experiment) -> int:
    """Return the number of analyses of the plan."""
    count = parse_duration(experiment.duration) // max(parse_duration(experiment.interval), 1)
    return int(min(max(count, 1), STAGES_MAX))


def analyse_stages(
    table: UnitTable,
    experiment: Experiment,
    treatment_index: int,
    alpha: float,
    started_at: int,
    until: int,
    *,
    is_over: bool,
) -> AnalysisPath:
    """Analyse the primary metric after each interval, and at the end once it is over.

    A fixed or sequential plan ends at its planned end, so that later reports add no analysis. If it
    is stopped before, its analyses and boundaries stay as they were while it ran.
    """
    duration = parse_duration(experiment.duration)
    if experiment.stopping != "anytime":
        until = min(until, started_at + duration)  # what comes later is not in the plan
    step = max(parse_duration(experiment.interval), duration // STAGES_MAX, 1)
    times = list(range(started_at + step, until + 1, step))
    is_planned = not is_over and experiment.stopping == "group_sequential"
    if (not times or times[-1] < until) and not is_planned:
        times.append(until)  # a sequential plan analyses between two stages only at its end
    looks: list[_Look] = []
    history = history_values(table, experiment.metric)
    for at in times:
        measurement = measure(
            table, experiment.metric, treatment_index, at, history_covariates=history
        )
        effect = measurement.effect
        if effect is not None and effect.units >= UNITS_MIN:
            looks.append(_Look(at, measurement, effect))
    if not looks:
        newest_measurement = measure(
            table, experiment.metric, treatment_index, until, history_covariates=history
        )
        return AnalysisPath(
            stages=(),
            uplift=math.nan,
            low=math.nan,
            high=math.nan,
            p=math.nan,
            is_conclusive=False,
            is_futile=False,
            newest_measurement=newest_measurement,
        )
    if experiment.stopping == "group_sequential":
        return _sequential_path(looks, experiment, alpha, is_over=is_over)
    return _fixed_or_anytime_path(looks, experiment, alpha, is_over=is_over)


def _sequential_path(
    looks: list[_Look], experiment: Experiment, alpha: float, *, is_over: bool
) -> AnalysisPath:
    target_information = planned_information(experiment, alpha)
    information_levels = np.array([look.effect.information for look in looks])
    stage_look_indexes = select_stages(information_levels, planned=target_information)
    information = information_levels[stage_look_indexes]
    bounds = compute_boundaries(
        information,
        planned=target_information,
        alpha=alpha,
        spending=experiment.spending,
        is_final=is_over,
    )
    stages = tuple(
        _stage(looks[look_index], look_information / target_information, bound)
        for look_index, look_information, bound in zip(
            stage_look_indexes.tolist(), information.tolist(), bounds.tolist(), strict=True
        )
    )
    crossed_indexes = [index for index, stage in enumerate(stages) if abs(stage.z) >= stage.bound]
    newest_measurement = looks[-1].measurement
    if not crossed_indexes and not is_over:
        newest = stages[-1]
        current_power = conditional_power(
            newest.z,
            newest.information,
            math.log1p(experiment.effect) * math.sqrt(target_information),
            final_bound=float(ndtri(1 - alpha / 2)),
        )
        return AnalysisPath(
            stages=stages,
            uplift=newest.uplift,
            low=newest.low,
            high=newest.high,
            p=math.nan,
            is_conclusive=False,
            is_futile=current_power < FUTILITY_POWER,
            newest_measurement=newest_measurement,
        )
    final_index = crossed_indexes[0] if crossed_indexes else len(stages) - 1
    estimate = estimate_after_stopping(
        information[: final_index + 1],
        bounds[: final_index + 1],
        stages[final_index].z,
        alpha=alpha,
    )
    uplift, low, high = (to_uplift(x) for x in (estimate.value, estimate.low, estimate.high))
    return AnalysisPath(
        stages=stages,
        uplift=uplift,
        low=low,
        high=high,
        p=estimate.p,
        is_conclusive=bool(crossed_indexes),
        is_futile=False,
        newest_measurement=newest_measurement,
    )


def _fixed_or_anytime_path(
    looks: list[_Look], experiment: Experiment, alpha: float, *, is_over: bool
) -> AnalysisPath:
    """Return the path of a fixed plan, or of a confidence sequence."""
    target_information = planned_information(experiment, alpha)
    is_anytime = experiment.stopping == "anytime"
    # The sequence is narrowest at the units that the plan needs, at today's variance.
    first_effect = looks[0].effect
    tuned_for_units = max(
        first_effect.units * target_information / first_effect.information, UNITS_MIN
    )
    stages = []
    for look in looks:
        if is_anytime:
            bound = float(
                anytime_bound(look.effect.units, tuned_for_units=tuned_for_units, alpha=alpha)
            )
        else:
            bound = float(ndtri(1 - alpha / 2))
        stages.append(_stage(look, look.effect.information / target_information, bound))
    crossed_stages = [stage for stage in stages if abs(stage.z) >= stage.bound]
    newest = stages[-1]
    is_conclusive = (
        bool(crossed_stages) if is_anytime else is_over and abs(newest.z) >= newest.bound
    )
    reported_stage = crossed_stages[-1] if is_anytime and crossed_stages else newest
    p = math.nan if is_anytime or not is_over else looks[-1].effect.p
    return AnalysisPath(
        stages=tuple(stages),
        uplift=reported_stage.uplift,
        low=reported_stage.low,
        high=reported_stage.high,
        p=p,
        is_conclusive=is_conclusive,
        is_futile=False,
        newest_measurement=looks[-1].measurement,
    )


def _stage(look: _Look, information: float, bound: float) -> Stage:
    effect = look.effect
    low, high = effect.interval(bound if math.isfinite(bound) else Z_MAX)
    return Stage(
        at=look.at,
        units=effect.units,
        information=information,
        uplift=effect.uplift,
        low=low,
        high=high,
        z=effect.z,
        bound=bound,
    )
