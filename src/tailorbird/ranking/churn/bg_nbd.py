"""Expected purchases by BG/NBD in NumPy alone, as servers need it; `models.btyd` fits the model."""

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

DAY_S = 86_400.0
# of the hypergeometric series; it ends by itself long before, unless the span is many times the
# known time
SERIES_TERMS_MAX = 4_000
_TOLERANCE = 1e-12
CANCELLATION_MAX = 1e6  # times the total, of a term: of sixteen digits ten are left
# of each part of an integral; and how many are worked out at once
POINTS_PER_PART = 256
ROWS_PER_CHUNK = 4_096
_PROBABILITY_MIN = 1e-200  # below it, the limit for p → 0 is used
# in logarithms: densities further below the maximum are negligible; log-odds beyond are linear
_LOG_DENSITY_RANGE = 40.0
_LOG_ODDS_RANGE = 60.0


class BgNbdColumns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted model, in days, and the matrix columns of recency, frequency and age."""

    r: float
    alpha: float
    a: float
    b: float
    recency: int
    frequency: int
    age: int

    def purchases(self, matrix: npt.NDArray[np.float32], start: float, stop: float) -> Floats:
        """Return the expected purchases from `start` to `stop` days from now, shape (n,).

        It is 0 for users without a history.
        """
        return purchases_between(
            matrix[:, [self.recency, self.frequency, self.age]],
            start,
            stop,
            self._expected_purchases,
        )

    def _expected_purchases(self, x: Floats, recency: Floats, age: Floats, span: float) -> Floats:
        return expected_purchases(x, recency, age, self.r, self.alpha, self.a, self.b, span)


def expected_purchases(
    x: Floats, recency: Floats, age: Floats, r: float, alpha: float, a: float, b: float, span: float
) -> Floats:
    """Return the expected purchases within `span` from now, shape (n,).

    This is equation 10 of Fader, Hardie, Lee (2005), after Euler's transformation: the series as
    printed overflows.
    """
    z = span / (alpha + age + span)
    series = hypergeometric(a - 1, a + b - 1 - r, a + b + x - 1, z)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        expectation = (a + b + x - 1) / (a - 1) * (1 - (1 - z) ** (a - 1) * series)
    expectation = replace_overflow(expectation, r + x, alpha + age, a, b + x, span)
    return expectation / (1 + odds_of_having_left(x, recency, age, r, alpha, a, b))


def odds_of_having_left(
    x: Floats, recency: Floats, age: Floats, r: float, alpha: float, a: float, b: float
) -> Floats:
    """Return the odds of having left against being alive, shape (n,); 0 without a repeat."""
    with np.errstate(over="ignore"):  # Many purchases and a long pause mean certain churn.
        return np.where(
            x > 0,
            a / (b + np.maximum(x, 1) - 1) * ((alpha + age) / (alpha + recency)) ** (r + x),
            0.0,
        )


def purchases_between(
    history: npt.NDArray[np.float32],
    start: float,
    stop: float,
    purchases_within: Callable[[Floats, Floats, Floats, float], Floats],
) -> Floats:
    """Return the purchases from `start` to `stop` days from now, shape (n,).

    It is 0 for users without a history.

    Args:
        history: (n, 3): seconds since the last purchase, purchases, seconds since the first.
        purchases_within: returns purchases within a span from now, by repeat purchases, days from
            the first to the last, and days since the first.
    """
    time_since_last, count, age = history.astype(np.float64).T
    is_complete = np.isfinite(time_since_last) & np.isfinite(count) & np.isfinite(age)
    time_since_last, count, age = (
        np.where(is_complete, column, 0.0) for column in (time_since_last, count, age)
    )
    x = np.maximum(count - 1, 0.0)
    recency = np.maximum(age - time_since_last, 0.0) / DAY_S
    age_days = age / DAY_S
    purchases = purchases_within(x, recency, age_days, stop) - (
        purchases_within(x, recency, age_days, start) if start else 0.0
    )
    return np.where(is_complete, purchases, 0.0)


def hypergeometric(a: Floats | float, b: Floats | float, c: Floats, z: Floats) -> Floats:
    """Evaluate ₂F₁(a, b; c; z) for 0 ≤ z < 1 by its series, until the last term changes nothing.

    The value is NaN where terms overflow, or cancel so much that few digits are left.
    """
    term = np.ones(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c), np.shape(z)))
    total = term.copy()
    largest = term.copy()
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # Overflow gives a value that is not finite, see `replace_overflow`.
        for n in range(SERIES_TERMS_MAX):
            term = term * (a + n) * (b + n) / ((c + n) * (n + 1)) * z
            total += term
            largest = np.maximum(largest, np.abs(term))
            if np.all((np.abs(term) <= _TOLERANCE * np.abs(total)) | ~np.isfinite(total)):
                break
        return np.where(largest <= CANCELLATION_MAX * np.abs(total), total, np.nan)


def replace_overflow(
    expectation: Floats, shape: Floats, scale: Floats, a: float, b: Floats, span: float
) -> Floats:
    """Replace impossible expectations of the series by `integrate_expectation`.

    A possible expectation lies between 0 and the full purchase rate. At the limits of the fit (all
    users at the same rate, say) the series overflows.
    """
    is_invalid = ~((expectation >= 0) & (expectation <= shape / scale * span * (1 + 1e-6)))
    if is_invalid.any():
        expectation = expectation.copy()
        expectation[is_invalid] = integrate_expectation(
            shape[is_invalid], scale[is_invalid], a, b[is_invalid], span
        )
    return expectation


def integrate_expectation(shape: Floats, scale: Floats, a: float, b: Floats, span: float) -> Floats:
    """Compute the same expectation, shape (n,), as an integral over the dropout probability p.

    After a purchase p is beta (a, b) distributed.

    E[(1 − (scale / (scale + p span))^shape) / p], by the trapezoidal rule over the log-odds of p,
    over the range where its density is not negligible.
    """
    row_ranges = [
        slice(start, start + ROWS_PER_CHUNK) for start in range(0, len(shape), ROWS_PER_CHUNK)
    ]
    return np.concatenate(
        [
            _integrate(shape[row_range], scale[row_range], b[row_range], a, span)
            for row_range in row_ranges
        ]
    )


def _integrate(shape: Floats, scale: Floats, b: Floats, a: float, span: float) -> Floats:
    def log_density(log_odds: Floats, b: Floats) -> Floats:
        return -a * np.logaddexp(0, -log_odds) - b * np.logaddexp(0, log_odds)

    mode = np.log(a) - np.log(b)
    mode_log_density = log_density(mode, b)
    range_ends = []
    for limit in (
        mode - _LOG_DENSITY_RANGE / a - _LOG_DENSITY_RANGE - abs(mode),
        mode + _LOG_DENSITY_RANGE / b + _LOG_DENSITY_RANGE + abs(mode),
    ):
        inside = mode
        outside = limit
        for _ in range(60):
            middle = (inside + outside) / 2
            is_inside = log_density(middle, b) > mode_log_density - _LOG_DENSITY_RANGE
            inside = np.where(is_inside, middle, inside)
            outside = np.where(is_inside, outside, middle)
        range_ends.append(outside[:, None])
    unit_steps, (low, high), start = (
        np.linspace(0, 1, POINTS_PER_PART),
        range_ends,
        np.clip(mode[:, None], *range_ends),
    )
    central_log_odds = np.clip(_LOG_ODDS_RANGE * (2 * unit_steps - 1), low, high)
    log_odds = np.sort(
        np.concatenate(
            [
                low + (start - low) * unit_steps,
                start + (high - start) * unit_steps,
                central_log_odds,
            ],
            axis=1,
        ),
        axis=1,
    )
    weight = np.exp(log_density(log_odds, b[:, None]) - mode_log_density[:, None])
    p = np.exp(-np.logaddexp(0, -log_odds))
    shape = shape[:, None]
    rate = p * (span / scale)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        purchases_given_p = np.where(
            p > _PROBABILITY_MIN,
            -np.expm1(-shape * np.log1p(rate)) / p,
            shape * (span / scale)[:, None],
        )
    value = weight * purchases_given_p
    width = np.diff(log_odds, axis=1)
    return ((value[:, 1:] + value[:, :-1]) * width).sum(axis=1) / (
        (weight[:, 1:] + weight[:, :-1]) * width
    ).sum(axis=1)
