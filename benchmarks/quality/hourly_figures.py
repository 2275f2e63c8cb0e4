"""Means over hours, with intervals over readers and over hours, of what `hourly` judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.hourly import BY_SEED, FIGURES

OURS = "tailorbird"
REPLICATES = 500


@dataclass(frozen=True)
class Judged:
    """One row a session. `values`: MODEL_FIGURE → shape (sessions,)."""

    hour: npt.NDArray
    user: npt.NDArray
    found: npt.NDArray
    values: Mapping[str, npt.NDArray]

    @classmethod
    def of(cls, parts: Sequence[Mapping[str, npt.NDArray]]) -> "Judged":
        names = [name for name in parts[0] if name != "seconds" and not name.startswith(BY_SEED)]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
        return cls(whole.pop("hour"), whole.pop("user"), whole.pop("found"), whole)

    def only(self, kept: npt.NDArray[np.bool_]) -> "Judged":
        return Judged(self.hour[kept], self.user[kept], self.found[kept], {name: value[kept] for name, value in self.values.items()})


def by_seed(parts: Sequence[Mapping[str, npt.NDArray]]) -> dict[str, float]:
    """Seed of the trees → NDCG@20, the mean over hours; nothing where there was one seed."""
    _, hour = np.unique(np.concatenate([part["hour"] for part in parts]), return_inverse=True)
    values = {name.removeprefix(BY_SEED): np.concatenate([part[name] for part in parts]) for name in parts[0] if name.startswith(BY_SEED)}
    return {seed: round(float((np.bincount(hour, each) / np.bincount(hour)).mean()), 6) for seed, each in values.items()}


def figures(judged: Judged) -> dict[str, Any]:
    """`results` and `differences` as all quality benchmarks tell them."""
    names = list(judged.values)
    models = sorted({name.removesuffix(f"_{figure}") for name in names for figure in FIGURES if name.endswith(f"_{figure}")})
    by_hour, draws = _means(judged, names)
    place = {name: at for at, name in enumerate(names)}
    centre = by_hour.mean(axis=0)
    results: dict[str, Any] = {model: {} for model in models}
    differences: dict[str, Any] = {model: {} for model in models if model != OURS}
    rng = np.random.default_rng(0)
    drawn_hours = rng.integers(0, len(by_hour), (2_000, len(by_hour)))
    for model in models:
        for figure in FIGURES:
            at = place[f"{model}_{figure}"]
            results[model] |= _told(figure, centre[at], draws[:, at])
            if model != OURS:
                ours = place[f"{OURS}_{figure}"]
                differences[model] |= _told(figure, centre[ours] - centre[at], draws[:, ours] - draws[:, at])
                gain = by_hour[:, ours] - by_hour[:, at]
                low, high = np.quantile(gain[drawn_hours].mean(axis=1), (0.025, 0.975))
                differences[model] |= {f"{figure}_hours_low": round(float(low), 6), f"{figure}_hours_high": round(float(high), 6)}
    return {"results": results, "differences": differences}


def _means(judged: Judged, names: Sequence[str]) -> tuple[npt.NDArray, npt.NDArray]:
    """Means of each hour (hours, figures), and of replicates in which each reader counts Poisson(1) times (replicates, figures)."""
    from scipy.sparse import csr_matrix

    _, hour = np.unique(judged.hour, return_inverse=True)
    _, person = np.unique(judged.user, return_inverse=True)
    people, hours = int(person.max()) + 1, int(hour.max()) + 1
    count = np.bincount(hour).astype(float)
    by_hour = np.stack([np.bincount(hour, judged.values[name]) / count for name in names], axis=1)
    to_hour = csr_matrix((np.ones(len(hour)), (hour, np.arange(len(hour)))), shape=(hours, len(hour)))
    values = np.stack([judged.values[name] for name in names], axis=1).astype(np.float64)
    rng, draws = np.random.default_rng(0), np.empty((REPLICATES, len(names)))
    for replicate in range(REPLICATES):
        weight = rng.poisson(1.0, people).astype(np.float64)[person]
        total = to_hour @ weight
        sums = to_hour @ (values * weight[:, None])
        # An hour of the night may be left without anybody: it has no mean then.
        draws[replicate] = (sums[total > 0] / total[total > 0, None]).mean(axis=0)
    return by_hour, draws


def _told(figure: str, value: float, draws: npt.NDArray) -> dict[str, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return {figure: round(float(value), 6), f"{figure}_low": round(float(low), 6), f"{figure}_high": round(float(high), 6)}


def show(result: Mapping[str, Any]) -> None:
    """The result for people."""
    print(result["title"])
    for sentence in result["protocol"]:
        print(f"  {sentence}")
    print(f"{result['sessions']:,} sessions in {result['hours']} hours; candidates hold {result['found']:.1%} of the truths")
    for name, each in sorted(result["results"].items(), key=lambda entry: -entry[1]["ndcg_20"]):
        print(f"{name:16}" + "".join(f"{each[f]:10.4f} ({each[f + '_low']:.4f}–{each[f + '_high']:.4f})" for f in FIGURES))
    for name, each in result["differences"].items():
        print(f"over {name:14}" + "".join(f"{each[f]:+10.4f} ({each[f + '_low']:+.4f} to {each[f + '_high']:+.4f})" for f in FIGURES))
    print("seconds:", result["seconds"])
