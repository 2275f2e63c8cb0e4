"""Pareto/NBD: repeat purchases of customers without a contract, fitted by maximum likelihood.

Unlike with BG/NBD, a customer may leave at any time, even after one purchase. Predictions are
computed in `ranking.churn.pareto_nbd`, which has the source.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from tailorbird.models.btyd import Floats, Purchases, distinct, maximize_likelihood
from tailorbird.ranking.churn.pareto_nbd import SHARES, STEPS, expected, odds_of_having_left

DISTINCT_CUSTOMERS_MAX = (
    20_000  # distinct customers in a fit; the likelihood of each needs an integral
)


@dataclass(frozen=True)
class ParetoNbd:
    """Parameters, named as in the paper, and their log-likelihood."""

    r: float
    alpha: float
    s: float
    beta: float
    log_likelihood: float

    def alive(self, customers: Purchases) -> Floats:
        """Return P(still a customer), shape (n,)."""
        return 1 / (1 + odds_of_having_left(*self._arguments(customers)))

    def returning(self, customers: Purchases, span: float) -> Floats:
        """Return P(at least one purchase within `span` from now), shape (n,).

        A customer who is alive returns if the next purchase comes before leaving.
        """
        shape, scale, leaving_scale = (
            (self.r + customers.repeats)[:, None],
            (self.alpha + customers.age)[:, None],
            (self.beta + customers.age)[:, None],
        )
        times = STEPS * span
        density = (
            shape
            / scale
            * (scale / (scale + times)) ** (shape + 1)
            * (leaving_scale / (leaving_scale + times)) ** self.s
        )
        return self.alive(customers) * (density @ SHARES) * span

    def purchases(self, customers: Purchases, span: float) -> Floats:
        """Return expected purchases within `span` from now, shape (n,)."""
        return expected(*self._arguments(customers), span)

    def _arguments(
        self, customers: Purchases
    ) -> tuple[Floats, Floats, Floats, float, float, float, float]:
        history = customers.repeats, customers.recency, customers.age
        return *history, self.r, self.alpha, self.s, self.beta


def fit_pareto_nbd(customers: Purchases) -> ParetoNbd:
    """Return the maximum-likelihood parameters, by L-BFGS-B over logarithms from two starts.

    Raises:
        NotReadyError: too few customers, or none with a repeat purchase.
    """
    starts = (np.log([0.5, 0.5, 0.5, 0.5]), np.log([1.0, 1.0, 1.5, 3.0]))
    logs, scale, likelihood = maximize_likelihood(
        "Pareto/NBD", customers, _log_likelihoods, starts, _sample_distinct
    )
    r, alpha, s, beta = np.exp(logs).tolist()
    return ParetoNbd(r, alpha * scale, s, beta * scale, likelihood)


def _sample_distinct(customers: Purchases) -> tuple[Purchases, Floats]:
    """Sample at most `DISTINCT_CUSTOMERS_MAX` kinds with their weights, evenly over all customers."""
    kinds, weight = distinct(customers)
    if len(weight) <= DISTINCT_CUSTOMERS_MAX:
        return kinds, weight
    total = float(weight.sum())
    positions = np.searchsorted(
        np.cumsum(weight),
        (np.arange(DISTINCT_CUSTOMERS_MAX) + 0.5) * total / DISTINCT_CUSTOMERS_MAX,
    )
    indices, count = np.unique(positions, return_counts=True)
    return Purchases(
        kinds.repeats[indices], kinds.recency[indices], kinds.age[indices]
    ), count.astype(np.float64) * (total / DISTINCT_CUSTOMERS_MAX)


def _log_likelihoods(customers: Purchases, r: float, alpha: float, s: float, beta: float) -> Floats:
    x, recency, age = customers.repeats, customers.recency, customers.age
    alive = (
        gammaln(r + x)
        - gammaln(r)
        + r * np.log(alpha)
        - (r + x) * np.log(alpha + age)
        + s * (np.log(beta) - np.log(beta + age))
    )
    return alive + np.log1p(odds_of_having_left(x, recency, age, r, alpha, s, beta))
