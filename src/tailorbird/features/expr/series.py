"""Logarithm and exponential from + − × ÷ and powers of 2 alone, bit for bit equal on every machine.

NumPy's and `math`'s own differ in the last bit between machines. Each function exists twice, for
columns and for one value, with the same order of operations; outside of their domain they are NaN.

    ln (2^e · m) = e · ln 2 + 2 (s + s³/3 + s⁵/5 + …)    s = (m − 1)/(m + 1), m between √½ and √2;
                                                         accurate to 1e-15
    exp x = 2^k · (1 + r + r²/2! + …)                    k = x / ln 2 rounded, r = x − k · ln 2
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SQRT_HALF = 0.7071067811865476
_LN2 = 0.6931471805599453
# The high part times k is exact.
_LN2_HIGH = 0.693147180369123816490
_LN2_LOW = 1.90821492927058770002e-10
# For s² < 0.03 the truncation error of the logarithm is below 1e-22.
_LOG_TERMS = 14
_EXP_TERMS = 14
# beyond: infinite, 0
_EXP_LARGEST = 709.7
_EXP_SMALLEST = -708.0


def log(x: Floats) -> Floats:
    """Return ln x; NaN unless x is above 0."""
    m, e = np.frexp(x)
    is_below = m < _SQRT_HALF
    m = np.where(is_below, 2.0 * m, m)
    e = np.where(is_below, e - 1, e)
    return np.where(x > 0, _log_series(e.astype(np.float64), (m - 1.0) / (m + 1.0)), np.nan)


def log1p(x: Floats) -> Floats:
    """Return ln (1 + x); NaN unless x is above −1."""
    m, e = np.frexp(1.0 + x)
    is_below = m < _SQRT_HALF
    m = np.where(is_below, 2.0 * m, m)
    e = np.where(is_below, e - 1, e)
    s = np.where(e == 0, x / (2.0 + x), (m - 1.0) / (m + 1.0))  # 1 + x would round a small x away.
    return np.where(x > -1, _log_series(e.astype(np.float64), s), np.nan)


def exp(x: Floats) -> Floats:
    """Return e^x."""
    is_in_range = (x >= _EXP_SMALLEST) & (x <= _EXP_LARGEST)
    x_in_range = np.where(is_in_range, x, 0.0)
    k = np.rint(x_in_range / _LN2)
    r = (x_in_range - k * _LN2_HIGH) - k * _LN2_LOW
    series = np.ones(np.shape(x))
    for term in range(_EXP_TERMS, 0, -1):
        series = series * r / float(term) + 1.0
    power = np.ldexp(series, k.astype(np.int64))
    return np.where(is_in_range, power, np.where(x > 0, np.inf, np.where(x < 0, 0.0, np.nan)))


def log_scalar(x: float) -> float:
    if not x > 0:
        return math.nan
    m, e = _split_exponent(x)
    return _log_series_scalar(e, (m - 1.0) / (m + 1.0))


def log1p_scalar(x: float) -> float:
    if not x > -1:
        return math.nan
    m, e = _split_exponent(1.0 + x)
    return _log_series_scalar(
        e, x / (2.0 + x) if e == 0 and math.isfinite(x) else (m - 1.0) / (m + 1.0)
    )


def exp_scalar(x: float) -> float:
    if not _EXP_SMALLEST <= x <= _EXP_LARGEST:
        return math.inf if x > 0 else 0.0 if x < 0 else math.nan
    k = float(round(x / _LN2))
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    series = 1.0
    for term in range(_EXP_TERMS, 0, -1):
        series = series * r / float(term) + 1.0
    return math.ldexp(series, int(k))


def _log_series(e: Floats, s: Floats) -> Floats:
    square = s * s
    series = np.full(np.shape(s), 1.0 / (2 * _LOG_TERMS + 1))
    for term in range(_LOG_TERMS - 1, -1, -1):
        series = series * square + 1.0 / (2 * term + 1)
    return e * _LN2 + 2.0 * s * series


def _log_series_scalar(e: int, s: float) -> float:
    square = s * s
    series = 1.0 / (2 * _LOG_TERMS + 1)
    for term in range(_LOG_TERMS - 1, -1, -1):
        series = series * square + 1.0 / (2 * term + 1)
    return float(e) * _LN2 + 2.0 * s * series


def _split_exponent(x: float) -> tuple[float, int]:
    m, e = math.frexp(x)
    return (2.0 * m, e - 1) if m < _SQRT_HALF else (m, e)
