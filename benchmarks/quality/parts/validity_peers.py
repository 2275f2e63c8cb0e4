"""Analyses of tea-tasting, GrowthBook and confseq on the draws of the validity benchmark.

    tea_tasting          Welch's test, with its delta method and CUPED
    gbstats              GrowthBook's test of the relative effect
    gbstats_sequential   GrowthBook's always-valid interval, tuned for 5,000 units as it ships
    confseq              confseq's normal mixture around tea-tasting's statistic

Each is read once at the end, and at every stage. They run in `.peers/statistics`, from totals of
both arms, so that they see the same draws.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.peers.asking import HERE, run_script
from benchmarks.peers.install import STATISTICS, interpreter
from benchmarks.quality.running import share_with_interval
from benchmarks.quality.validity_sites import KINDS, MetricKind, Units
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
GROWTHBOOK_TUNED_FOR = 5_000  # units, the setting that GrowthBook ships
METHODS = ("tea_tasting", "gbstats", "gbstats_sequential", "confseq")
PEER_KINDS = {"ratio": "ratio", "clustered": "ratio", "cuped": "covariate"}


@dataclass(frozen=True)
class PeerResults:
    """What the peers said: arrays by `name.peer.figure`, and versions or what is missing."""

    values: dict[str, Floats]
    versions: dict[str, str]
    missing: dict[str, str]


def has_peers() -> bool:
    """Return whether `make peers` has made the environment."""
    return interpreter(STATISTICS).exists()


def run_peers(
    totals: dict[str, Floats],
    kinds: dict[str, str],
    *,
    tuned_for_units: float = GROWTHBOOK_TUNED_FOR,
) -> PeerResults:
    """Let the peers analyse totals of two arms, shape (cases, 2, 6) for each name.

    Args:
        kinds: `mean`, `ratio` or `covariate`, by name; see `benchmarks/peers/significance.py`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {"kinds": kinds, "alpha": ALPHA, "tuned_for_units": tuned_for_units}
        (folder / "job.json").write_text(json.dumps(job))
        np.savez(folder / "totals.npz", **totals)  # type: ignore[arg-type]
        run_script(HERE / "significance.py", folder, STATISTICS)
        said = json.loads((folder / "said.json").read_text())
        with np.load(folder / "said.npz") as arrays:
            return PeerResults(dict(arrays), said["versions"], said["missing"])


def sum_arms(arms: tuple[Units, Units], counts: npt.NDArray[np.int64]) -> Floats:
    """Return the totals of both arms after so many units each, shape (stages, 2, 6)."""
    sums = []
    for arm in arms:
        x = arm.value
        second = arm.shown if arm.shown is not None else arm.before
        y = np.zeros(len(x)) if second is None else second
        columns = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y])
        sums.append(columns.cumsum(axis=1)[:, counts - 1].T)
    return np.stack(sums, axis=1)


def draw_totals(kind: MetricKind, effect: float, runs: int, seed: int, stages: int) -> Floats:
    """Return totals of the same draws as `validity.run_effects`, shape (runs, stages, 2, 6)."""
    counts = np.arange(1, stages + 1) * kind.units // stages
    totals = []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        arms = (kind.draw(rng, kind.units, 0.0), kind.draw(rng, kind.units, effect))
        totals.append(sum_arms(arms, counts))
    return np.array(totals)


def measure_peers(runs: int, seed: int, stages: int, effect: float) -> dict[str, Any]:
    """Return false positives, power and coverage of the peers.

    Args:
        effect: of the power's runs, which have the seed after this one; coverage has the next.
    """
    totals = {f"aa-{name}": draw_totals(k, 0.0, runs, seed, stages) for name, k in KINDS.items()}
    totals["power"] = draw_totals(KINDS["normal"], effect, runs, seed + 1, stages)
    for name in ("revenue", "ratio", "clustered", "cuped"):
        ends = draw_totals(KINDS[name], 0.1, runs, seed + 2, stages)[:, -1:]
        totals[f"coverage-{name}"] = ends
    kinds = {name: PEER_KINDS.get(name.rpartition("-")[2], "mean") for name in totals}
    peer_results = run_peers({name: t.reshape(-1, 2, 6) for name, t in totals.items()}, kinds)
    rejections = {
        name: _rejections(peer_results, name, totals[name].shape[:2])
        for name in totals
        if not name.startswith("coverage-")
    }
    aa = {name: _rates(rejections[f"aa-{name}"], stages) for name in KINDS}
    coverage = {}
    for name in totals:
        if name.startswith("coverage-") and f"{name}.tea_tasting.low" in peer_results.values:
            low, high = (
                peer_results.values[f"{name}.tea_tasting.{end}"] for end in ("low", "high")
            )
            covered_count = int(((low <= 0.1) & (high >= 0.1)).sum())
            coverage[name.removeprefix("coverage-")] = share_with_interval(covered_count, runs)
    return {
        "runs": runs,
        "versions": peer_results.versions,
        "missing": peer_results.missing,
        "aa": aa,
        "power": _rates(rejections["power"], stages),
        "coverage": {"tea_tasting": coverage},
    }


def _rejections(
    peer_results: PeerResults, name: str, shape: tuple[int, ...]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return whether each method rejects, shape (runs, stages); of the peers that are there."""
    values, rejections = peer_results.values, {}
    if (p := values.get(f"{name}.tea_tasting.p")) is not None:
        rejections["tea_tasting"] = p < ALPHA
        if (bound := values.get(f"{name}.confseq.bound")) is not None:
            rejections["confseq"] = -ndtri(p / 2) >= bound
    if (p := values.get(f"{name}.gbstats.p")) is not None:
        low, high = (values[f"{name}.gbstats.sequential_{end}"] for end in ("low", "high"))
        rejections["gbstats"] = p < ALPHA
        rejections["gbstats_sequential"] = (low > 0) | (high < 0)
    return {method: rejected.reshape(shape) for method, rejected in rejections.items()}


def _rates(rejections: dict[str, npt.NDArray[np.bool_]], stages: int) -> dict[str, Any]:
    """Return the share of runs that reject at the end alone, and at any stage."""
    return {
        method: {
            "1": share_with_interval(int(rejected[:, -1].sum()), len(rejected)),
            str(stages): share_with_interval(int(rejected.any(axis=1).sum()), len(rejected)),
        }
        for method, rejected in rejections.items()
    }
