"""Training report: one self-contained HTML file of tables with intervals, and charts as inline SVG.

It shows the contents of `TrainReport`; nothing but charts is computed here.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.evaluation.figures import PRIMARY, Evaluation, HeadFigures
from tailorbird.training.fit.heads import HeadModel
from tailorbird.training.report.page import (
    HIGHLIGHT_COLOUR,
    MUTED_COLOUR,
    calibration_table,
    clean_axes,
    importance_chart,
    interval_half_width,
    reliability_chart,
    render_table,
    to_svg,
    write_page,
)
from tailorbird.training.report.pareto import pareto_chart
from tailorbird.training.report.serving_cost import ITEMS
from tailorbird.training.settings import TrainReport

COLUMNS_SHOWN = 25


def write_report(path: Path, report: TrainReport, models: Mapping[str, HeadModel]) -> Path:
    """Write the report page and return its path."""
    parts = [
        _summary(report),
        _figures_section(report.evaluation),
        _slices_section(report.evaluation),
        _cold_start_section(report.evaluation),
        _costs_section(report),
        *(_head_section(name, report.evaluation, model) for name, model in models.items()),
        _facts_section(report),
    ]
    return write_page(path, f"{report.version} · {report.about['slot']}", parts)


def _summary(report: TrainReport) -> str:
    verdict = (
        "goes live"
        if report.promoted
        else "passed the gate"
        if report.decision.promote
        else "is kept, not promoted"
    )
    kind = "" if report.decision.promote else " kept"
    notes = "".join(
        f"<li>{escape(reason)}</li>" for reason in (*report.decision.reasons[1:], *report.notes)
    )
    window = report.about["window_text"]
    evaluation = report.evaluation
    return (
        f"<h1>{escape(report.version)}, ranker of slot {escape(report.about['slot'])}</h1>"
        f'<p class="verdict{kind}">{escape(report.version)} {verdict}: '
        f"{escape(report.decision.reason)}</p><ul>{notes}</ul>"
        f'<p class="soft">Learned from {window["from"][:16]} to '
        f"{window['train_until'][:16]}, judged on {window['test_from'][:16]} to "
        f"{window['test_to'][:16]} UTC: {evaluation.requests:,} requests with something to "
        f"find, by {evaluation.people:,} people.</p>"
    )


def _figures_section(evaluation: Evaluation) -> str:
    names = list(next(iter(evaluation.figures.values())))
    ordered = sorted(evaluation.figures, key=lambda name: -evaluation.figures[name][PRIMARY].value)
    rows = []
    for name in ordered:
        gain = evaluation.differences.get(name)
        gain_cell = "" if gain is None else gain.signed_html
        figures = evaluation.figures[name]
        cells = [
            escape(name),
            *(_cell(figures[figure]) if figure in figures else "–" for figure in names),
            gain_cell,
        ]
        rows.append((cells, name == evaluation.model))
    compared = render_table(["", *names, f"gain of {evaluation.model} in {PRIMARY}"], rows)
    intro = "95 % intervals from resampling people; differences are paired over the same requests."
    return (
        "<h2>Beside the baselines</h2><p "
        f"class='soft'>{intro}</p>{compared}{to_svg(_comparison_chart(evaluation, ordered))}"
    )


def _slices_section(evaluation: Evaluation) -> str:
    best = evaluation.best_baseline
    rows = [
        (
            [
                escape(name),
                f"{count:,}",
                _cell(figures[evaluation.model]),
                _cell(figures[best]) if best else "",
            ],
            False,
        )
        for name, (count, figures) in evaluation.slices.items()
    ]
    return f"<h2>For whom</h2>{render_table(['slice', 'requests', evaluation.model, best or '–'], rows)}"


def _cold_start_section(evaluation: Evaluation) -> str:
    """Render the cold-start curves of users and items, as tables and one chart."""
    if not any(evaluation.cold.values()):
        return ""
    best = evaluation.best_baseline
    tables = []
    for subject, steps in evaluation.cold.items():
        rows = []
        for step in steps:
            baseline_cell = _cell(step.figures[best]) if best else ""
            rows.append(
                (
                    [
                        step.events,
                        f"{step.requests:,}",
                        _cell(step.figures[evaluation.model]),
                        baseline_cell,
                    ],
                    False,
                )
            )
        tables.append(
            f"<h3>By events of {subject}</h3>"
            + render_table(["events before", "requests", evaluation.model, best or "–"], rows)
        )
    intro = (
        f"{PRIMARY} by how many events of the person, and of the item that was chosen, there "
        "were before the request."
    )
    return (
        "<h2>Cold start</h2><p "
        f"class='soft'>{intro}</p>{''.join(tables)}{to_svg(_cold_start_chart(evaluation))}"
    )


def _cold_start_chart(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    for axes, (subject, steps) in zip(
        figure.subplots(1, len(evaluation.cold), sharey=True), evaluation.cold.items(), strict=True
    ):
        for name, colour in (
            (evaluation.model, HIGHLIGHT_COLOUR),
            (evaluation.best_baseline, MUTED_COLOUR),
        ):
            if name:
                axes.plot(
                    [step.events for step in steps],
                    [step.figures[name].value for step in steps],
                    "o-",
                    color=colour,
                    label=name,
                )
        axes.set_title(f"events of {subject}", fontsize=10)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=8)
    return clean_axes(figure)


def _costs_section(report: TrainReport) -> str:
    """Render quality against cost, and whether the model is worth its cost."""
    if not report.priced:
        return ""
    own_price = next(price for price in report.priced if price["name"] == report.evaluation.model)
    verdict = (
        f"{own_price['better']} is at least as good and costs less"
        if own_price["better"]
        else f"{own_price['name']} lies on the front"
    )
    rows = []
    for entry in report.priced:
        front_cell = "yes" if entry["on_front"] else escape(entry["better"])
        rows.append(
            (
                [escape(entry["name"]), f"{entry['us']:,.0f}", f"{entry[PRIMARY]:.4f}", front_cell],
                entry is own_price,
            )
        )
    compared = render_table(
        ["", f"µs for {ITEMS} candidates", PRIMARY, "on the front, or what is better"], rows
    )
    intro = (
        "One thread of the machine that trained. Reading the features of a request comes on "
        "top for every model alike."
    )
    chart = to_svg(pareto_chart(report.priced, report.evaluation.model))
    return f"<h2>What it costs: {escape(verdict)}</h2><p class='soft'>{intro}</p>{compared}{chart}"


def _head_section(name: str, evaluation: Evaluation, model: HeadModel) -> str:
    head, amount = evaluation.heads.get(name), evaluation.amounts.get(name)
    share = (
        "Share of the gain by column"
        if model.unit == "trees"
        else "Share of what moves when a column is shuffled"
    )
    pictures = [
        to_svg(importance_chart(model.importance(), share)),
        to_svg(_learning_curve_chart(model)),
    ]
    figures_table = ""
    if head is not None:
        figures = {
            "AUC": head.auc,
            "log loss": head.log_loss,
            "calibration error": head.calibration_error,
        }
        rows = [([label, _cell(figure)], False) for label, figure in figures.items()]
        rows.append((["log loss of always the mean", f"{head.log_loss_mean:.4f}"], False))
        rows.append((["calibration error, debiased", f"{head.calibration.debiased:.4f}"], False))
        rows.append((["positives of rows", f"{head.positives:,} of {head.rows:,}"], False))
        figures_table = render_table(["figure", "value"], rows)
        if head.slices:
            figures_table += calibration_table(
                ["slice", "rows", "predicted", "happened"], head.slices
            )
        pictures.insert(0, to_svg(_head_reliability_chart(head)))
    if amount is not None:
        figures_table = render_table(
            ["figure", "value"],
            [([label, value], False) for label, value in amount.cells().items()],
        )
    return f"<h2>Head {escape(name)}</h2>{figures_table}{''.join(pictures)}"


def _facts_section(report: TrainReport) -> str:
    rows = [([escape(key), escape(value)], False) for key, value in _flatten(report.about)]
    rows += [
        ([f"rows of {escape(part)}", f"{count:,}"], False) for part, count in report.rows.items()
    ]
    rows += [
        ([f"seconds, {escape(stage)}", f"{seconds:.1f}"], False)
        for stage, seconds in report.seconds.items()
    ]
    return f"<h2>What to know</h2>{render_table(['', ''], rows)}"


def _comparison_chart(evaluation: Evaluation, ordered: Sequence[str]) -> Figure:
    figure = Figure(figsize=(6.4, 0.34 * len(ordered) + 0.8), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(reversed(ordered)):
        interval = evaluation.figures[name][PRIMARY]
        colour = HIGHLIGHT_COLOUR if name == evaluation.model else MUTED_COLOUR
        axes.plot(
            [interval.low, interval.high],
            [row, row],
            color=colour,
            linewidth=3,
            solid_capstyle="round",
        )
        axes.plot([interval.value], [row], "o", color=colour)
    axes.set_yticks(range(len(ordered)), list(reversed(ordered)))
    axes.set_title(f"{PRIMARY} on the test part, 95 % intervals", fontsize=10)
    return clean_axes(figure)


def _head_reliability_chart(head: HeadFigures) -> Figure:
    bins = head.calibration
    filled = bins.count > 0
    top = float(
        np.nanmax(
            [
                bins.predicted[filled].max(),
                (bins.observed + interval_half_width(bins))[filled].max(),
            ]
        )
    )
    return reliability_chart(bins, top, "predicted", "happened")


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


def _cell(interval: Interval) -> str:
    if interval.value != interval.value:
        return "–"
    spread = (
        f" <small>{interval.low:.4f} … {interval.high:.4f}</small>" if interval.has_bounds else ""
    )
    return f"{interval.value:.4f}{spread}"


def _flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            rows += _flatten(entry, f"{prefix}{key}: ")
        elif key != "window":
            rows.append(
                (
                    f"{prefix}{key}",
                    ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry),
                )
            )
    return rows
