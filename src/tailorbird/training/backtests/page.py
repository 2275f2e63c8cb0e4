"""HTML and JSON report of a validation: findings, metrics over all origins, slices."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure

from tailorbird.training.backtests.report import ComparisonTest, ValidationReport
from tailorbird.training.backtests.run import NAME
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.evaluation.figures import PRIMARY
from tailorbird.training.report.page import (
    HIGHLIGHT_COLOUR,
    MUTED_COLOUR,
    calibration_table,
    clean_axes,
    render_table,
    splits_table,
    to_svg,
    write_page,
)

_LEAK = "#b3541e"


def write_validation(folder: Path, report: ValidationReport) -> Path:
    """Write `validation-SLOT.html` and its JSON, and return the page's path."""
    page = folder / f"validation-{report.slot}.html"
    parts = [
        _head(report),
        _figures(report),
        _tests(report),
        _slices(report),
        _gaps(report),
        _heads(report),
        _facts(report),
    ]
    write_page(page, f"Validation of slot {report.slot}", parts)
    page.with_suffix(".json").write_bytes(
        msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=1) + b"\n"
    )
    return page


def _head(report: ValidationReport) -> str:
    leaks = len({one.subject for one in report.leaks})
    verdict = (
        f"{leaks} leaks: no figure here can be believed before they are mended"
        if leaks
        else "no leak was found"
    )
    listed = "".join(
        f"<li><b>{escape(one.subject)}</b>{' (leak)' if one in report.leaks else ''}: "
        f"{escape(one.why)}</li>"
        for one in report.findings
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return (
        f"<h1>Validation of slot {escape(report.slot)}</h1><p "
        f'class="verdict{" kept" if leaks else ""}">{verdict}</p>'
        f"{f'<p><b>{escape(report.substitution)}.</b></p>' if report.substitution else ''}"
        f"<ul>{listed}{notes}</ul>"
    )


def _figures(report: ValidationReport) -> str:
    evaluation = report.evaluation
    baselines = [NAME, *(one.other for one in report.tests if one.kind == "baseline")]
    names = list(evaluation.figures[NAME])
    ordered = sorted(baselines, key=lambda name: -evaluation.figures[name][PRIMARY].value)
    rows = [
        (
            [escape(name), *(_cell(evaluation.figures[name][figure]) for figure in names)],
            name == NAME,
        )
        for name in ordered
    ]
    origins = len(report.about["splits"])
    intro = (
        f"Over {origins} origins in time: {evaluation.requests:,} requests with something to "
        f"find, by {evaluation.people:,} people. "
        f"Each origin's model ({escape(report.architecture)}) learned from what came before "
        "it alone. "
        "95 % intervals from resampling people."
    )
    return f"<h2>Beside the baselines</h2><p class='soft'>{intro}</p>{render_table(['', *names], rows)}"


def _tests(report: ValidationReport) -> str:
    rows = [
        (
            [
                escape(one.other),
                one.kind,
                one.gain.signed_html,
                _chance(one.p),
                _chance(one.adjusted),
                one.verdict,
            ],
            one.verdict == "behind",
        )
        for one in report.tests
    ]
    header = ["against", "kind", f"gain of {NAME} in {PRIMARY}", "p", "p, Holm", "verdict"]
    intro = "Paired over the same requests. The last p is adjusted for how many tests there are."
    drawn = to_svg(_gains(report.tests)) + (to_svg(_curve(report)) if report.curve else "")
    return (
        "<h2>Against others, and against itself</h2><p "
        f"class='soft'>{intro}</p>{render_table(header, rows)}{drawn}"
    )


def _gains(tests: Sequence[ComparisonTest]) -> Figure:
    figure = Figure(figsize=(6.4, 0.26 * len(tests) + 0.9), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(reversed(tests)):
        colour = (
            HIGHLIGHT_COLOUR
            if one.verdict == "ahead"
            else _LEAK
            if one.verdict == "behind"
            else MUTED_COLOUR
        )
        axes.plot(
            [one.gain.low, one.gain.high],
            [place, place],
            color=colour,
            linewidth=3,
            solid_capstyle="round",
        )
        axes.plot([one.gain.value], [place], "o", color=colour, markersize=4)
    axes.axvline(0, color=MUTED_COLOUR, linewidth=0.8)
    axes.set_yticks(range(len(tests)), [one.other for one in reversed(tests)])
    axes.set_title(f"What {NAME} gains in {PRIMARY}; green after Holm", fontsize=10)
    return clean_axes(figure)


def _curve(report: ValidationReport) -> Figure:
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    shares = list(report.curve)
    values = [report.curve[share] for share in shares]
    spread = np.array([[one.value - one.low, one.high - one.value] for one in values]).T
    axes.errorbar(
        shares,
        [one.value for one in values],
        np.maximum(spread, 0),
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
    axes.set_title(f"Learning curve: {PRIMARY}", fontsize=10)
    return clean_axes(figure)


def _slices(report: ValidationReport) -> str:
    best = best_baseline(report)
    rows = [
        (
            [
                escape(name),
                f"{count:,}",
                _cell(figures[NAME]),
                _cell(figures[best]) if best else "",
            ],
            False,
        )
        for name, (count, figures) in report.evaluation.slices.items()
    ]
    intro = (
        "Long tail: what lies outside the most popular fifth before the origin. New items: "
        "nobody had chosen them before it."
    )
    return (
        "<h2>For whom, of what, and when</h2><p "
        f"class='soft'>{intro}</p>{render_table(['slice', 'requests', NAME, best or '–'], rows)}"
    )


def _gaps(report: ValidationReport) -> str:
    rows = []
    for one in report.gaps:
        cells = [
            f"{value:.4f}" if np.isfinite(value) else "–" for value in (*one.auc, *one.log_loss)
        ]
        rows.append(([escape(one.origin), escape(one.head), *cells], False))
    header = [
        "origin",
        "head",
        *(
            f"{figure}, {part}"
            for figure in ("AUC", "log loss")
            for part in ("train", "validation", "test")
        ),
    ]
    intro = (
        "What was learned from, what early stopping and calibration watched, and what came "
        "after both."
    )
    return f"<h2>Over-fit gap</h2><p class='soft'>{intro}</p>{render_table(header, rows)}"


def _heads(report: ValidationReport) -> str:
    parts = []
    for name, head in report.evaluation.heads.items():
        figures = {
            "AUC": head.auc,
            "log loss": head.log_loss,
            "calibration error": head.calibration_error,
        }
        rows = [([label, _cell(figure)], False) for label, figure in figures.items()]
        rows.append((["calibration error, debiased", f"{head.calibration.debiased:.4f}"], False))
        parts.append(f"<h3>{escape(name)}</h3>{render_table(['figure', 'value'], rows)}")
        if head.slices:
            parts.append(calibration_table(["slice", "rows", "predicted", "happened"], head.slices))
    for name, amount in report.evaluation.amounts.items():
        cells = [([label, value], False) for label, value in amount.cells().items()]
        parts.append(f"<h3>{escape(name)}</h3>{render_table(['figure', 'value'], cells)}")
    return f"<h2>Probabilities and amounts</h2>{''.join(parts)}"


def _facts(report: ValidationReport) -> str:
    rows = [
        ([escape(name), escape(str(report.about[name]))], False)
        for name in ("seed", "tuned", "architecture", "settings")
    ]
    return (
        "<h2>What to "
        f"know</h2>{splits_table('origin', report.about['splits'])}{render_table(['', ''], rows)}"
    )


def best_baseline(report: ValidationReport) -> str:
    """Return the baseline with the best metric, or ""."""
    baselines = [one.other for one in report.tests if one.kind == "baseline"]
    return max(
        baselines, key=lambda name: report.evaluation.figures[name][PRIMARY].value, default=""
    )


def _cell(interval: Interval) -> str:
    if not np.isfinite(interval.value):
        return "–"
    return f"{interval.value:.4f}" + (
        f" <small>{interval.low:.4f} … {interval.high:.4f}</small>" if interval.has_bounds else ""
    )


def _chance(p: float) -> str:
    return "–" if not np.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
