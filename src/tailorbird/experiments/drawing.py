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

_WIDTH = 640
_LEFT = 150
_RIGHT = 90
_ROW_HEIGHT = 44
# of plots with axes
_HEIGHT = 260
_MARGIN = 56
_BOTTOM = 34
_GREY = "#6b7280"
_BLUE = "#2563eb"
_GREEN = "#15803d"
_RED = "#b91c1c"
_LINE_COLOURS = ("#2563eb", "#15803d", "#b45309", "#7c3aed")

_IntervalRow = tuple[str, float, float, float, str]  # name, value, low, high, colour
_IntervalPanel = tuple[str, list[_IntervalRow], Callable[[float], str], float | None]


def report_svg(report: "Report") -> str:
    """Draw each arm's clicks per item shown and each treatment's uplift, with intervals."""
    rates = [
        (metrics.arm, metrics.ctr, metrics.ctr_low, metrics.ctr_high, _BLUE)
        for metrics in report.arms
    ]
    uplifts = [
        (
            f"{comparison.arm} vs {comparison.control}",
            comparison.uplift,
            comparison.low,
            comparison.high,
            _effect_colour(comparison.low, comparison.high),
        )
        for comparison in report.comparisons
    ]
    return _draw_intervals(
        report.verdict,
        [
            ("clicks per item shown", rates, _format_percent, None),
            (f"uplift, {report.level:.0%} interval", uplifts, _format_signed_percent, 0.0),
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
            _effect_colour(preference.low - 0.5, preference.high - 0.5),
        )
        for preference in report.preferences
        if preference.units
    ]
    title = f"share of {report.treatment}, {report.level:.0%} interval"
    return _draw_intervals(report.verdict, [(title, rows, _format_percent, 0.5)])


def _draw_intervals(label: str, panels: Sequence[_IntervalPanel]) -> str:
    """Draw rows of values with intervals, below the title of each panel."""
    top = 30
    elements = []
    for title, rows, format_value, reference in panels:
        elements.append(f'<text x="{_LEFT}" y="{top}" font-weight="600">{escape(title)}</text>')
        elements.append(_draw_rows(rows, top + 10, format_value, reference))
        top += 10 + _ROW_HEIGHT * len(rows) + 36
    return _wrap_svg(elements, label, top - 16)


def _wrap_svg(elements: Sequence[str], label: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-label="{escape(label, quote=True)}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="currentColor">'
        f"{''.join(elements)}</svg>"
    )


def stages_svg(report: "TrialReport", arm: str) -> str:
    """Draw the statistic of an arm by time, with the boundary on both sides.

    Marks where it crossed the boundary, and by number what else changed.
    """
    stages = report.stages[arm]
    z_limit = max(4.0, *(abs(stage.z) for stage in stages))
    time_unit, time_unit_us = (
        ("day", DAY) if stages[-1].at - report.started_at >= DAY else ("minute", MINUTE)
    )
    times = [(stage.at - report.started_at) / time_unit_us for stage in stages]
    axes = _Axes((0.0, times[-1]), (-z_limit, z_limit), f"{arm}: standard errors from no effect")
    elements = [axes.frame(time_unit)]
    for number, event in enumerate(report.timeline, 1):
        time = (event.at - report.started_at) / time_unit_us
        if time <= times[-1]:
            elements.append(axes.mark(time, str(number), "#9ca3af"))
    for sign in (1, -1):
        points = [
            (time, sign * min(stage.bound, z_limit))
            for time, stage in zip(times, stages, strict=True)
            if math.isfinite(stage.bound)
        ]
        elements.append(axes.line(points, _RED, dash="5 4"))
    elements.append(
        axes.line([(time, stage.z) for time, stage in zip(times, stages, strict=True)], "#2563eb")
    )
    crossing = report.find_crossing(arm)
    for number, (time, stage) in enumerate(zip(times, stages, strict=True)):
        elements.append(axes.dot(time, stage.z, _GREEN if number == crossing else _BLUE))
        if number == crossing:
            elements.append(
                axes.mark(time, f"crossed on {time_unit} {time:.3g}", _GREEN, label_side=-stage.z)
            )
    return axes.svg(elements)


def plan_svg(plan: "Plan") -> str:
    """Draw the detectable effect by days, for each stopping rule with CUPED."""
    effects_by_rule = {
        name.removesuffix(", CUPED"): values
        for name, values in plan.detectable_by_day.items()
        if name.endswith("CUPED")
    }
    y_max = min(max(values[0] for values in effects_by_rule.values()), 6 * plan.effect)
    day_count = len(plan.days)
    axes = _Axes(
        (1.0, float(max(day_count, 2))), (0.0, y_max), "detectable effect by days, with CUPED"
    )
    elements = [axes.frame()]
    elements.append(axes.line([(1, plan.effect), (day_count, plan.effect)], "#6b7280", dash="3 3"))
    for number, (name, values) in enumerate(effects_by_rule.items()):
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        points = [(day, min(value, y_max)) for day, value in zip(plan.days, values, strict=True)]
        elements.append(axes.line(points, colour))
        elements.append(
            f'<text x="{_WIDTH - 150}" y="{40 + 18 * number}" fill="{colour}">{escape(name)}</text>'
        )
    return axes.svg(elements)


