"""Checks of an experiment's data: each that fails turns the verdict red, with the reason."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from tailorbird.events import DAY
from tailorbird.experiments.analysis.sample_ratio import ALARM, sample_ratio_p
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.outcomes import IMPRESSION, RESPONSE
from tailorbird.experiments.units import UnitTable, history_values

MULTIPLE_ALARM = 0.01  # share of units in several arms
IMBALANCE_ALARM = 0.001  # p of a difference before exposure
MISSING_ALARM = 0.001  # p of a difference in the share of units with an impression
REPORTED_SHARE_MIN = 0.02  # share of units with an impression below which logs are missing


@dataclass(frozen=True)
class Check:
    """A check of the data, with the reason in one sentence."""

    name: str
    passed: bool
    reason: str


def run_checks(table: UnitTable, experiment: Experiment) -> tuple[Check, ...]:
    """Run all checks."""
    if not table.exposed or not sum(table.exposed.values()):
        return ()
    return (
        check_sample_ratio(table, experiment),
        check_multiple_exposure(table),
        check_history(table, experiment),
        check_logs(table, experiment),
    )


def check_sample_ratio(table: UnitTable, experiment: Experiment) -> Check:
    """Test the split of units, by the days of their first exposure."""
    shares = [experiment.arms[arm] for arm in table.arms]
    if len(shares) < 2:
        return Check("sample ratio", True, "There is one arm.")
    day = (table.arrivals - table.arrivals.min()) // DAY
    counts = np.stack(
        [
            np.bincount(day[table.arrival_arms == arm], minlength=int(day.max()) + 1).cumsum()
            for arm in range(len(shares))
        ],
        axis=1,
    )
    p = sample_ratio_p(counts, shares)
    split = " : ".join(f"{count:,}" for count in counts[-1].tolist())
    declared = " : ".join(f"{share:g}" for share in shares)
    if p >= ALARM:
        return Check("sample ratio", True, f"{split} units, declared {declared}; p = {p:.3g}.")
    return Check(
        "sample ratio", False, f"The split is {split} units, not {declared} (p = {p:.2g})."
    )


def check_multiple_exposure(table: UnitTable) -> Check:
    """Count the units that were in several arms."""
    total = len(table) + table.in_several
    share = table.in_several / total if total else 0.0
    text = f"{table.in_several:,} of {total:,} units were in several arms"
    return Check("multiple exposure", share <= MULTIPLE_ALARM, f"{text}, and are left out.")


def check_history(table: UnitTable, experiment: Experiment) -> Check:
    """Test whether the arms differed before their exposure."""
    covariates = history_values(table, experiment.metric)
    smallest, arms = 1.0, len(table.arms)
    for treatment in range(1, arms):
        for column in covariates.T:
            a, b = column[table.arm == treatment], column[table.arm == 0]
            if min(len(a), len(b)) < 2 or not a.var() + b.var() > 0:
                continue
            error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
            smallest = min(smallest, float(2 * ndtr(-abs(a.mean() - b.mean()) / error)))
    p = min(smallest * covariates.shape[1] * max(arms - 1, 1), 1.0)
    if p >= IMBALANCE_ALARM:
        return Check("pre-exposure balance", True, f"The arms were alike before; p = {p:.3g}.")
    return Check(
        "pre-exposure balance", False, f"The arms differed before the experiment (p = {p:.2g})."
    )


def check_logs(table: UnitTable, experiment: Experiment) -> Check:
    """Test whether the impressions of all arms arrived alike."""
    rows, n = table.slot_rows, len(table)
    has_impression = np.bincount(rows.unit[rows.kind == IMPRESSION], minlength=n) > 0
    has_response = np.bincount(rows.unit[rows.kind == RESPONSE], minlength=n) > 0
    needs_impressions = any(
        metric.kind == "ratio" and metric.per == "impression"
        for metric in (experiment.metric, *experiment.guardrails)
    )
    rates = []
    for arm in range(len(table.arms)):
        mask = (table.arm == arm) & has_response
        rates.append((int(has_impression[mask].sum()), int(mask.sum())))
    shares = [hits / total if total else 0.0 for hits, total in rates]
    text = " : ".join(f"{share:.1%}" for share in shares)
    if needs_impressions and n and max(shares) < REPORTED_SHARE_MIN:
        return Check("logs", False, f"Impressions are missing: only {text} of units have one.")
    p = 1.0
    for hits, total in rates[1:]:
        pooled = (hits + rates[0][0]) / max(total + rates[0][1], 1)
        variance = pooled * (1 - pooled) * (1 / max(total, 1) + 1 / max(rates[0][1], 1))
        if variance > 0:
            z = (hits / max(total, 1) - shares[0]) / math.sqrt(variance)
            p = min(p, float(2 * ndtr(-abs(z))) * (len(rates) - 1))
    if p < MISSING_ALARM:
        reason = f"Impressions arrive from {text} of units by arm (p = {p:.2g}): some are lost."
        return Check("logs", False, reason)
    return Check("logs", True, f"Impressions of {text} of units arrived.")
