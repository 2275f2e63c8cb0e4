"""Draw reports and plans of experiments as SVG, without a plotting library."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

from tailorbird.events import DAY, MINUTE

if TYPE_CHECKING:
    from tailorbird.experiments.interleaving import InterleavingReport
    from tailorbird.experiments.plan import Plan
    from tailorbird.experiments.report import Report
    from tailorbird.experiments.trial import TrialReport

_WIDTH, _LEFT, _RIGHT, _ROW = 640, 150, 90, 44
_HEIGHT, _MARGIN, _BOTTOM = 260, 56, 34  # of plots with axes
_GREY, _BLUE, _GREEN, _RED = "#6b7280", "#2563eb", "#15803d", "#b91c1c"
_LINES = ("#2563eb", "#15803d", "#b45309", "#7c3aed")

_Row = tuple[str, float, float, float, str]  # name, value, low, high, colour
_Panel = tuple[str, list[_Row], Callable[[float], str], float | None]


def report_svg(report: "Report") -> str:
    """Draw each arm's clicks per item shown and each treatment's uplift, with intervals."""
    rates = [(f.arm, f.ctr, f.ctr_low, f.ctr_high, _BLUE) for f in report.arms]
    uplifts = [
        (f"{c.arm} vs {c.control}", c.uplift, c.low, c.high, _colour(c.low, c.high))
        for c in report.comparisons
    ]
    return _draw_intervals(
        report.verdict,
        [
            ("clicks per item shown", rates, _percent, None),
            (f"uplift, {report.level:.0%} interval", uplifts, _signed, 0.0),
        ],
    )


def preferences_svg(report: "InterleavingReport") -> str:
    """Draw the treatment's share of the credits of each kind, beside a half."""
    rows = [
        (
            preference.event,
            preference.share,
            preference.low,
            preference.high,
            _colour(preference.low - 0.5, preference.high - 0.5),
        )
        for preference in report.preferences
        if preference.units
    ]
    title = f"share of {report.treatment}, {report.level:.0%} interval"
    return _draw_intervals(report.verdict, [(title, rows, _percent, 0.5)])


def _draw_intervals(label: str, panels: Sequence[_Panel]) -> str:
    """Draw rows of values with intervals, below the title of each panel."""
    top, body = 30, []
    for title, rows, format_value, reference in panels:
        body.append(f'<text x="{_LEFT}" y="{top}" font-weight="600">{escape(title)}</text>')
        body.append(_rows(rows, top + 10, format_value, reference))
        top += 10 + _ROW * len(rows) + 36
    return _wrap_svg(body, label, top - 16)


def _wrap_svg(body: Sequence[str], label: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-label="{escape(label, quote=True)}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="currentColor">'
        f"{''.join(body)}</svg>"
    )


def stages_svg(report: "TrialReport", arm: str) -> str:
    """Draw the statistic of an arm by time, with the boundary on both sides.

    Marks where it crossed the boundary, and by number what else changed.
    """
    stages = report.stages[arm]
    limit = max(4.0, *(abs(stage.z) for stage in stages))
    unit, length = ("day", DAY) if stages[-1].at - report.started_at >= DAY else ("minute", MINUTE)
    times = [(stage.at - report.started_at) / length for stage in stages]
    axis = _Axes((0.0, times[-1]), (-limit, limit), f"{arm}: standard errors from no effect")
    body = [axis.frame(unit)]
    for number, event in enumerate(report.timeline, 1):
        time = (event.at - report.started_at) / length
        if time <= times[-1]:
            body.append(axis.mark(time, str(number), "#9ca3af"))
    for sign in (1, -1):
        points = [
            (time, sign * min(stage.bound, limit))
            for time, stage in zip(times, stages, strict=True)
            if math.isfinite(stage.bound)
        ]
        body.append(axis.line(points, _RED, dash="5 4"))
    body.append(
        axis.line([(time, stage.z) for time, stage in zip(times, stages, strict=True)], "#2563eb")
    )
    crossing = report.find_crossing(arm)
    for number, (time, each) in enumerate(zip(times, stages, strict=True)):
        body.append(axis.dot(time, each.z, _GREEN if number == crossing else _BLUE))
        if number == crossing:
            body.append(axis.mark(time, f"crossed on {unit} {time:.3g}", _GREEN, beside=-each.z))
    return axis.svg(body)


