"""Training report: one self-contained HTML file of tables with intervals, and charts as inline SVG.

It shows the contents of `TrainReport`; nothing but charts is computed here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from tailorbird.pages import write_page
from tailorbird.ranking.bundle import Bundle
from tailorbird.training.bundle_files import locate_heads
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, Evaluation, HeadMetrics
from tailorbird.training.fit.fit import FittedModel
from tailorbird.training.fit.heads import HeadModel
from tailorbird.training.report.charts import (
    HIGHLIGHT_COLOUR,
    MUTED_COLOUR,
    clean_axes,
    importance_chart,
    interval_half_width,
    reliability_chart,
    to_svg,
)
from tailorbird.training.report.pareto import (
    compare_serving_costs,
    measure_baseline_us,
    measure_bundle_us,
    measure_model_us,
    pareto_chart,
)
from tailorbird.training.report.serving_cost import CANDIDATES_PER_REQUEST
from tailorbird.training.rivals import MODEL_NAME
from tailorbird.training.settings import TrainReport


def write_report_with_costs(
    report: TrainReport,
    fitted: FittedModel,
    champion_bundle: Bundle | None,
    item_count: int,
    folder: Path,
) -> TrainReport:
    """Return the report with the cost of everything evaluated, and write its page."""
    baseline_us = measure_baseline_us(item_count)
    latency_us = {
        name: baseline_us
        for name in report.evaluation.intervals
        if name not in (MODEL_NAME, report.champion)
    }
    latency_us[MODEL_NAME] = measure_model_us(
        fitted.exported_files, locate_heads(fitted), fitted.golden_rows
    )
    if champion_bundle is not None:
        latency_us[report.champion] = measure_bundle_us(champion_bundle)
    costs = compare_serving_costs(report.evaluation, latency_us)
    report = replace(report, serving_costs=tuple(cost.to_dict() for cost in costs))
    page_path = write_report(folder / f"{report.version}.html", report, fitted.model_by_head)
    return replace(report, page_path=page_path)


def write_report(path: Path, report: TrainReport, models: Mapping[str, HeadModel]) -> Path:
    """Write the report page and return its path."""
    evaluation = report.evaluation
    ranked_names = sorted(
        evaluation.intervals, key=lambda name: -evaluation.intervals[name][PRIMARY_METRIC].value
    )
    charts = {
        "comparison": to_svg(_comparison_chart(evaluation, ranked_names)),
        "cold_start": to_svg(_cold_start_chart(evaluation))
        if any(evaluation.cold_start_curves.values())
        else "",
        "costs": to_svg(pareto_chart(report.serving_costs, evaluation.model_name))
        if report.serving_costs
        else "",
        "heads": {name: _head_charts(name, evaluation, model) for name, model in models.items()},
    }
    return write_page(
        path,
        "training",
        f"{report.version} · {report.about['slot']}",
        report=report,
        primary=PRIMARY_METRIC,
        items=CANDIDATES_PER_REQUEST,
        ranked=ranked_names,
        charts=charts,
        facts=[
            *_flatten_facts(report.about),
            *((f"rows of {part}", f"{count:,}") for part, count in report.row_counts.items()),
            *(
                (f"seconds, {stage}", f"{seconds:.1f}")
                for stage, seconds in report.stage_seconds.items()
            ),
        ],
    )


def _cold_start_chart(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    for axes, (subject, steps) in zip(
        figure.subplots(1, len(evaluation.cold_start_curves), sharey=True),
        evaluation.cold_start_curves.items(),
        strict=True,
    ):
        for name, colour in (
            (evaluation.model_name, HIGHLIGHT_COLOUR),
            (evaluation.best_baseline, MUTED_COLOUR),
        ):
            if name:
                axes.plot(
                    [step.step_label for step in steps],
                    [step.intervals[name].value for step in steps],
                    "o-",
                    color=colour,
                    label=name,
                )
        axes.set_title(f"events of {subject}", fontsize=10)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=8)
    return clean_axes(figure)


def _head_charts(name: str, evaluation: Evaluation, model: HeadModel) -> list[Markup]:
    head = evaluation.head_metrics.get(name)
    importance_title = (
        "Share of the gain by column"
        if model.unit == "trees"
        else "Share of what moves when a column is shuffled"
    )
    figures = [importance_chart(model.importance(), importance_title), _learning_curve_chart(model)]
    if head is not None:
        figures.insert(0, _head_reliability_chart(head))
    return [to_svg(figure) for figure in figures]


def _comparison_chart(evaluation: Evaluation, ranked_names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(6.4, 0.34 * len(ranked_names) + 0.8), layout="constrained")
    axes = figure.subplots()
    for line, name in enumerate(reversed(ranked_names)):
        interval = evaluation.intervals[name][PRIMARY_METRIC]
        colour = HIGHLIGHT_COLOUR if name == evaluation.model_name else MUTED_COLOUR
        axes.plot(
            [interval.low, interval.high],
            [line, line],
            color=colour,
            linewidth=3,
            solid_capstyle="round",
        )
        axes.plot([interval.value], [line], "o", color=colour)
    axes.set_yticks(range(len(ranked_names)), list(reversed(ranked_names)))
    axes.set_title(f"{PRIMARY_METRIC} on the test part, 95 % intervals", fontsize=10)
    return clean_axes(figure)


def _head_reliability_chart(head: HeadMetrics) -> Figure:
    bins = head.calibration_bins
    is_filled = bins.counts > 0
    axis_max = float(
        np.nanmax(
            [
                bins.predicted[is_filled].max(),
                (bins.observed + interval_half_width(bins))[is_filled].max(),
            ]
        )
    )
    return reliability_chart(bins, axis_max, "predicted", "happened")


def _learning_curve_chart(model: HeadModel) -> Figure:
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, series in model.curve.items():
        axes.plot(
            np.arange(1, len(series) + 1),
            series,
            color=HIGHLIGHT_COLOUR if name == "validation" else MUTED_COLOUR,
            label=name,
        )
    axes.axvline(model.steps, color=MUTED_COLOUR, linewidth=0.8, linestyle="--")
    axes.set_xlabel(model.unit)
    axes.set_title(f"Learning curve; {model.steps} {model.unit} kept", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return clean_axes(figure)


def _flatten_facts(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            rows += _flatten_facts(entry, f"{prefix}{key}: ")
        elif key != "window":
            rows.append(
                (
                    f"{prefix}{key}",
                    ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry),
                )
            )
    return rows
