"""Tails and quantiles of the normal, Student's t and chi-square distributions, without SciPy.

Servers and routers therefore need no SciPy. Continued fractions and series as in Press et al.,
Numerical Recipes (3rd ed.), 6.2 and 6.4; compared with SciPy in the tests.
"""

import math
from statistics import NormalDist

_TINY = 1e-300
_EPSILON = 1e-15


def normal_tail(z: float) -> float:
    """Return P(Z > z).

    >>> round(normal_tail(1.959964), 6)
    0.025
    """
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def normal_quantile(probability: float) -> float:
    """Return the z with P(Z ≤ z) = probability."""
    return NormalDist().inv_cdf(probability)


def chi_square_tail(x: float, freedom: float) -> float:
    """Return P(X > x) for a chi-square distribution."""
    return 1.0 if x <= 0 else _gamma_tail(freedom / 2.0, x / 2.0)


def student_tail(t: float, freedom: float) -> float:
    """Return P(T > t) for Student's t distribution."""
    if math.isinf(freedom):
        return normal_tail(t)
    upper_tail = 0.5 * _beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
    return upper_tail if t >= 0 else 1.0 - upper_tail


def student_quantile(probability: float, freedom: float) -> float:
    """Return the t with P(T ≤ t) = probability, in (0, 1)."""
    if probability < 0.5:
        return -student_quantile(1.0 - probability, freedom)
    t = normal_quantile(probability)
    if math.isinf(freedom) or probability == 0.5:
        return t
    # Newton from the left: the tail falls and is convex for t > 0, so no step overshoots.
    scale = (
        math.lgamma((freedom + 1) / 2)
        - math.lgamma(freedom / 2)
        - 0.5 * math.log(freedom * math.pi)
    )
    for _ in range(200):
        density = math.exp(scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (student_tail(t, freedom) - (1.0 - probability)) / density
        t += step
        if abs(step) <= 1e-12 * t:
            break
    return t


def _gamma_tail(a: float, x: float) -> float:
    """Return the regularised upper incomplete gamma function Q(a, x)."""
    scale = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1.0:
        term = total = 1.0 / a
        n = a
        while abs(term) > abs(total) * _EPSILON:
            n += 1.0
            term *= x / n
            total += term
        return 1.0 - total * scale
    b = x + 1.0 - a
    c = 1.0 / _TINY
    d = 1.0 / b
    h = d
    for i in range(1, 10_000):
        an = -i * (i - a)
        b += 2.0
        d = 1.0 / _nonzero(an * d + b)
        c = _nonzero(b + an / c)
        h *= d * c
        if abs(d * c - 1.0) < _EPSILON:
            break
    return scale * h


def _beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, 1.0 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    c = 1.0
    d = 1.0 / _nonzero(1.0 - (a + b) * x / (a + 1.0))
    h = d
    for m in range(1, 10_000):
        for coefficient in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / _nonzero(1.0 + coefficient * d)
            c = _nonzero(1.0 + coefficient / c)
            h *= d * c
        if abs(d * c - 1.0) < _EPSILON:
            break
    return h


def _nonzero(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
