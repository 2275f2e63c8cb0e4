"""Statistics of experiments from sums over users, which `experiments.counts` computes.

The unit is the user, because users were assigned and a user's clicks are correlated. A rate such as
clicks per item seen is a ratio of two sums over users, with the variance of the delta method,

    R = Σx / Σy,   var(R) = (s_xx − 2 R s_xy + R² s_yy) / (n ȳ²)

(Deng, Knoblich, Lu, KDD 2018, section 3). Relative uplift R_t / R_c − 1 gets its interval on the
log scale: var(log R) = var(R) / R². Fieller's interval is slightly better with fewer than some 100
clicks, but may be the whole line. The log interval is finite, never falls below −100 %, and is
consistent when the arms are swapped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.analysis.anytime import confidence_sequence
from tailorbird.experiments.distributions import chi_square_tail, student_quantile, student_tail

TUNED_FOR_UNITS = 5_000  # users at which an always-valid interval is narrowest, unless said

Floats = npt.NDArray[np.float64]
CANCELLATION = 1e-12  # what a difference of equal sums leaves of them, at most


@dataclass(frozen=True)
class Moments:
    """Sums over an arm's users of numerator x and denominator y.

    They can be added over shards and over days' new users.
    """

    users: int
    x: float
    y: float
    xx: float
    xy: float
    yy: float

    @classmethod
    def from_totals(cls, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> "Moments":
        """Return the moments of each user's totals, shape (users,); without y, of a mean."""
        x = np.asarray(x, np.float64)
        y = np.ones_like(x) if y is None else np.asarray(y, np.float64)
        return cls(
            users=len(x),
            x=float(x.sum()),
            y=float(y.sum()),
            xx=float(x @ x),
            xy=float(x @ y),
            yy=float(y @ y),
        )

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            users=self.users + other.users,
            x=self.x + other.x,
            y=self.y + other.y,
            xx=self.xx + other.xx,
            xy=self.xy + other.xy,
            yy=self.yy + other.yy,
        )

    @property
    def ratio(self) -> float:
        """Σx / Σy; NaN without a denominator."""
        return self.x / self.y if self.y else math.nan

    @property
    def variance(self) -> float:
        """Variance of the ratio by the delta method; NaN with fewer than two users."""
        n = self.users
        if n < 2 or not self.y:
            return math.nan
        r = self.ratio
        # Σ(x − r y)² has mean 0 by the definition of r, so no centring is needed.
        residual = self.xx - 2 * r * self.xy + r * r * self.yy
        if residual <= CANCELLATION * self.xx:
            return 0.0
        return residual / (n - 1) * n / (self.y * self.y)

    @property
    def variance_of_log(self) -> float:
        return self.variance / self.ratio**2 if self.x > 0 else math.nan


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval and two-sided p-value; NaN with too little data."""

    value: float
    low: float
    high: float
    p: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


NO_ESTIMATE = Interval(math.nan, math.nan, math.nan, math.nan)


def difference(treatment: Moments, control: Moments, *, level: float = 0.95) -> Interval:
    """Return the difference of two ratios or means (Welch's test, unequal variances)."""
    va = treatment.variance
    vb = control.variance
    if not va + vb > 0:
        return NO_ESTIMATE
    freedom = _welch_freedom(va, treatment.users, vb, control.users)
    return _student_interval(treatment.ratio - control.ratio, math.sqrt(va + vb), freedom, level)


def relative_uplift(treatment: Moments, control: Moments, *, level: float = 0.95) -> Interval:
    """Return R_t / R_c − 1, as a fraction, with a fixed-sample interval.

    >>> control = Moments.from_totals([1, 0, 2, 1], [10, 8, 12, 10])
    >>> treatment = Moments.from_totals([2, 1, 3, 1], [10, 9, 11, 10])
    >>> round(relative_uplift(treatment, control).value, 2)
    0.75
    """
    va = treatment.variance_of_log
    vb = control.variance_of_log
    if not va + vb > 0:
        return NO_ESTIMATE
    freedom = _welch_freedom(va, treatment.users, vb, control.users)
    return _to_relative(
        _student_interval(
            math.log(treatment.ratio / control.ratio), math.sqrt(va + vb), freedom, level
        )
    )


def always_valid_uplift(
    treatment: Moments,
    control: Moments,
    *,
    level: float = 0.95,
    tuned_for_units: int = TUNED_FOR_UNITS,
) -> Interval:
    """Return R_t / R_c − 1 with an interval that is valid at any stopping time.

    A confidence sequence of the log ratio, see `analysis.anytime`: narrowest at `tuned_for_units`
    users, about 1.3 to 1.6 times as wide as the fixed interval. It holds over users who arrive one after
    another with their whole outcome; if the same users keep clicking for weeks it is close, but not
    proven. `p` is NaN: use the interval.
    """
    va = treatment.variance_of_log
    vb = control.variance_of_log
    if not va + vb > 0:
        return NO_ESTIMATE
    log_ratio = math.log(treatment.ratio / control.ratio)
    low, high = confidence_sequence(
        log_ratio,
        math.sqrt(va + vb),
        treatment.users + control.users,
        tuned_for_units=tuned_for_units,
        alpha=1 - level,
        burn_in=0,
    )
    return _to_relative(Interval(log_ratio, low, high, math.nan))


def sample_ratio_p(users: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return the p-value of the observed split under the declared shares (chi-square).

    Below 0.001 the split is broken.
    """
    total = sum(users.get(arm, 0) for arm in shares)
    share_sum = sum(shares.values())
    if not total or len(shares) < 2:
        return math.nan
    expected = {arm: total * share / share_sum for arm, share in shares.items()}
    statistic = sum((users.get(arm, 0) - mean) ** 2 / mean for arm, mean in expected.items())
    return chi_square_tail(statistic, len(shares) - 1)


def proportion_interval(hits: int, runs: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a proportion."""
    z = student_quantile(1 - (1 - level) / 2, math.inf)
    p = hits / runs
    z2 = z * z
    centre = p + z2 / (2 * runs)
    half_width = z * math.sqrt(p * (1 - p) / runs + z2 / (4 * runs * runs))
    low = (centre - half_width) / (1 + z2 / runs)
    high = (centre + half_width) / (1 + z2 / runs)
    return (low if hits else 0.0), (
        high if hits < runs else 1.0
    )  # exact at the ends, despite rounding


def _welch_freedom(va: float, na: int, vb: float, nb: int) -> float:
    return (va + vb) ** 2 / (va * va / (na - 1) + vb * vb / (nb - 1))


def _student_interval(
    estimate: float, standard_error: float, freedom: float, level: float
) -> Interval:
    half_width = student_quantile(1 - (1 - level) / 2, freedom) * standard_error
    return Interval(
        estimate,
        estimate - half_width,
        estimate + half_width,
        2 * student_tail(abs(estimate) / standard_error, freedom),
    )


def _to_relative(log_interval: Interval) -> Interval:
    return Interval(
        math.expm1(log_interval.value),
        math.expm1(log_interval.low),
        math.expm1(min(log_interval.high, 700.0)),
        log_interval.p,
    )
