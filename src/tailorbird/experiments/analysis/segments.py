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
class ShrunkSegments:
    """Effects of segments, and the p-value of their all being equal."""

    effects: tuple[SegmentEffect, ...]
    p_equal: float


def shrink_segments(
    names: Sequence[str], effects: Sequence[Effect], *, alpha: float = 0.05
) -> ShrunkSegments:
    """Shrink the effects of segments; the units must be disjoint."""
    if not effects:
        return ShrunkSegments((), math.nan)
    log_ratio, standard_error = np.array([(e.log_ratio, e.standard_error) for e in effects]).T
    weight = 1 / standard_error**2
    centre = float(weight @ log_ratio / weight.sum())
    # Cochran's Q, chi-squared with these degrees of freedom if all effects are equal. Its expectation
    # grows by the weight below for each unit of variance between segments.
    heterogeneity = float(weight @ (log_ratio - centre) ** 2)
    freedom = len(log_ratio) - 1
    between_variance_weight = weight.sum() - (weight @ weight) / weight.sum()
    between_variance = (
        max((heterogeneity - freedom) / between_variance_weight, 0.0)
        if freedom and between_variance_weight > 0
        else 0.0
    )
    pooled_weight = 1 / (between_variance + standard_error**2)
    centre = float(pooled_weight @ log_ratio / pooled_weight.sum())
    centre_variance = float(1 / pooled_weight.sum())
    own_weight = between_variance / (between_variance + standard_error**2)
    shrunk_log_ratio = own_weight * log_ratio + (1 - own_weight) * centre
    shrunk_error = np.sqrt(own_weight * standard_error**2 + (1 - own_weight) ** 2 * centre_variance)
    z = float(ndtri(1 - alpha / 2))
    return ShrunkSegments(
        tuple(
            SegmentEffect(
                name=name,
                units=effect.units,
                own=effect.uplift,
                uplift=to_uplift(shrunk_value),
                low=to_uplift(shrunk_value - z * sd),
                high=to_uplift(shrunk_value + z * sd),
            )
            for name, effect, shrunk_value, sd in zip(
                names, effects, shrunk_log_ratio.tolist(), shrunk_error.tolist(), strict=True
            )
        ),
        float(chi2.sf(heterogeneity, freedom)) if freedom else math.nan,
    )
