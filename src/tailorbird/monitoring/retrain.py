"""Decide to retrain when the model's lift over the control has fallen by more than chance.

A model becomes stale when tastes change. Its click rate alone does not show that, because it also
falls with the weather; its lift over a control arm served at the same time does.

    reference:  L₀, σ₀      log of the lift over the reference periods, pooled, and its error
    run j…k:    Lⱼₖ, σⱼₖ    the same for every run of periods that ends now
    fall:       Fₖ = max over j of (L₀ − Lⱼₖ) / √(σ₀² + σⱼₖ²)     retrain when Fₖ > threshold

This is the generalised likelihood ratio scan for a change at an unknown time (Siegmund and
Venkatraman, Annals of Statistics 1995) against an estimated reference: a steep fall is detected in
one or two periods, a slight one when enough of them agree. The threshold is computed by simulation
with normal errors, including the error of the reference, which all steps share: sequences without
change exceed it at any step of the watch with probability `false_alarm`. A fall must also be as
large as `fall` to count.

The stated rate is exact for independent steps. If the same people return again and again, their
peculiarities are in the reference and in what follows, and cancel; false alarms are then rarer (for
5 % stated, 1 to 3 % measured on people with persistent tastes). If the lift depends on the hour of
the day, use a period of a day.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.events import HOUR, to_iso_minute
from tailorbird.events.clock import ATTRIBUTION_WINDOW
from tailorbird.experiments.counts import Counts, count_events
from tailorbird.experiments.distributions import normal_quantile
from tailorbird.experiments.statistics import Moments
from tailorbird.monitoring.live import sums_by_period

_SIMULATIONS = 10_000


@dataclass(frozen=True)
class RetrainCriteria:
    """The watched arm, and the sensitivity of the alarm.

    Args:
        slot: the slot of the site.
        arm: the arm whose model is watched.
        control: the arm to compare with, or "" to watch the arm's click rate alone.
        experiment: only its responses; None takes all.
        period: length of a step, microseconds; periods with fewer than `clicks_min` clicks in an
            arm are merged with the next.
        fall: smallest relative fall of 1 + lift (or of the click rate) that counts, such as
            0.05.
        false_alarm: probability of at least one alarm in `periods_max` periods without change.
        periods_max: length of the watch; only the last so many periods are judged.
        clicks_min: minimum clicks in each arm of a step; below some 30 a log ratio is not
            normal.
        measure: what the steps are of: `clicks`, or `conversion`, `revenue` or `calibration` of
            `monitoring.conversions`.
    """

    slot: str
    arm: str
    control: str = ""
    experiment: str | None = None
    period: int = 6 * HOUR
    fall: float = 0.05
    false_alarm: float = 0.01
    periods_max: int = 60
    clicks_min: int = 40
    measure: str = "clicks"

    @property
    def metric_name(self) -> str:
        """The name of the figure that is judged."""
        if self.measure == "clicks":
            return "lift" if self.control else "ctr"
        return f"{self.measure} lift" if self.control else self.measure


@dataclass(frozen=True)
class LogRatioStep:
    """One period: log of (1 + lift), or of the rate without a control, and its variance."""

    start: int
    value: float
    variance: float


@dataclass(frozen=True)
class RetrainVerdict:
    """A decision on retraining, with the evidence.

    `value_before` and `value_after` are the lift (or the click rate, without a control) over the
    reference and since the estimated start of the fall; without a fall, over the whole watch.
    The bounds are those of their 95 % intervals.
    `statistic` is the maximum of F, to compare with `threshold`.
    """

    should_retrain: bool
    reason: str
    metric_name: str  # "lift" or "ctr", "conversion lift" or "conversion", …
    value_before: float
    value_after: float
    since: int | None  # start of the first period of the fall, microseconds
    decided_at: int | None  # start of the period that crossed the threshold
    statistic: float
    threshold: float
    periods: int
    false_alarm: float
    criteria: RetrainCriteria  # that were judged
    bounds_before: tuple[float, float] = (math.nan, math.nan)
    bounds_after: tuple[float, float] = (math.nan, math.nan)


def decide_retrain(
    events: pa.Table,
    criteria: RetrainCriteria,
    *,
    reference_from: int,
    reference_to: int,
    until: int | None = None,
    denominator: str = "impression",
    attribution: int = ATTRIBUTION_WINDOW,
) -> RetrainVerdict:
    """Judge the time after the reference window [reference_from, reference_to), up to `until`.

    `until` defaults to the newest event. The reference is the time just after the model went live.
    Call it as often as needed: the false-alarm rate is of the whole watch, not of one call. Only
    finished periods are judged.
    """
    if not reference_from < reference_to:
        raise UsageError(
            f"expected a reference window that ends after it begins, got {reference_from} to "
            f"{reference_to}"
        )
    counts = count_events(
        events,
        criteria.slot,
        experiment=criteria.experiment,
        denominator=denominator,
        attribution=attribution,
    )
    reference_counts = counts.select((counts.ts >= reference_from) & (counts.ts < reference_to))
    if until is None:
        until = int(counts.ts.max(initial=reference_to))
    last_period_end = until // criteria.period * criteria.period
    later_counts = counts.select((counts.ts >= reference_to) & (counts.ts < last_period_end))
    return decide_from_steps(
        build_steps(reference_counts, criteria), build_steps(later_counts, criteria), criteria
    )


def decide_from_steps(
    reference: Sequence[LogRatioStep], watched: Sequence[LogRatioStep], criteria: RetrainCriteria
) -> RetrainVerdict:
    """Judge steps that are already computed."""
    metric_name = criteria.metric_name
    watched = watched[-criteria.periods_max :]
    if not reference or not watched:
        empty_window = "reference window" if not reference else "time after the reference window"
        counted_outcomes = (
            "clicks" if criteria.measure in ("clicks", "calibration") else "conversions"
        )
        reason = (
            f"too few {counted_outcomes} in the {empty_window}: at least {criteria.clicks_min} "
            "in each arm are needed"
        )
        reference_value = _pooled_value(reference, metric_name)
        return RetrainVerdict(
            False,
            reason=reason,
            metric_name=metric_name,
            value_before=reference_value,
            value_after=math.nan,
            since=None,
            decided_at=None,
            statistic=0.0,
            threshold=math.inf,
            periods=len(watched),
            false_alarm=criteria.false_alarm,
            criteria=criteria,
        )
    reference_value, reference_variance = _pool(reference)
    median_variance = float(np.median([step.variance for step in [*reference, *watched]]))
    threshold = scan_threshold(
        round(math.sqrt(reference_variance / median_variance), 2),
        criteria.periods_max,
        criteria.false_alarm,
    )
    highest_statistic = -math.inf
    fall_index = 0
    alarm_index = None
    for index in range(len(watched)):
        statistic, fall_start = _find_steepest_fall(
            reference_value, reference_variance, watched[: index + 1]
        )
        if statistic > highest_statistic:
            highest_statistic = statistic
            fall_index = fall_start
        is_large_enough = reference_value - _pool(watched[fall_start : index + 1])[
            0
        ] >= -math.log1p(-criteria.fall)
        if statistic > threshold and is_large_enough:
            alarm_index = index
            break
    steps_after = watched if alarm_index is None else watched[fall_index : alarm_index + 1]
    value_before = _pooled_value(reference, metric_name)
    value_after = _pooled_value(steps_after, metric_name)
    description = _describe(metric_name, criteria, value_before, value_after)
    if alarm_index is None:
        reason = f"{description}: within what chance allows"
    else:
        reason = (
            f"{description}, from {to_iso_minute(steps_after[0].start)} on: more than chance allows"
        )
    return RetrainVerdict(
        should_retrain=alarm_index is not None,
        reason=reason,
        metric_name=metric_name,
        value_before=value_before,
        value_after=value_after,
        since=None if alarm_index is None else steps_after[0].start,
        decided_at=None if alarm_index is None else watched[alarm_index].start,
        statistic=highest_statistic,
        threshold=threshold,
        periods=len(watched),
        false_alarm=criteria.false_alarm,
        criteria=criteria,
        bounds_before=_pooled_bounds(reference, metric_name),
        bounds_after=_pooled_bounds(steps_after, metric_name),
    )


def build_steps(counts: Counts, criteria: RetrainCriteria) -> list[LogRatioStep]:
    """Return the steps of a time span: periods, merged until each arm has enough clicks.

    An incomplete last step is dropped.
    """
    arms = [criteria.arm, *([criteria.control] if criteria.control else [])]
    steps: list[LogRatioStep] = []
    pending_moments: dict[str, Moments] = {}
    start: int | None = None
    for period_start, moments, _ in sums_by_period(counts, criteria.period):
        start = period_start if start is None else start
        for arm in arms:
            if arm in moments:
                pending_moments[arm] = (
                    pending_moments[arm] + moments[arm] if arm in pending_moments else moments[arm]
                )
        if any(
            arm not in pending_moments or pending_moments[arm].x < criteria.clicks_min
            for arm in arms
        ):
            continue
        value = math.log(pending_moments[criteria.arm].ratio)
        variance = pending_moments[criteria.arm].variance_of_log
        if criteria.control:
            value -= math.log(pending_moments[criteria.control].ratio)
            variance += pending_moments[criteria.control].variance_of_log
        steps.append(LogRatioStep(start, value, variance))
        pending_moments = {}
        start = None
    return steps


@lru_cache(maxsize=256)
def scan_threshold(reference_error: float, periods: int, false_alarm: float) -> float:
    """Return the level that the scan exceeds at any step with probability `false_alarm`.

    This is the rate without any change, over `periods` steps.

    Args:
        reference_error: error of the reference in units of a step's error, shared by all steps.
    """
    rng = np.random.default_rng(20_260_101)  # fixed, so that the result is deterministic
    reference = reference_error * rng.normal(size=_SIMULATIONS)
    sums = np.zeros((periods + 1, _SIMULATIONS))
    highest_statistics = np.full(_SIMULATIONS, -np.inf)
    for step in range(1, periods + 1):
        sums[step] = sums[step - 1] + rng.normal(size=_SIMULATIONS)
        run_lengths = np.arange(step, 0, -1)[
            :, None
        ]  # lengths of the runs that start after step 0, 1, … and end now
        falls = (reference - (sums[step] - sums[:step]) / run_lengths) / np.sqrt(
            reference_error**2 + 1.0 / run_lengths
        )
        np.maximum(highest_statistics, falls.max(axis=0), out=highest_statistics)
    return float(np.quantile(highest_statistics, 1.0 - false_alarm))


def _find_steepest_fall(
    reference_value: float, reference_variance: float, watched: Sequence[LogRatioStep]
) -> tuple[float, int]:
    """Return the statistic at the last step, and the first step of its run."""
    weights = np.array([1.0 / step.variance for step in reversed(watched)])
    values = np.array([step.value for step in reversed(watched)])
    variance = 1.0 / np.cumsum(weights)
    falls = (reference_value - np.cumsum(weights * values) * variance) / np.sqrt(
        reference_variance + variance
    )
    steepest = int(np.argmax(falls))
    return float(falls[steepest]), len(watched) - 1 - steepest


def _pool(steps: Sequence[LogRatioStep]) -> tuple[float, float]:
    """Return the precision-weighted mean, and its variance."""
    weights = np.array([1.0 / step.variance for step in steps])
    values = np.array([step.value for step in steps])
    return float(weights @ values / weights.sum()), float(1.0 / weights.sum())


def _pooled_value(steps: Sequence[LogRatioStep], metric_name: str) -> float:
    if not steps:
        return math.nan
    pooled = _pool(steps)[0]
    return math.expm1(pooled) if metric_name.endswith("lift") else math.exp(pooled)


def _pooled_bounds(steps: Sequence[LogRatioStep], metric_name: str) -> tuple[float, float]:
    """Return the ends of the 95 % interval of the pooled value."""
    log_ratio, variance = _pool(steps)
    half_width = normal_quantile(0.975) * math.sqrt(variance)
    shift = 1.0 if metric_name.endswith("lift") else 0.0
    return math.exp(log_ratio - half_width) - shift, math.exp(log_ratio + half_width) - shift


_NOUN_BY_METRIC = {
    "ctr": "click rate",
    "revenue": "revenue per answer",
    "calibration": "clicks relative to the scores",
}


def _describe(
    metric_name: str, criteria: RetrainCriteria, value_before: float, value_after: float
) -> str:
    if metric_name.endswith("lift"):
        return (
            f"{metric_name} of {criteria.arm} over {criteria.control} {value_before:+.1%} in the "
            f"reference, {value_after:+.1%} after"
        )
    style = ".2f" if criteria.measure in ("revenue", "calibration") else ".2%"
    noun = _NOUN_BY_METRIC.get(metric_name, metric_name)
    return (
        f"{noun} of {criteria.arm} {value_before:{style}} in the reference, "
        f"{value_after:{style}} after"
    )
