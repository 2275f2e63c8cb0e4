"""Expected purchases by Pareto/NBD in NumPy, for churn bundles.

`training.tasks.churn.pareto` fits the model.

A customer buys at a rate λ until they leave for good, which they do at a rate μ, whether they buy
or not; both are gamma distributed over customers, (r, alpha) and (s, beta). Source: Schmittlein,
Morrison, Colombo, "Counting Your Customers", Management Science 33 (1987). With one who is alive λ
is gamma (r + x, alpha + T), μ is gamma (s, beta + T), and neither says anything of the other.

The paper states the probability of being alive as a hypergeometric function. Here it is the
equivalent integral over the time u at which the customer left, between the last purchase and now;
see `odds_of_having_left`.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.ranking.churn.bg_nbd import purchases_between

Floats = npt.NDArray[np.float64]

INTEGRATION_POINTS = 48  # of the integral
ROWS_PER_CHUNK = 16_384  # worked out at once
_LEGENDRE_NODES, _LEGENDRE_WEIGHTS = np.polynomial.legendre.leggauss(INTEGRATION_POINTS)
# from 0 to 1
QUADRATURE_NODES = (_LEGENDRE_NODES + 1) / 2
QUADRATURE_WEIGHTS = _LEGENDRE_WEIGHTS / 2


class ParetoNbdColumns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted model, in days, and the matrix columns of recency, frequency and age."""

    r: float
    alpha: float
    s: float
    beta: float
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
        return expected_purchases(x, recency, age, self.r, self.alpha, self.s, self.beta, span)


def expected_purchases(
    x: Floats,
    recency: Floats,
    age: Floats,
    r: float,
    alpha: float,
    s: float,
    beta: float,
    span: float,
) -> Floats:
    """Return the expected purchases within `span` from now, shape (n,)."""
    log_growth = np.log1p(span / (beta + age))
    with np.errstate(divide="ignore", invalid="ignore"):
        discounted_time = np.where(
            abs(s - 1) < 1e-9, log_growth, -np.expm1(-(s - 1) * log_growth) / (s - 1)
        ) * (beta + age)
    return (
        (r + x)
        / (alpha + age)
        * discounted_time
        / (1 + odds_of_having_left(x, recency, age, r, alpha, s, beta))
    )


def odds_of_having_left(
    x: Floats, recency: Floats, age: Floats, r: float, alpha: float, s: float, beta: float
) -> Floats:
    """Return the odds of having left against being alive, shape (n,).

    ∫ ((alpha + T) / (alpha + u))^(r + x) · ((beta + T) / (beta + u))^s · s / (beta + u) du from the
    last purchase to now. The first factor may fall by hundreds of powers of ten: points lie evenly
    in its own integral over log(alpha + u).
    """
    row_ranges = [
        slice(start, start + ROWS_PER_CHUNK) for start in range(0, len(x), ROWS_PER_CHUNK)
    ]
    return np.concatenate(
        [
            np.zeros(0),
            *(
                _odds(x[row_range], recency[row_range], age[row_range], r, alpha, s, beta)
                for row_range in row_ranges
            ),
        ]
    )


def _odds(
    x: Floats, recency: Floats, age: Floats, r: float, alpha: float, s: float, beta: float
) -> Floats:
    """Return the odds of some rows; `log_last`, `log_now` and `log_times` are log(alpha + u)."""
    shape = (r + x)[:, None]
    log_last = np.log(alpha + np.minimum(recency, age))[:, None]
    log_now = np.log(alpha + age)[:, None]
    total_decay = -np.expm1(-shape * (log_now - log_last))
    log_times = log_last - np.log1p(-QUADRATURE_NODES * total_decay) / shape
    beta_plus_u = np.exp(log_times) - alpha + beta
    with np.errstate(over="ignore"):
        integral = (
            np.exp(
                s * (np.log(beta + age)[:, None] - np.log(beta_plus_u))
                + log_times
                - np.log(beta_plus_u)
            )
            @ QUADRATURE_WEIGHTS
        )
        return s * integral * np.expm1(shape * (log_now - log_last))[:, 0] / shape[:, 0]
