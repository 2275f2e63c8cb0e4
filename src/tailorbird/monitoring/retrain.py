"""The decision to retrain: has the model's lift over the control fallen, by more than chance, since
it was trained?

A model goes stale when tastes move. Its click rate alone does not tell, because that also falls
with the weather; its lift over a control arm that is served at the same time does.

    reference:  L₀, σ₀          log of the lift over the reference periods, pooled, and its error
    run j…k:    Lⱼₖ, σⱼₖ        the same for every run of periods that ends now
    fall:       Fₖ = max over j of (L₀ − Lⱼₖ) / √(σ₀² + σⱼₖ²)        retrain when Fₖ > threshold

This is the generalised likelihood ratio scan for a change at an unknown time (Siegmund and
Venkatraman, Annals of Statistics 1995) against a reference that is itself an estimate: a steep fall
is seen in one or two periods, a slight one when enough of them agree, whenever it began. The
threshold is computed, not chosen: the level that no-change sequences exceed at any step of the
whole watch with probability `false_alarm`, found by simulation with normal errors, the error of the
reference (which all steps share) included. A fall must also be as large as `fall` to be acted on.

The stated rate is exact for independent steps. Where the same people come again and again, what is
special about them is in the reference and in what follows, and cancels: then there are fewer false
alarms (for 5 % stated, 1 to 3 % measured on people with persistent tastes). Where the lift depends
on the hour of the day, take a period of a day.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.events import HOUR, to_iso
from tailorbird.experiments.counts import ATTRIBUTION, Counts, count_events
from tailorbird.experiments.statistics import Moments
from tailorbird.monitoring.live import sums_by_period

_SIMULATIONS = 10_000


@dataclass(frozen=True)
class Trigger:
    """What is watched, and how sure the alarm has to be.

    Args:
        slot: the place of the site.
        arm: the arm whose model is judged.
        control: the arm that it is compared with, or "" to watch the arm's click rate alone.
        experiment: only what was decided under it; None takes all.
        period: microseconds of one step; periods with fewer than `clicks_min` clicks in an arm are
            joined with the next.
        fall: the relative fall of 1 + lift (or of the click rate) that is worth acting on, such as
            0.05.
        false_alarm: probability of at least one alarm in a watch of `periods_max` periods in which
            nothing changes.
        periods_max: length of the watch; a longer one is judged by its last so many periods.
        clicks_min: clicks in each arm for a period to be judged: below some 30 a log ratio is not
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
    """One period: the log of (1 + lift), or of the click rate without a control, and its variance."""

    start: int
    value: float
    variance: float


@dataclass(frozen=True)
class Decision:
    """Whether to retrain, and what speaks for it.

    `figure_before` and `figure_after` are the lift (or the click rate, without a control) over the
    reference and since the fall seems to have begun; without a fall, over the whole watch.
    `statistic` is F at its highest, to be held against `threshold`.
    """

    retrain: bool
    reason: str
    figure: str  # "lift" or "ctr"
    figure_before: float
    figure_after: float
    since: int | None  # start of the period with which the fall began, microseconds
    decided_at: int | None  # start of the period that crossed the threshold
    statistic: float
    threshold: float
    periods: int
    false_alarm: float


