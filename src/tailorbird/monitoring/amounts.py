"""The daily checks of how much came, and when: each hour, the whole day, what is declared of types,
and how new the newest is.

Amounts are of what people did: a catalogue that is sent anew is no visitor. An amount is unusual
only if it is so against the median of the days before, against the same weekday a week ago (a
closed Sunday is no fault), and against chance: people are independent, but each makes a burst of
events, so that amounts over the size of a burst vary like a Poisson variable.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from tailorbird.events import DAY, HOUR, show_duration, to_iso
from tailorbird.monitoring.day import HISTORY_DAYS, Day
from tailorbird.monitoring.verdict import NONE, Check, verdict

HOUR_LOW, HOUR_HIGH = 0.5, 3.0
DAY_LOW, DAY_HIGH = 0.5, 1.6
YOUNG_LOW, YOUNG_HIGH = 0.3, 5.0  # of a day, while no week is known
ROWS = 20  # where fewer are usual, nothing is judged
CHANCE = 10.0  # e to minus this, one hour in 20,000, is no chance any more


class Wanted(msgspec.Struct, frozen=True):
    """What a project declares of its days: see `config.contract_file`."""

    unique: Mapping[str, Sequence[str]] = {}
    daily_min: Mapping[str, int] = {}
    fresh_within: Mapping[str, int] = {}


def hours(day: Day) -> Check:
    """Each hour that is over, against the same hour of the days before."""
    wrong, worst, judged = [], 1.0, 0
    nothing = (
        "no three days before to compare with"
        if len(day.before) < 3
        else f"no hour that is over has {ROWS} events as a rule"
    )
    burst = _median([profile.hour_burst for profile in day.before])
    for hour in range(24):
        before = [profile.hours[hour] for profile in day.before]
        usual = _median(before) if len(before) >= 3 else 0.0
        if usual < ROWS or day.start + (hour + 1) * HOUR > day.until:
            continue
        judged += 1
        count = day.profile.hours[hour]
        worst = min(worst, count / usual)
        expected = [usual, *([day.week_ago.hours[hour]] if day.week_ago is not None else [])]
        if _is_unusual(count, expected, HOUR_LOW, HOUR_HIGH, burst):
            wrong.append(f"{hour:02}:00 has {count:,} events, {usual:,.0f} are usual")
    return verdict(
        "hours", judged, wrong, worst, HOUR_LOW, "every hour has about what is usual", nothing
    )


def total(day: Day) -> Check:
    """The whole day, once it is over, against the days before; a day without any event is a fault
    as soon as one before has some.
    """
    rows, usual = day.profile.rows, _median([profile.rows for profile in day.before])
    expected = [usual, *([day.week_ago.rows] if day.week_ago is not None else [])]
    low, high = (DAY_LOW, DAY_HIGH) if day.week_ago is not None else (YOUNG_LOW, YOUNG_HIGH)
    share = rows / usual if usual else 1.0
    if day.until < day.start + 24 * HOUR:
        return Check("total", NONE, share, low, "the day is not over")
    if not rows and day.newest_before is not None:
        told = (
            f"{usual:,.0f} are usual"
            if day.before
            else f"nor has any since {to_iso(day.newest_before * DAY)[:10]}"
        )
        return verdict("total", 1, [f"the day has no event at all, {told}"], 0.0, low, "")
    judged = len(day.before) >= 3 and usual >= ROWS
    burst = _median([profile.day_burst for profile in day.before])
    unusual = judged and _is_unusual(rows, expected, low, high, burst)
    wrong = [f"the day's events are {rows:,}, {usual:,.0f} are usual"] if unusual else []
    nothing = (
        "no three days before to compare with"
        if len(day.before) < 3
        else f"fewer than {ROWS} events a day are usual"
    )
    return verdict(
        "total", judged, wrong, share, low, f"{rows:,} events, {usual:,.0f} are usual", nothing
    )


def volume(day: Day, wanted: Wanted) -> Check:
    """At least as many events of a type as are declared, where the day is over."""
    over = day.until >= day.start + 24 * HOUR
    wrong = [
        f"{day.profile.types[type_]:,} events of type {type_}, at least {least:,} are declared"
        for type_, least in wanted.daily_min.items()
        if over and day.profile.types[type_] < least
    ]
    nothing = "the day is not over" if wanted.daily_min else "contract.toml declares none"
    return verdict(
        "volume", len(wanted.daily_min) * over, wrong, len(wrong), 0, "as declared", nothing
    )


def freshness(day: Day, wanted: Wanted) -> Check:
    """The newest event of a type, of the day or of the week before, is as young as declared; older
    ones are not looked for.
    """
    wrong = []
    for type_, span in wanted.fresh_within.items():
        known = [
            profile.newest[type_]
            for profile in (day.profile, *day.before)
            if type_ in profile.newest
        ]
        newest = max(known, default=day.start - HISTORY_DAYS * DAY)
        if day.until - newest > span:
            when = to_iso(newest) if known else f"{HISTORY_DAYS} days before the day, or older"
            wrong.append(
                f"the newest {type_} is of {when}; one within {show_duration(span)} is declared"
            )
    return verdict(
        "freshness",
        len(wanted.fresh_within),
        wrong,
        len(wrong),
        0,
        "as declared",
        "contract.toml declares none",
    )


def _is_unusual(
    count: int, expected: Sequence[float], low: float, high: float, burst: float
) -> bool:
    """Whether a count lies outside the limits of each that may be expected, by more than chance."""
    return not any(
        low * each <= count <= high * each or _deviance(count, each) <= CHANCE * burst
        for each in expected
    )


def _deviance(count: float, expected: float) -> float:
    """Chernoff: a Poisson variable is so far from its mean with a chance of at most e to minus
    this.
    """
    return count * np.log(max(count, 1e-9) / expected) - count + expected if expected else np.inf


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0
