"""One table of several trainings that differ in their seed alone: the mean of each figure, and how far the seeds lie apart."""

from collections.abc import Mapping, Sequence
from typing import Any


def mean_over(told: Sequence[Any]) -> Any:
    """The mean of each number, through mappings; what not every seed has is left out, what is no number is the first seed's.

    The interval of a figure becomes the mean of the seeds' intervals: it holds chance in who came, and not that in the seed.

    Raises:
        ValueError: there is no seed at all.
    """
    if not told:
        raise ValueError("no seed's figures to take the mean of: ask for one at least (--seeds 1)")
    first = told[0]
    if isinstance(first, Mapping):
        return {name: mean_over([each[name] for each in told]) for name in first if all(name in each for each in told)}
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in told):
        return first
    mean = sum(told) / len(told)
    return round(mean) if all(isinstance(each, int) for each in told) else round(mean, 6)


def by_seed(told: Mapping[int, Mapping[str, Any]], ours: str, figure: str) -> dict[str, dict[str, float]]:
    """Seed → our figure, and how far ahead of the baseline that is best on average it is."""
    gains = mean_over([each["results"] for each in told.values()])
    best = max((name for name in gains if name != ours), key=lambda name: gains[name][figure] or 0)
    return {str(seed): {figure: each["results"][ours][figure], "gain": each["differences"][best][figure]} for seed, each in told.items()}
