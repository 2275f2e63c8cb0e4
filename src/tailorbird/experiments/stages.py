"""The primary metric at each analysis of an experiment, with the boundary of its stopping rule."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from tailorbird.events import parse_duration
from tailorbird.experiments.analysis.anytime import anytime_bound
from tailorbird.experiments.analysis.estimates import Effect, to_uplift
from tailorbird.experiments.analysis.sequential import (
    Z_MAX,
    boundaries,
    conditional_power,
    estimate_after_stopping,
    fixed_drift,
    plan_design,
    select_stages,
)
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.measure import Measurement, measure
from tailorbird.experiments.units import UnitTable, history_values

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
        last: the newest measurement.
    """

    stages: tuple[Stage, ...]
    uplift: float
    low: float
    high: float
    p: float
    is_conclusive: bool
    is_futile: bool
    last: Measurement


def planned_information(experiment: Experiment, alpha: float) -> float:
    """Return the information that the planned effect and power need under the stopping rule."""
    drift = fixed_drift(alpha, experiment.power)
    if experiment.stopping == "group_sequential":
        drift = plan_design(
            planned_stages(experiment),
            alpha=alpha,
            power=experiment.power,
            spending=experiment.spending,
        ).drift
    return (drift / math.log1p(experiment.effect)) ** 2


def planned_stages(experiment: Experiment) -> int:
    """Return the number of analyses of the plan."""
    count = parse_duration(experiment.duration) // max(parse_duration(experiment.interval), 1)
    return int(min(max(count, 1), STAGES_MAX))


def analyse_stages(
    table: UnitTable,
    experiment: Experiment,
    treatment: int,
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
    measurements: list[tuple[int, Measurement, Effect]] = []
    history = history_values(table, experiment.metric)
    for at in times:
        measurement = measure(table, experiment.metric, treatment, at, history=history)
        effect = measurement.effect
        if effect is not None and effect.units >= UNITS_MIN:
            measurements.append((at, measurement, effect))
    if not measurements:
        last = measure(table, experiment.metric, treatment, until, history=history)
        return AnalysisPath((), math.nan, math.nan, math.nan, math.nan, False, False, last)
    if experiment.stopping == "group_sequential":
        return _sequential_path(measurements, experiment, alpha, is_over=is_over)
    return _single_look_path(measurements, experiment, alpha, is_over=is_over)


def _sequential_path(
    measurements: list[tuple[int, Measurement, Effect]],
    experiment: Experiment,
    alpha: float,
    *,
    is_over: bool,
) -> AnalysisPath:
    planned = planned_information(experiment, alpha)
    levels = np.array([effect.information for _, _, effect in measurements])
    rows = select_stages(levels, planned=planned)
    information = levels[rows]
    bounds = boundaries(
        information, planned=planned, alpha=alpha, spending=experiment.spending, is_final=is_over
    )
    effects = [measurements[row][2] for row in rows]
    stages = tuple(
        _stage(measurements[row][0], effect, level / planned, bound)
        for row, effect, level, bound in zip(
            rows.tolist(), effects, information.tolist(), bounds.tolist(), strict=True
        )
    )
    crossed_stages = [number for number, stage in enumerate(stages) if abs(stage.z) >= stage.bound]
    last = measurements[-1][1]
    if not crossed_stages and not is_over:
        newest = stages[-1]
        power = conditional_power(
            newest.z,
            newest.information,
            math.log1p(experiment.effect) * math.sqrt(planned),
            final_bound=float(ndtri(1 - alpha / 2)),
        )
        return AnalysisPath(
            stages,
            newest.uplift,
            newest.low,
            newest.high,
            math.nan,
            False,
            power < FUTILITY_POWER,
            last,
        )
    final = crossed_stages[0] if crossed_stages else len(stages) - 1
    estimate = estimate_after_stopping(
        information[: final + 1], bounds[: final + 1], stages[final].z, alpha=alpha
    )
    uplift, low, high = (to_uplift(x) for x in (estimate.value, estimate.low, estimate.high))
    return AnalysisPath(stages, uplift, low, high, estimate.p, bool(crossed_stages), False, last)


def _single_look_path(
    measurements: list[tuple[int, Measurement, Effect]],
    experiment: Experiment,
    alpha: float,
    *,
    is_over: bool,
) -> AnalysisPath:
    """Return the path of a fixed plan, or of a confidence sequence."""
    planned = planned_information(experiment, alpha)
    is_anytime = experiment.stopping == "anytime"
    # The sequence is narrowest at the units that the plan needs, at today's variance.
    effect = measurements[0][2]
    tuned_for = max(effect.units * planned / effect.information, UNITS_MIN)
    stages = []
    for at, _, each in measurements:
        if is_anytime:
            bound = float(anytime_bound(each.units, tuned_for=tuned_for, alpha=alpha))
        else:
            bound = float(ndtri(1 - alpha / 2))
        stages.append(_stage(at, each, each.information / planned, bound))
    crossed_stages = [stage for stage in stages if abs(stage.z) >= stage.bound]
    newest = stages[-1]
    is_conclusive = (
        bool(crossed_stages) if is_anytime else is_over and abs(newest.z) >= newest.bound
    )
    reported = crossed_stages[-1] if is_anytime and crossed_stages else newest
    p = math.nan if is_anytime or not is_over else measurements[-1][2].p
    return AnalysisPath(
        tuple(stages),
        reported.uplift,
        reported.low,
        reported.high,
        p,
        is_conclusive,
        False,
        measurements[-1][1],
    )


def _stage(at: int, effect: Effect, information: float, bound: float) -> Stage:
    low, high = effect.interval(bound if math.isfinite(bound) else Z_MAX)
    return Stage(at, effect.units, information, effect.uplift, low, high, effect.z, bound)
