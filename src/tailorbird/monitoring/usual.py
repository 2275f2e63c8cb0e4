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
    newest = profiles[0]
    return replace(
        newest,
        event_count=sum(profile.event_count for profile in profiles),
        type_counts=sum((profile.type_counts for profile in profiles), Counter()),
        null_counts=sum((profile.null_counts for profile in profiles), Counter()),
        category_counts={
            name: sum((profile.category_counts[name] for profile in profiles), Counter())
            for name in newest.category_counts
        },
        bot_count=sum(profile.bot_count for profile in profiles),
    )


def usual_shares(days: Sequence[Mapping[str, int]], rows_min: int) -> dict[str, float]:
    """Return the share of each value on a usual day.

    It is the median of the days with enough rows, so that one broken day does not define the usual
    for a week. With fewer than three such days, it is the share over all days.

    Args:
        days: the count of each value, one mapping a day.
    """
    values = {value for day in days for value in day}
    large_days = [day for day in days if sum(day.values()) >= rows_min]
    if len(large_days) >= DAYS_MIN:
        medians = {
            value: float(
                np.median([entry.get(value, 0) / sum(entry.values()) for entry in large_days])
            )
            for value in values
        }
        if (total_share := sum(medians.values())) > 0:
            return {value: share / total_share for value, share in medians.items()}
    rows = sum(sum(day.values()) for day in days)
    return {value: sum(day.get(value, 0) for day in days) / rows for value in values}


def stability_index(day_counts: Mapping[str, int], usual: Mapping[str, float]) -> tuple[float, str]:
    """Return the population stability index of a day, and the value that it comes from most."""
    values = sorted({*day_counts, *usual})
    day_shares, expected_shares = (
        np.maximum(
            np.array([entry.get(value, 0) for value in values]) / sum(entry.values()), _SHARE_MIN
        )
        for entry in (day_counts, usual)
    )
    psi_terms = (day_shares - expected_shares) * np.log(day_shares / expected_shares)
    largest_index = int(np.argmax(psi_terms))
    return (
        float(psi_terms.sum()),
        f"{values[largest_index]}: {day_shares[largest_index]:.0%}, "
        f"{expected_shares[largest_index]:.0%} are usual",
    )
