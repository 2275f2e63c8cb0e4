"""Plan a canary: how many clicks exclude a fall, how long that takes, and which margin a site can afford.

A step at share s excludes a fall by `margin`, with probability `POWER`, for a version as good as the
champion, if

    (bound + z_power) · √(dispersion / N · 1 / (s (1 − s))) ≤ −ln(1 − margin)

where N are the clicks of both versions and `bound` is that of `monitoring.canary`, at its narrowest.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from tailorbird.experiments.analysis.anytime import anytime_bound
from tailorbird.experiments.statistics import TUNED_FOR_UNITS
from tailorbird.monitoring.canary import CANARY_SHARES, GUARD_RAILS

POWER = 0.8
# Variance of clicks relative to independent ones: a person's clicks come together. 1.7 to 2.0 on
# simulated shops, over four days.
DISPERSION = 1.8
# A canary is planned for half of the time limit, since some days are quieter than others.
LIMIT_SHARE = 0.5
MARGINS = (0.05, 0.1, 0.15, 0.2, 0.3)
LIMITS_DAYS = (2, 4, 8)


@dataclass(frozen=True)
class CanaryPlan:
    """A canary that a site's traffic can decide.

    Attributes:
        margin: relative fall in clicks per item seen that it excludes.
        limit_days: the time limit, `rollout.limit`.
        share: share of the people that it starts with.
        days: expected time until it has passed all shares.
    """

    margin: float
    limit_days: float
    share: float
    days: float


def count_clicks(margin: float, share: float) -> float:
    """Return the clicks of both versions that a step at `share` needs to exclude a fall."""
    alpha = (1.0 - GUARD_RAILS.level) / len(CANARY_SHARES)
    # The bound is narrowest there.
    bound = float(anytime_bound(TUNED_FOR_UNITS, tuned_for_units=TUNED_FOR_UNITS, alpha=alpha))
    errors = (bound + NormalDist().inv_cdf(POWER)) / -math.log1p(-margin)
    return DISPERSION * errors**2 / (share * (1.0 - share))


def plan_canary(
    margin: float,
    limit_days: float,
    *,
    clicks_a_day: float,
    answers_a_day: float,
    answers_min: int = GUARD_RAILS.answers_min,
) -> CanaryPlan | None:
    """Return the plan with the smallest first share that fits the limit; None if none does."""
    days = 0.0
    plan = None
    for share in reversed(CANARY_SHARES):
        days_for_clicks = count_clicks(margin, share) / max(clicks_a_day, 1e-9)
        days_for_answers = answers_min / max(answers_a_day * share, 1e-9)
        days += max(days_for_clicks, days_for_answers)
        if days > LIMIT_SHARE * limit_days:
            break
        plan = CanaryPlan(margin, limit_days, share, days)
    return plan


def choose_margin(clicks_a_day: float, answers_a_day: float) -> CanaryPlan | None:
    """Return the plan with the smallest margin for this traffic; None if it is too little for all.

    A longer limit is only taken where no margin fits a shorter one.
    """
    for limit_days in LIMITS_DAYS:
        for margin in MARGINS:
            plan = plan_canary(
                margin, limit_days, clicks_a_day=clicks_a_day, answers_a_day=answers_a_day
            )
            if plan is not None:
                return plan
    return None
