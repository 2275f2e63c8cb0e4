"""Report of a column ranking: an overview chart as PNG, and a page with tables and charts."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram

from tailorbird.events import to_iso
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.evaluation.figures import PRIMARY
from tailorbird.training.report.page import (
    HIGHLIGHT_COLOUR,
    MUTED_COLOUR,
    clean_axes,
    render_table,
    to_svg,
    write_page,
)
from tailorbird.training.report.serving_cost import GROUPS, ITEMS
from tailorbird.training.selection.redundancy import NEARNESS_MIN
from tailorbird.training.selection.signals import SignalReport
from tailorbird.training.selection.stability import UNSTABLE
from tailorbird.training.selection.verdicts import (
    DRIFTING,
    LEAK,
    NULL,
    REDUNDANT,
    SIGNAL,
    UNDECIDED,
    Signal,
)

COLOURS = {
    SIGNAL: HIGHLIGHT_COLOUR,
    NULL: MUTED_COLOUR,
    REDUNDANT: "#5b7fb5",
    DRIFTING: "#c98a1b",
    LEAK: "#b3241e",
    UNDECIDED: "#8a8a8a",
}


def write_signals(folder: Path, report: SignalReport, commands: Sequence[str]) -> tuple[Path, Path]:
    """Write `signals.html`, `signals.png` and `signals.json`; return the paths of page and chart.

    Args:
        commands: lines that apply the proposal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "signals.png"
    overview_figure(report).savefig(image, dpi=130, metadata={"Software": None})
    (folder / "signals.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=1)
    )
    parts = [
        _summary(report),
        _signals_section(report),
        _charts_section(report),
        _steps_section(report),
        _commands_section(commands),
        _facts_section(report),
    ]
    return write_page(
        folder / "signals.html", f"Signals for {report.target}, slot {report.about['slot']}", parts
    ), image


def overview_figure(report: SignalReport) -> Figure:
    """Draw importance, clusters and drift side by side."""
    count = len(report.signals)
    figure = Figure(figsize=(17, 0.26 * count + 1.4), layout="constrained")
    importance, tree, drift = figure.subplots(1, 3, width_ratios=[1.25, 1.0, 0.9])
    _draw_importance(importance, report)
    _draw_tree(tree, report)
    _draw_drift(drift, report)
    return clean_axes(figure)


def _draw_importance(axes: Axes, report: SignalReport) -> None:
    shown = list(reversed(report.signals))
    for row, signal in enumerate(shown):
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
    axes.set_yticks(range(len(shown)), [signal.name for signal in shown])
    for label, signal in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(COLOURS[signal.verdict])
    for verdict in COLOURS:
        if any(signal.verdict == verdict for signal in shown):
            axes.plot([], [], "o", color=COLOURS[verdict], label=verdict)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_title(f"Drop of {PRIMARY} on later data when permuted, 95 % intervals", fontsize=10)


def _draw_tree(axes: Axes, report: SignalReport) -> None:
    clusters = report.clusters
    if len(clusters.tree):
        dendrogram(
            clusters.tree,
            labels=list(report.columns),
            orientation="left",
            ax=axes,
            color_threshold=1 - NEARNESS_MIN,
            above_threshold_color=MUTED_COLOUR,
            leaf_font_size=8,
        )
    axes.axvline(1 - NEARNESS_MIN, color="#b3541e", linewidth=0.8, linestyle="--")
    axes.set_title("Distance of columns; left of the line they stay apart", fontsize=10)


def _draw_drift(axes: Axes, report: SignalReport) -> None:
    shown = list(report.signals)
    values = np.array([signal.drifts for signal in shown])
    axes.imshow(
        np.minimum(values, 2 * UNSTABLE), aspect="auto", cmap="YlOrBr", vmin=0, vmax=2 * UNSTABLE
    )
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if value > 1.4 * UNSTABLE else "#1d2529",
        )
    last = len(report.periods) - 1
    labels = [
        f"{to_iso(start)[5:10]}{' later' if period == last else ''}"
        for period, start in enumerate(report.periods)
    ]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(shown)), [signal.name for signal in shown])
    axes.set_title("Drift (PSI) since the first period", fontsize=10)