def decide(
    events: pa.Table,
    trigger: Trigger,
    *,
    reference_from: int,
    reference_to: int,
    until: int | None = None,
    denominator: str = "impression",
    attribution: int = ATTRIBUTION,
) -> Decision:
    """Judge what came after the reference window [reference_from, reference_to), up to `until` (by
    default the newest event).

    The reference is the time just after the model went live. Call it as often as you like: the
    false-alarm rate is of the whole watch, not of one call. Only periods that have ended are
    judged.
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
    reference = counts.where((counts.ts >= reference_from) & (counts.ts < reference_to))
    if until is None:
        until = int(counts.ts.max(initial=reference_to))
    ended = until // trigger.period * trigger.period
    later = counts.where((counts.ts >= reference_to) & (counts.ts < ended))
    return decide_on(steps(reference, trigger), steps(later, trigger), trigger)


def decide_on(reference: Sequence[Step], watched: Sequence[Step], trigger: Trigger) -> Decision:
    """The same from steps that are already there."""
    figure = "lift" if trigger.control else "ctr"
    watched = watched[-trigger.periods_max :]
    if not reference or not watched:
        missing = "reference window" if not reference else "time after the reference window"
        reason = (
            f"too few clicks in the {missing}: at least {trigger.clicks_min} in each arm are needed"
        )
        before = _figure(reference, figure)
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
    before, before_variance = _pooled(reference)
    typical = float(np.median([step.variance for step in [*reference, *watched]]))
    threshold = scan_threshold(
        round(math.sqrt(before_variance / typical), 2), trigger.periods_max, trigger.false_alarm
    )
    highest, since, crossed = -math.inf, 0, None
    for now in range(len(watched)):
        statistic, began = _scan(before, before_variance, watched[: now + 1])
        if statistic > highest:
            highest, since = statistic, began
        large_enough = before - _pooled(watched[began : now + 1])[0] >= -math.log1p(-trigger.fall)
        if statistic > threshold and large_enough:
            crossed = now
            break
    after = watched if crossed is None else watched[since : crossed + 1]
    figure_before, figure_after = _figure(reference, figure), _figure(after, figure)
    words = _words(figure, trigger, figure_before, figure_after)
    if crossed is None:
        reason = f"{words}: within what chance allows"
    else:
        reason = f"{words}, from {to_iso(after[0].start)[:16]}Z on: more than chance allows"
    return Decision(
        retrain=crossed is not None,
        reason=reason,
        figure=figure,
        figure_before=figure_before,
        figure_after=figure_after,
        since=None if crossed is None else after[0].start,
        decided_at=None if crossed is None else watched[crossed].start,
        statistic=highest,
        threshold=threshold,
        periods=len(watched),
        false_alarm=trigger.false_alarm,
    )


def steps(counts: Counts, trigger: Trigger) -> list[Step]:
    """The steps of a stretch of time: periods, joined until each arm has clicks enough. A rest too
    small is dropped.
    """
    wanted = [trigger.arm, *([trigger.control] if trigger.control else [])]
    found: list[Step] = []
    waiting: dict[str, Moments] = {}
    start: int | None = None
    for period_start, moments, _ in sums_by_period(counts, trigger.period):
        start = period_start if start is None else start
        for arm in wanted:
            if arm in moments:
                waiting[arm] = waiting[arm] + moments[arm] if arm in waiting else moments[arm]
        if any(arm not in waiting or waiting[arm].x < trigger.clicks_min for arm in wanted):
            continue
        value, variance = math.log(waiting[trigger.arm].ratio), waiting[trigger.arm].variance_of_log
        if trigger.control:
            value -= math.log(waiting[trigger.control].ratio)
            variance += waiting[trigger.control].variance_of_log
        found.append(Step(start, value, variance))
        waiting, start = {}, None
    return found


@lru_cache(maxsize=256)
def scan_threshold(reference_error: float, periods: int, false_alarm: float) -> float:
    """The level that the scan exceeds at any of `periods` steps with probability `false_alarm`, if
    nothing changes.

    Args:
        reference_error: error of the reference, in units of a step's error; shared by all steps.
    """
    rng = np.random.default_rng(20_260_101)  # fixed: the same question has the same answer
    reference = reference_error * rng.normal(size=_SIMULATIONS)
    sums = np.zeros((periods + 1, _SIMULATIONS))
    highest = np.full(_SIMULATIONS, -np.inf)
    for now in range(1, periods + 1):
        sums[now] = sums[now - 1] + rng.normal(size=_SIMULATIONS)
        length = np.arange(now, 0, -1)[
            :, None
        ]  # of the runs that begin after step 0, 1, … and end now
        falls = (reference - (sums[now] - sums[:now]) / length) / np.sqrt(
            reference_error**2 + 1.0 / length
        )
        np.maximum(highest, falls.max(axis=0), out=highest)
    return float(np.quantile(highest, 1.0 - false_alarm))


def _scan(before: float, before_variance: float, watched: Sequence[Step]) -> tuple[float, int]:
    """The statistic at the last step, and the step with which its run begins."""
    weights = np.array([1.0 / step.variance for step in reversed(watched)])
    values = np.array([step.value for step in reversed(watched)])
    variance = 1.0 / np.cumsum(weights)
    falls = (before - np.cumsum(weights * values) * variance) / np.sqrt(before_variance + variance)
    best = int(np.argmax(falls))
    return float(falls[best]), len(watched) - 1 - best


def _pooled(found: Sequence[Step]) -> tuple[float, float]:
    """Mean weighted by precision, and its variance."""
    weights = np.array([1.0 / step.variance for step in found])
    values = np.array([step.value for step in found])
    return float(weights @ values / weights.sum()), float(1.0 / weights.sum())


def _figure(found: Sequence[Step], figure: str) -> float:
    if not found:
        return math.nan
    return math.expm1(_pooled(found)[0]) if figure == "lift" else math.exp(_pooled(found)[0])


def _words(figure: str, trigger: Trigger, before: float, after: float) -> str:
    if figure == "lift":
        return (
            f"lift of {trigger.arm} over {trigger.control} {before:+.1%} in the reference, "
            f"{after:+.1%} after"
        )
    return f"click rate of {trigger.arm} {before:.2%} in the reference, {after:.2%} after"
