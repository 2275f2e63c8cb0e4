"""What becomes of a canary: a larger share of the people, the whole site, or its end. By its
answers and the champion's of the same time.

| guard-rail | it ends a canary when |
|---|---|
| not finite | one of its scores was no finite number |
| errors | so large a share of the answers that were its to give were given by another, beyond the champion's and beyond chance |
| latency | its answers take so much longer than the champion's, at the 95th percentile |
| clicks | fewer clicks per item seen than the champion, beyond a bound that may be looked at after every event |

It is advanced along `SHARES` when it has given `answers_min` answers, no guard-rail says no, and
the same bound says that it is not worse than the champion by more than `margin`. Each step is
judged by what came since it began, by itself: what an earlier one has shown does not take the next,
and what came at different shares may not be added up. Where people click more in the evening, and
the canary had 1 % of the afternoon and half of the evening, it would be ahead for that alone. The
bound is `experiments.statistics.always_valid_uplift`, for all steps together: an interval of a
fixed sample size, looked at every ten seconds, would end half of all canaries that are as good as
the champion, and promote others.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.experiments.counts import COLUMNS, count_events
from tailorbird.experiments.statistics import (
    NOTHING_KNOWN,
    Interval,
    Moments,
    always_valid_uplift,
    proportion_interval,
)

SHARES = (0.01, 0.05, 0.2, 0.5)  # and then everybody
EVENTS = (*dict.fromkeys((*COLUMNS, "model")),)
ANSWERS = ("request_id", "slot", "model", "asked", "failure", "latency_us")


@dataclass(frozen=True)
class GuardRails:
    """When a canary is ended, and when it goes on; `canary` in tailorbird.toml has them, but
    `level`.

    Attributes:
        answers_min: of a step, of the canary and the champion, before it is judged at all but for
            scores that are no numbers.
        errors: share of answers that it may fail beyond the champion's.
        latency: factor of the champion's 95th percentile.
        margin: relative fall in clicks per item seen that must be excluded before it advances.
        level: of the bound of clicks, over all steps.
    """

    answers_min: int = 500
    errors: float = 0.005
    latency: float = 1.5
    margin: float = 0.1
    level: float = 0.95


GUARD_RAILS = GuardRails()


@dataclass(frozen=True)
class Figures:
    """Of one version since the canary has its present share: answers that were its to give, those
    it failed, and what came of them.
    """

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
class Verdict:
    """`action`: wait, advance (to `share`), promote, or end; `reason` in words, for the registry's
    log.
    """

    action: str
    reason: str
    share: float
    canary: Figures
    champion: Figures
    uplift: Interval


def figures(
    events: pa.Table,
    answers: pa.Table,
    version: str,
    *,
    denominators: dict[str, str],
    attribution: dict[str, int],
) -> Figures:
    """What became of the answers that were a version's to give.

    Args:
        events: with `EVENTS`, since the canary has its present share.
        answers: with `ANSWERS`, likewise.
        denominators, attribution: by slot.
    """
    own = answers.filter(pc.fill_null(pc.equal(answers["asked"], version), False))
    failed = pc.fill_null(pc.not_equal(own["model"], version), True)
    latency = own["latency_us"].drop_null().to_numpy()
    clicks = Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    by_model = events.drop_columns("arm").append_column("arm", events["model"])
    for slot in pc.unique(own["slot"]).drop_null().to_pylist():
        counts = count_events(
            by_model,
            slot,
            denominator=denominators.get(slot, "impression"),
            attribution=attribution.get(slot, 30 * 60_000_000),
        )
        if version in counts.arms:
            arm = counts.arms.index(version)
            seen, clicked = counts.per_person(arm, "impressions"), counts.per_person(arm, "clicks")
            clicks += Moments.of(clicked[seen > 0], seen[seen > 0])
    return Figures(
        version,
        own.num_rows,
        int(pc.sum(failed).as_py() or 0),
        int(pc.sum(pc.fill_null(pc.equal(own["failure"], "not_finite"), False)).as_py() or 0),
        float(np.quantile(latency, 0.95)) / 1_000 if latency.size else math.nan,
        clicks,
    )


def judge(
    canary: Figures, champion: Figures, share: float, rails: GuardRails = GUARD_RAILS
) -> Verdict:
    """What to do with a canary that answers `share` of the people."""
    level = 1.0 - (1.0 - rails.level) / len(SHARES)
    uplift = (
        always_valid_uplift(canary.clicks, champion.clicks, level=level)
        if _comparable(canary, champion)
        else NOTHING_KNOWN
    )

    def verdict(action: str, reason: str, to: float = share) -> Verdict:
        return Verdict(action, reason, to, canary, champion, uplift)

    if canary.not_finite:
        return verdict(
            "end", f"{canary.not_finite} of its answers had a score that is no finite number", 0.0
        )
    if not canary.answers and champion.answers * share / (1.0 - share) > rails.answers_min:
        told = (
            f"none of {champion.answers:,} answers was its to give: servers refuse it, or wait "
            "for its features; their logs say why"
        )
        return verdict("wait", told)
    if min(canary.answers, champion.answers) < rails.answers_min:
        return verdict(
            "wait",
            f"{canary.answers:,} answers of the canary's at {share * 100:.3g}%; it is judged "
            f"from {rails.answers_min:,} on",
        )
    low, _ = proportion_interval(canary.failed, canary.answers, level=0.99)
    _, high = proportion_interval(champion.failed, champion.answers, level=0.99)
    if low > high + rails.errors:
        return verdict(
            "end",
            f"it failed {canary.failed:,} of {canary.answers:,} answers, the champion "
            f"{champion.failed:,}",
            0.0,
        )
    if canary.latency_ms_p95 > rails.latency * champion.latency_ms_p95:
        told = (
            f"its answers take {canary.latency_ms_p95:.1f} ms at the 95th percentile, the "
            f"champion's {champion.latency_ms_p95:.1f}"
        )
        return verdict("end", told, 0.0)
    if uplift.high < 0:
        return verdict(
            "end",
            f"clicks per item seen {uplift.value:+.1%} ({uplift.low:+.1%} to {uplift.high:+.1%})",
            0.0,
        )
    if not uplift.low > -rails.margin:
        told = (
            "nothing is known of clicks yet"
            if math.isnan(uplift.low)
            else f"clicks {uplift.low:+.1%} to {uplift.high:+.1%}"
        )
        return verdict("wait", f"{told}; it goes on when a fall by {rails.margin:.0%} is excluded")
    following = next((step for step in SHARES if step > share + 1e-9), 1.0)
    told = (
        f"clicks {uplift.low:+.1%} to {uplift.high:+.1%}, {canary.failed:,} of "
        f"{canary.answers:,} answers failed"
    )
    return verdict("promote" if following == 1.0 else "advance", told, following)


def _comparable(canary: Figures, champion: Figures) -> bool:
    return (
        min(canary.clicks.users, champion.clicks.users) >= 2
        and canary.clicks.x > 0
        and champion.clicks.x > 0
    )
