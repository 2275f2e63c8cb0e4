"""HTML and JSON report of a tuning: the choice, the history, importances and settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tailorbird.models.space import Choices, Value
from tailorbird.pages import write_page
from tailorbird.training.report.charts import (
    HIGHLIGHT_COLOUR,
    MUTED_COLOUR,
    clean_axes,
    importance_chart,
    to_svg,
)
from tailorbird.training.tuning.choose import Finalist
from tailorbird.training.tuning.run import TuneReport
from tailorbird.training.tuning.space import SearchSpace
from tailorbird.training.tuning.study import Trial

TRIALS_SHOWN = 20
_LOSS_COLOUR = "#b3541e"


def write_tuning(folder: Path, report: TuneReport, next_steps: Sequence[str]) -> Path:
    """Write `tuning-SLOT.html` and its JSON, and return the page's path.

    Args:
        next_steps: what the reader may do next; indented lines are commands.
    """
    page = folder / f"tuning-{report.slot}.html"
    write_page(
        page,
        "tuning",
        f"Tuning of slot {report.slot}",
        report=report,
        next_steps=next_steps,
        finalists_chart=to_svg(_plot_cells(report.choice.finalists)),
        charts={name: _draw_charts(trials, report, name) for name, trials in report.trials.items()},
        best={name: _best_trials(trials) for name, trials in report.trials.items()},
        facts=_list_facts(report.about),
    )
    page.with_suffix(".json").write_bytes(
        msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=1) + b"\n"
    )
    return page


def _plot_cells(finalists: Sequence[Finalist]) -> Figure:
    """Plot NDCG@10 of every split and seed."""
    figure = Figure(figsize=(6.4, 0.36 * len(finalists) + 1.0), layout="constrained")
    axes = figure.subplots()
    for index, finalist in enumerate(reversed(finalists)):
        for split, row in enumerate(finalist.ndcg):
            axes.plot(
                row,
                [index + 0.18 * (split - (len(finalist.ndcg) - 1) / 2)] * len(row),
                "o",
                color=f"C{split}",
                markersize=4,
            )
    axes.set_yticks(range(len(finalists)), [finalist.name for finalist in reversed(finalists)])
    axes.set_title("NDCG@10 by split (colour) and seed", fontsize=10)
    return clean_axes(figure)


def _draw_charts(trials: Sequence[Trial], report: TuneReport, architecture: str) -> list[Markup]:
    charts = [to_svg(_plot_history(trials))]
    if shares := report.importance[architecture]:
        charts.append(to_svg(importance_chart(shares, "What the trials differ by (PED-ANOVA)")))
    if sum(trial.state == "complete" for trial in trials) > 1:
        charts.append(to_svg(_plot_parallel(trials, report.spaces[architecture])))
    return charts


def _plot_history(trials: Sequence[Trial]) -> Figure:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    best_value = -np.inf
    best_values = []
    for index, trial in enumerate(trials):
        mean_score = float(np.mean(trial.split_scores)) if trial.split_scores else np.nan
        best_value = max(best_value, trial.value) if trial.state == "complete" else best_value
        best_values.append(best_value if np.isfinite(best_value) else np.nan)
        marker, colour = {
            "complete": ("o", HIGHLIGHT_COLOUR),
            "pruned": ("x", MUTED_COLOUR),
            "failed": ("v", _LOSS_COLOUR),
        }[trial.state]
        axes.plot([index], [mean_score], marker, color=colour, markersize=4)
    axes.plot(range(len(best_values)), best_values, color=HIGHLIGHT_COLOUR, linewidth=1)
    default_trial = next(
        (trial for trial in trials if trial.is_default and np.isfinite(trial.value)), None
    )
    if default_trial is not None:
        axes.axhline(
            default_trial.value, color=MUTED_COLOUR, linewidth=0.8, linestyle="--", label="defaults"
        )
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("NDCG@10, mean over the splits that were fitted; × given up early", fontsize=10)
    return clean_axes(figure)


def _plot_parallel(trials: Sequence[Trial], space: SearchSpace) -> Figure:
    """Plot a line for each complete trial through its settings; better trials are darker."""
    complete_trials = sorted(
        (trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.value
    )
    names = list(space.dimensions)
    values = np.array([trial.value for trial in complete_trials])
    lowest_value = float(values.min())
    highest_value = max(float(values.max()), float(values.min()) + 1e-9)
    figure = Figure(figsize=(1.3 * (len(names) + 1) + 1, 3.8), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis_r"]
    for trial in complete_trials:
        relative_value = (trial.value - lowest_value) / (highest_value - lowest_value)
        heights = [
            *(_relative_height(trial.params.get(name), space, name) for name in names),
            relative_value,
        ]
        axes.plot(
            range(len(heights)),
            heights,
            color=colours(0.1 + 0.9 * relative_value),
            linewidth=0.6 + 1.2 * relative_value,
            alpha=0.35 + 0.6 * relative_value,
        )
    for index, name in enumerate(names):
        dimension = space.dimensions[name]
        tick_labels = (
            [
                (i / max(len(dimension.choices) - 1, 1), str(choice))
                for i, choice in enumerate(dimension.choices)
            ]
            if isinstance(dimension, Choices)
            else [(0.0, f"{dimension.low:g}"), (1.0, f"{dimension.high:g}")]
        )
        for height, label in tick_labels:
            axes.text(index + 0.04, height, label, fontsize=7, va="center")
        axes.axvline(index, color=MUTED_COLOUR, linewidth=0.8)
    axes.axvline(len(names), color=MUTED_COLOUR, linewidth=0.8)
    for height, value in ((0.0, lowest_value), (1.0, highest_value)):
        axes.text(len(names) + 0.04, height, f"{value:.4f}", fontsize=7, va="center")
    axes.set_xticks(range(len(names) + 1), [*names, "ndcg_10"])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) + 0.5)
    axes.set_title("Settings of complete trials", fontsize=10)
    figure = clean_axes(figure)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _relative_height(value: Value | None, space: SearchSpace, name: str) -> float:
    """Return the relative position of a value within its range, 0 to 1."""
    dimension = space.dimensions[name]
    if value is None:
        return np.nan
    if isinstance(dimension, Choices):
        return (
            dimension.choices.index(value) / max(len(dimension.choices) - 1, 1)
            if value in dimension.choices
            else np.nan
        )
    ends = (float(value), dimension.low, dimension.high)
    position, low, high = np.log(ends) if dimension.log else ends
    return float((position - low) / (high - low))


def _best_trials(trials: Sequence[Trial]) -> list[Trial]:
    ranked_trials = sorted(
        trials, key=lambda trial: -trial.value if np.isfinite(trial.value) else np.inf
    )
    return ranked_trials[:TRIALS_SHOWN]


def _list_facts(about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    budget = about["budget"]
    limits = [f"{budget['trials']} trials"] * bool(budget["trials"]) + [
        f"{budget['seconds']:g} s of fits"
    ] * bool(budget["seconds"])
    spent_texts = (
        f"{name}: {spent['trials']} trials, {spent['seconds']:g} s of fits"
        for name, spent in about["spent"].items()
    )
    facts = {
        "as of": about["as_of"],
        "the test part begins": about["test_from"],
        "budget of an architecture": " or ".join(limits),
        "spent": "; ".join(spent_texts),
        "sampler, pruner, seed": f"{budget['sampler']}, {budget['pruner']}, {about['seed']}",
        "not tuned": about["untuned"],
    }
    return [(name, value) for name, value in facts.items() if value]
