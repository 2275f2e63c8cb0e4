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

from tailorbird.events import parse_duration
from tailorbird.experiments.analysis.anytime import confidence_sequence, split_alpha
from tailorbird.experiments.analysis.estimates import to_uplift
from tailorbird.experiments.analysis.multiple import adjust_holm
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.checks import run_checks
from tailorbird.experiments.measure import Measurement, measure
from tailorbird.experiments.metrics import GUARDRAIL_TUNED_FOR_UNITS, Metric
from tailorbird.experiments.page import trial_html
from tailorbird.experiments.run_report import Run, RunReport
from tailorbird.experiments.stages import AnalysisPath, Stage, analyse_stages
from tailorbird.experiments.unit_values import metric_values
from tailorbird.experiments.units import UnitTable, load_units
from tailorbird.experiments.verdict import MetricResult, conclude
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


@dataclass(frozen=True)
class ArmTotals:
    """An arm: its units and its value of the primary metric."""

    arm: str
    units: int
    value: float


@dataclass(frozen=True, kw_only=True)
class TrialReport(RunReport):
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
        return next(
            (
                number
                for number, stage in enumerate(self.stages[arm])
                if abs(stage.z) >= stage.bound
                and not (self.stopping == "fixed" and stage.at < self.planned_end)
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
    decision: str = "",
    decided_by: str = "",
) -> TrialReport:
    """Report on an experiment from events with `units.UNIT_COLUMNS`.

    Args:
        events: from the experiment's history on.
        attribution: of the slot, microseconds.
        timeline: changes of the project, to show those of its time.
        decision, decided_by: the chosen arm, and who chose it.
    """
    run = Run(experiment, started_at, now, stopped_at, state, notes, decision, decided_by)
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
    path_by_arm = {
        arm: analyse_stages(
            table=table,
            experiment=experiment,
            treatment_index=treatment_index,
            alpha=alpha,
            started_at=started_at,
            until=run.until,
            is_over=run.is_over,
        )
        for treatment_index, arm in enumerate(experiment.treatments, 1)
    }
    primary = _primary_results(table, experiment, path_by_arm, run.until)
    guardrails = _guardrail_results(table, experiment, run.until)
    checks = run_checks(table, experiment)
    conclusion = conclude(
        run,
        units=len(table),
        path_by_arm=path_by_arm,
        primary=primary,
        guardrails=guardrails,
        checks=checks,
    )
    return TrialReport(
        **run.report_fields(),
        colour=conclusion.colour,
        verdict=conclusion.verdict,
        risk=conclusion.risk,
        advice=conclusion.advice,
        arms=_arm_totals(table, experiment, run.until),
        primary=primary,
        guardrails=guardrails,
        checks=checks,
        stages={arm: path.stages for arm, path in path_by_arm.items()},
        segments=segment_effects(table, experiment, run.until),
        views=day_effects(table, experiment, run.until),
        timeline=select_events(timeline, started_at + 1, run.until),
    )


def _arm_totals(table: UnitTable, experiment: Experiment, until: int) -> tuple[ArmTotals, ...]:
    totals = []
    values = metric_values(table, experiment.metric, until)
    for arm_index, arm in enumerate(table.arms):
        is_in_arm = values.arm == arm_index
        x = values.x[is_in_arm]
        y = values.y[is_in_arm] if values.y is not None else None
        denominator = float(y.sum()) if y is not None else float(len(x))
        totals.append(
            ArmTotals(
                arm, int(is_in_arm.sum()), float(x.sum()) / denominator if denominator else math.nan
            )
        )
    return tuple(totals)


def _primary_results(
    table: UnitTable, experiment: Experiment, path_by_arm: dict[str, AnalysisPath], until: int
) -> tuple[MetricResult, ...]:
    adjusted_p = adjust_holm(
        [1.0 if math.isnan(path.p) else path.p for path in path_by_arm.values()]
    )
    return tuple(
        _metric_result(
            experiment=experiment,
            metric=experiment.metric,
            arm=arm,
            measurement=path.newest_measurement,
            interval=(path.uplift, path.low, path.high),
            p=math.nan if math.isnan(path.p) else float(arm_p),
        )
        for (arm, path), arm_p in zip(path_by_arm.items(), adjusted_p, strict=True)
    )


def _guardrail_results(
    table: UnitTable, experiment: Experiment, until: int
) -> tuple[MetricResult, ...]:
    """Return guardrails with confidence sequences, which may be read at any time."""
    results = []
    comparison_count = len(experiment.guardrails) * len(experiment.treatments)
    alpha = split_alpha(1 - experiment.level, comparison_count)
    for metric in experiment.guardrails:
        for treatment_index, arm in enumerate(experiment.treatments, 1):
            measurement = measure(table, metric, treatment_index, until)
            interval = (math.nan, math.nan, math.nan)
            if (effect := measurement.effect) is not None:
                low, high = confidence_sequence(
                    effect.log_ratio,
                    effect.standard_error,
                    effect.units,
                    tuned_for_units=GUARDRAIL_TUNED_FOR_UNITS,
                    alpha=alpha,
                )
                interval = (effect.uplift, to_uplift(low), to_uplift(high))
            results.append(
                _metric_result(
                    experiment=experiment,
                    metric=metric,
                    arm=arm,
                    measurement=measurement,
                    interval=interval,
                    p=math.nan,
                )
            )
    return tuple(results)


def _metric_result(
    experiment: Experiment,
    metric: Metric,
    arm: str,
    measurement: Measurement,
    interval: tuple[float, float, float],
    p: float,
) -> MetricResult:
    uplift, low, high = interval
    return MetricResult(
        metric=metric.name,
        arm=arm,
        control=experiment.control_arm,
        value=measurement.treatment.value,
        control_value=measurement.control.value,
        uplift=uplift,
        low=low,
        high=high,
        p=p,
        variance_ratio=measurement.variance_ratio,
        is_worse=high < 0 if metric.increase_is_good else low > 0,
    )
