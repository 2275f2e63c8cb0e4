"""Daily checks of event counts: each hour, the day, declared minimums, and freshness.

Counts are of people's events: a catalogue that is sent again is no visitor. A count is unusual only
compared with the median of the days before, with the same weekday a week ago (a closed Sunday is no
fault), and with chance: people are independent, but each makes a burst of events, so counts divided
by the burst size vary like a Poisson variable.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from tailorbird.events import DAY, HOUR, format_duration, to_iso
from tailorbird.monitoring.day import HISTORY_DAYS, Day
from tailorbird.monitoring.verdict import NOT_JUDGED, Check, build_check

HOUR_RATIO_MIN = 0.5
HOUR_RATIO_MAX = 3.0
DAY_RATIO_MIN = 0.5
DAY_RATIO_MAX = 1.6
# limits of a day before a week of history
YOUNG_RATIO_MIN = 0.3
YOUNG_RATIO_MAX = 5.0
ROWS_MIN = 20  # fewer usual events are not judged
DEVIANCE_MAX = 10.0  # deviance limit: a probability of e^−10, one hour in 20,000


class DayExpectations(msgspec.Struct, frozen=True):
    """Expectations that a project declares for each day, see `config.contract_file`.

    Attributes:
        unique: event type → properties that differ in all its events.
        daily_min: event type → least number of events.
        fresh_within: event type → greatest age of the newest event, microseconds.
    """

    unique: Mapping[str, Sequence[str]] = {}
    daily_min: Mapping[str, int] = {}
    fresh_within: Mapping[str, int] = {}


def check_hours(day: Day) -> Check:
    """Check each finished hour against the same hour of the days before."""
    problems = []
    worst_ratio = 1.0
    judged_count = 0
    skip_reason = (
        "no three days before to compare with"
        if len(day.earlier_days) < 3
        else f"no hour that is over has {ROWS_MIN} events as a rule"
    )
    typical_burst = _median([profile.hour_burst for profile in day.earlier_days])
    for hour in range(24):
        earlier_counts = [profile.hour_counts[hour] for profile in day.earlier_days]
        typical_count = _median(earlier_counts) if len(earlier_counts) >= 3 else 0.0
        if typical_count < ROWS_MIN or day.start + (hour + 1) * HOUR > day.until:
            continue
        judged_count += 1
        count = day.profile.hour_counts[hour]
        worst_ratio = min(worst_ratio, count / typical_count)
        expected_counts = [
            typical_count,
            *([day.week_ago.hour_counts[hour]] if day.week_ago is not None else []),
        ]
        if _is_unusual(count, expected_counts, HOUR_RATIO_MIN, HOUR_RATIO_MAX, typical_burst):
            problems.append(f"{hour:02}:00 has {count:,} events, {typical_count:,.0f} are usual")
    return build_check(
        "hours",
        judged_count=judged_count,
        problems=problems,
        value=worst_ratio,
        limit=HOUR_RATIO_MIN,
        ok_text="every hour has about what is usual",
        skip_reason=skip_reason,
    )


def check_total(day: Day) -> Check:
    """Check a finished day against the days before.

    A day without any event fails as soon as an earlier day has some.
    """
    event_count = day.profile.event_count
    typical_count = _median([profile.event_count for profile in day.earlier_days])
    expected_counts = [
        typical_count,
        *([day.week_ago.event_count] if day.week_ago is not None else []),
    ]
    low, high = (
        (DAY_RATIO_MIN, DAY_RATIO_MAX)
        if day.week_ago is not None
        else (YOUNG_RATIO_MIN, YOUNG_RATIO_MAX)
    )
    ratio = event_count / typical_count if typical_count else 1.0
    if day.until < day.start + 24 * HOUR:
        return Check("total", NOT_JUDGED, ratio, low, "the day is not over")
    if not event_count and day.newest_before is not None:
        context = (
            f"{typical_count:,.0f} are usual"
            if day.earlier_days
            else f"nor has any since {to_iso(day.newest_before * DAY)[:10]}"
        )
        return build_check(
            "total",
            judged_count=1,
            problems=[f"the day has no event at all, {context}"],
            value=0.0,
            limit=low,
            ok_text="",
        )
    is_judged = len(day.earlier_days) >= 3 and typical_count >= ROWS_MIN
    typical_burst = _median([profile.day_burst for profile in day.earlier_days])
    is_unusual = is_judged and _is_unusual(event_count, expected_counts, low, high, typical_burst)
    problems = (
        [f"the day's events are {event_count:,}, {typical_count:,.0f} are usual"]
        if is_unusual
        else []
    )
    skip_reason = (
        "no three days before to compare with"
        if len(day.earlier_days) < 3
        else f"fewer than {ROWS_MIN} events a day are usual"
    )
    return build_check(
        "total",
        judged_count=is_judged,
        problems=problems,
        value=ratio,
        limit=low,
        ok_text=f"{event_count:,} events, {typical_count:,.0f} are usual",
        skip_reason=skip_reason,
    )


def check_volume(day: Day, expectations: DayExpectations) -> Check:
    """Check that a finished day has as many events of a type as declared."""
    is_over = day.until >= day.start + 24 * HOUR
    problems = [
        f"{day.profile.type_counts[type_]:,} events of type {type_}, at least {count_min:,} are "
        "declared"
        for type_, count_min in expectations.daily_min.items()
        if is_over and day.profile.type_counts[type_] < count_min
    ]
    skip_reason = "the day is not over" if expectations.daily_min else "contract.toml declares none"
    return build_check(
        "volume",
        judged_count=len(expectations.daily_min) * is_over,
        problems=problems,
        value=len(problems),
        limit=0,
        ok_text="as declared",
        skip_reason=skip_reason,
    )


def check_freshness(day: Day, expectations: DayExpectations) -> Check:
    """Check that the newest event of a type, within a week, is as recent as declared."""
    problems = []
    for type_, limit_us in expectations.fresh_within.items():
        newest_times = [
            profile.newest_ts_by_type[type_]
            for profile in (day.profile, *day.earlier_days)
            if type_ in profile.newest_ts_by_type
        ]
        newest = max(newest_times, default=day.start - HISTORY_DAYS * DAY)
        if day.until - newest > limit_us:
            newest_time = (
                to_iso(newest) if newest_times else f"{HISTORY_DAYS} days before the day, or older"
            )
            problems.append(
                f"the newest {type_} is of {newest_time}; "
                f"one within {format_duration(limit_us)} is declared"
            )
    return build_check(
        "freshness",
        judged_count=len(expectations.fresh_within),
        problems=problems,
        value=len(problems),
        limit=0,
        ok_text="as declared",
        skip_reason="contract.toml declares none",
    )


def _is_unusual(
    count: int, expected_counts: Sequence[float], low: float, high: float, typical_burst: float
) -> bool:
    """Return whether a count is outside the limits of each expected count by more than chance."""
    return not any(
        low * value <= count <= high * value
        or _deviance(count, value) <= DEVIANCE_MAX * typical_burst
        for value in expected_counts
    )


def _deviance(count: float, expected: float) -> float:
    """Return the Chernoff exponent: P(count) is at most e to minus this, for a Poisson variable."""
    return count * np.log(max(count, 1e-9) / expected) - count + expected if expected else np.inf


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0
