"""Effects by segment, shrunk towards their mean by as much as chance explains their spread.

Random effects with the variance of DerSimonian and Laird (1986). With few units in a segment its
own estimate says little, so that it moves further.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import chi2

from tailorbird.experiments.analysis.estimates import Effect, to_uplift


@dataclass(frozen=True)
class SegmentEffect:
    """A segment's uplift: its own and the shrunk one, with the interval of the shrunk one."""

    name: str
    units: int
    own: float
    uplift: float
    low: float
    high: float


@dataclass(frozen=True)
class Segments:
    """Effects of segments, and the p-value of their all being equal."""

    effects: tuple[SegmentEffect, ...]
    p_equal: float


def shrink_segments(
    names: Sequence[str], effects: Sequence[Effect], *, alpha: float = 0.05
) -> Segments:
    """Shrink the effects of segments; the units must be disjoint."""
    if not effects:
        return Segments((), math.nan)
    value, error = np.array([(e.log, e.error) for e in effects]).T
    weight = 1 / error**2
    centre = float(weight @ value / weight.sum())
    q, freedom = float(weight @ (value - centre) ** 2), len(value) - 1
    slack = weight.sum() - (weight @ weight) / weight.sum()
    between = max((q - freedom) / slack, 0.0) if freedom and slack > 0 else 0.0
    pooled = 1 / (between + error**2)
    centre, centre_variance = float(pooled @ value / pooled.sum()), float(1 / pooled.sum())
    own_weight = between / (between + error**2)
    shrunk = own_weight * value + (1 - own_weight) * centre
    spread = np.sqrt(own_weight * error**2 + (1 - own_weight) ** 2 * centre_variance)
    z = float(ndtri(1 - alpha / 2))
    return Segments(
        tuple(
            SegmentEffect(
                name,
                effect.units,
                effect.uplift,
                to_uplift(middle),
                to_uplift(middle - z * sd),
                to_uplift(middle + z * sd),
            )
            for name, effect, middle, sd in zip(
                names, effects, shrunk.tolist(), spread.tolist(), strict=True
            )
        ),
        float(chi2.sf(q, freedom)) if freedom else math.nan,
    )
