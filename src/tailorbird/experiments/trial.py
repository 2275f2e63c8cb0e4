"""The report of a planned experiment: a verdict in one sentence, and what it rests on.

    report = trial_report(events, experiment, slot, started_at=…, now=…)

Each stopping rule concludes only as it promises: a fixed plan at its planned end, a sequential plan
where its boundary is crossed, a confidence sequence whenever it excludes zero. A failed check turns
the verdict red, whatever the effect.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from tailorbird.events import DAY, parse_duration, to_iso
from tailorbird.experiments.analysis.anytime import confidence_sequence, split_alpha
from tailorbird.experiments.analysis.estimates import to_uplift
from tailorbird.experiments.analysis.multiple import holm
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.checks import Check, run_checks
from tailorbird.experiments.measure import Measurement, measure
from tailorbird.experiments.metrics import Metric
from tailorbird.experiments.page import format_interval, format_uplift, trial_html
from tailorbird.experiments.stages import Path, Stage, follow_path
from tailorbird.experiments.started import Run, StartedReport
from tailorbird.experiments.units import UnitTable, load_units, metric_values
from tailorbird.experiments.views.effects import (
    DayView,
    SegmentResult,
    day_effects,
    segment_effects,
)
from tailorbird.experiments.views.tables import plot_stages, trial_frame
from tailorbird.experiments.views.timeline import TimelineEvent, select_events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailorbird.platform.frames import Frame

__all__ = ["TrialReport", "trial_report"]

RED, GREEN, AMBER = "red", "green", "amber"


@dataclass(frozen=True)
class ArmTotals:
    """An arm: its units and its value of the primary metric."""

    arm: str
    units: int
    value: float


@dataclass(frozen=True)
class MetricResult:
    """A metric of a treatment against the control, with its interval.

    Attributes:
        value, control_value: of both arms, after CUPED.
        uplift, low, high: relative, as fractions; NaN with too little data.
        p: adjusted for several arms of the primary metric (Holm); NaN where intervals are valid at
            any time.
        variance_ratio: share of the variance that CUPED left.
        is_worse: whether the interval lies on the bad side of zero.
    """

    metric: str
    arm: str
    control: str
    value: float
    control_value: float
    uplift: float
    low: float
    high: float
    p: float
    variance_ratio: float
    is_worse: bool


@dataclass(frozen=True, kw_only=True)
class TrialReport(StartedReport):
    """The results of a planned experiment so far.

    Attributes:
        risk: what may go wrong, in one sentence.
        stages: arm → the primary metric at each analysis, with the boundary.
        timeline: what else changed while it ran.
    """

    risk: str
    arms: tuple[ArmTotals, ...]
    primary: tuple[MetricResult, ...]
    guardrails: tuple[MetricResult, ...]
    stages: dict[str, tuple[Stage, ...]]
    segments: tuple[SegmentResult, ...]
    views: tuple[DayView, ...] = ()
    timeline: tuple[TimelineEvent, ...] = ()

    @property
    def summary(self) -> str:
        """Verdict and risk in one sentence."""
        return f"{self.verdict.rstrip('.')}; {self.risk[:1].lower()}{self.risk[1:]}"

    def find_crossing(self, arm: str) -> int | None:
        """Return the first analysis that crossed the boundary; of a fixed plan only the end."""
        end = self.planned_end if self.state == "running" else min(self.planned_end, self.until)
        return next(
            (
                number
                for number, stage in enumerate(self.stages[arm])
                if abs(stage.z) >= stage.bound and not (self.stopping == "fixed" and stage.at < end)
            ),
            None,
        )

    def _repr_html_(self) -> str:
        return trial_html(self)

    def to_frame(self) -> "Frame":
        """Return the primary metric and the guardrails as a table."""
        return trial_frame(self)

    def plot(self) -> "Figure":
        """Draw the statistic by day with its boundary."""
        return plot_stages(self)

    def __repr__(self) -> str:
        return f"{self.summary}\n{self.to_frame()!r}"


def trial_report(
    events: pa.Table,
    experiment: Experiment,
    *,
    started_at: int,
    now: int,
    attribution: int,
    stopped_at: int = 0,
    state: str = "running",
    timeline: Sequence[TimelineEvent] = (),
    notes: tuple[str, ...] = (),
) -> TrialReport:
    """Report on an experiment from events with `units.UNIT_COLUMNS`.

    Args:
        events: from the experiment's history on.
        attribution: of the slot, microseconds.
        timeline: changes of the project, to show those of its time.
    """
    run = Run(experiment, started_at, now, stopped_at, state, notes)
    table = load_units(
        events,
        experiment.slot,
        (experiment.control_arm, *experiment.treatments),
        experiment=experiment.name,
        start=started_at,
        stop=run.until,
        attribution=attribution,
        unit=experiment.unit,
        history=parse_duration(experiment.history),
        segments=experiment.segments,
        exposure=experiment.exposure,
    )
    alpha = split_alpha(1 - experiment.level, len(experiment.treatments))
    paths = {
        arm: follow_path(
            table, experiment, number, alpha, started_at, run.until, is_over=run.is_over
        )
        for number, arm in enumerate(experiment.treatments, 1)
    }
    primary = _primary_results(table, experiment, paths, run.until)
    guardrails = _guardrails(table, experiment, run.until)
    checks = run_checks(table, experiment)
    colour, verdict, risk, advice = _conclude(run, table, paths, primary, guardrails, checks)
    if state == "decided":
        advice = "Nothing: it is decided, see the last change below."
    elif state == "stopped" and colour != RED:
        advice = f"Decide: tailorbird experiment decide {experiment.name} ARM --why …"
    return TrialReport(
        **run.fields(),
        colour=colour,
        verdict=verdict,
        risk=risk,
        advice=advice,
        arms=_arm_totals(table, experiment, run.until),
        primary=primary,
        guardrails=guardrails,
        checks=checks,
        stages={arm: path.stages for arm, path in paths.items()},
        segments=segment_effects(table, experiment, run.until),
        views=day_effects(table, experiment, run.until),
        timeline=select_events(timeline, started_at + 1, run.until),
    )


def _arm_totals(table: UnitTable, experiment: Experiment, until: int) -> tuple[ArmTotals, ...]:
    totals, values = [], metric_values(table, experiment.metric, until)
    for number, arm in enumerate(table.arms):
        rows = values.arm == number
        x, y = values.x[rows], values.y[rows] if values.y is not None else None
        shown = float(y.sum()) if y is not None else float(len(x))
        totals.append(
            ArmTotals(arm, int(rows.sum()), float(x.sum()) / shown if shown else math.nan)
        )
    return tuple(totals)


def _primary_results(
    table: UnitTable, experiment: Experiment, paths: dict[str, Path], until: int
) -> tuple[MetricResult, ...]:
    p = holm([1.0 if math.isnan(path.p) else path.p for path in paths.values()])
    return tuple(
        _result(
            experiment,
            experiment.metric,
            arm,
            path.last,
            (path.uplift, path.low, path.high),
            math.nan if math.isnan(path.p) else float(adjusted),
        )
        for (arm, path), adjusted in zip(paths.items(), p, strict=True)
    )


def _guardrails(table: UnitTable, experiment: Experiment, until: int) -> tuple[MetricResult, ...]:
    """Return guardrails with confidence sequences, which may be read at any time."""
    results = []
    count = len(experiment.guardrails) * len(experiment.treatments)
    alpha = split_alpha(1 - experiment.level, count)
    for metric in experiment.guardrails:
        for number, arm in enumerate(experiment.treatments, 1):
            measurement = measure(table, metric, number, until)
            interval = (math.nan, math.nan, math.nan)
            if (effect := measurement.effect) is not None:
                low, high = confidence_sequence(
                    effect.log,
                    effect.error,
                    effect.units,
                    tuned_for=max(effect.units, 1_000),
                    alpha=alpha,
                )
                interval = (effect.uplift, to_uplift(low), to_uplift(high))
            results.append(_result(experiment, metric, arm, measurement, interval, math.nan))
    return tuple(results)


def _result(
    experiment: Experiment,
    metric: Metric,
    arm: str,
    measurement: Measurement,
    interval: tuple[float, float, float],
    p: float,
) -> MetricResult:
    uplift, low, high = interval
    return MetricResult(
        metric.name,
        arm,
        experiment.control_arm,
        measurement.treatment.value,
        measurement.control.value,
        uplift,
        low,
        high,
        p,
        measurement.variance_ratio,
        high < 0 if metric.increase_is_good else low > 0,
    )


def _conclude(
    run: Run,
    table: UnitTable,
    paths: dict[str, Path],
    primary: tuple[MetricResult, ...],
    guardrails: tuple[MetricResult, ...],
    checks: tuple[Check, ...],
) -> tuple[str, str, str, str]:
    """Return colour, verdict, risk and advice."""
    experiment = run.experiment
    name, metric = experiment.name, experiment.metric
    if not len(table):
        return (
            AMBER,
            "No unit has been in this experiment yet.",
            "Nothing is known.",
            f"Send traffic to the slot {experiment.slot}, and check that a server runs.",
        )
    if failed := [check for check in checks if not check.passed]:
        return (
            RED,
            f"Do not decide by this experiment: {failed[0].reason}",
            "Every figure below may be wrong.",
            "Find the cause, stop this experiment, and start a new one under another name.",
        )
    best = max(primary, key=lambda entry: _sign(metric) * _or_low(entry.uplift))
    path = paths[best.arm]
    interval = f"{experiment.level:.0%} interval {format_interval(best.low, best.high)}"
    figures = f"{format_uplift(best.uplift)} {metric.name} ({interval})"
    risk = _risk(best, metric, guardrails)
    stop = f"tailorbird experiment stop {name} --why …"
    is_loss = path.is_conclusive and _sign(metric) * best.uplift < 0
    if not is_loss and (harmed := [guardrail for guardrail in guardrails if guardrail.is_worse]):
        worst_guardrail = harmed[0]
        text = f"{worst_guardrail.arm} makes {worst_guardrail.metric} worse: {format_uplift(worst_guardrail.uplift)}"
        return RED, f"{text}, though {best.arm} has {figures}.", risk, f"Stop it: {stop}"
    if not path.is_conclusive:
        if run.is_over:
            verdict = f"No difference between {best.arm} and {best.control} is shown: {figures}."
            return AMBER, verdict, risk, f"Keep {best.control}; or plan a longer experiment."
        if not math.isfinite(best.uplift):
            figures = "too little data for a first analysis"
        verdict = f"Not decided yet ({_format_days(run)}): {best.arm} has {figures}."
        if path.is_futile:
            advice = (
                "The planned effect is unlikely to be found any more. You may stop; going on costs "
                "no validity."
            )
        elif experiment.stopping == "fixed":
            advice = "Wait for the planned end. The interval is valid only then."
        else:
            advice = f"Let it run. The boundary is read every {experiment.interval}."
        return AMBER, verdict, risk, advice
    is_better = _sign(metric) * best.uplift > 0
    word = "beats" if is_better else "is worse than"
    chosen_arm = best.arm if is_better else best.control
    verdict = f"{best.arm} {word} {best.control}: {figures}."
    colour = GREEN if is_better else RED
    return colour, verdict, risk, f"{stop}, then: tailorbird experiment decide {name} {chosen_arm}"


def _risk(best: MetricResult, metric: Metric, guardrails: tuple[MetricResult, ...]) -> str:
    bound = best.low if metric.increase_is_good else best.high
    if not math.isfinite(bound):
        return "There is too little data to bound what it may cost."
    text = f"In the worst case of the interval, {best.arm} changes {metric.name}"
    text += f" by {format_uplift(bound)}"
    bounds = [
        (guardrail.metric, guardrail.low if guardrail.low <= 0 else guardrail.high)
        for guardrail in guardrails
        if math.isfinite(guardrail.low)
    ]
    if bounds:
        name, value = min(bounds, key=lambda bound: bound[1])
        text += f", and {name} by {format_uplift(value)}"
    return f"{text}."


def _format_days(run: Run) -> str:
    days_left = max(run.planned_end - run.until, 0) / DAY
    return (
        f"{days_left:.1f} of {run.experiment.duration} left, until {to_iso(run.planned_end)[:16]}"
    )


def _sign(metric: Metric) -> int:
    return 1 if metric.increase_is_good else -1


def _or_low(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