class _Axes:
    """A plot with linear axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], title: str) -> None:
        self._x = x
        self._y = y
        self._title = title

    def _to_pixels(self, x: float, y: float) -> tuple[float, float]:
        width = _WIDTH - _MARGIN - 10
        height = _HEIGHT - _BOTTOM - 24
        x_fraction = (x - self._x[0]) / (self._x[1] - self._x[0])
        y_fraction = (y - self._y[0]) / (self._y[1] - self._y[0])
        return round(_MARGIN + x_fraction * width, 1), round(24 + (1 - y_fraction) * height, 1)

    def frame(self, unit: str = "day") -> str:
        (left, bottom), (right, top) = (
            self._to_pixels(self._x[0], self._y[0]),
            self._to_pixels(self._x[1], self._y[1]),
        )
        elements = [
            f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor"/>',
            f'<text x="{left}" y="14" font-weight="600">{escape(self._title)}</text>',
            f'<text x="{left - 6}" y="{top + 8}" text-anchor="end">{self._label(self._y[1])}</text>',
            f'<text x="{left - 6}" y="{bottom}" text-anchor="end">{self._label(self._y[0])}</text>',
            f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{unit} {self._x[1]:.3g}</text>',
        ]
        if self._y[0] < 0 < self._y[1]:
            y = self._to_pixels(self._x[0], 0.0)[1]
            elements.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="#9ca3af"/>')
        return "".join(elements)

    def _label(self, value: float) -> str:
        return f"{value:.1f}" if self._y[0] < 0 else f"{value:.1%}"

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, dash: str = "") -> str:
        path = " ".join(f"{x},{y}" for x, y in (self._to_pixels(*point) for point in points))
        style = f' stroke-dasharray="{dash}"' if dash else ""
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{style}/>'

    def dot(self, x: float, y: float, colour: str) -> str:
        centre_x, centre_y = self._to_pixels(x, y)
        return f'<circle cx="{centre_x}" cy="{centre_y}" r="4" fill="{colour}"/>'

    def mark(self, x: float, label: str, colour: str, *, label_side: float = 0.0) -> str:
        """Draw a vertical line with a label below it.

        With a `label_side` it stands beside the line: at the top if positive, at the bottom if
        negative.
        """
        (left, bottom), (_, top) = self._to_pixels(x, self._y[0]), self._to_pixels(x, self._y[1])
        is_right = left > _WIDTH / 2
        text_anchor = "middle"
        text_x = left
        text_y = bottom + 16
        if label_side:
            text_anchor = "end" if is_right else "start"
            text_x = left + (-5 if is_right else 5)
            text_y = top + 12 if label_side > 0 else bottom - 6
        return (
            f'<line x1="{left}" x2="{left}" y1="{top}" y2="{bottom}" stroke="{colour}" '
            f'stroke-dasharray="2 3"/><text x="{text_x}" y="{text_y}" text-anchor="{text_anchor}" '
            f'fill="{colour}">{escape(label)}</text>'
        )

    def svg(self, elements: Sequence[str]) -> str:
        return _wrap_svg(elements, self._title, _HEIGHT)


def _draw_rows(
    rows: list[_IntervalRow],
    top: float,
    format_value: Callable[[float], str],
    reference: float | None,
) -> str:
    finite_values = [x for row in rows for x in row[1:4] if math.isfinite(x)] + (
        [reference] if reference is not None else []
    )
    low, high = (min(finite_values), max(finite_values)) if finite_values else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.01

    def to_x(value: float) -> float:
        return round(
            _LEFT + (value - low + margin) / (high - low + 2 * margin) * (_WIDTH - _LEFT - _RIGHT),
            1,
        )

    elements = []
    if reference is not None:
        bottom = top + _ROW_HEIGHT * len(rows)
        elements.append(
            f'<line x1="{to_x(reference)}" x2="{to_x(reference)}" y1="{top}" y2="{bottom}" '
            f'stroke="{_GREY}" stroke-dasharray="3 3"/>'
        )
    for number, (name, value, lower, upper, colour) in enumerate(rows):
        y = top + _ROW_HEIGHT * number + _ROW_HEIGHT / 2
        elements.append(
            f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        )
        if not math.isfinite(value):
            elements.append(f'<text x="{_LEFT}" y="{y + 4}" fill="{_GREY}">too little data</text>')
            continue
        elements.append(
            f'<line x1="{to_x(lower)}" x2="{to_x(upper)}" y1="{y}" y2="{y}" stroke="{colour}" '
            'stroke-width="3" stroke-linecap="round"/>'
        )
        elements.append(f'<circle cx="{to_x(value)}" cy="{y}" r="6" fill="{colour}"/>')
        elements.append(
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{y + 4}">{format_value(value)}</text>'
        )
    return "".join(elements)


def _effect_colour(low: float, high: float) -> str:
    return _GREEN if low > 0 else _RED if high < 0 else _GREY


def _format_percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2%}"


def _format_signed_percent(value: float) -> str:
    return f"{value:+.1%}"
