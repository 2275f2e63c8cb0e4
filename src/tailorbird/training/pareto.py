"""What an answer costs beside how good it is: of everything that was judged, which is worth its
time?

    cost      microseconds to score ITEMS candidates of one request, one thread, best of some repeats, on the machine that trained
    quality   NDCG@10 on the test part
    front     what nothing else is both at least as good and at least as cheap as

A model's cost is that of its ONNX files, as serving runs them; a baseline's, of looking its number
up. Reading the features of a request comes on top for every model alike: `features rank` measures
it, column by column. Serving itself, with all of it, is in docs/benchmarks.md.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tailorbird.ranking.bundle import Bundle, open_session, run_heads
from tailorbird.registry import Head
from tailorbird.training.bootstrap import Interval, flat
from tailorbird.training.judge import PRIMARY, Evaluation, K
from tailorbird.training.page import OTHERS, OURS, plain
from tailorbird.training.serving_cost import ITEMS

Matrix = npt.NDArray[np.float32]

REPEATS = 15


@dataclass(frozen=True)
class Priced:
    """One of those that were judged.

    Attributes:
        us: microseconds; quality: of `PRIMARY`.
        better: another that is at least as good and as cheap, "" where it lies on the front.
    """

    name: str
    us: float
    quality: Interval
    better: str

    def plain(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "us": round(self.us, 1),
            **flat({PRIMARY: self.quality}),
            "on_front": not self.better,
            "better": self.better,
        }


def model_us(exported: Mapping[str, bytes], heads: Sequence[Head], rows: Matrix) -> float:
    """Microseconds that a bundle's models take for ITEMS rows."""
    sessions = {
        name: open_session(data, width=rows.shape[1], where=name) for name, data in exported.items()
    }
    taken = np.ascontiguousarray(np.resize(rows, (ITEMS, rows.shape[1])), np.float32)
    return _us(lambda: run_heads(sessions, heads, taken))


def bundle_us(bundle: Bundle) -> float:
    """The same of a bundle that was loaded."""
    rows = np.resize(bundle.encoder.absent, (ITEMS, len(bundle.encoder.names)))
    return _us(
        lambda: run_heads(
            bundle.sessions, bundle.manifest.heads, np.ascontiguousarray(rows, np.float32)
        )
    )


def baseline_us(items: int) -> float:
    """Microseconds to look up a number for each of ITEMS candidates, out of those of all items, and
    to take the best ten.

    For a baseline that first has to sum over what a person had before, that is the least it takes:
    this errs in its favour.
    """
    numbers = np.random.default_rng(0).random(max(items, ITEMS))
    asked = np.linspace(0, len(numbers) - 1, ITEMS).astype(np.int64)
    return _us(lambda: np.argpartition(numbers[asked], -K)[-K:])


def _us(work: Callable[[], object], *, repeats: int = REPEATS) -> float:
    work()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best * 1e6


def priced(evaluation: Evaluation, us: Mapping[str, float]) -> list[Priced]:
    """All that were judged and have a price, cheapest first."""
    known = [name for name in evaluation.figures if name in us]
    quality = {name: evaluation.figures[name][PRIMARY] for name in known}

    def better(name: str) -> str:
        mine = (quality[name].value, -us[name])
        above = [other for other in known if _dominates((quality[other].value, -us[other]), mine)]
        return max(above, key=lambda other: quality[other].value, default="")

    return sorted(
        (Priced(name, us[name], quality[name], better(name)) for name in known),
        key=lambda one: one.us,
    )


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def pareto_picture(found: Sequence[Mapping[str, Any]], model: str) -> Figure:
    """Cost against quality, with intervals; the front as a line. `found` as `Priced.plain` gives
    it.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for one in found:
        colour = OURS if one["name"] == model else OTHERS
        if one[f"{PRIMARY}_low"] is not None:
            axes.plot(
                [one["us"]] * 2,
                [one[f"{PRIMARY}_low"], one[f"{PRIMARY}_high"]],
                color=colour,
                linewidth=1,
            )
        axes.plot(
            [one["us"]], [one[PRIMARY]], "o" if one["on_front"] else "x", color=colour, markersize=5
        )
        axes.annotate(
            one["name"],
            (one["us"], one[PRIMARY]),
            textcoords="offset points",
            xytext=(5, 3),
            fontsize=7,
        )
    front = [one for one in found if one["on_front"]]
    axes.step(
        [one["us"] for one in front],
        [one[PRIMARY] for one in front],
        where="post",
        color=OURS,
        linewidth=0.8,
        linestyle="--",
    )
    axes.set_xscale("log")
    axes.set_xlabel(f"µs to score {ITEMS} candidates, reading features not counted")
    axes.set_title(f"{PRIMARY} beside what it costs; ● on the front", fontsize=10)
    return plain(figure)
