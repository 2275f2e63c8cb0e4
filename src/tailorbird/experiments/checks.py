"""Checks of an experiment's data: each that fails turns the verdict red, with the reason."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from tailorbird.events import DAY
from tailorbird.experiments.analysis.sample_ratio import P_ALARM, sample_ratio_p
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.outcomes import IMPRESSION, RESPONSE
from tailorbird.experiments.unit_values import history_values
from tailorbird.experiments.units import UnitTable

SEVERAL_ARMS_ALARM = 0.01  # share of units in several arms
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
    if not table.exposed_units_by_arm or not sum(table.exposed_units_by_arm.values()):
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
    arrival_day = (table.all_exposure_ts - table.all_exposure_ts.min()) // DAY
    counts = np.stack(
        [
            np.bincount(
                arrival_day[table.all_exposure_arms == arm], minlength=int(arrival_day.max()) + 1
            ).cumsum()
            for arm in range(len(shares))
        ],
        axis=1,
    )
    p = sample_ratio_p(counts, shares)
    split_text = " : ".join(f"{count:,}" for count in counts[-1].tolist())
    declared_text = " : ".join(f"{share:g}" for share in shares)
    if p >= P_ALARM:
        return Check(
            "sample ratio", True, f"{split_text} units, declared {declared_text}; p = {p:.3g}."
        )
    return Check(
        "sample ratio",
        False,
        f"The split is {split_text} units, not {declared_text} (p = {p:.2g}).",
    )


def check_multiple_exposure(table: UnitTable) -> Check:
    """Count the units that were in several arms."""
    total = len(table) + table.several_arms_count
    share = table.several_arms_count / total if total else 0.0
    text = f"{table.several_arms_count:,} of {total:,} units were in several arms"
    return Check("multiple exposure", share <= SEVERAL_ARMS_ALARM, f"{text}, and are left out.")


def check_history(table: UnitTable, experiment: Experiment) -> Check:
    """Test whether the arms differed before their exposure."""
    covariates = history_values(table, experiment.metric)
    smallest_p = 1.0
    arm_count = len(table.arms)
    for treatment in range(1, arm_count):
        for column in covariates.T:
            treated = column[table.arm == treatment]
            untreated = column[table.arm == 0]
            if min(len(treated), len(untreated)) < 2 or not treated.var() + untreated.var() > 0:
                continue
            standard_error = math.sqrt(
                treated.var(ddof=1) / len(treated) + untreated.var(ddof=1) / len(untreated)
            )
            smallest_p = min(
                smallest_p,
                float(2 * ndtr(-abs(treated.mean() - untreated.mean()) / standard_error)),
            )
    p = min(smallest_p * covariates.shape[1] * max(arm_count - 1, 1), 1.0)
    if p >= IMBALANCE_ALARM:
        return Check("pre-exposure balance", True, f"The arms were alike before; p = {p:.3g}.")
    return Check(
        "pre-exposure balance", False, f"The arms differed before the experiment (p = {p:.2g})."
    )


def check_logs(table: UnitTable, experiment: Experiment) -> Check:
    """Test whether the impressions of all arms arrived alike."""
    events = table.slot_events
    n = len(table)
    has_impression = np.bincount(events.unit[events.kind == IMPRESSION], minlength=n) > 0
    has_response = np.bincount(events.unit[events.kind == RESPONSE], minlength=n) > 0
    needs_impressions = any(
        metric.kind == "ratio" and metric.per == "impression"
        for metric in (experiment.metric, *experiment.guardrails)
    )
    impression_counts = []  # of each arm: units with an impression, units with a response
    for arm in range(len(table.arms)):
        is_served_in_arm = (table.arm == arm) & has_response
        impression_counts.append(
            (int(has_impression[is_served_in_arm].sum()), int(is_served_in_arm.sum()))
        )
    shares = [
        reporting_units / total if total else 0.0 for reporting_units, total in impression_counts
    ]
    shares_text = " : ".join(f"{share:.1%}" for share in shares)
    if needs_impressions and n and max(shares) < REPORTED_SHARE_MIN:
        return Check(
            "logs", False, f"Impressions are missing: only {shares_text} of units have one."
        )
    p_min = 1.0
    control_reporting_units, control_total = impression_counts[0]
    for reporting_units, total in impression_counts[1:]:
        pooled = (reporting_units + control_reporting_units) / max(total + control_total, 1)
        variance = pooled * (1 - pooled) * (1 / max(total, 1) + 1 / max(control_total, 1))
        if variance > 0:
            z = (reporting_units / max(total, 1) - shares[0]) / math.sqrt(variance)
            p_min = min(p_min, float(2 * ndtr(-abs(z))) * (len(impression_counts) - 1))
    if p_min < MISSING_ALARM:
        reason = f"Impressions arrive from {shares_text} of units by arm (p = {p_min:.2g}): some are lost."
        return Check("logs", False, reason)
    return Check("logs", True, f"Impressions of {shares_text} of units arrived.")
