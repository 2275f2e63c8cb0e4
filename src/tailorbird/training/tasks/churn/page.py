"""HTML report of a churn model: metrics, reliability, lift, and the value of contacting people."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from tailorbird import pages
from tailorbird.events import to_iso
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.training.report.charts import (
    HIGHLIGHT_COLOUR,
    MUTED_COLOUR,
    clean_axes,
    importance_chart,
    reliability_chart,
    to_svg,
)
from tailorbird.training.tasks.churn.contact import ContactCurve
from tailorbird.training.tasks.churn.evaluation import MODEL_NAME, CutMetrics

if TYPE_CHECKING:
    from tailorbird.training.tasks.churn.report import ChurnReport

PAGE_METRICS = ("auc", "ap", "log_loss", "lift_10", "calibration_error_debiased", "mae", "bias")
COLOURS = ("#b3541e", "#5b6ea8", "#8a6d3b", "#9aa5ab", "#6b8f71")


def write_page(path: Path, report: "ChurnReport", churn: Churn) -> Path:
    """Write the page and return its path."""
    last_cut_metrics = report.last
    return pages.write_page(
        path,
        "churn",
        f"{report.version} · {churn.name}",
        report=report,
        contact=churn.contact,
        ours=MODEL_NAME,
        shown=list(PAGE_METRICS),
        ranked=sorted(
            last_cut_metrics.results.items(), key=lambda item: _sort_last(item[1]["log_loss"].value)
        ),
        origins=[
            {"at": to_iso(cut_metrics.cut.scores.window.origin), "metrics": cut_metrics}
            for cut_metrics in report.cut_metrics
        ],
        charts={
            "auc": to_svg(_plot_auc(report.cut_metrics)),
            "lift": to_svg(_plot_lift(report.curve)),
            "value": to_svg(_plot_value(report.curve)),
            "reliability": to_svg(
                reliability_chart(last_cut_metrics.calibration, 1, "P(gone)", "gone")
            ),
            "importance": to_svg(
                importance_chart(report.importance, "Share of what was learned, by column")
            ),
        },
    )


def _plot_auc(metrics_by_cut: Sequence[CutMetrics]) -> Figure:
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    days = [to_iso(metrics.cut.scores.window.origin)[2:10] for metrics in metrics_by_cut]
    for index, name in enumerate(metrics_by_cut[0].results):
        colour = HIGHLIGHT_COLOUR if name == MODEL_NAME else COLOURS[index % len(COLOURS)]
        axes.plot(
            days,
            [metrics.results[name]["auc"].value for metrics in metrics_by_cut],
            "o-",
            color=colour,
            label=name,
            markersize=3,
        )
    axes.set_title("AUC by origin", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return clean_axes(figure)


def _plot_lift(curve: ContactCurve) -> Figure:
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.subplots()
    share = np.arange(1, len(curve.recall) + 1) / len(curve.recall)
    axes.plot(share, curve.recall, color=HIGHLIGHT_COLOUR)
    axes.plot([0, 1], [0, 1], color=MUTED_COLOUR, linewidth=1)
    axes.set_xlabel("share of people contacted")
    axes.set_ylabel("share of all who leave")
    axes.set_title("Lift curve", fontsize=10)
    return clean_axes(figure)


def _plot_value(curve: ContactCurve) -> Figure:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    k = np.arange(1, len(curve.expected_value) + 1)
    axes.plot(k, curve.expected_value, color=HIGHLIGHT_COLOUR, label="expected")
    axes.plot(k, curve.realised_value, color=MUTED_COLOUR, label="by who left")
    if curve.best_k:
        axes.axvline(curve.best_k, color=MUTED_COLOUR, linewidth=0.8, linestyle="--")
    axes.set_xlabel("people contacted")
    axes.set_title("Value of contacting the first k", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return clean_axes(figure)


def _sort_last(value: float) -> float:
    """Return a sort key that puts NaN last."""
    return value if np.isfinite(value) else np.inf
