"""The report of a training: one HTML file without anything from the net, tables with intervals and
pictures as inline SVG.

What stands in it is what `TrainReport` holds; nothing is computed here but pictures.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tailorbird.training.architecture import HeadModel
from tailorbird.training.bootstrap import Interval
from tailorbird.training.judge import PRIMARY, Evaluation, HeadFigures
from tailorbird.training.page import (
    OTHERS,
    OURS,
    calibration_table,
    importance,
    picture,
    plain,
    reliability,
    spread_of,
    table,
    write_page,
)
from tailorbird.training.pareto import pareto_picture
from tailorbird.training.serving_cost import ITEMS
from tailorbird.training.settings import TrainReport

COLUMNS_SHOWN = 25


def write_report(path: Path, report: TrainReport, models: Mapping[str, HeadModel]) -> Path:
    """Write the page and return its path."""
    parts = [
        _head(report),
        _figures(report.evaluation),
        _slices(report.evaluation),
        _cold(report.evaluation),
        _costs(report),
        *(_of_head(name, report.evaluation, model) for name, model in models.items()),
        _facts(report),
    ]
    return write_page(path, f"{report.version} · {report.about['slot']}", parts)


def _head(report: TrainReport) -> str:
    verdict = (
        "goes live"
        if report.promoted
        else "passed the gate"
        if report.decision.promote
        else "is kept, not promoted"
    )
    kind = "" if report.decision.promote else " kept"
    more = "".join(
        f"<li>{escape(reason)}</li>" for reason in (*report.decision.reasons[1:], *report.notes)
    )
    window = report.about["window_text"]
    evaluation = report.evaluation
    return (
        f"<h1>{escape(report.version)}, ranker of slot {escape(report.about['slot'])}</h1>"
        f'<p class="verdict{kind}">{escape(report.version)} {verdict}: '
        f"{escape(report.decision.reason)}</p><ul>{more}</ul>"
        f'<p class="soft">Learned from {window["from"][:16]} to '
        f"{window['train_until'][:16]}, judged on {window['test_from'][:16]} to "
        f"{window['test_to'][:16]} UTC: {evaluation.requests:,} requests with something to "
        f"find, by {evaluation.people:,} people.</p>"
    )


def _figures(evaluation: Evaluation) -> str:
    names = list(next(iter(evaluation.figures.values())))
    ordered = sorted(evaluation.figures, key=lambda name: -evaluation.figures[name][PRIMARY].value)
    rows = []
    for name in ordered:
        gain = evaluation.differences.get(name)
        told = "" if gain is None else gain.marked
        figures = evaluation.figures[name]
        cells = [
            escape(name),
            *(_cell(figures[figure]) if figure in figures else "–" for figure in names),
            told,
        ]
        rows.append((cells, name == evaluation.model))
    compared = table(["", *names, f"gain of {evaluation.model} in {PRIMARY}"], rows)
    intro = "95 % intervals from resampling people; differences are paired over the same requests."
    return (
        "<h2>Beside the baselines</h2><p "
        f"class='soft'>{intro}</p>{compared}{picture(_compared(evaluation, ordered))}"
    )


def _slices(evaluation: Evaluation) -> str:
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
    return f"<h2>For whom</h2>{table(['slice', 'requests', evaluation.model, best or '–'], rows)}"


def _cold(evaluation: Evaluation) -> str:
    """Cold start: the curves of people and of items, as tables and as one picture."""
    if not any(evaluation.cold.values()):
        return ""
    best = evaluation.best_baseline
    tables = []
    for of, steps in evaluation.cold.items():
        rows = []
        for step in steps:
            theirs = _cell(step.figures[best]) if best else ""
            rows.append(
                (
                    [
                        step.events,
                        f"{step.requests:,}",
                        _cell(step.figures[evaluation.model]),
                        theirs,
                    ],
                    False,
                )
            )
        tables.append(
            f"<h3>By events of {of}</h3>"
            + table(["events before", "requests", evaluation.model, best or "–"], rows)
        )
    intro = (
        f"{PRIMARY} by how many events of the person, and of the item that was chosen, there "
        "were before the request."
    )
    return (
        "<h2>Cold start</h2><p "
        f"class='soft'>{intro}</p>{''.join(tables)}{picture(_curves(evaluation))}"
    )


def _curves(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    for axes, (of, steps) in zip(
        figure.subplots(1, len(evaluation.cold), sharey=True), evaluation.cold.items(), strict=True
    ):
        for name, colour in ((evaluation.model, OURS), (evaluation.best_baseline, OTHERS)):
            if name:
                axes.plot(
                    [step.events for step in steps],
                    [step.figures[name].value for step in steps],
                    "o-",
                    color=colour,
                    label=name,
                )
        axes.set_title(f"events of {of}", fontsize=10)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=8)
    return plain(figure)


def _costs(report: TrainReport) -> str:
    """Quality beside cost, and whether the model is worth its time."""
    if not report.priced:
        return ""
    ours = next(one for one in report.priced if one["name"] == report.evaluation.model)
    verdict = (
        f"{ours['better']} is at least as good and costs less"
        if ours["better"]
        else f"{ours['name']} lies on the front"
    )
    rows = []
    for one in report.priced:
        told = "yes" if one["on_front"] else escape(one["better"])
        rows.append(
            ([escape(one["name"]), f"{one['us']:,.0f}", f"{one[PRIMARY]:.4f}", told], one is ours)
        )
    compared = table(
        ["", f"µs for {ITEMS} candidates", PRIMARY, "on the front, or what is better"], rows
    )
    intro = (
        "One thread of the machine that trained. Reading the features of a request comes on "
        "top for every model alike."
    )
    drawn = picture(pareto_picture(report.priced, report.evaluation.model))
    return f"<h2>What it costs: {escape(verdict)}</h2><p class='soft'>{intro}</p>{compared}{drawn}"


def _of_head(name: str, evaluation: Evaluation, model: HeadModel) -> str:
    head, amount = evaluation.heads.get(name), evaluation.amounts.get(name)
    share = (
        "Share of the gain by column"
        if model.unit == "trees"
        else "Share of what moves when a column is shuffled"
    )
    pictures = [picture(importance(model.importance(), share)), picture(_curve(model))]
    figures_told = ""
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
        figures_told = table(["figure", "value"], rows)
        if head.slices:
            figures_told += calibration_table(
                ["slice", "rows", "predicted", "happened"], head.slices
            )
        pictures.insert(0, picture(_reliability(head)))
    if amount is not None:
        figures_told = table(
            ["figure", "value"],
            [([label, value], False) for label, value in amount.cells().items()],
        )
    return f"<h2>Head {escape(name)}</h2>{figures_told}{''.join(pictures)}"


def _facts(report: TrainReport) -> str:
    rows = [([escape(key), escape(value)], False) for key, value in _flattened(report.about)]
    rows += [
        ([f"rows of {escape(part)}", f"{count:,}"], False) for part, count in report.rows.items()
    ]
    rows += [
        ([f"seconds, {escape(stage)}", f"{seconds:.1f}"], False)
        for stage, seconds in report.seconds.items()
    ]
    return f"<h2>What to know</h2>{table(['', ''], rows)}"


def _compared(evaluation: Evaluation, ordered: Sequence[str]) -> Figure:
    figure = Figure(figsize=(6.4, 0.34 * len(ordered) + 0.8), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(reversed(ordered)):
        interval = evaluation.figures[name][PRIMARY]
        colour = OURS if name == evaluation.model else OTHERS
        axes.plot(
            [interval.low, interval.high],
            [place, place],
            color=colour,
            linewidth=3,
            solid_capstyle="round",
        )
        axes.plot([interval.value], [place], "o", color=colour)
    axes.set_yticks(range(len(ordered)), list(reversed(ordered)))
    axes.set_title(f"{PRIMARY} on the test part, 95 % intervals", fontsize=10)
    return plain(figure)


def _reliability(head: HeadFigures) -> Figure:
    bins = head.calibration
    filled = bins.count > 0
    top = float(
        np.nanmax([bins.predicted[filled].max(), (bins.observed + spread_of(bins))[filled].max()])
    )
    return reliability(bins, top, "predicted", "happened")


def _curve(model: HeadModel) -> Figure:
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, series in model.curve.items():
        axes.plot(
            np.arange(1, len(series) + 1),
            series,
            color=OURS if name == "validation" else OTHERS,
            label=name,
        )
    axes.axvline(model.steps, color=OTHERS, linewidth=0.8, linestyle="--")
    axes.set_xlabel(model.unit)
    axes.set_title(f"Learning curve; {model.steps} {model.unit} kept", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return plain(figure)


def _cell(interval: Interval) -> str:
    if interval.value != interval.value:
        return "–"
    spread = f" <small>{interval.low:.4f} … {interval.high:.4f}</small>" if interval.known else ""
    return f"{interval.value:.4f}{spread}"


def _flattened(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            rows += _flattened(entry, f"{prefix}{key}: ")
        elif key != "window":
            rows.append(
                (
                    f"{prefix}{key}",
                    ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry),
                )
            )
    return rows
