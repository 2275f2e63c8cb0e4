"""Decide whether to advance, promote or end a canary, by its responses and the champion's.

| guard-rail | it ends a canary when |
|---|---|
| not finite | one of its scores was not finite |
| errors | more of its responses failed than of the champion's, beyond chance |
| latency | its 95th percentile exceeds the champion's by a factor and by some ms, beyond chance |
| clicks | fewer clicks per item seen than the champion, beyond an always-valid bound |

It advances along `CANARY_SHARES` when it has served `answers_min` responses, no guard-rail objects,
and the same bound excludes a loss above `margin`. Each step is judged by its own data: evidence of
an earlier step does not decide the next, and data at different shares must not be pooled. If people
click more in the evening, and the canary had 1 % of the afternoon and half of the evening, it would
be ahead for that alone. The bound is `experiments.statistics.always_valid_uplift`, corrected for
all steps: a fixed-sample interval, checked every ten seconds, would end half of all canaries that
equal the champion, and promote others. `monitoring.latency` has the bound of the latency.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.clock import ATTRIBUTION_WINDOW
from tailorbird.experiments.counts import COLUMNS, count_events
from tailorbird.experiments.statistics import (
    NO_ESTIMATE,
    Interval,
    Moments,
    always_valid_uplift,
    proportion_interval,
)
from tailorbird.monitoring.latency import (
    BLOCK_COLUMNS,
    LATENCY_QUANTILE,
    UNKNOWN_LATENCY,
    LatencyComparison,
    compare_versions,
)

CANARY_SHARES = (0.01, 0.05, 0.2, 0.5)  # then everybody
EVENT_COLUMNS = (*dict.fromkeys((*COLUMNS, "model")),)
RESPONSE_COLUMNS = ("request_id", "slot", "model", "failure", *BLOCK_COLUMNS)
LATENCY_ALPHA = 0.01  # chance that a canary as fast as the champion is ever ended for its latency


@dataclass(frozen=True)
class GuardRails:
    """Thresholds of a canary; `canary` in tailorbird.toml sets all but `level`.

    Attributes:
        answers_min: responses of a step, of canary and champion each, before it is judged;
            scores that are not finite are judged at once.
        errors: share of failed responses allowed beyond the champion's.
        latency: factor of the champion's 95th percentile.
        latency_excess_ms: milliseconds beyond the champion's 95th percentile that matter; 5 are a
            twentieth of the 100 ms within which an answer seems to be instant (Nielsen 1993).
        margin: relative loss in clicks per item seen that must be excluded to advance.
        level: confidence level of the bound on clicks, over all steps.
    """

    answers_min: int = 500
    errors: float = 0.005
    latency: float = 1.5
    latency_excess_ms: float = 5.0
    margin: float = 0.1
    level: float = 0.95


GUARD_RAILS = GuardRails()


@dataclass(frozen=True)
class VersionFigures:
    """Metrics of a version since the canary has its present share."""

    version: str
    answers: int
    failed: int
    not_finite: int
    latency_ms_p95: float
    clicks: Moments

    @property
    def ctr(self) -> float:
        """Clicks per item seen."""
        return self.clicks.ratio


@dataclass(frozen=True)
class CanaryVerdict:
    """The decision on a canary.

    `action` is wait, advance (to `share`), promote, or end; `reason` is for the registry's log.
    """

    action: str
    reason: str
    share: float
    canary: VersionFigures
    champion: VersionFigures
    uplift: Interval


def measure_version(
    events: pa.Table,
    responses: pa.Table,
    version: str,
    *,
    denominator_by_slot: dict[str, str],
    attribution_by_slot: dict[str, int],
) -> VersionFigures:
    """Return the metrics of the responses assigned to a version.

    Args:
        events: with `EVENT_COLUMNS`, since the canary has its present share.
        responses: with `RESPONSE_COLUMNS`, for the same time.
        denominator_by_slot, attribution_by_slot: by slot.
    """
    version_responses = responses.filter(
        pc.fill_null(pc.equal(responses["assigned_version"], version), False)
    )
    is_failed = pc.fill_null(pc.not_equal(version_responses["model"], version), True)
    latency = version_responses["latency_us"].drop_null().to_numpy()
    clicks = Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    events_by_model = events.drop_columns("arm").append_column("arm", events["model"])
    for slot in pc.unique(version_responses["slot"]).drop_null().to_pylist():
        counts = count_events(
            events_by_model,
            slot,
            denominator=denominator_by_slot.get(slot, "impression"),
            attribution=attribution_by_slot.get(slot, ATTRIBUTION_WINDOW),
        )
        if version in counts.arms:
            arm_index = counts.arms.index(version)
            seen = counts.per_person(arm_index, "impressions")
            clicked = counts.per_person(arm_index, "clicks")
            clicks += Moments.from_totals(clicked[seen > 0], seen[seen > 0])
    return VersionFigures(
        version,
        answers=version_responses.num_rows,
        failed=int(pc.sum(is_failed).as_py() or 0),
        not_finite=int(
            pc.sum(
                pc.fill_null(pc.equal(version_responses["failure"], "not_finite"), False)
            ).as_py()
            or 0
        ),
        latency_ms_p95=float(np.quantile(latency, LATENCY_QUANTILE)) / 1_000
        if latency.size
        else math.nan,
        clicks=clicks,
    )


def measure_latency(responses: pa.Table, canary: str, champion: str) -> LatencyComparison:
    """Return the latency of a canary beside the champion's, with the bound of each step."""
    return compare_versions(responses, canary, champion, alpha=LATENCY_ALPHA / len(CANARY_SHARES))


