"""Estimates of one arm from a value per unit, with variances clustered by unit; and effects.

An effect is the log of a ratio of two arms' estimates, so that intervals of the relative uplift
never fall below −100 % and swap with the arms.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An arm's estimate, its variance, the number of its units, and the variance's freedom.

    `freedom` are Satterthwaite's degrees: with heavy tails a variance is known less well than from
    as many normal values.
    """

    value: float
    variance: float
    units: int
    freedom: float = math.inf


def mean(values: npt.ArrayLike) -> Estimate:
    """Return the mean; NaN without a unit, and no variance with one."""
    x = np.asarray(values, np.float64)
    n = len(x)
    if n < 2:
        return Estimate(float(x[0]) if n else math.nan, math.nan, n)
    squares = (x - x.mean()) ** 2
    spread = float(squares.mean())
    if not spread > 0:
        return Estimate(float(x.mean()), 0.0, n)
    # The variance of s² is (kurtosis − 1) / n of its square.
    kurtosis = float((squares * squares).mean()) / (spread * spread)
    freedom = min(2 * n / max(kurtosis - 1, 1e-9), n - 1.0)
    return Estimate(float(x.mean()), spread / (n - 1), n, freedom)


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Estimate:
    """Return Σx / Σy by the delta method (Deng, Knoblich, Lu 2018, section 3)."""
    x, y = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return mean(linearise(x, y)) if y.sum() > 0 else Estimate(math.nan, math.nan, len(x))


def linearise(numerator: Floats, denominator: Floats) -> Floats:
    """Return a value per unit whose mean is Σx / Σy and whose variance is the ratio's.

    A residual is divided by one minus the unit's share of the denominator, as in the jackknife:
    heavy units pull the ratio to themselves, which hides a part of the variance.
    """
    value, total = numerator.sum() / denominator.sum(), denominator.sum()
    share = np.minimum(denominator / total, 0.5)
    residual = (numerator - value * denominator) / (denominator.mean() * (1 - share))
    return value + residual - residual.mean()


def winsorise(values: npt.ArrayLike, quantile: float = 0.99) -> Floats:
    """Cap values at a quantile of all of them: give it the units of all arms together."""
    x = np.asarray(values, np.float64)
    return np.minimum(x, np.quantile(x, quantile)) if len(x) else x


def quantile(values: npt.ArrayLike, probability: float) -> Estimate:
    """Return a quantile with a variance from its order-statistic interval (Woodruff 1952).

    Of the mid-distribution, which counts half of the ties (Ma, Genton, Parzen 2011): a quantile of
    counts lies between two of them, and moves where their shares do.
    """
    x = np.asarray(values, np.float64)
    n = len(x)
    if n < 2:
        return Estimate(float(x[0]) if n else math.nan, math.nan, n)
    distinct, counts = np.unique(x, return_counts=True)
    below = (np.cumsum(counts) - counts / 2) / n
    rank = np.arange(len(distinct))
    lower, weight = divmod(float(np.interp(probability, below, rank)), 1)
    # How much of each value lies below the quantile; without ties it is 0 or 1.
    part = (1 - weight) * np.clip(lower - rank + 0.5, 0, 1)
    part += weight * np.clip(lower - rank + 1.5, 0, 1)
    mean_part = float(counts @ part) / n
    z = 1.959963984540054
    margin = z * math.sqrt(max(float(counts @ (part * part)) / n - mean_part**2, 0.0) / n)
    at = np.array([probability, probability - margin, probability + margin])
    value, low, high = np.interp(at, below, distinct).tolist()
    spread = (high - low) / (2 * z)
    return Estimate(value, spread * spread, n)


@dataclass(frozen=True)
class Effect:
    """The log of treatment over control: value, standard error, and units of both."""

    log: float
    error: float
    units: int

    @property
    def z(self) -> float:
        return self.log / self.error

    @property
    def information(self) -> float:
        return 1 / (self.error * self.error)

    @property
    def uplift(self) -> float:
        return math.expm1(self.log)

    @property
    def p(self) -> float:
        """The two-sided p-value of a single look."""
        return float(2 * ndtr(-abs(self.z)))

    def interval(self, bound: float | None = None, *, alpha: float = 0.05) -> tuple[float, float]:
        """Return the interval of the uplift at so many standard errors; of one look by default."""
        half_width = self.error * (float(ndtri(1 - alpha / 2)) if bound is None else bound)
        return to_uplift(self.log - half_width), to_uplift(self.log + half_width)


def to_uplift(log: float) -> float:
    """Return a relative uplift as a fraction; infinite instead of an overflow."""
    return math.expm1(log) if log < 700 else math.inf


def compare(treatment: Estimate, control: Estimate) -> Effect | None:
    """Return the effect; None where an arm has too little to estimate a ratio.

    The error is larger than the standard error by as much as Student's interval is wider than the
    normal one, with Welch's degrees of freedom.
    """
    if not (treatment.value > 0 and control.value > 0):
        return None
    a, b = treatment.variance / treatment.value**2, control.variance / control.value**2
    if not a + b > 0:
        return None
    freedom = (a + b) ** 2 / (a * a / treatment.freedom + b * b / control.freedom + 1e-300)
    wider = float(stdtrit(min(freedom, 1e8), 0.975) / ndtri(0.975))
    log = math.log(treatment.value / control.value)
    return Effect(log, math.sqrt(a + b) * wider, treatment.units + control.units)
