"""Mean figures over several trainings that differ only in their seed."""

from collections.abc import Mapping, Sequence
from typing import Any


def mean_over(reports: Sequence[Any]) -> Any:
    """Return the mean of each number, through mappings.

    Entries that some seeds lack are left out; values that are no numbers are the first seed's. The
    interval of a figure becomes the mean of the seeds' intervals: it covers which people came by
    chance, but not the chance in the seed.

    Raises:
        ValueError: there is no seed at all.
    """
    if not reports:
        raise ValueError("no seed's figures to take the mean of: ask for one at least (--seeds 1)")
    first = reports[0]
    if isinstance(first, Mapping):
        return {
            name: mean_over([report[name] for report in reports])
            for name in first
            if all(name in report for report in reports)
        }
    if any(isinstance(report, bool) or not isinstance(report, int | float) for report in reports):
        return first
    mean = sum(reports) / len(reports)
    return round(mean) if all(isinstance(report, int) for report in reports) else round(mean, 6)
