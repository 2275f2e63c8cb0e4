"""The report of a churn model: one HTML file with tables, reliability, lift, and what contacting
the top of the list is worth.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from tailorbird.events import to_iso
from tailorbird.ranking.churn import Churn
from tailorbird.training import page
from tailorbird.training.bootstrap import Interval
from tailorbird.training.churn.contact import Curve
from tailorbird.training.churn.judge import OURS, CutFigures
from tailorbird.training.page import OTHERS, picture, plain, table

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
        _contact(report.curve, churn, len(last.cut.gone)),
        "<h2>Are the probabilities right?</h2>",
        page.calibration_table(["people with", "people", "predicted", "gone"], last.slices),
        picture(page.reliability(last.calibration, 1, "P(gone)", "gone")),
        "<h2>What was learned</h2>",
        f"<p>{escape(report.choice.told)}</p>",
        picture(page.importance(report.importance, "Share of what was learned, by column")),
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
    more = "".join(
        f"<li>{escape(reason)}</li>" for reason in (*report.decision.reasons[1:], *report.notes)
    )
    cut = report.last.cut
    return (
        f"<h1>{escape(report.version)}, churn model {escape(report.about['churn'])}</h1>"
        f'<p class="verdict{kind}">{escape(report.version)} {verdict}: '
        f"{escape(report.decision.reason)}</p><ul>{more}</ul>"
        f'<p class="soft">Gone: {escape(report.about["definition"])}. At '
        f"{to_iso(cut.scored.window.origin)[:16]} UTC "
        f"{len(cut.gone):,} people were asked about, of whom {cut.gone.mean():.1%} were gone.</p>"
    )


def _figures(last: CutFigures) -> str:
    rows = []
    for name, figures in sorted(
        last.results.items(), key=lambda entry: _or_last(entry[1]["log_loss"].value)
    ):
        rows.append(
            ([escape(name), *(_cell(figures.get(figure)) for figure in SHOWN)], name == OURS)
        )
    intro = (
        "At the last origin, by what was known then; 95 % intervals from resampling people. "
        "log loss: less is better."
    )
    return f"<h2>Beside the baselines</h2><p class='soft'>{intro}</p>{table(['', *SHOWN], rows)}"


def _origins(figures: Sequence[CutFigures]) -> str:
    rows = []
    for each in figures:
        best, loss = each.best("auc"), each.best("log_loss")
        told = [
            f"{name} {each.results[name][figure].value:.4f}"
            for name, figure in ((best, "auc"), (loss, "log_loss"))
        ]
        ours = [f"{each.results[OURS][figure].value:.4f}" for figure in ("auc", "log_loss")]
        window, model = each.cut.scored.window, each.cut.choice.model
        rows.append(
            (
                [
                    to_iso(window.origin)[:10],
                    f"{len(each.cut.gone):,}",
                    escape(model),
                    ours[0],
                    told[0],
                    ours[1],
                    told[1],
                ],
                False,
            )
        )
    header = ["origin", "people", "model", "AUC", "best baseline", "log loss", "best baseline"]
    return f"<h2>Origin after origin</h2>{table(header, rows)}{picture(_lines(figures))}"


def _contact(curve: Curve, churn: Churn, people: int) -> str:
    contact, best = churn.contact, curve.best
    told = (
        f"A contact costs {contact.cost:g}, one who stays is worth {contact.value:g}, and a "
        f"contact keeps {contact.success:.0%} of those "
        f"who would leave: then contact the first {best:,} of {people:,}"
    )
    if best:
        told += (
            f", expected to bring {curve.expected[best - 1]:,.0f}; by who left it would have "
            f"been {curve.realised[best - 1]:,.0f}."
        )
    else:
        told += ": no contact is worth its cost."
    caution = (
        "That share is what you said, not what was found: measure it by leaving some of them alone."
    )
    pictures = picture(_lift(curve)) + picture(_value(curve))
    return f"<h2>Whom to contact</h2><p>{told}</p><p class='soft'>{caution}</p>{pictures}"


def _lines(figures: Sequence[CutFigures]) -> Figure:
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    days = [to_iso(each.cut.scored.window.origin)[2:10] for each in figures]
    for place, name in enumerate(figures[0].results):
        colour = page.OURS if name == OURS else COLOURS[place % len(COLOURS)]
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
    return plain(figure)


def _lift(curve: Curve) -> Figure:
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.subplots()
    share = np.arange(1, len(curve.found) + 1) / len(curve.found)
    axes.plot(share, curve.found, color=page.OURS)
    axes.plot([0, 1], [0, 1], color=OTHERS, linewidth=1)
    axes.set_xlabel("share of people contacted")
    axes.set_ylabel("share of all who leave")
    axes.set_title("Lift curve", fontsize=10)
    return plain(figure)


def _value(curve: Curve) -> Figure:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    k = np.arange(1, len(curve.expected) + 1)
    axes.plot(k, curve.expected, color=page.OURS, label="expected")
    axes.plot(k, curve.realised, color=OTHERS, label="by who left")
    if curve.best:
        axes.axvline(curve.best, color=OTHERS, linewidth=0.8, linestyle="--")
    axes.set_xlabel("people contacted")
    axes.set_title("Value of contacting the first k", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return plain(figure)


def _cell(interval: Interval | None) -> str:
    if interval is None or not np.isfinite(interval.value):
        return "–"
    spread = (
        f" <small>{interval.low:.4f} … {interval.high:.4f}</small>"
        if np.isfinite(interval.low)
        else ""
    )
    return f"{interval.value:.4f}{spread}"


def _or_last(value: float) -> float:
    """For sorting: what is no number comes behind all."""
    return value if np.isfinite(value) else np.inf
