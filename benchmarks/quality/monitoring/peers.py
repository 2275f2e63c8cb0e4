"""Peers' tests of drift, with their default thresholds and at Tailorbird's false-alarm rate.

    ks          Kolmogorov-Smirnov's statistic times the root of the number of requests: with a
                threshold on the largest, this is the test with Bonferroni's correction
    psi         population stability index; above .2 by default
    evidently   Evidently's defaults: Wasserstein's distance over the standard deviation for
                numbers, Jensen-Shannon's for categories, each above .1
    nannyml     NannyML's defaults: Jensen-Shannon's distance, above .1

Each is the largest of all features, of a day or an hour against the eight weeks before. The
libraries take rows; here their statistics come from the histograms, and `peers/drift.py` shows on
the rows of one site that the libraries return the same.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.peers.asking import HERE, run_script
from benchmarks.peers.install import MONITORING
from benchmarks.quality.monitoring.sites import HOURS_WEEK, Site

Floats = npt.NDArray[np.float64]
HOURS_BY_SCALE = {"hour": 1, "day": 24}
NAMES = ("ks", "psi", "evidently", "nannyml")
METHODS = tuple(f"{name}_{scale}" for name in NAMES for scale in HOURS_BY_SCALE)
DEFAULT_THRESHOLDS = {"psi_day": 0.2, "evidently_day": 0.1, "nannyml_day": 0.1}
WEEKS = 8
SMOOTHING = 1e-4


def largest_statistics(site: Site) -> dict[str, Floats]:
    """Return the largest statistic of all features in each window after the history."""
    return {method: each.max(axis=1) for method, each in statistics_by_feature(site).items()}


def statistics_by_feature(site: Site) -> dict[str, Floats]:
    """Return the statistic of each feature and window after the history: (windows, features)."""
    past = WEEKS * HOURS_WEEK
    history = site.counts[:past].sum(axis=0).astype(np.float64)
    result = {}
    for name, hours in HOURS_BY_SCALE.items():
        after = site.counts[past:]
        count = len(after) // hours
        windows = after[: count * hours].reshape(count, hours, *after.shape[1:]).sum(axis=1)
        requests = windows.sum(axis=2, dtype=np.float64)
        shares, reference = _shares(windows.astype(np.float64)), _shares(history)
        gap = np.abs(np.cumsum(shares, axis=2) - np.cumsum(reference, axis=1)).max(axis=2)
        p, q = shares + SMOOTHING, reference + SMOOTHING
        result[f"ks_{name}"] = gap * np.sqrt(requests)
        result[f"psi_{name}"] = ((p - q) * np.log(p / q)).sum(axis=2)
        # The libraries leave missing values out.
        shares, reference = _shares(windows[..., 1:].astype(np.float64)), _shares(history[..., 1:])
        divergence = _jensen_shannon(shares, reference)
        moved = _wasserstein(shares, reference)
        base_e = divergence * np.sqrt(np.log(2.0))
        result[f"evidently_{name}"] = np.where(site.is_category, base_e, moved)
        result[f"nannyml_{name}"] = divergence
    return {method: result[method] for method in METHODS}


def _jensen_shannon(p: Floats, q: Floats) -> Floats:
    """Return the root of the divergence in bits."""
    middle = 0.5 * (p + q)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(each > 0, each * np.log2(each / middle), 0.0) for each in (p, q)]
    return np.sqrt(np.maximum(0.5 * (terms[0] + terms[1]).sum(axis=-1), 0.0))


def _wasserstein(p: Floats, q: Floats) -> Floats:
    """Return the distance in standard deviations of the reference; bins are one apart."""
    bins = np.arange(q.shape[-1])
    mean = (q * bins).sum(axis=-1, keepdims=True)
    deviation = np.sqrt((q * (bins - mean) ** 2).sum(axis=-1))
    return np.abs(np.cumsum(p - q, axis=-1)).sum(axis=-1) / deviation


def find_threshold(quiet: Sequence[Floats], false_alarms: float) -> float:
    """Return the lowest threshold with at most so many alarms on the sites without drift.

    Adjacent windows above it are one alarm, so that a threshold that is always passed would have
    one in each site: `false_alarms` is below their number.
    """
    values = np.unique(np.concatenate(list(quiet)))
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        alarms = sum(_count_alarms(each > values[middle]) for each in quiet)
        low, high = (low, middle) if alarms <= false_alarms else (middle + 1, high)
    return float(values[low])


def detection_hours(statistic: Floats, threshold: float, scale: int, drift_at: int) -> float:
    """Return the hours from the drift to the end of the first window above the threshold.

    Args:
        drift_at: hours after the history.
    """
    ends = (np.arange(len(statistic)) + 1) * scale
    hits = ends[(statistic > threshold) & (ends > drift_at)]
    return float(hits[0] - drift_at) if len(hits) else float("inf")


def scale_of(method: str) -> int:
    """Return the hours in a window of a method."""
    return 1 if method.endswith("hour") else 24


def check_libraries(site: Site) -> dict[str, float | str]:
    """Return for each library the largest difference between its scores and `statistics_by_feature`.

    A library that does not run has its error instead. The first day after the history is compared.
    """
    past = WEEKS * HOURS_WEEK
    ours = statistics_by_feature(site)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "histograms.npz"
        np.savez(
            path,
            reference=site.counts[:past].sum(axis=0),
            current=site.counts[past : past + 24].sum(axis=0),
            is_category=site.is_category,
        )
        try:
            scores = json.loads(run_script(HERE / "drift.py", path, MONITORING))
        except RuntimeError as error:
            return {"evidently": str(error), "nannyml": str(error)}
    return {
        name: own if isinstance(own, str) else float(np.abs(own - ours[f"{name}_day"][0]).max())
        for name, own in scores.items()
    }


def _count_alarms(is_above: npt.NDArray[np.bool_]) -> int:
    return int(is_above[0]) + int((is_above[1:] & ~is_above[:-1]).sum())


def _shares(counts: Floats) -> Floats:
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1.0)
