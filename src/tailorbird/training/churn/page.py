"""HTML report of a churn model: metrics, reliability, lift, and the value of contacting people."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from tailorbird.events import to_iso
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.training.churn.contact import ContactCurve
from tailorbird.training.churn.evaluation import OURS, CutMetrics
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.report import page
from tailorbird.training.report.page import MUTED_COLOUR, clean_axes, render_table, to_svg

if TYPE_CHECKING:
    from tailorbird.training.churn.report import ChurnReport

SHOWN = ("auc", "ap", "log_loss", "lift_10", "calibration_error_debiased", "mae", "bias")
COLOURS = ("#b3541e", "#5b6ea8", "#8a6d3b", "#9aa5ab", "#6b8f71")


def write_page(path: Path, report: "ChurnReport", churn: Churn) -> Path:
    """Write the page and return its path."""
    last = report.last
    parts = [
        _head(report),
        _figures(last),
        _origins(report.figures),
        _contact(report.curve, churn, len(last.cut.churned)),
        "<h2>Are the probabilities right?</h2>",
        page.calibration_table(["people with", "people", "predicted", "gone"], last.slices),
        to_svg(page.reliability_chart(last.calibration, 1, "P(gone)", "gone")),
        "<h2>What was learned</h2>",
        f"<p>{escape(report.choice.description)}</p>",
        to_svg(page.importance_chart(report.importance, "Share of what was learned, by column")),
    ]
    return page.write_page(path, f"{report.version} · {churn.name}", parts)


def _head(report: "ChurnReport") -> str:
    verdict = (
        "goes live"
        if report.promoted
        else "passed the gate"
        if report.decision.promote
        else "is kept, not promoted"
    )
    kind = "" if report.decision.promote else " kept"
    details = "".join(
        f"<li>{escape(reason)}</li>" for reason in (*report.decision.reasons[1:], *report.notes)
    )
    cut = report.last.cut
    return (
        f"<h1>{escape(report.version)}, churn model {escape(report.about['churn'])}</h1>"
        f'<p class="verdict{kind}">{escape(report.version)} {verdict}: '
        f"{escape(report.decision.reason)}</p><ul>{details}</ul>"
        f'<p class="soft">Gone: {escape(report.about["definition"])}. At '
        f"{to_iso(cut.scores.window.origin)[:16]} UTC "
        f"{len(cut.churned):,} people were asked about, of whom {cut.churned.mean():.1%} were gone.</p>"
    )


def _figures(last: CutMetrics) -> str:
    rows = []
    for name, figures in sorted(
        last.results.items(), key=lambda entry: _sort_last(entry[1]["log_loss"].value)
    ):
        rows.append(
            ([escape(name), *(_cell(figures.get(figure)) for figure in SHOWN)], name == OURS)
        )
    intro = (
        "At the last origin, by what was known then; 95 % intervals from resampling people. "
        "log loss: less is better."
    )
    return f"<h2>Beside the baselines</h2><p class='soft'>{intro}</p>{render_table(['', *SHOWN], rows)}"


def _origins(figures: Sequence[CutMetrics]) -> str:
    rows = []
    for each in figures:
        best, loss = each.best_baseline("auc"), each.best_baseline("log_loss")
        best_cells = [
            f"{name} {each.results[name][figure].value:.4f}"
            for name, figure in ((best, "auc"), (loss, "log_loss"))
        ]
        our_cells = [f"{each.results[OURS][figure].value:.4f}" for figure in ("auc", "log_loss")]
        window, model = each.cut.scores.window, each.cut.choice.model
        rows.append(
            (
                [
                    to_iso(window.origin)[:10],
                    f"{len(each.cut.churned):,}",
                    escape(model),
                    our_cells[0],
                    best_cells[0],
                    our_cells[1],
                    best_cells[1],
                ],
                False,
            )
        )
    header = ["origin", "people", "model", "AUC", "best baseline", "log loss", "best baseline"]
    return (
        f"<h2>Origin after origin</h2>{render_table(header, rows)}{to_svg(_auc_by_origin(figures))}"
    )


def _contact(curve: ContactCurve, churn: Churn, people: int) -> str:
    contact, best = churn.contact, curve.best_k
    advice = (
        f"A contact costs {contact.cost:g}, one who stays is worth {contact.value:g}, and a "
        f"contact keeps {contact.success:.0%} of those "
        f"who would leave: then contact the first {best:,} of {people:,}"
    )
    if best:
        advice += (
            f", expected to bring {curve.expected[best - 1]:,.0f}; by who left it would have "
            f"been {curve.realised[best - 1]:,.0f}."
        )
    else:
        advice += ": no contact is worth its cost."
    caution = (
        "That share is what you said, not what was found: measure it by leaving some of them alone."
    )
    pictures = to_svg(_lift(curve)) + to_svg(_value(curve))
    return f"<h2>Whom to contact</h2><p>{advice}</p><p class='soft'>{caution}</p>{pictures}"


def _auc_by_origin(figures: Sequence[CutMetrics]) -> Figure:
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    days = [to_iso(each.cut.scores.window.origin)[2:10] for each in figures]
    for position, name in enumerate(figures[0].results):
        colour = page.HIGHLIGHT_COLOUR if name == OURS else COLOURS[position % len(COLOURS)]
        axes.plot(
            days,
            [each.results[name]["auc"].value for each in figures],
            "o-",
            color=colour,
            label=name,
            markersize=3,
        )
    axes.set_title("AUC by origin", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return clean_axes(figure)


def _lift(curve: ContactCurve) -> Figure:
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.subplots()
    share = np.arange(1, len(curve.recall) + 1) / len(curve.recall)
    axes.plot(share, curve.recall, color=page.HIGHLIGHT_COLOUR)
    axes.plot([0, 1], [0, 1], color=MUTED_COLOUR, linewidth=1)
    axes.set_xlabel("share of people contacted")
    axes.set_ylabel("share of all who leave")
    axes.set_title("Lift curve", fontsize=10)
    return clean_axes(figure)


def _value(curve: ContactCurve) -> Figure:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    k = np.arange(1, len(curve.expected) + 1)
    axes.plot(k, curve.expected, color=page.HIGHLIGHT_COLOUR, label="expected")
    axes.plot(k, curve.realised, color=MUTED_COLOUR, label="by who left")
    if curve.best_k:
        axes.axvline(curve.best_k, color=MUTED_COLOUR, linewidth=0.8, linestyle="--")
    axes.set_xlabel("people contacted")
    axes.set_title("Value of contacting the first k", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return clean_axes(figure)


def _cell(interval: Interval | None) -> str:
    if interval is None or not np.isfinite(interval.value):
        return "–"
    spread = (
        f" <small>{interval.low:.4f} … {interval.high:.4f}</small>"
        if np.isfinite(interval.low)
        else ""
    )
    return f"{interval.value:.4f}{spread}"


def _sort_last(value: float) -> float:
    """Return a sort key that puts NaN last."""
    return value if np.isfinite(value) else np.inf
