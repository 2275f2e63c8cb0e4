"""Reports and plans as tables and charts for notebooks."""

import math
from typing import TYPE_CHECKING

from tailorbird.events import DAY
from tailorbird.platform.frames import Frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailorbird.experiments.interleaving import InterleavingReport
    from tailorbird.experiments.plan import Plan
    from tailorbird.experiments.report import Report
    from tailorbird.experiments.trial import TrialReport

Bar = tuple[str, float, float, float]  # name, value, low, high


def trial_frame(report: "TrialReport") -> Frame:
    """Return the primary metric and the guardrails of each treatment."""
    columns = ["metric", "arm", "value", "control_value", "uplift", "low", "high", "p"]
    results = [("primary", result) for result in report.primary]
    results += [("guardrail", result) for result in report.guardrails]
    rows = [(kind, *(getattr(result, name) for name in columns)) for kind, result in results]
    return Frame.from_rows(["kind", *columns], rows)


def plot_stages(report: "TrialReport") -> "Figure":
    """Draw the statistic of each treatment by day, with the boundary on both sides."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for arm, stages in report.stages.items():
        days = [(stage.at - report.started_at) / DAY for stage in stages]
        (line,) = axes.plot(days, [stage.z for stage in stages], marker="o", label=arm)
        for sign in (1, -1):
            bounds = [
                sign * stage.bound if math.isfinite(stage.bound) else math.nan for stage in stages
            ]
            axes.plot(days, bounds, "--", color=line.get_color())
    axes.axhline(0, color="tab:gray", linewidth=0.8)
    axes.set_xlabel("day")
    axes.set_ylabel("standard errors from no effect")
    if report.stages:
        axes.legend()
    return figure


def preferences_frame(report: "InterleavingReport") -> Frame:
    """Return the credits of clicks and purchases by arm, with the preference."""
    columns = ["event", "control", "treatment", "units", "share", "low", "high", "p"]
    rows = [[getattr(row, name) for name in columns] for row in report.preferences]
    return Frame.from_rows(columns, rows)


def plot_preferences(report: "InterleavingReport") -> "Figure":
    """Draw the treatment's share of credits with its intervals."""
    bars = [(row.event, row.share, row.low, row.high) for row in report.preferences]
    return _plot_bars(bars, f"share of credits of {report.treatment}", reference=0.5)


def split_frame(report: "Report") -> Frame:
    """Return the figures of each arm, the control first."""
    columns = ["arm", "users", "impressions", "clicks", "ctr", "ctr_low", "ctr_high", "purchases"]
    columns.append("conversion")
    return Frame.from_rows(
        columns, [[getattr(arm, name) for name in columns] for arm in report.arms]
    )


def plot_split(report: "Report") -> "Figure":
    """Draw the click rate of each arm with its interval."""
    bars = [(arm.arm, arm.ctr, arm.ctr_low, arm.ctr_high) for arm in report.arms]
    return _plot_bars(bars, "clicks per item shown")


def plan_frame(plan: "Plan") -> Frame:
    """Return what each stopping rule needs, with and without CUPED."""
    columns = ["rule", "is_adjusted", "sample_ratio", "expected_share", "units", "days"]
    columns.append("detectable")
    return Frame.from_rows(
        columns, [[getattr(rule, name) for name in columns] for rule in plan.rules]
    )


def plot_plan(plan: "Plan") -> "Figure":
    """Draw the detectable effect by days, for each stopping rule with CUPED."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, values in plan.detectable_by_day.items():
        if name.endswith(", CUPED"):
            axes.plot(plan.days, values, label=name.removesuffix(", CUPED"))
    axes.axhline(plan.effect, color="tab:gray", linestyle="--", label="planned effect")
    axes.set_ylim(0, 6 * plan.effect)
    axes.set_xlabel("days")
    axes.set_ylabel("detectable effect, with CUPED")
    axes.legend()
    return figure


def _plot_bars(bars: list[Bar], label: str, *, reference: float | None = None) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.4 * len(bars) + 1), layout="constrained")
    axes = figure.subplots()
    for row, (_, value, low, high) in enumerate(bars):
        axes.plot([low, high], [row, row], color="tab:blue")
        axes.plot(value, row, "o", color="tab:blue")
    if reference is not None:
        axes.axvline(reference, color="tab:gray", linestyle="--")
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    axes.set_xlabel(label)
    return figure
