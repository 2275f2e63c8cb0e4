"""HTML and JSON report of a validation: findings, metrics over all origins, slices."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure

from tailorbird.pages import write_page
from tailorbird.training.backtests.report import ComparisonTest, ValidationReport
from tailorbird.training.backtests.run import MODEL_NAME
from tailorbird.training.evaluation.figures import PRIMARY_METRIC
from tailorbird.training.report.charts import HIGHLIGHT_COLOUR, MUTED_COLOUR, clean_axes, to_svg

_LOSS_COLOUR = "#b3541e"


def write_validation(folder: Path, report: ValidationReport) -> Path:
    """Write `validation-SLOT.html` and its JSON, and return the page's path."""
    page = folder / f"validation-{report.slot}.html"
    intervals_by_model = report.evaluation.intervals
    shown_models = [
        MODEL_NAME,
        *(test.competitor for test in report.tests if test.kind == "baseline"),
    ]
    charts = [
        _plot_gains(report.tests),
        *([_plot_learning_curve(report)] if report.learning_curve else []),
    ]
    write_page(
        page,
        "validation",
        f"Validation of slot {report.slot}",
        report=report,
        model=MODEL_NAME,
        primary=PRIMARY_METRIC,
        ranked=sorted(
            shown_models, key=lambda name: -intervals_by_model[name][PRIMARY_METRIC].value
        ),
        best=best_baseline(report),
        charts=[to_svg(chart) for chart in charts],
        facts=[
            (name, report.about[name]) for name in ("seed", "tuned", "architecture", "settings")
        ],
    )
    page.with_suffix(".json").write_bytes(
        msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=1) + b"\n"
    )
    return page


def _plot_gains(tests: Sequence[ComparisonTest]) -> Figure:
    figure = Figure(figsize=(6.4, 0.26 * len(tests) + 0.9), layout="constrained")
    axes = figure.subplots()
    for index, test in enumerate(reversed(tests)):
        colour = (
            HIGHLIGHT_COLOUR
            if test.verdict == "ahead"
            else _LOSS_COLOUR
            if test.verdict == "behind"
            else MUTED_COLOUR
        )
        axes.plot(
            [test.gain.low, test.gain.high],
            [index, index],
            color=colour,
            linewidth=3,
            solid_capstyle="round",
        )
        axes.plot([test.gain.value], [index], "o", color=colour, markersize=4)
    axes.axvline(0, color=MUTED_COLOUR, linewidth=0.8)
    axes.set_yticks(range(len(tests)), [test.competitor for test in reversed(tests)])
    axes.set_title(f"What {MODEL_NAME} gains in {PRIMARY_METRIC}; green after Holm", fontsize=10)
    return clean_axes(figure)


def _plot_learning_curve(report: ValidationReport) -> Figure:
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    shares = list(report.learning_curve)
    intervals = [report.learning_curve[share] for share in shares]
    error_lengths = np.array(
        [[interval.value - interval.low, interval.high - interval.value] for interval in intervals]
    ).T
    axes.errorbar(
        shares,
        [interval.value for interval in intervals],
        np.maximum(error_lengths, 0),
        fmt="o-",
        color=HIGHLIGHT_COLOUR,
        markersize=4,
        linewidth=1,
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(
        shares, [f"{share:.0%}" if share >= 0.2 else f"{share:.1%}" for share in shares]
    )
    axes.set_xlabel("share of the requests that were learned from")
    axes.set_title(f"Learning curve: {PRIMARY_METRIC}", fontsize=10)
    return clean_axes(figure)


def best_baseline(report: ValidationReport) -> str:
    """Return the baseline with the best metric, or ""."""
    baselines = [test.competitor for test in report.tests if test.kind == "baseline"]
    return max(
        baselines,
        key=lambda name: report.evaluation.intervals[name][PRIMARY_METRIC].value,
        default="",
    )
