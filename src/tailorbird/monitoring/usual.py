"""What is usual: the shares of values on the days before, and how far a day is from them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tailorbird.monitoring.day import DayProfile

DAYS_MIN = 3  # days from which the median is used instead of the sum
_SHARE_MIN = 1e-3  # minimum share of a value, for the logarithm


def merge_profiles(profiles: Sequence[DayProfile]) -> DayProfile | None:
    """Return the sum of the profiles; other fields are those of the newest."""
    if not profiles:
        return None
    first = profiles[0]
    return replace(
        first,
        rows=sum(profile.rows for profile in profiles),
        types=sum((profile.types for profile in profiles), Counter()),
        nulls=sum((profile.nulls for profile in profiles), Counter()),
        categories={
            name: sum((profile.categories[name] for profile in profiles), Counter())
            for name in first.categories
        },
        bots=sum(profile.bots for profile in profiles),
    )


def usual_shares(days: Sequence[Mapping[str, int]], rows_min: int) -> dict[str, float]:
    """Return the share of each value on a usual day.

    It is the median of the days with enough rows, so that one broken day does not define the usual
    for a week. With fewer than three such days, it is the share over all days.
    """
    values = {value for day in days for value in day}
    large = [day for day in days if sum(day.values()) >= rows_min]
    if len(large) >= DAYS_MIN:
        medians = {
            value: float(np.median([entry.get(value, 0) / sum(entry.values()) for entry in large]))
            for value in values
        }
        if (total_share := sum(medians.values())) > 0:
            return {value: share / total_share for value, share in medians.items()}
    rows = sum(sum(day.values()) for day in days)
    return {value: sum(day.get(value, 0) for day in days) / rows for value in values}


def stability_index(now: Mapping[str, int], usual: Mapping[str, float]) -> tuple[float, str]:
    """Return the population stability index of a day, and the value that it comes from most."""
    values = sorted({*now, *usual})
    shares = [
        np.maximum(
            np.array([entry.get(value, 0) for value in values]) / sum(entry.values()), _SHARE_MIN
        )
        for entry in (now, usual)
    ]
    terms = (shares[0] - shares[1]) * np.log(shares[0] / shares[1])
    largest_index = int(np.argmax(terms))
    return (
        float(terms.sum()),
        f"{values[largest_index]}: {shares[0][largest_index]:.0%}, "
        f"{shares[1][largest_index]:.0%} are usual",
    )
