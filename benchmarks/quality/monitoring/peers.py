"""Simple tests of drift, at the false-alarm rate that Tailorbird is measured to have.

    ks     Kolmogorov-Smirnov's statistic times the root of the number of requests, the largest of
           all features: with a threshold on it, this is the test with Bonferroni's correction
    psi    population stability index, the largest of all features

Both compare a day, or an hour, with the eight weeks before. A threshold is chosen for each so that
it causes as many false alarms on the sites without drift.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.quality.monitoring.sites import HOURS_WEEK, Site

Floats = npt.NDArray[np.float64]
METHODS = ("ks_hour", "ks_day", "psi_hour", "psi_day")
WEEKS = 8
SMOOTHING = 1e-4


def statistics(site: Site) -> dict[str, Floats]:
    """Return the largest statistic of all features in each window after the history."""
    past = WEEKS * HOURS_WEEK
    reference = _shares(site.counts[:past].sum(axis=0).astype(np.float64))
    result = {}
    for name, hours in (("hour", 1), ("day", 24)):
        after = site.counts[past:]
        count = len(after) // hours
        windows = after[: count * hours].reshape(count, hours, *after.shape[1:]).sum(axis=1)
        requests = windows.sum(axis=2, dtype=np.float64)
        shares = _shares(windows.astype(np.float64))
        gap = np.abs(np.cumsum(shares, axis=2) - np.cumsum(reference, axis=1)).max(axis=2)
        p, q = shares + SMOOTHING, reference + SMOOTHING
        result[f"ks_{name}"] = (gap * np.sqrt(requests)).max(axis=1)
        result[f"psi_{name}"] = ((p - q) * np.log(p / q)).sum(axis=2).max(axis=1)
    return result


def find_threshold(quiet: Sequence[Floats], false_alarms: float) -> float:
    """Return the lowest threshold with at most so many alarms on the sites without drift.

    Adjacent windows above it are one alarm.
    """
    values = np.unique(np.concatenate(list(quiet)))
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        alarms = sum(_alarms(each > values[middle]) for each in quiet)
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


def _alarms(is_above: npt.NDArray[np.bool_]) -> int:
    return int(is_above[0]) + int((is_above[1:] & ~is_above[:-1]).sum())


def _shares(counts: Floats) -> Floats:
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1.0)
