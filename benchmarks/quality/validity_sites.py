"""Generators of the validity benchmark: a value per unit for six kinds of metric.

Each draws from a generator of its own seed and knows its truth. Effects multiply the mean.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """Outcomes of units in the order of their arrival, shape (units,).

    `shown` is the denominator of a ratio and `before` a covariate, if there is one.
    """

    value: Floats
    shown: Floats | None = None
    before: Floats | None = None


Draw = Callable[[np.random.Generator, int, float], Units]


@dataclass(frozen=True)
class MetricKind:
    """A kind of metric: its generator and the units per arm of one experiment."""

    draw: Draw
    units: int


def normal(rng: np.random.Generator, count: int, effect: float) -> Units:
    return Units(rng.normal(10 * (1 + effect), 3, count))


def conversion(rng: np.random.Generator, count: int, effect: float) -> Units:
    return Units((rng.random(count) < 0.05 * (1 + effect)).astype(np.float64))


def revenue(rng: np.random.Generator, count: int, effect: float) -> Units:
    """Draw zero-inflated revenue: 5 % buy, for a log-normal amount."""
    bought = rng.random(count) < 0.05 * (1 + effect)
    return Units(np.where(bought, rng.lognormal(3.5, 0.8, count), 0.0))


def ratio(rng: np.random.Generator, count: int, effect: float) -> Units:
    """Draw clicks per item shown, where a unit's clicks are independent."""
    shown = 1 + rng.poisson(20, count)
    return Units(rng.binomial(shown, 0.1 * (1 + effect)).astype(np.float64), shown.astype(float))


def clustered(rng: np.random.Generator, count: int, effect: float) -> Units:
    """Draw clicks per item shown, where heavy units also click more."""
    taste = rng.gamma(2.0, 0.5, count)
    shown = 1 + rng.poisson(20 * taste)
    chance = np.clip(0.1 * (1 + effect) * taste, 0, 1)
    return Units(rng.binomial(shown, chance).astype(np.float64), shown.astype(float))


def with_history(correlation: float) -> Draw:
    """Return a generator whose values correlate with a covariate from before."""

    def draw(rng: np.random.Generator, count: int, effect: float) -> Units:
        before = rng.normal(size=count)
        noise = np.sqrt(1 - correlation**2) * rng.normal(size=count)
        return Units(10 * (1 + effect) + 3 * (correlation * before + noise), before=before)

    return draw


KINDS = {
    "normal": MetricKind(normal, 1_000),
    "conversion": MetricKind(conversion, 4_000),
    "revenue": MetricKind(revenue, 8_000),
    "ratio": MetricKind(ratio, 1_000),
    "clustered": MetricKind(clustered, 1_000),
    "cuped": MetricKind(with_history(0.7), 1_000),
}