def plan_svg(plan: "Plan") -> str:
    """Draw the detectable effect by days, for each stopping rule with CUPED."""
    curves = {
        name.removesuffix(", CUPED"): values
        for name, values in plan.detectable_by_day.items()
        if name.endswith("CUPED")
    }
    top = min(max(values[0] for values in curves.values()), 6 * plan.effect)
    days = len(plan.days)
    axis = _Axes((1.0, float(max(days, 2))), (0.0, top), "detectable effect by days, with CUPED")
    body = [axis.frame()]
    body.append(axis.line([(1, plan.effect), (days, plan.effect)], "#6b7280", dash="3 3"))
    for number, (name, values) in enumerate(curves.items()):
        colour = _LINES[number % len(_LINES)]
        points = [(day, min(value, top)) for day, value in zip(plan.days, values, strict=True)]
        body.append(axis.line(points, colour))
        body.append(
            f'<text x="{_WIDTH - 150}" y="{40 + 18 * number}" fill="{colour}">{escape(name)}</text>'
        )
    return axis.svg(body)


class _Axes:
    """A plot with linear axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], title: str) -> None:
        self._x, self._y, self._title = x, y, title

    def _at(self, x: float, y: float) -> tuple[float, float]:
        width, height = _WIDTH - _MARGIN - 10, _HEIGHT - _BOTTOM - 24
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return round(_MARGIN + across * width, 1), round(24 + (1 - up) * height, 1)

    def frame(self, unit: str = "day") -> str:
        (left, bottom), (right, top) = (
            self._at(self._x[0], self._y[0]),
            self._at(self._x[1], self._y[1]),
        )
        parts = [
            f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor"/>',
            f'<text x="{left}" y="14" font-weight="600">{escape(self._title)}</text>',
            f'<text x="{left - 6}" y="{top + 8}" text-anchor="end">{self._label(self._y[1])}</text>',
            f'<text x="{left - 6}" y="{bottom}" text-anchor="end">{self._label(self._y[0])}</text>',
            f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{unit} {self._x[1]:.3g}</text>',
        ]
        if self._y[0] < 0 < self._y[1]:
            y = self._at(self._x[0], 0.0)[1]
            parts.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="#9ca3af"/>')
        return "".join(parts)

    def _label(self, value: float) -> str:
        return f"{value:.1f}" if self._y[0] < 0 else f"{value:.1%}"

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, dash: str = "") -> str:
        path = " ".join(f"{x},{y}" for x, y in (self._at(*point) for point in points))
        style = f' stroke-dasharray="{dash}"' if dash else ""
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{style}/>'

    def dot(self, x: float, y: float, colour: str) -> str:
        at = self._at(x, y)
        return f'<circle cx="{at[0]}" cy="{at[1]}" r="4" fill="{colour}"/>'

    def mark(self, x: float, label: str, colour: str, *, beside: float = 0.0) -> str:
        """Draw a vertical line with a label below it, or beside it at the end of a sign."""
        (left, bottom), (_, top) = self._at(x, self._y[0]), self._at(x, self._y[1])
        is_right = left > _WIDTH / 2
        anchor, at = "middle", (left, bottom + 16)
        if beside:
            anchor = "end" if is_right else "start"
            at = (left + (-5 if is_right else 5), top + 12 if beside > 0 else bottom - 6)
        return (
            f'<line x1="{left}" x2="{left}" y1="{top}" y2="{bottom}" stroke="{colour}" '
            f'stroke-dasharray="2 3"/><text x="{at[0]}" y="{at[1]}" text-anchor="{anchor}" '
            f'fill="{colour}">{escape(label)}</text>'
        )

    def svg(self, body: Sequence[str]) -> str:
        return _wrap_svg(body, self._title, _HEIGHT)


def _rows(
    rows: list[_Row], top: float, format_value: Callable[[float], str], reference: float | None
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
        parts.append(f'<text x="{_WIDTH - _RIGHT + 12}" y="{y + 4}">{format_value(value)}</text>')
    return "".join(parts)


def _colour(low: float, high: float) -> str:
    return _GREEN if low > 0 else _RED if high < 0 else _GREY


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2%}"


def _signed(value: float) -> str:
    return f"{value:+.1%}"
