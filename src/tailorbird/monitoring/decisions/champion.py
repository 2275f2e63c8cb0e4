"""Decide whether the champion stays, or is rolled back to the previous version.

| guard-rail | compared with | margin |
|---|---|---|
| failures: errors, scores that are not finite, empty lists | the previous version | `FAILURES_MARGIN` |
| clicks, at once | the previous version just before the promotion | `FALL_MARGIN` |
| clicks, in the long run | the holdout, at the same time | `LONG_RUN_MARGIN` |

The first two look at the last ten minutes, every ten seconds, so that a broken champion is gone in
less than a minute. The third looks at everything since the promotion: the holdout is randomised,
so a slight fall shows as soon as it is more than chance. All tests hold at any time, and share one
probability of a false roll-back in the life of a champion. Clicks of one person depend on each
other, so counts are divided by their dispersion.
"""

import math
from dataclasses import dataclass

from tailorbird.events import DAY, MINUTE, SECOND
from tailorbird.experiments.statistics import Moments, proportion_interval
from tailorbird.monitoring.decisions.clicks import NO_CLICKS
from tailorbird.monitoring.decisions.evidence import rate_above, rate_below

WINDOW_US = 10 * MINUTE  # of the tests that look at the newest responses
CLICK_HORIZON_US = 15 * SECOND  # clicks within it count in them, before and after alike
LIFE_US = 30 * DAY  # over which the probability of a false roll-back is shared
FALL_MARGIN = 0.3  # of clicks; less may be the time of day
LONG_RUN_MARGIN = 0.02
FAILURES_MARGIN = 0.01  # share of responses that may fail beyond the reference's
REFERENCE_MIN = 200


@dataclass(frozen=True)
class ServiceStats:
    """What responses of a version were like.

    Attributes:
        problems: responses that failed or were empty, by kind.
        clicks: clicks and items seen of each person.
    """

    requests: int
    problems: dict[str, int]
    clicks: Moments

    @property
    def failures(self) -> int:
        return sum(self.problems.values())


@dataclass(frozen=True)
class ClickRate:
    """Clicks and items seen, with the dispersion of clicks."""

    clicks: float
    seen: float
    dispersion: float = 1.0

    @property
    def ratio(self) -> float:
        return self.clicks / self.seen


@dataclass(frozen=True)
class ChampionVerdict:
    """The decision: `roll_back` or `hold`, its reason, and the log evidence for a roll-back.

    `guard_rail` is failures, clicks or holdout.
    """

    action: str
    reason: str
    evidence: float
    guard_rail: str = ""


NO_SERVICE_STATS = ServiceStats(0, {}, NO_CLICKS)


def judge_champion(
    champion: ServiceStats,
    previous: ServiceStats,
    holdout_recent: ServiceStats = NO_SERVICE_STATS,
    *,
    champion_long_run: ClickRate | None = None,
    holdout_long_run: ClickRate | None = None,
    compare_clicks: bool = True,
    false_rollback: float = 0.01,
) -> ChampionVerdict:
    """Decide whether to roll back.

    Args:
        champion: responses of the last `WINDOW_US`.
        previous: responses of the previous version just before the promotion.
        holdout_recent: responses of the holdout in the last `WINDOW_US`. Where it fails too, the
            cause is not the model.
        champion_long_run, holdout_long_run: clicks since the promotion; None without a holdout.
        compare_clicks: False once that is too long ago.
        false_rollback: probability that a champion as good as the previous one is ever rolled back.
    """
    window_count = LIFE_US / WINDOW_US
    recent_threshold = math.log(3.0 * window_count / false_rollback)
    long_run_threshold = math.log(3.0 / false_rollback)
    tolerated_rate = max(_failure_rate_bound(previous), _failure_rate_bound(holdout_recent))
    evidence = rate_above(champion.failures, champion.requests, tolerated_rate + FAILURES_MARGIN)
    if evidence > recent_threshold:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in champion.problems.items() if count)
        reason = (
            f"{champion.failures:,} of its last {champion.requests:,} answers failed ({kinds}); "
            f"{previous.failures:,} of {previous.requests:,} did before"
        )
        return ChampionVerdict("roll_back", reason, evidence, "failures")
    highest_excess = evidence - recent_threshold
    if compare_clicks:
        evidence = _fall_evidence(
            _click_rate(champion.clicks), _click_rate(previous.clicks), margin=FALL_MARGIN
        )
        if evidence > recent_threshold:
            reason = (
                f"clicks per item seen fell from {previous.clicks.ratio:.2%} to "
                f"{champion.clicks.ratio:.2%} within {CLICK_HORIZON_US // SECOND} s of an answer"
            )
            return ChampionVerdict("roll_back", reason, evidence, "clicks")
        highest_excess = max(highest_excess, evidence - recent_threshold)
    if champion_long_run is not None and holdout_long_run is not None:
        evidence = _fall_evidence(champion_long_run, holdout_long_run, margin=LONG_RUN_MARGIN)
        if evidence > long_run_threshold:
            reason = (
                f"clicks per item seen {champion_long_run.ratio:.2%}, those of the "
                f"holdout on the previous version {holdout_long_run.ratio:.2%}"
            )
            return ChampionVerdict("roll_back", reason, evidence, "holdout")
        highest_excess = max(highest_excess, evidence - long_run_threshold)
    return ChampionVerdict("hold", "nothing is worse than before beyond chance", highest_excess)


def _failure_rate_bound(service: ServiceStats) -> float:
    """Return the highest failure rate that the service may have had; 0 if it says too little."""
    if service.requests < REFERENCE_MIN and not service.failures:
        return 0.0
    return proportion_interval(service.failures, max(1, service.requests), level=0.99)[1]


def _click_rate(clicks: Moments) -> ClickRate:
    return ClickRate(clicks.x, clicks.y, dispersion_of(clicks))


def _fall_evidence(champion_rate: ClickRate, reference_rate: ClickRate, *, margin: float) -> float:
    """Return the log evidence that people click less than before, by more than the margin."""
    dispersion = max(champion_rate.dispersion, reference_rate.dispersion)
    return rate_below(
        champion_rate.clicks / dispersion,
        champion_rate.seen / dispersion,
        reference_rate.clicks / dispersion,
        reference_rate.seen / dispersion,
        margin=margin,
    )


def dispersion_of(clicks: Moments) -> float:
    """Return the variance of the click rate over that of independent items, at least 1."""
    if clicks.users < 2 or not 0 < clicks.ratio < 1:
        return 1.0
    return max(1.0, clicks.variance * clicks.y / (clicks.ratio * (1.0 - clicks.ratio)))
