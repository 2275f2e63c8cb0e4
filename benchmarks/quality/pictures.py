"""The pictures of `docs/results.md`, from the figures that the commands wrote: `images/results-*.svg`, the same for the same figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from tailorbird.training.page import OTHERS, OURS, plain
from tailorbird.training.pareto import pareto_picture

COLOURS = (OURS, "#b3541e", "#5b6ee1", "#9a7b1f", "#7d4f94", "#5c6b73", "#c2527a")
_LOOK = {"svg.hashsalt": "tailorbird", "svg.fonttype": "none", "font.size": 9}


def draw(results: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what can be drawn of these figures."""
    drawn = []
    for result in results:
        for name, make in PICTURES.get(result["benchmark"], {}).items():
            path = folder / f"results-{name}.svg"
            with matplotlib.rc_context(_LOOK):
                make(result).savefig(path, format="svg", metadata={"Date": None})
            drawn.append(path)
    return drawn


def pareto(result: Mapping[str, Any]) -> Figure:
    """Cost beside quality of everything that has both."""
    priced = [{"name": name, "on_front": name in result["front"], **each} for name, each in result["results"].items() if "us" in each]
    return pareto_picture(sorted(priced, key=lambda one: (one["us"], one["ndcg_10"])), result["default"])


def reliability(result: Mapping[str, Any]) -> Figure:
    """What the default said beside what happened, head by head."""
    heads = result["reliability"]
    figure = Figure(figsize=(3.4 * len(heads), 3.2), layout="constrained")
    for axes, (head, each) in zip(figure.subplots(1, len(heads), squeeze=False)[0], heads.items(), strict=True):
        said, happened, count = (np.array(each[name]) for name in ("predicted", "observed", "count"))
        spread = 1.96 * np.sqrt(np.maximum(happened * (1 - happened), 0) / np.maximum(count, 1))
        axes.plot([0, said.max()], [0, said.max()], color=OTHERS, linewidth=0.8)
        axes.errorbar(said, happened, spread, fmt="o", color=OURS, markersize=4, linewidth=1)
        axes.set_title(f"{head}: happened, by what was predicted", fontsize=9)
    return plain(figure)


def overfit(result: Mapping[str, Any]) -> Figure:
    """Log loss by epoch: what was learned from, and later rows."""
    curves = result["curves"]
    figure = Figure(figsize=(2.6 * len(curves), 2.8), layout="constrained")
    for axes, (name, series) in zip(figure.subplots(1, len(curves), sharey=True, squeeze=False)[0], curves.items(), strict=True):
        for part, colour in (("train", OTHERS), ("validation", OURS)):
            axes.plot(np.arange(1, len(series[part]) + 1), series[part], color=colour, label="learned from" if part == "train" else "later")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("epoch")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("log loss")
    return plain(figure)


def cold(result: Mapping[str, Any]) -> Figure:
    """NDCG@10 of people never seen before, by how many of their events were seen."""
    cases = {name: each["cold"] for name, each in result["cases"].items() if each.get("cold")}
    figure = Figure(figsize=(4.2 * len(cases), 3.2), layout="constrained")
    for axes, (name, each) in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases.items(), strict=True):
        for colour, (model, values) in zip(COLOURS, each["models"].items(), strict=False):
            known = [(count, value[0]) for count, value in zip(each["events"], values, strict=True) if value is not None]
            places = [each["events"].index(count) for count, _ in known]
            axes.plot(places, [value for _, value in known], "o-", color=colour, label=model, markersize=3, linewidth=1)
        axes.set_xticks(range(len(each["events"])), [str(count) for count in each["events"]])
        axes.set_xlabel("events seen")
        axes.set_title(f"NDCG@10, new people, {name}", fontsize=9)
        axes.legend(frameon=False, fontsize=7)
    return plain(figure)


def incremental(result: Mapping[str, Any]) -> Figure:
    """NDCG@20 by day, both ways."""
    figure = Figure(figsize=(5.4, 3.0), layout="constrained")
    axes = figure.subplots()
    days = [one["day"] for one in result["days"]]
    for colour, way in zip((OURS, COLOURS[1], OTHERS), ("incremental", "scratch", "popular_3h"), strict=True):
        axes.plot(days, [one[way] for one in result["days"]], "o-", color=colour, label=way, markersize=3, linewidth=1)
    axes.set_xlabel("day judged")
    axes.set_title("NDCG@20 by day", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    return plain(figure)


PICTURES: dict[str, dict[str, Callable[[Mapping[str, Any]], Figure]]] = {
    "architectures": {"pareto": pareto, "reliability": reliability},
    "kuairand": {"overfit": overfit},
    "next_item": {"cold": cold},
    "incremental": {"incremental": incremental},
}
