"""Verdicts on columns: leak, noise, redundant, drifting or signal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm

from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.selection.stability import STABILITY_INDEX_MAX

SIGNAL = "signal"
NULL = "null"
REDUNDANT = "redundant"
DRIFTING = "unstable"
LEAK = "too good: leak?"
TOO_FEW_REQUESTS = "too few requests to decide"
REQUESTS_MIN = 200  # requests with a positive; with fewer, the absence of an effect says nothing
IMPORTANCE_MIN = 0.01  # a column whose interval reaches this importance is not called null

NULL_Z_MIN = 3.0


@dataclass(frozen=True)
class Signal:
    """Measurements of one column.

    Attributes:
        location: file and line of the declaration, "" for computed columns.
        entity: entity of the column; "" for the request, derived and computed columns.
        is_request_level: constant within requests, so it can order items only together with other
            columns.
        importance: drop of the metric on later data when permuted, with its interval over users.
        gain: share of the gain of small trees.
        null_z: standard deviations of the gain above the null.
        above_nulls: above all null fits, and above the null gain of the typical column.
        bits, bits_z: mutual information with the target minus its null.
        drift, period_drifts: worst of the periods, and all of them.
        missing: share of later rows without a value.
        cluster: number of its cluster, 0 without one.
        cluster_importance: importance of the entire cluster.
        verdict, why: one of six verdicts, and the reason in words.
        kept: whether it stays in the proposed subset.
    """

    name: str
    kind: str
    entity: str
    location: str
    is_request_level: bool
    importance: Interval
    gain: float
    null_z: float
    above_nulls: bool
    bits: float
    bits_z: float
    drift: float
    period_drifts: tuple[float, ...]
    missing: float
    record_bytes: int
    request_bytes: int
    finish_us: float
    cluster: int = 0
    cluster_importance: Interval | None = None
    verdict: str = SIGNAL
    why: str = ""
    kept: bool = True

    @property
    def beats_nulls(self) -> bool:
        """Return whether trees gain more from it than from any shuffled labels."""
        return self.above_nulls and self.null_z >= NULL_Z_MIN

    @property
    def is_unstable(self) -> bool:
        return self.drift >= STABILITY_INDEX_MAX

    def to_dict(self) -> dict[str, Any]:
        """Return the signal as JSON."""
        values = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("importance", "cluster_importance", "period_drifts")
        }
        values |= interval_to_dict("importance", self.importance) | {
            "drifts": list(self.period_drifts),
            "unstable": self.is_unstable,
        }
        values |= (
            interval_to_dict("cluster_importance", self.cluster_importance)
            if self.cluster_importance
            else {}
        )
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in values.items()
        }


def interval_to_dict(name: str, interval: Interval) -> dict[str, float | None]:
    """Return `name`, `name_low` and `name_high`; None where not finite."""
    named_bounds = (
        (name, interval.value),
        (f"{name}_low", interval.low),
        (f"{name}_high", interval.high),
    )
    return {
        key: round(float(value), 6) if np.isfinite(value) else None for key, value in named_bounds
    }


def mark_significant_at_fdr(intervals: Sequence[Interval], *, level: float = 0.05) -> list[bool]:
    """Return which figures are significantly above 0, at a false discovery rate of `level`.

    Source: Benjamini and Hochberg, J. R. Statist. Soc. B 57 (1995); one-sided, from the widths of
    the intervals.
    """
    standard_errors = np.array(
        [(interval.high - interval.low) / (2 * 1.96) for interval in intervals]
    )
    values = np.array([interval.value for interval in intervals])
    is_finite = np.isfinite(standard_errors) & (standard_errors > 0)
    p_values = np.ones(len(intervals))
    p_values[is_finite] = norm.sf(values[is_finite] / standard_errors[is_finite])
    sorted_p_values = np.sort(p_values)
    accepted_ranks = np.flatnonzero(
        sorted_p_values
        <= level * (1 + np.arange(len(sorted_p_values))) / max(len(sorted_p_values), 1)
    )
    p_limit = sorted_p_values[accepted_ranks[-1]] if len(accepted_ranks) else -1.0
    return [bool(p <= p_limit) for p in p_values]


def assign_verdicts(
    signals: Sequence[Signal], leak_reasons: Mapping[str, str], positive_requests: int
) -> list[Signal]:
    """Assign a verdict to each signal.

    Args:
        positive_requests: requests with a positive that importance was measured on.
    """
    trusted_signals = [signal for signal in signals if signal.name not in leak_reasons]
    members_by_cluster = {
        signal.cluster: [
            cluster_signal
            for cluster_signal in trusted_signals
            if cluster_signal.cluster == signal.cluster
        ]
        for signal in trusted_signals
        if signal.cluster
    }
    representative_by_cluster = {
        cluster: max(members, key=_representative_rank).name
        for cluster, members in members_by_cluster.items()
    }
    cluster_importances = [
        members[0].cluster_importance or members[0].importance
        for members in members_by_cluster.values()
    ]
    is_significant_by_test = mark_significant_at_fdr(
        [*(signal.importance for signal in trusted_signals), *cluster_importances]
    )
    proven_columns = {
        signal.name
        for signal, is_significant in zip(trusted_signals, is_significant_by_test, strict=False)
        if is_significant
    }
    proven_clusters = {
        cluster
        for cluster, is_significant in zip(
            members_by_cluster, is_significant_by_test[len(trusted_signals) :], strict=True
        )
        if is_significant
    }
    judged_signals = [
        replace(
            signal,
            **_judge_signal(
                signal,
                members_by_cluster.get(signal.cluster, [signal]),
                representative_by_cluster,
                proven_columns,
                proven_clusters,
                leak_reasons,
            ),
        )
        for signal in signals
    ]
    return [
        replace(signal, **_undecided_verdict(signal, positive_requests))
        if signal.verdict == NULL
        else signal
        for signal in judged_signals
    ]


def _undecided_verdict(signal: Signal, positive_requests: int) -> dict[str, Any]:
    """Return `verdict` and `why` if the requests cannot confirm a null column; {} if they can."""
    if positive_requests < REQUESTS_MIN:
        return {
            "verdict": TOO_FEW_REQUESTS,
            "why": f"{positive_requests:,} later requests with something to find; "
            f"{REQUESTS_MIN:,} are the least to call it null by",
        }
    highest_importance = max(
        interval.high
        for interval in (signal.importance, signal.cluster_importance)
        if interval is not None
    )
    if highest_importance >= IMPORTANCE_MIN:
        return {
            "verdict": TOO_FEW_REQUESTS,
            "why": f"it may be chance, and it may be worth {highest_importance:.3f}: "
            "the interval has both",
        }
    return {}


def _judge_signal(
    signal: Signal,
    members: Sequence[Signal],
    representative_by_cluster: Mapping[int, str],
    proven_columns: set[str],
    proven_clusters: set[int],
    leak_reasons: Mapping[str, str],
) -> dict[str, Any]:
    """Return `verdict` and `why` of one signal; `members` is its cluster, including itself."""
    if signal.name in leak_reasons:
        return {"verdict": LEAK, "why": leak_reasons[signal.name], "kept": False}
    is_proven = signal.cluster in proven_clusters or any(
        member.name in proven_columns for member in members
    )
    if not is_proven and not any(member.beats_nulls for member in members):
        return {"verdict": NULL, "why": "what it does on later data and for trees may be chance"}
    representative = representative_by_cluster.get(signal.cluster, signal.name)
    if signal.name != representative:
        return {"verdict": REDUNDANT, "why": f"{representative} stands for it"}
    if signal.is_unstable and not is_proven:
        return {
            "verdict": DRIFTING,
            "why": f"drift {signal.drift:.2f}, and later data do not prove that it helps "
            "nevertheless",
        }
    why = "proven on later data" if is_proven else "trees get more of it than of shuffled labels"
    return {
        "verdict": SIGNAL,
        "why": why + (f", though it drifts ({signal.drift:.2f})" if signal.is_unstable else ""),
    }


def _representative_rank(signal: Signal) -> tuple[float, ...]:
    """Return the sort key of cluster representatives: importance, bits, cost, missing values."""
    return (
        round(signal.importance.value, 6) if np.isfinite(signal.importance.value) else 0.0,
        signal.bits,
        -signal.request_bytes,
        -signal.missing,
    )