def decide_canary(
    canary: VersionFigures,
    champion: VersionFigures,
    share: float,
    guard_rails: GuardRails = GUARD_RAILS,
    latency: LatencyComparison = UNKNOWN_LATENCY,
) -> CanaryVerdict:
    """Decide on a canary that serves `share` of the people.

    Args:
        latency: of `measure_latency`.
    """
    level = 1.0 - (1.0 - guard_rails.level) / len(CANARY_SHARES)
    uplift = (
        always_valid_uplift(canary.clicks, champion.clicks, level=level)
        if _has_clicks(canary, champion)
        else NO_ESTIMATE
    )

    def build_verdict(action: str, reason: str, new_share: float = share) -> CanaryVerdict:
        return CanaryVerdict(
            action, reason, share=new_share, canary=canary, champion=champion, uplift=uplift
        )

    if canary.not_finite:
        return build_verdict(
            "end", f"{canary.not_finite} of its answers had a score that is no finite number", 0.0
        )
    if not canary.answers and champion.answers * share / (1.0 - share) > guard_rails.answers_min:
        reason = (
            f"none of {champion.answers:,} answers was its to give: servers refuse it, or wait "
            "for its features; their logs say why"
        )
        return build_verdict("wait", reason)
    if min(canary.answers, champion.answers) < guard_rails.answers_min:
        return build_verdict(
            "wait",
            f"{canary.answers:,} answers of the canary's at {share * 100:.3g}%; it is judged "
            f"from {guard_rails.answers_min:,} on",
        )
    canary_rate_low, _ = proportion_interval(canary.failed, canary.answers, level=0.99)
    _, champion_rate_high = proportion_interval(champion.failed, champion.answers, level=0.99)
    if canary_rate_low > champion_rate_high + guard_rails.errors:
        return build_verdict(
            "end",
            f"it failed {canary.failed:,} of {canary.answers:,} answers, the champion "
            f"{champion.failed:,}",
            0.0,
        )
    if latency.is_slower(guard_rails.latency, guard_rails.latency_excess_ms):
        return build_verdict("end", f"its answers take {latency.describe()}", 0.0)
    if uplift.high < 0:
        return build_verdict(
            "end",
            f"clicks per item seen {uplift.value:+.1%} ({uplift.low:+.1%} to {uplift.high:+.1%})",
            0.0,
        )
    if not uplift.low > -guard_rails.margin:
        reason = (
            "nothing is known of clicks yet"
            if math.isnan(uplift.low)
            else f"clicks {uplift.low:+.1%} to {uplift.high:+.1%}"
        )
        return build_verdict(
            "wait", f"{reason}; it goes on when a fall by {guard_rails.margin:.0%} is excluded"
        )
    next_share = next((step for step in CANARY_SHARES if step > share + 1e-9), 1.0)
    reason = (
        f"clicks {uplift.low:+.1%} to {uplift.high:+.1%}, {canary.failed:,} of "
        f"{canary.answers:,} answers failed"
    )
    return build_verdict("promote" if next_share == 1.0 else "advance", reason, next_share)


def _has_clicks(canary: VersionFigures, champion: VersionFigures) -> bool:
    return (
        min(canary.clicks.users, champion.clicks.users) >= 2
        and canary.clicks.x > 0
        and champion.clicks.x > 0
    )
