"""Confidence sequences: intervals that hold at all looks together, however many and whenever.

The two-sided normal mixture (Robbins 1970), as the asymptotic confidence sequence of Waudby-Smith,
Arbour, Sinha, Kennedy and Ramdas (2021): with n units and ratio r = n / ρ,

    |Z_n| < √((1 + 1/r) · ln((1 + r) / alpha²)),   ρ = tuned_for_units / (−W₋₁(−alpha² / e) − 1)

The bound is narrowest near `tuned_for_units` units. It is asymptotic: nothing is concluded before
`burn_in` units.
"""

import math

import numpy as np
import numpy.typing as npt

BURN_IN = 100


def anytime_bound(
    units: npt.ArrayLike, *, tuned_for_units: float, alpha: float = 0.05, burn_in: int = BURN_IN
) -> npt.NDArray[np.float64]:
    """Return the bound of |Z| after so many units; infinite before the burn-in.

    >>> [round(float(bound), 2) for bound in anytime_bound([1_000, 10_000], tuned_for_units=10_000)]
    [3.82, 3.04]
    """
    n = np.asarray(units, np.float64)
    rho = tuned_for_units / _best_mixture(alpha)
    with np.errstate(divide="ignore"):
        bound = np.sqrt((1 + rho / n) * np.log((1 + n / rho) / (alpha * alpha)))
    return np.where(n >= burn_in, bound, np.inf)


def confidence_sequence(
    value: float,
    error: float,
    units: int,
    *,
    tuned_for_units: float,
    alpha: float = 0.05,
    burn_in: int = BURN_IN,
) -> tuple[float, float]:
    """Return the interval of an estimate with a standard error, valid at any stopping time."""
    half_width = (
        float(anytime_bound(units, tuned_for_units=tuned_for_units, alpha=alpha, burn_in=burn_in))
        * error
    )
    return value - half_width, value + half_width


def split_alpha(alpha: float, count: int) -> float:
    """Return the alpha of each of `count` intervals that are watched together (Bonferroni)."""
    return alpha / max(count, 1)


def _best_mixture(alpha: float) -> float:
    """Return x = −W₋₁(−alpha² / e) − 1, the fixed point of −2 ln alpha + ln(1 + x)."""
    level = -2 * math.log(alpha)
    x = level
    for _ in range(50):
        x = level + math.log1p(x)
    return x
