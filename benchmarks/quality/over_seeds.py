"""One table of several trainings that differ in their seed alone: the mean of each figure."""

from collections.abc import Mapping, Sequence
from typing import Any


def mean_over(told: Sequence[Any]) -> Any:
    """The mean of each number, through mappings; what not every seed has is left out, what is no
    number is the first seed's.

    The interval of a figure becomes the mean of the seeds' intervals: it holds chance in who came,
    and not that in the seed.

    Raises:
        ValueError: there is no seed at all.
    """
    if not told:
        raise ValueError("no seed's figures to take the mean of: ask for one at least (--seeds 1)")
    first = told[0]
    if isinstance(first, Mapping):
        return {
            name: mean_over([each[name] for each in told])
            for name in first
            if all(name in each for each in told)
        }
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in told):
        return first
    mean = sum(told) / len(told)
    return round(mean) if all(isinstance(each, int) for each in told) else round(mean, 6)
