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
from tailorbird.events import HOUR, to_iso
from tailorbird.events.clock import ATTRIBUTION
from tailorbird.experiments.counts import Counts, count_events
from tailorbird.experiments.statistics import Moments
from tailorbird.monitoring.live import sums_by_period

_SIMULATIONS = 10_000


@dataclass(frozen=True)
class Trigger:
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


@dataclass(frozen=True)
class Step:
    """One period: log of (1 + lift), or of the click rate without a control, and its variance."""

    start: int
    value: float
    variance: float


@dataclass(frozen=True)
class Decision:
    """A decision on retraining, with the evidence.

    `figure_before` and `figure_after` are the lift (or the click rate, without a control) over the
    reference and since the estimated start of the fall; without a fall, over the whole watch.
    `statistic` is the maximum of F, to compare with `threshold`.
    """

    retrain: bool
    reason: str
    figure: str  # "lift" or "ctr"
    figure_before: float
    figure_after: float
    since: int | None  # start of the first period of the fall, microseconds
    decided_at: int | None  # start of the period that crossed the threshold
    statistic: float
    threshold: float
    periods: int
    false_alarm: float


def decide_retrain(
    events: pa.Table,
    trigger: Trigger,
    *,
    reference_from: int,
    reference_to: int,
    until: int | None = None,
    denominator: str = "impression",
    attribution: int = ATTRIBUTION,
) -> Decision:
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
        trigger.slot,
        experiment=trigger.experiment,
        denominator=denominator,
        attribution=attribution,
    )
    reference = counts.select((counts.ts >= reference_from) & (counts.ts < reference_to))
    if until is None:
        until = int(counts.ts.max(initial=reference_to))
    last_period_end = until // trigger.period * trigger.period
    later = counts.select((counts.ts >= reference_to) & (counts.ts < last_period_end))
    return decide_from_steps(build_steps(reference, trigger), build_steps(later, trigger), trigger)


def decide_from_steps(
    reference: Sequence[Step], watched: Sequence[Step], trigger: Trigger
) -> Decision:
    """Judge steps that are already computed."""
    figure = "lift" if trigger.control else "ctr"
    watched = watched[-trigger.periods_max :]
    if not reference or not watched:
        missing = "reference window" if not reference else "time after the reference window"
        reason = (
            f"too few clicks in the {missing}: at least {trigger.clicks_min} in each arm are needed"
        )
        before = _pooled_figure(reference, figure)
        return Decision(
            False,
            reason,
            figure,
            before,
            math.nan,
            None,
            None,
            0.0,
            math.inf,
            len(watched),
            trigger.false_alarm,
        )
    before, before_variance = _pool(reference)
    typical = float(np.median([step.variance for step in [*reference, *watched]]))
    threshold = scan_threshold(
        round(math.sqrt(before_variance / typical), 2), trigger.periods_max, trigger.false_alarm
    )
    highest, since, alarm_index = -math.inf, 0, None
    for index in range(len(watched)):
        statistic, fall_start = _scan(before, before_variance, watched[: index + 1])
        if statistic > highest:
            highest, since = statistic, fall_start
        large_enough = before - _pool(watched[fall_start : index + 1])[0] >= -math.log1p(
            -trigger.fall
        )
        if statistic > threshold and large_enough:
            alarm_index = index
            break
    after = watched if alarm_index is None else watched[since : alarm_index + 1]
    figure_before, figure_after = _pooled_figure(reference, figure), _pooled_figure(after, figure)
    words = _describe(figure, trigger, figure_before, figure_after)
    if alarm_index is None:
        reason = f"{words}: within what chance allows"
    else:
        reason = f"{words}, from {to_iso(after[0].start)[:16]}Z on: more than chance allows"
    return Decision(
        retrain=alarm_index is not None,
        reason=reason,
        figure=figure,
        figure_before=figure_before,
        figure_after=figure_after,
        since=None if alarm_index is None else after[0].start,
        decided_at=None if alarm_index is None else watched[alarm_index].start,
        statistic=highest,
        threshold=threshold,
        periods=len(watched),
        false_alarm=trigger.false_alarm,
    )


def build_steps(counts: Counts, trigger: Trigger) -> list[Step]:
    """Return the steps of a time span: periods, merged until each arm has enough clicks.

    An incomplete last step is dropped.
    """
    arms = [trigger.arm, *([trigger.control] if trigger.control else [])]
    steps: list[Step] = []
    pending: dict[str, Moments] = {}
    start: int | None = None
    for period_start, moments, _ in sums_by_period(counts, trigger.period):
        start = period_start if start is None else start
        for arm in arms:
            if arm in moments:
                pending[arm] = pending[arm] + moments[arm] if arm in pending else moments[arm]
        if any(arm not in pending or pending[arm].x < trigger.clicks_min for arm in arms):
            continue
        value, variance = math.log(pending[trigger.arm].ratio), pending[trigger.arm].variance_of_log
        if trigger.control:
            value -= math.log(pending[trigger.control].ratio)
            variance += pending[trigger.control].variance_of_log
        steps.append(Step(start, value, variance))
        pending, start = {}, None
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
    highest = np.full(_SIMULATIONS, -np.inf)
    for now in range(1, periods + 1):
        sums[now] = sums[now - 1] + rng.normal(size=_SIMULATIONS)
        length = np.arange(now, 0, -1)[
            :, None
        ]  # lengths of the runs that start after step 0, 1, … and end now
        falls = (reference - (sums[now] - sums[:now]) / length) / np.sqrt(
            reference_error**2 + 1.0 / length
        )
        np.maximum(highest, falls.max(axis=0), out=highest)
    return float(np.quantile(highest, 1.0 - false_alarm))


def _scan(before: float, before_variance: float, watched: Sequence[Step]) -> tuple[float, int]:
    """Return the statistic at the last step, and the first step of its run."""
    weights = np.array([1.0 / step.variance for step in reversed(watched)])
    values = np.array([step.value for step in reversed(watched)])
    variance = 1.0 / np.cumsum(weights)
    falls = (before - np.cumsum(weights * values) * variance) / np.sqrt(before_variance + variance)
    best = int(np.argmax(falls))
    return float(falls[best]), len(watched) - 1 - best


def _pool(steps: Sequence[Step]) -> tuple[float, float]:
    """Return the precision-weighted mean, and its variance."""
    weights = np.array([1.0 / step.variance for step in steps])
    values = np.array([step.value for step in steps])
    return float(weights @ values / weights.sum()), float(1.0 / weights.sum())


def _pooled_figure(steps: Sequence[Step], figure: str) -> float:
    if not steps:
        return math.nan
    return math.expm1(_pool(steps)[0]) if figure == "lift" else math.exp(_pool(steps)[0])


def _describe(figure: str, trigger: Trigger, before: float, after: float) -> str:
    if figure == "lift":
        return (
            f"lift of {trigger.arm} over {trigger.control} {before:+.1%} in the reference, "
            f"{after:+.1%} after"
        )
    return f"click rate of {trigger.arm} {before:.2%} in the reference, {after:.2%} after"
