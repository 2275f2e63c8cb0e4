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
ROUNDING = 1e-12  # a relative spread below it is rounding: 0.1, 0.1 and 0.1 are no three values


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
    mean_square = float(squares.mean())
    if mean_square <= ROUNDING**2 * float((x * x).mean()):
        return Estimate(float(x.mean()), 0.0, n)
    # The variance of s² is (kurtosis − 1) / n of its square.
    kurtosis = float((squares * squares).mean()) / (mean_square * mean_square)
    freedom = min(2 * n / max(kurtosis - 1, 1e-9), n - 1.0)
    return Estimate(float(x.mean()), mean_square / (n - 1), n, freedom)


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Estimate:
    """Return Σx / Σy by the delta method (Deng, Knoblich, Lu 2018, section 3)."""
    x = np.asarray(numerator, np.float64)
    y = np.asarray(denominator, np.float64)
    return mean(linearise(x, y)) if y.sum() > 0 else Estimate(math.nan, math.nan, len(x))


def linearise(numerator: Floats, denominator: Floats) -> Floats:
    """Return a value per unit whose mean is Σx / Σy and whose variance is the ratio's.

    A residual is divided by one minus the unit's share of the denominator, as in the jackknife:
    heavy units pull the ratio to themselves, which hides a part of the variance.
    """
    value = numerator.sum() / denominator.sum()
    total = denominator.sum()
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
    distinct_values, counts = np.unique(x, return_counts=True)
    cumulative_share = (np.cumsum(counts) - counts / 2) / n
    rank = np.arange(len(distinct_values))
    lower_rank, upper_weight = divmod(float(np.interp(probability, cumulative_share, rank)), 1)
    # How much of each value lies below the quantile; without ties it is 0 or 1.
    share_below = (1 - upper_weight) * np.clip(lower_rank - rank + 0.5, 0, 1)
    share_below += upper_weight * np.clip(lower_rank - rank + 1.5, 0, 1)
    mean_share_below = float(counts @ share_below) / n
    z = 1.959963984540054
    margin = z * math.sqrt(
        max(float(counts @ (share_below * share_below)) / n - mean_share_below**2, 0.0) / n
    )
    probabilities = np.array([probability, probability - margin, probability + margin])
    value, low, high = np.interp(probabilities, cumulative_share, distinct_values).tolist()
    standard_error = (high - low) / (2 * z)
    return Estimate(value, standard_error * standard_error, n)


@dataclass(frozen=True)
class Effect:
    """The log of treatment over control: value, standard error, and units of both."""

    log_ratio: float
    standard_error: float
    units: int

    @property
    def z(self) -> float:
        return self.log_ratio / self.standard_error

    @property
    def information(self) -> float:
        """The statistical information: one over the variance of the log ratio."""
        return 1 / (self.standard_error * self.standard_error)

    @property
    def uplift(self) -> float:
        return math.expm1(self.log_ratio)

    @property
    def p(self) -> float:
        """The two-sided p-value of a single look."""
        return float(2 * ndtr(-abs(self.z)))

    def interval(self, bound: float | None = None, *, alpha: float = 0.05) -> tuple[float, float]:
        """Return the interval of the uplift at so many standard errors; of one look by default."""
        half_width = self.standard_error * (float(ndtri(1 - alpha / 2)) if bound is None else bound)
        return to_uplift(self.log_ratio - half_width), to_uplift(self.log_ratio + half_width)


def to_uplift(log_ratio: float) -> float:
    """Return a relative uplift as a fraction; infinite instead of an overflow."""
    return math.expm1(log_ratio) if log_ratio < 700 else math.inf


def compare(treatment: Estimate, control: Estimate) -> Effect | None:
    """Return the effect; None where an arm has too little to estimate a ratio.

    The error is larger than the standard error by as much as Student's interval is wider than the
    normal one, with Welch's degrees of freedom.
    """
    if not (treatment.value > 0 and control.value > 0):
        return None
    treatment_variance = treatment.variance / treatment.value**2  # of the estimate's logarithm
    control_variance = control.variance / control.value**2
    variance = treatment_variance + control_variance
    if not variance > 0:
        return None
    squared_by_freedom = (
        treatment_variance * treatment_variance / treatment.freedom
        + control_variance * control_variance / control.freedom
        + 1e-300
    )
    freedom = variance**2 / squared_by_freedom
    student_widening = float(stdtrit(min(freedom, 1e8), 0.975) / ndtri(0.975))
    log_ratio = math.log(treatment.value / control.value)
    return Effect(
        log_ratio, math.sqrt(variance) * student_widening, treatment.units + control.units
    )
