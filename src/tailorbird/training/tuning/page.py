"""HTML and JSON report of a tuning: the choice, the history, importances and settings."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tailorbird.models.space import Choices, Value
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.report.page import (
    HIGHLIGHT_COLOUR,
    MUTED_COLOUR,
    clean_axes,
    importance_chart,
    render_table,
    splits_table,
    to_svg,
    write_page,
)
from tailorbird.training.tuning.choose import Finalist
from tailorbird.training.tuning.run import TuneReport
from tailorbird.training.tuning.space import SearchSpace
from tailorbird.training.tuning.study import Trial

TRIALS_SHOWN = 20
_LOST = "#b3541e"


def write_tuning(folder: Path, report: TuneReport, next_: Sequence[str]) -> Path:
    """Write `tuning-SLOT.html` and its JSON, and return the page's path.

    `next_` lists what the reader may do next.
    """
    page = folder / f"tuning-{report.slot}.html"
    parts = [_head(report, next_), _finalists(report)]
    for name, trials in report.trials.items():
        parts += [
            f"<h2>{escape(name)}: {len(trials)} trials</h2>",
            *_pictures(trials, report, name),
            _best(trials, report.spaces[name]),
        ]
    parts.append(_facts(report.about))
    write_page(page, f"Tuning of slot {report.slot}", parts)
    page.with_suffix(".json").write_bytes(
        msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=1) + b"\n"
    )
    return page


def _head(report: TuneReport, next_: Sequence[str]) -> str:
    choice = report.choice
    kind = " kept" if choice.winner.trial.default else ""
    lines = "".join(f"<li>{_line(line)}</li>" for line in next_)
    return (
        f"<h1>Tuning of slot {escape(report.slot)}</h1><p "
        f'class="verdict{kind}">{escape(choice.why)}</p><ul>{lines}</ul>'
        f'<p class="soft">{escape(report.about["source"])}. The test part begins at '
        f"{report.about['test_from'][:16]} UTC; nothing from "
        "then on was looked at. Figures here are of rows that settings were chosen by: what "
        "tuning is worth is told by the next "
        "training.</p>"
    )


def _line(line: str) -> str:
    """Format a line of text, or a command if it is indented."""
    return f"<code>{escape(line.strip())}</code>" if line.startswith("  ") else escape(line)


def _finalists(report: TuneReport) -> str:
    rows = []
    for one in report.choice.finalists:
        span = (
            f" <small>{one.interval.low:+.4f} … {one.interval.high:+.4f}</small>"
            if one.interval.has_bounds
            else ""
        )
        cells = [
            escape(one.name),
            f"{one.quality.mean():.4f}",
            f"{one.gain:+.4f}{span}",
            f"{one.spread:.4f}",
            f"{one.score:+.4f}",
            _interval(one.tail, ""),
            _interval(one.tail_gain, "+"),
            f"{one.seconds:.1f}",
        ]
        rows.append((cells, one is report.choice.winner))
    header = [
        "",
        "ndcg_10",
        f"gain over {report.choice.reference.name}",
        "spread",
        "gain − spread",
        "long tail",
        "its gain",
        "seconds of a fit",
    ]
    seeds = report.choice.reference.quality.shape
    intro = (
        f"Each on {seeds[0]} splits under {seeds[1]} seeds. Spread: standard deviation of "
        "the gain over these cells; the interval is over "
        "people. Taken is the largest gain − spread above 0. Long tail: ndcg_10 where only "
        "items outside the most popular fifth before a "
        "split are worth finding; it has no say."
    )
    return (
        "<h2>The last few</h2><p "
        f"class='soft'>{intro}</p>{render_table(header, rows)}{to_svg(_cells(report.choice.finalists))}"
    )


def _interval(figure: Interval, sign: str) -> str:
    """Format a metric with its interval, if there is one."""
    if not np.isfinite(figure.value):
        return "–"
    return f"{figure.value:{sign}.4f}" + (
        f" <small>{figure.low:{sign}.4f} … {figure.high:{sign}.4f}</small>"
        if figure.has_bounds
        else ""
    )


def _cells(finalists: Sequence[Finalist]) -> Figure:
    """Plot NDCG@10 of every split and seed."""
    figure = Figure(figsize=(6.4, 0.36 * len(finalists) + 1.0), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(reversed(finalists)):
        for split, row in enumerate(one.quality):
            axes.plot(
                row,
                [place + 0.18 * (split - (len(one.quality) - 1) / 2)] * len(row),
                "o",
                color=f"C{split}",
                markersize=4,
            )
    axes.set_yticks(range(len(finalists)), [one.name for one in reversed(finalists)])
    axes.set_title("NDCG@10 by split (colour) and seed", fontsize=10)
    return clean_axes(figure)


def _pictures(trials: Sequence[Trial], report: TuneReport, name: str) -> list[str]:
    pictures = [to_svg(_history(trials))]
    if shares := report.importance[name]:
        pictures.append(to_svg(importance_chart(shares, "What the trials differ by (PED-ANOVA)")))
    if sum(one.state == "complete" for one in trials) > 1:
        pictures.append(to_svg(_parallel(trials, report.spaces[name])))
    return pictures


def _history(trials: Sequence[Trial]) -> Figure:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    best, line = -np.inf, []
    for place, one in enumerate(trials):
        reached = float(np.mean(one.figures)) if one.figures else np.nan
        best = max(best, one.value) if one.state == "complete" else best
        line.append(best if np.isfinite(best) else np.nan)
        style = {
            "complete": ("o", HIGHLIGHT_COLOUR),
            "pruned": ("x", MUTED_COLOUR),
            "failed": ("v", _LOST),
        }[one.state]
        axes.plot([place], [reached], style[0], color=style[1], markersize=4)
    axes.plot(range(len(line)), line, color=HIGHLIGHT_COLOUR, linewidth=1)
    default = next((one for one in trials if one.default and np.isfinite(one.value)), None)
    if default is not None:
        axes.axhline(
            default.value, color=MUTED_COLOUR, linewidth=0.8, linestyle="--", label="defaults"
        )
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("NDCG@10, mean over the splits that were fitted; × given up early", fontsize=10)
    return clean_axes(figure)


def _parallel(trials: Sequence[Trial], space: SearchSpace) -> Figure:
    """Plot a line for each complete trial through its settings; better trials are darker."""
    shown = sorted((one for one in trials if one.state == "complete"), key=lambda one: one.value)
    names = list(space.dimensions)
    values = np.array([one.value for one in shown])
    low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1e-9)
    figure = Figure(figsize=(1.3 * (len(names) + 1) + 1, 3.8), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis_r"]
    for one in shown:
        share = (one.value - low) / (high - low)
        heights = [*(_height(one.params.get(name), space, name) for name in names), share]
        axes.plot(
            range(len(heights)),
            heights,
            color=colours(0.1 + 0.9 * share),
            linewidth=0.6 + 1.2 * share,
            alpha=0.35 + 0.6 * share,
        )
    for place, name in enumerate(names):
        one = space.dimensions[name]
        ends = (
            [(i / max(len(one.choices) - 1, 1), str(each)) for i, each in enumerate(one.choices)]
            if isinstance(one, Choices)
            else [(0.0, f"{one.low:g}"), (1.0, f"{one.high:g}")]
        )
        for height, label in ends:
            axes.text(place + 0.04, height, label, fontsize=7, va="center")
        axes.axvline(place, color=MUTED_COLOUR, linewidth=0.8)
    axes.axvline(len(names), color=MUTED_COLOUR, linewidth=0.8)
    for height, value in ((0.0, low), (1.0, high)):
        axes.text(len(names) + 0.04, height, f"{value:.4f}", fontsize=7, va="center")
    axes.set_xticks(range(len(names) + 1), [*names, "ndcg_10"])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) + 0.5)
    axes.set_title("Settings of complete trials", fontsize=10)
    figure = clean_axes(figure)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _height(value: Value | None, space: SearchSpace, name: str) -> float:
    """Return the relative position of a value within its range, 0 to 1."""
    one = space.dimensions[name]
    if value is None:
        return np.nan
    if isinstance(one, Choices):
        return (
            one.choices.index(value) / max(len(one.choices) - 1, 1)
            if value in one.choices
            else np.nan
        )
    ends = (float(value), one.low, one.high)
    at, low, high = np.log(ends) if one.log else ends
    return float((at - low) / (high - low))


def _best(trials: Sequence[Trial], space: SearchSpace) -> str:
    ordered = sorted(
        trials, key=lambda trial: -trial.value if np.isfinite(trial.value) else np.inf
    )[:TRIALS_SHOWN]
    names = list(space.dimensions)
    rows = []
    for one in ordered:
        quality_cell = f"{one.value:.4f}" if np.isfinite(one.value) else one.state
        settings = [_shown(one.settings.get(name, "")) for name in names]
        rows.append(
            (
                [
                    f"{one.number}{' defaults' if one.default else ''}",
                    quality_cell,
                    *settings,
                    f"{one.seconds:.1f}",
                ],
                one.default,
            )
        )
    return render_table(["trial", "ndcg_10", *names, "seconds"], rows)


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _facts(about: Mapping[str, Any]) -> str:
    budget = about["budget"]
    limits = [f"{budget['trials']} trials"] * bool(budget["trials"]) + [
        f"{budget['seconds']:g} s of fits"
    ] * bool(budget["seconds"])
    spent = (
        f"{name}: {each['trials']} trials, {each['seconds']:g} s of fits"
        for name, each in about["spent"].items()
    )
    facts = {
        "as of": about["as_of"],
        "the test part begins": about["test_from"],
        "budget of an architecture": " or ".join(limits),
        "spent": "; ".join(spent),
        "sampler, pruner, seed": f"{budget['sampler']}, {budget['pruner']}, {about['seed']}",
        "not tuned": about["untuned"],
    }
    rows = [([escape(name), escape(str(value))], False) for name, value in facts.items() if value]
    return f"<h2>What to know</h2>{splits_table('split', about['splits'])}{render_table(['', ''], rows)}"
