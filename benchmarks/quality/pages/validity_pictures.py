"""Pictures of the validity of experiments: rates with their intervals, as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.quality.pages.validity_page import METHODS

COLOURS = dict(zip(METHODS, ("#2563eb", "#b91c1c", "#15803d", "#b45309", "#7c3aed"), strict=True))
ROW, LEFT, WIDTH, RIGHT, TOP, TICK = 26, 260, 720, 20, 56, 44
Dot = tuple[Mapping[str, float], str]  # value with low and high, colour


def write_pictures(folder: Path, result: dict[str, Any]) -> None:
    """Write the pictures of false positives, power and coverage."""
    results, stages = result["results"], str(result["stages"])
    level = {
        metric: [(cells[method][stages], colour) for method, colour in COLOURS.items()]
        for metric, cells in results["aa"].items()
    }
    power = {METHODS[name]: [(cell, COLOURS[name])] for name, cell in results["power"].items()}
    coverage = {
        name.replace("_", " "): [(cell, COLOURS["once"])]
        for name, cell in results["coverage"].items()
        if "median" not in name
    }
    for name, title, rows, reference, legend in (
        ("level", f"A/A, false positives, {stages} stages", level, 0.05, METHODS),
        ("power", "power where a fixed test has 80 %", power, 0.8, {}),
        ("coverage", "95 % intervals that hold the truth", coverage, 0.95, {}),
    ):
        picture = draw_rates(title, rows, reference, legend)
        (folder / f"results-{name}.svg").write_text(picture + "\n")


def draw_rates(
    title: str, rows: Mapping[str, Sequence[Dot]], reference: float, legend: Mapping[str, str]
) -> str:
    """Draw a row of dots with intervals for each name, beside a line at the reference."""
    cells = [cell for dots in rows.values() for cell, _ in dots]
    low = min(reference, *(cell["low"] for cell in cells))
    high = max(reference, *(cell["high"] for cell in cells))
    margin = 0.04 * (high - low)
    bottom = TOP + ROW * len(rows)

    def x(value: float) -> float:
        share = (value - low + margin) / (high - low + 2 * margin)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    parts = [
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="18" font-weight="600">{escape(title)}</text>',
        f'<line x1="{x(reference)}" x2="{x(reference)}" y1="{TOP - 8}" y2="{bottom}" '
        'stroke="#6b7280" stroke-dasharray="3 3"/>',
    ]
    names = "  ".join(
        f'<tspan fill="{COLOURS[method]}">● {escape(label)}</tspan>'
        for method, label in legend.items()
    )
    parts.append(f'<text x="10" y="38" xml:space="preserve">{names}</text>')
    for number, (name, dots) in enumerate(rows.items()):
        y = TOP + ROW * number + ROW // 2
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for cell, colour in dots:
            place = f'x1="{x(cell["low"])}" x2="{x(cell["high"])}" y1="{y}" y2="{y}"'
            parts.append(f'<line {place} stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<circle cx="{x(cell["value"])}" cy="{y}" r="4" fill="{colour}"/>')
    ends = [value for value in (low, high) if abs(x(value) - x(reference)) > TICK]
    for value in (reference, *ends):
        parts.append(
            f'<text x="{x(value)}" y="{bottom + 16}" text-anchor="middle">{value:.1%}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 26}" '
        f'font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )
