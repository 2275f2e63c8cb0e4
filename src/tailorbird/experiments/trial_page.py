"""Draw a planned experiment's report as HTML, and a plan as SVG; without scripts or network."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from tailorbird.events import DAY, MINUTE, to_iso
from tailorbird.experiments.drawing import html_table

if TYPE_CHECKING:
    from tailorbird.experiments.plan import Plan
    from tailorbird.experiments.trial import MetricResult, TrialReport

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 260, 56, 34
_COLOURS = {"green": "#15803d", "amber": "#b45309", "red": "#b91c1c"}
_LINES = ("#2563eb", "#15803d", "#b45309", "#7c3aed")


def trial_html(report: "TrialReport") -> str:
    """Return the report as a section of HTML: the verdict first."""
    colour = _COLOURS[report.colour]
    parts = [
        f'<section class="experiment"><h2>{escape(report.experiment)}</h2>',
        f'<p style="border-left:6px solid {colour};padding-left:.8rem">'
        f"<strong>{escape(report.summary)}</strong></p>",
        f"<p>What to do: {escape(report.advice)}</p>",
        f"<p>{escape(report.hypothesis)} Slot {escape(report.slot)}, owner "
        f"{escape(report.owner or 'nobody')}, {escape(report.state)}, "
        f"{to_iso(report.started_at)[:16]} to {to_iso(report.until)[:16]}, rule "
        f"{escape(report.stopping)}.</p>",
    ]
    for arm, stages in report.stages.items():
        if stages:
            parts.append(f"<h3>{escape(arm)} over time</h3>{stages_svg(report, arm)}")
    parts.append(
        html_table(
            ("arm", "units", "value"),
            [(arm.arm, f"{arm.units:,}", _number(arm.value)) for arm in report.arms],
        )
    )
    parts.append(
        "<h3>Metrics</h3>"
        + html_table(
            ("metric", "arm", "value", "control", "uplift", "interval", "CUPED leaves"),
            [_metric_row(each) for each in (*report.primary, *report.guardrails)],
        )
    )
    parts.append(
        "<h3>Checks</h3>"
        + html_table(
            ("check", "result", "reason"),
            [(each.name, "ok" if each.passed else "FAILED", each.reason) for each in report.checks],
        )
    )
    for result in report.segments:
        rows = [
            (
                each.name,
                f"{each.units:,}",
                format_uplift(each.own),
                format_uplift(each.uplift),
                format_interval(each.low, each.high),
            )
            for each in result.segments.effects
        ]
        title = f"By {result.column}: {result.arm} (all equal: p = {result.segments.p_equal:.2g})"
        parts.append(
            f"<h3>{escape(title)}</h3>"
            + html_table(("segment", "units", "own", "shrunk", "interval"), rows)
        )
    for view in report.views:
        rows = [
            (
                each.name,
                f"{each.units:,}",
                format_uplift(each.uplift),
                format_interval(each.low, each.high),
            )
            for each in view.rows
        ]
        parts.append(f"<h3>{escape(f'By {view.by}: {view.arm}')}</h3>")
        parts.append(html_table((view.by, "units", "uplift", "interval"), rows))
    if report.timeline:
        rows = [
            (str(number), to_iso(each.at)[:16], each.kind, each.what)
            for number, each in enumerate(report.timeline, 1)
        ]
        parts.append("<h3>What else changed</h3>")
        parts.append(html_table(("", "time", "kind", "what"), rows))
    parts += [f"<p>{escape(note)}</p>" for note in report.notes]
    return "".join(parts) + "</section>"


def stages_svg(report: "TrialReport", arm: str) -> str:
    """Draw the statistic of an arm by time, with the boundary on both sides.

    Marks where it crossed the boundary, and by number what else changed.
    """
    stages = report.stages[arm]
    limit = max(4.0, *(abs(each.z) for each in stages))
    unit, length = ("day", DAY) if stages[-1].at - report.started_at >= DAY else ("minute", MINUTE)
    times = [(each.at - report.started_at) / length for each in stages]
    axis = _Axes((0.0, times[-1]), (-limit, limit), f"{arm}: standard errors from no effect")
    body = [axis.frame(unit)]
    for number, event in enumerate(report.timeline, 1):
        time = (event.at - report.started_at) / length
        if time <= times[-1]:
            body.append(axis.mark(time, str(number), "#9ca3af"))
    for sign in (1, -1):
        points = [
            (time, sign * min(each.bound, limit))
            for time, each in zip(times, stages, strict=True)
            if math.isfinite(each.bound)
        ]
        body.append(axis.line(points, "#b91c1c", dash="5 4"))
    body.append(
        axis.line([(time, each.z) for time, each in zip(times, stages, strict=True)], "#2563eb")
    )
    crossing = find_crossing(report, arm)
    for number, (time, each) in enumerate(zip(times, stages, strict=True)):
        body.append(axis.dot(time, each.z, "#15803d" if number == crossing else "#2563eb"))
        if number == crossing:
            body.append(axis.mark(time, f"crossed on {unit} {time:.3g}", "#15803d", beside=-each.z))
    return axis.svg(body)


def find_crossing(report: "TrialReport", arm: str) -> int | None:
    """Return the first analysis at which the boundary was crossed; of a fixed plan only the end."""
    is_fixed = report.stopping == "fixed"
    end = report.planned_end if report.state == "running" else min(report.planned_end, report.until)
    return next(
        (
            number
            for number, each in enumerate(report.stages[arm])
            if abs(each.z) >= each.bound and not (is_fixed and each.at < end)
        ),
        None,
    )


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
        width, height = _WIDTH - _LEFT - 10, _HEIGHT - _BOTTOM - 24
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return round(_LEFT + across * width, 1), round(24 + (1 - up) * height, 1)

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
            f'<text x="{right}" y="{bottom + 18}" text-anchor="end">day {self._x[1]:.3g}</text>',
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
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" role="img" aria-label="{escape(self._title, quote=True)}" '
            f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">'
            f"{''.join(body)}</svg>"
        )


def _metric_row(result: "MetricResult") -> tuple[str, ...]:
    return (
        result.metric,
        result.arm,
        _number(result.value),
        _number(result.control_value),
        format_uplift(result.uplift),
        format_interval(result.low, result.high),
        f"{result.variance_ratio:.0%}",
    )


def _number(value: float) -> str:
    return f"{value:,.4g}" if math.isfinite(value) else "–"


def format_uplift(value: float) -> str:
    """Format a relative uplift, or an end of its interval."""
    return f"{value:+.1%}" if math.isfinite(value) else "unbounded"


def format_interval(low: float, high: float) -> str:
    """Format the interval of a relative uplift."""
    return f"{format_uplift(low)} to {format_uplift(high)}"
