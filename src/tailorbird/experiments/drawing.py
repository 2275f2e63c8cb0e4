"""Draw an experiment's report as SVG and as a section of HTML.

It needs no plotting library, no scripts and no network.
"""

import math
from collections.abc import Sequence
from html import escape

from tailorbird.experiments.report import Report

_WIDTH, _LEFT, _RIGHT, _ROW = 640, 150, 90, 44
_GREY, _BLUE, _GREEN, _RED = "#6b7280", "#2563eb", "#15803d", "#b91c1c"


def report_svg(report: Report) -> str:
    """Draw each arm's clicks per item shown and each treatment's uplift, with intervals."""
    rates = [(f.arm, f.ctr, f.ctr_low, f.ctr_high, _BLUE) for f in report.arms]
    uplifts = [
        (f"{c.arm} vs {c.control}", c.uplift, c.low, c.high, _colour(c.low, c.high))
        for c in report.comparisons
    ]
    top, body = 30, []
    for title, rows, show, reference in (
        ("clicks per item shown", rates, _percent, None),
        (f"uplift, {report.level:.0%} interval", uplifts, _signed, 0.0),
    ):
        body.append(f'<text x="{_LEFT}" y="{top}" font-weight="600">{escape(title)}</text>')
        body.append(_rows(rows, top + 10, show, reference))
        top += 10 + _ROW * len(rows) + 36
    height = top - 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(report.verdict, quote=True)}" font-family="system-ui, '
        'sans-serif" font-size="13" fill="currentColor">'
        f"{''.join(body)}</svg>"
    )


def report_html(report: Report) -> str:
    """Return the report as a section: verdict, picture, arms, and caveats."""
    head = ("arm", "users", "items shown", "clicks", "clicks per item", "purchases", "conversion")
    rows = [
        (
            f.arm,
            f"{f.users:,}",
            f"{f.impressions:,}",
            f"{f.clicks:,}",
            _percent(f.ctr),
            f"{f.purchases:,}",
            _percent(f.conversion),
        )
        for f in report.arms
    ]
    notes = [
        f"Sample ratio: p = {report.srm_p:.3g} (below 0.001 the split is broken).",
        f"In more than one arm, left out: {report.multiple_exposures:,} of "
        f"{report.persons:,} persons.",
    ]
    notes += [
        f"{escape(c.arm)}, if you look more than once: {c.always_low:+.1%} to {c.always_high:+.1%}."
        for c in report.comparisons
        if not math.isnan(c.always_low)
    ]
    return (
        f'<section class="experiment"><h2>Experiment {escape(report.experiment)} on '
        f"{escape(report.slot)}</h2>"
        f"<p><strong>{escape(report.verdict)}</strong></p>{report_svg(report)}"
        f"{html_table(head, rows)}"
        f"<ul>{''.join(f'<li>{note}</li>' for note in notes)}</ul></section>"
    )


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts, which are escaped."""
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table>"


def _rows(
    rows: list[tuple[str, float, float, float, str]], top: float, show, reference: float | None
) -> str:
    finite = [x for row in rows for x in row[1:4] if math.isfinite(x)] + (
        [reference] if reference is not None else []
    )
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.01

    def x(value: float) -> float:
        return round(
            _LEFT + (value - low + margin) / (high - low + 2 * margin) * (_WIDTH - _LEFT - _RIGHT),
            1,
        )

    parts = []
    if reference is not None:
        bottom = top + _ROW * len(rows)
        parts.append(
            f'<line x1="{x(reference)}" x2="{x(reference)}" y1="{top}" y2="{bottom}" '
            f'stroke="{_GREY}" stroke-dasharray="3 3"/>'
        )
    for number, (name, value, lower, upper, colour) in enumerate(rows):
        y = top + _ROW * number + _ROW / 2
        parts.append(f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        if not math.isfinite(value):
            parts.append(f'<text x="{_LEFT}" y="{y + 4}" fill="{_GREY}">too little data</text>')
            continue
        parts.append(
            f'<line x1="{x(lower)}" x2="{x(upper)}" y1="{y}" y2="{y}" stroke="{colour}" '
            'stroke-width="3" stroke-linecap="round"/>'
        )
        parts.append(f'<circle cx="{x(value)}" cy="{y}" r="6" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 12}" y="{y + 4}">{show(value)}</text>')
    return "".join(parts)


def _colour(low: float, high: float) -> str:
    return _GREEN if low > 0 else _RED if high < 0 else _GREY


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2%}"


def _signed(value: float) -> str:
    return f"{value:+.1%}"
