"""Report pages: one self-contained HTML file with tables, and charts as inline SVG."""

import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib.figure import Figure

from tailorbird.training.evaluation.calibration import Calibration

HIGHLIGHT_COLOUR, MUTED_COLOUR = "#1b6e5f", "#9aa5ab"
COLUMNS_SHOWN = 20

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2529; --soft: #5c6b73; --line: #d7dee2; --ours: #1b6e5f; --paper: #fff;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4eaed; --soft: #9aa8b0; --line: #37444b; --ours: #58c2ab; --paper: #141a1d; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; }
small, .soft { color: var(--soft); }
.ours td { color: var(--ours); font-weight: 600; }
.verdict { font-size: 1.15rem; border-left: 4px solid var(--ours); padding-left: .8rem; }
.verdict.kept { border-color: #b3541e; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; background: #fff; }
h2 { margin-top: 2.2rem; font-size: 1.2rem; } svg { max-width: 100%; height: auto; }
"""


def write_page(path: Path, title: str, parts: Iterable[str]) -> Path:
    """Write a page from HTML parts and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opening = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)} · '
        "Tailorbird</title>"
    )
    temporary = path.with_suffix(".part")
    temporary.write_text(
        f"{opening}<style>{STYLE}</style><body>{''.join(parts)}</body></html>", encoding="utf-8"
    )
    temporary.rename(path)
    return path


def clean_axes(figure: Figure) -> Figure:
    """Remove frame lines and shrink the tick labels of a figure."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def to_svg(figure: Figure) -> str:
    """Render a figure as inline SVG; the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(
        {"svg.hashsalt": "tailorbird", "svg.fonttype": "none", "font.size": 9}
    ):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return f"<figure>{text[text.index('<svg') :]}</figure>"


def render_table(header: Sequence[str], rows: Iterable[tuple[Sequence[str], bool]]) -> str:
    """Render a table from HTML cells; rows marked true are highlighted."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{' class=ours' if highlighted else ''}>"
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for cells, highlighted in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def splits_table(label: str, splits: Sequence[Mapping[str, Any]]) -> str:
    """Render what each time split learned from and was evaluated on; `label` names the splits."""
    header = [
        label,
        "learned until",
        "judged",
        "requests learned",
        "requests judged",
        "rows learned",
        "rows judged",
    ]
    rows = [
        (
            [
                str(number),
                split["learned_until"][:16],
                f"{split['judged_from'][:16]} … {split['judged_to'][:16]}",
                *(
                    f"{split[name]:,}"
                    for name in (
                        "requests_learned",
                        "requests_judged",
                        "rows_learned",
                        "rows_judged",
                    )
                ),
            ],
            False,
        )
        for number, split in enumerate(splits, 1)
    ]
    return render_table(header, rows)


def calibration_table(header: Sequence[str], slices: Mapping[str, Calibration]) -> str:
    """Render calibration by slice: rows, mean predicted, mean observed, calibration error."""
    rows = []
    for name, calibration in slices.items():
        count = calibration.count.sum()
        means = [
            f"{np.nansum(calibration.count * value) / count:.4f}"
            for value in (calibration.predicted, calibration.observed)
        ]
        rows.append(([escape(name), f"{count:,.0f}", *means, f"{calibration.debiased:.4f}"], False))
    return render_table([*header, "calibration error, debiased"], rows)


def reliability_chart(bins: Calibration, top: float, predicted: str, observed: str) -> Figure:
    """Draw observed rates with intervals over predictions, next to the diagonal up to `top`."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    filled = bins.count > 0
    axes.plot([0, top], [0, top], color=MUTED_COLOUR, linewidth=1)
    spread = interval_half_width(bins)[filled]
    axes.errorbar(
        bins.predicted[filled],
        bins.observed[filled],
        spread,
        fmt="o",
        color=HIGHLIGHT_COLOUR,
        markersize=4,
        linewidth=1,
    )
    axes.set_xlabel(predicted)
    axes.set_ylabel(observed)
    axes.set_title("Reliability, bins of equal mass", fontsize=10)
    return clean_axes(figure)


def interval_half_width(bins: Calibration) -> np.ndarray:
    """Return half the 95 % interval of the observed rates, shape (bins,)."""
    return 1.96 * np.sqrt(bins.observed * (1 - bins.observed) / np.maximum(bins.count, 1))


def importance_chart(shares: Mapping[str, float], title: str) -> Figure:
    """Draw the columns with the largest shares, which come first in `shares`."""
    shown = list(shares.items())[:COLUMNS_SHOWN]
    figure = Figure(figsize=(5.2, 0.22 * len(shown) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        [name for name, _ in reversed(shown)],
        [share for _, share in reversed(shown)],
        color=HIGHLIGHT_COLOUR,
    )
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(title, fontsize=10)
    return clean_axes(figure)
