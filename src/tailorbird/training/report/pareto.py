"""Quality against the cost of a response, for everything that was evaluated.

    cost      microseconds to score the candidates of one request on the machine that trained:
              one thread, best of several repeats
    quality   NDCG@10 on the test part
    front     everything that nothing else beats or equals in both

A model's cost is that of its ONNX files, as serving runs them; a baseline's is a table lookup.
Reading features adds the same to every model: `features rank` measures it per column.
docs/benchmarks.md has the cost of serving as a whole.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.head_sessions import open_session, run_heads
from tailorbird.registry import Head
from tailorbird.training.evaluation.bootstrap import Interval, flatten_intervals
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, TOP_K, Evaluation
from tailorbird.training.report.charts import HIGHLIGHT_COLOUR, MUTED_COLOUR, clean_axes
from tailorbird.training.report.serving_cost import CANDIDATES_PER_REQUEST

Matrix = npt.NDArray[np.float32]

REPEATS = 15


@dataclass(frozen=True)
class ServingCost:
    """What a model or baseline costs, and how good it is.

    Attributes:
        latency_us: cost, microseconds.
        quality: interval of `PRIMARY_METRIC`.
        dominated_by: another one at least as good and as cheap, "" on the front.
    """

    name: str
    latency_us: float
    quality: Interval
    dominated_by: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "us": round(self.latency_us, 1),
            **flatten_intervals({PRIMARY_METRIC: self.quality}),
            "on_front": not self.dominated_by,
            "better": self.dominated_by,
        }


def measure_model_us(
    exported_files: Mapping[str, bytes], heads: Sequence[Head], rows: Matrix
) -> float:
    """Measure the microseconds that a bundle's models take for the candidates of a request."""
    sessions = {
        name: open_session(data, width=rows.shape[1], where=name)
        for name, data in exported_files.items()
    }
    candidate_rows = np.ascontiguousarray(
        np.resize(rows, (CANDIDATES_PER_REQUEST, rows.shape[1])), np.float32
    )
    return _best_us(lambda: run_heads(sessions, heads, candidate_rows))


def measure_bundle_us(bundle: Bundle) -> float:
    """Measure the microseconds that a loaded bundle takes for the candidates of a request."""
    rows = np.resize(
        bundle.encoder.missing_row, (CANDIDATES_PER_REQUEST, len(bundle.encoder.names))
    )
    return _best_us(
        lambda: run_heads(
            bundle.sessions, bundle.manifest.heads, np.ascontiguousarray(rows, np.float32)
        )
    )


def measure_baseline_us(item_count: int) -> float:
    """Measure the microseconds to look up candidates in a score table and take the best ten.

    A baseline that sums over a person's history costs more, so this estimate favours it.
    """
    score_table = np.random.default_rng(0).random(max(item_count, CANDIDATES_PER_REQUEST))
    candidate_rows = np.linspace(0, len(score_table) - 1, CANDIDATES_PER_REQUEST).astype(np.int64)
    return _best_us(lambda: np.argpartition(score_table[candidate_rows], -TOP_K)[-TOP_K:])


def _best_us(measured_call: Callable[[], object], *, repeats: int = REPEATS) -> float:
    """Return the microseconds of the fastest of several repeats."""
    measured_call()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        measured_call()
        best = min(best, time.perf_counter() - begin)
    return best * 1e6


def compare_serving_costs(
    evaluation: Evaluation, latency_us: Mapping[str, float]
) -> list[ServingCost]:
    """Return everything that was evaluated and has a cost, cheapest first."""
    names = [name for name in evaluation.intervals if name in latency_us]
    quality_by_name = {name: evaluation.intervals[name][PRIMARY_METRIC] for name in names}

    def find_dominating(name: str) -> str:
        own_point = (quality_by_name[name].value, -latency_us[name])
        dominating_names = [
            other
            for other in names
            if _dominates((quality_by_name[other].value, -latency_us[other]), own_point)
        ]
        return max(dominating_names, key=lambda other: quality_by_name[other].value, default="")

    return sorted(
        (
            ServingCost(name, latency_us[name], quality_by_name[name], find_dominating(name))
            for name in names
        ),
        key=lambda model: model.latency_us,
    )


def _dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first != second and first[0] >= second[0] and first[1] >= second[1]


def pareto_chart(cost_entries: Sequence[Mapping[str, Any]], model_name: str) -> Figure:
    """Draw quality with intervals over cost, with the front as a line.

    Args:
        cost_entries: entries of `ServingCost.to_dict`.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for entry in cost_entries:
        colour = HIGHLIGHT_COLOUR if entry["name"] == model_name else MUTED_COLOUR
        if entry[f"{PRIMARY_METRIC}_low"] is not None:
            axes.plot(
                [entry["us"]] * 2,
                [entry[f"{PRIMARY_METRIC}_low"], entry[f"{PRIMARY_METRIC}_high"]],
                color=colour,
                linewidth=1,
            )
        axes.plot(
            [entry["us"]],
            [entry[PRIMARY_METRIC]],
            "o" if entry["on_front"] else "x",
            color=colour,
            markersize=5,
        )
        axes.annotate(
            entry["name"],
            (entry["us"], entry[PRIMARY_METRIC]),
            textcoords="offset points",
            xytext=(5, 3),
            fontsize=7,
        )
    front_entries = [entry for entry in cost_entries if entry["on_front"]]
    axes.step(
        [entry["us"] for entry in front_entries],
        [entry[PRIMARY_METRIC] for entry in front_entries],
        where="post",
        color=HIGHLIGHT_COLOUR,
        linewidth=0.8,
        linestyle="--",
    )
    axes.set_xscale("log")
    axes.set_xlabel(
        f"µs to score {CANDIDATES_PER_REQUEST} candidates, reading features not counted"
    )
    axes.set_title(f"{PRIMARY_METRIC} beside what it costs; ● on the front", fontsize=10)
    return clean_axes(figure)
