"""Variance reduction by what was known of each unit before its exposure.

The treatment cannot have changed it, so that the effect's expectation stays as it is. CUPED (Deng,
Xu, Kohavi, Walker 2013) with the correlation ρ leaves 1 − ρ² of the variance. Indicators of strata
as covariates make it post-stratification.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AdjustedValues:
    """Adjusted values, shape (units,), and the share of the variance that they keep."""

    values: Floats
    variance_ratio: float


def cuped(values: npt.ArrayLike, covariates: npt.ArrayLike, arm: npt.ArrayLike) -> AdjustedValues:
    """Subtract from each unit's value what its covariates predict.

    Coefficients come from within the arms, so that an effect is not absorbed.

    Args:
        values: shape (units,).
        covariates: from before exposure, shape (units,) or (units, covariates).
        arm: index of each unit's arm, shape (units,).
    """
    y = np.asarray(values, np.float64)
    group = np.asarray(arm)
    x = np.asarray(covariates, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if len(y) < x.shape[1] + 3:
        return AdjustedValues(y, 1.0)
    within_x = _centre(x, group)
    within_y = _centre(y[:, None], group)[:, 0]
    coefficients, *_ = np.linalg.lstsq(within_x, within_y, rcond=1e-10)
    total_variation = float(within_y @ within_y)
    residual = within_y - within_x @ coefficients
    return AdjustedValues(
        y - (x - x.mean(axis=0)) @ coefficients,
        float(residual @ residual) / total_variation if total_variation else 1.0,
    )


def _centre(x: Floats, group: npt.NDArray) -> Floats:
    """Subtract from each row of `x`, shape (units, columns), the mean of its group."""
    centred = np.empty_like(x)
    for arm_index in np.unique(group):
        rows = group == arm_index
        centred[rows] = x[rows] - x[rows].mean(axis=0)
    return centred