def _summary(report: SignalReport) -> str:
    subset, parts = report.subset, report.about["parts"]
    sentence = (
        f"{len(subset.keep)} of {len(report.signals)} columns are proposed to stay. On "
        "requests that had no say in the choice, "
        f"{PRIMARY} is {subset.subset} with them and {subset.full} with all: it loses "
        f"{subset.loss}."
    )
    saved = _savings_note(subset.about)
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    windows = "; ".join(
        f"{name}: {part['with_something_to_find']:,} requests with something to find, "
        f"{part['from'][:16]} to {part['to'][:16]}"
        for name, part in parts.items()
    )
    return (
        f"<h1>Signals for {escape(report.target)}, slot {escape(report.about['slot'])}</h1>"
        f'<p class="verdict">{escape(sentence)} {escape(saved)}</p><ul>{notes}</ul><p '
        f'class="soft">{escape(windows)}.</p>'
    )


def _savings_note(about: Mapping[str, object]) -> str:
    if "read_us" not in about:
        return ""
    return (
        f"A request reads {about['request_bytes_subset']:,} bytes of records instead of "
        f"{about['request_bytes']:,}, "
        f"in {about['read_us_subset']:,.0f} µs instead of {about['read_us']:,.0f}."
    )


def _signals_section(report: SignalReport) -> str:
    header = [
        "column",
        "verdict",
        "importance",
        "null z",
        "gain",
        "information, mbit",
        "z",
        "drift",
        "missing",
        "bytes",
        "finish, µs",
        "why",
    ]
    rows = [(_cells(signal), signal.verdict == SIGNAL) for signal in report.signals]
    text = (
        f"Importance: drop of {PRIMARY} on later data when the column is permuted, within "
        "requests or, where it is the same for all "
        "items of one, among requests (marked †). Null z: gain of small trees against "
        "labels shuffled within requests. Information: "
        "with the target, less what shuffling leaves. Drift: the worst of the periods. "
        "Bytes: of all reading records of a request "
        f"with {ITEMS} items and {GROUPS} groups that only this column needs. Finish: making "
        f"the column for {ITEMS} items from records "
        f"that were read."
    )
    return f"<h2>Columns</h2><p class='soft'>{escape(text)}</p>{render_table(header, rows)}"


def _cells(signal: Signal) -> list[str]:
    finish = f"{signal.finish_us:.1f}" if np.isfinite(signal.finish_us) else "–"
    return [
        escape(signal.name) + (" †" if signal.of_request else ""),
        f'<span style="color:{COLOURS[signal.verdict]}">{escape(signal.verdict)}</span>',
        _interval(signal.importance),
        f"{signal.null_z:.1f}",
        f"{signal.gain:.1%}",
        f"{1000 * signal.bits:.2f}",
        f"{signal.bits_z:.1f}",
        f"{signal.drift:.2f}",
        f"{signal.missing:.0%}",
        f"{signal.request_bytes:,}",
        finish,
        "yes" if signal.kept else "no",
        f"<small>{escape(signal.why)}</small>",
    ]


def _interval(interval: Interval) -> str:
    if not np.isfinite(interval.value):
        return "–"
    return interval.signed_html


def _charts_section(report: SignalReport) -> str:
    size = 0.24 * len(report.signals) + 1.2
    charts = []
    for draw, width in ((_draw_importance, 8.5), (_draw_tree, 7.5), (_draw_drift, 7.0)):
        figure = Figure(figsize=(width, size), layout="constrained")
        draw(figure.subplots(), report)
        charts.append(to_svg(clean_axes(figure)))
    return f"<h2>Pictures</h2>{''.join(charts)}"


def _steps_section(report: SignalReport) -> str:
    rows = [
        (
            [
                escape(step.reason),
                escape(", ".join(step.columns)),
                _interval(step.loss),
                "out" if step.is_removed else "stays",
            ],
            False,
        )
        for step in report.subset.steps
    ]
    text = (
        "Loss of all that is out by then, on the part that is chosen by; what the model cannot "
        "do without there stays."
    )
    return (
        "<h2>How the subset came about</h2><p "
        f"class='soft'>{text}</p>{render_table(['step', 'columns', 'loss', ''], rows)}"
        if rows
        else ""
    )


def _commands_section(lines: Sequence[str]) -> str:
    return f"<h2>To do so</h2><pre>{escape(chr(10).join(lines))}</pre>" if lines else ""


def _facts_section(report: SignalReport) -> str:
    rows = [
        ([escape(key), escape(str(value))], False)
        for key, value in report.about.items()
        if key != "parts"
    ]
    return f"<h2>What to know</h2>{render_table(['', ''], rows)}"
