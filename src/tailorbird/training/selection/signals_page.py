"""Report of a column ranking: an overview chart as PNG, and a page with tables and charts."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram

from tailorbird.events import to_iso
from tailorbird.pages import write_page
from tailorbird.training.evaluation.figures import PRIMARY_METRIC
from tailorbird.training.report.charts import HIGHLIGHT_COLOUR, MUTED_COLOUR, clean_axes, to_svg
from tailorbird.training.report.serving_cost import CANDIDATES_PER_REQUEST, GROUPS_PER_REQUEST
from tailorbird.training.selection.redundancy import NEARNESS_MIN
from tailorbird.training.selection.signals import SignalReport
from tailorbird.training.selection.stability import STABILITY_INDEX_MAX
from tailorbird.training.selection.verdicts import (
    DRIFTING,
    LEAK,
    NULL,
    REDUNDANT,
    SIGNAL,
    TOO_FEW_REQUESTS,
)

COLOURS = {
    SIGNAL: HIGHLIGHT_COLOUR,
    NULL: MUTED_COLOUR,
    REDUNDANT: "#5b7fb5",
    DRIFTING: "#c98a1b",
    LEAK: "#b3241e",
    TOO_FEW_REQUESTS: "#8a8a8a",
}


def write_signals(folder: Path, report: SignalReport, commands: Sequence[str]) -> tuple[Path, Path]:
    """Write `signals.html`, `signals.png` and `signals.json`; return the paths of page and chart.

    Args:
        commands: lines that apply the proposal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "signals.png"
    draw_overview(report).savefig(image, dpi=130, metadata={"Software": None})
    (folder / "signals.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=1)
    )
    page = write_page(
        folder / "signals.html",
        "signals",
        f"Signals for {report.target}, slot {report.about['slot']}",
        report=report,
        commands=commands,
        primary=PRIMARY_METRIC,
        items=CANDIDATES_PER_REQUEST,
        groups=GROUPS_PER_REQUEST,
        colours=COLOURS,
        charts=_draw_charts(report),
        facts=[(name, value) for name, value in report.about.items() if name != "parts"],
    )
    return page, image


def draw_overview(report: SignalReport) -> Figure:
    """Draw importance, clusters and drift side by side."""
    count = len(report.signals)
    figure = Figure(figsize=(17, 0.26 * count + 1.4), layout="constrained")
    importance, tree, drift = figure.subplots(1, 3, width_ratios=[1.25, 1.0, 0.9])
    _draw_importance(importance, report)
    _draw_tree(tree, report)
    _draw_drift(drift, report)
    return clean_axes(figure)


def _draw_importance(axes: Axes, report: SignalReport) -> None:
    signals_by_row = list(reversed(report.signals))
    for row, signal in enumerate(signals_by_row):
        colour = COLOURS[signal.verdict]
        if np.isfinite(signal.importance.value):
            axes.plot(
                [signal.importance.low, signal.importance.high],
                [row, row],
                color=colour,
                linewidth=3,
                solid_capstyle="round",
            )
            axes.plot([signal.importance.value], [row], "o", color=colour, markersize=5)
    axes.axvline(0, color=MUTED_COLOUR, linewidth=0.8)
    axes.set_yticks(range(len(signals_by_row)), [signal.name for signal in signals_by_row])
    for label, signal in zip(axes.get_yticklabels(), signals_by_row, strict=True):
        label.set_color(COLOURS[signal.verdict])
    for verdict in COLOURS:
        if any(signal.verdict == verdict for signal in signals_by_row):
            axes.plot([], [], "o", color=COLOURS[verdict], label=verdict)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_title(
        f"Drop of {PRIMARY_METRIC} on later data when permuted, 95 % intervals", fontsize=10
    )


def _draw_tree(axes: Axes, report: SignalReport) -> None:
    clusters = report.clusters
    if len(clusters.linkage_tree):
        dendrogram(
            clusters.linkage_tree,
            labels=list(report.column_names),
            orientation="left",
            ax=axes,
            color_threshold=1 - NEARNESS_MIN,
            above_threshold_color=MUTED_COLOUR,
            leaf_font_size=8,
        )
    axes.axvline(1 - NEARNESS_MIN, color="#b3541e", linewidth=0.8, linestyle="--")
    axes.set_title("Distance of columns; left of the line they stay apart", fontsize=10)


def _draw_drift(axes: Axes, report: SignalReport) -> None:
    signals = list(report.signals)
    period_drifts = np.array([signal.period_drifts for signal in signals])
    axes.imshow(
        np.minimum(period_drifts, 2 * STABILITY_INDEX_MAX),
        aspect="auto",
        cmap="YlOrBr",
        vmin=0,
        vmax=2 * STABILITY_INDEX_MAX,
    )
    for (row, column), value in np.ndenumerate(period_drifts):
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if value > 1.4 * STABILITY_INDEX_MAX else "#1d2529",
        )
    last_period = len(report.period_starts) - 1
    labels = [
        f"{to_iso(start)[5:10]}{' later' if period == last_period else ''}"
        for period, start in enumerate(report.period_starts)
    ]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(signals)), [signal.name for signal in signals])
    axes.set_title("Drift (PSI) since the first period", fontsize=10)


def _draw_charts(report: SignalReport) -> list[Markup]:
    height = 0.24 * len(report.signals) + 1.2
    charts = []
    for draw, width in ((_draw_importance, 8.5), (_draw_tree, 7.5), (_draw_drift, 7.0)):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots(), report)
        charts.append(to_svg(clean_axes(figure)))
    return charts
