"""Pareto/NBD: repeat purchases of customers without a contract, fitted by maximum likelihood.

Unlike with BG/NBD, a customer may leave at any time, even after one purchase. Predictions are
computed in `ranking.churn.pareto_nbd`, which has the source.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from tailorbird.models.btyd import Floats, Purchases, count_distinct, maximize_likelihood
from tailorbird.ranking.churn.pareto_nbd import (
    QUADRATURE_NODES,
    QUADRATURE_WEIGHTS,
    expected_purchases,
    odds_of_having_left,
)

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

    def probability_alive(self, customers: Purchases) -> Floats:
        """Return P(still a customer), shape (n,)."""
        return 1 / (1 + odds_of_having_left(*self._arguments(customers)))

    def probability_returning(self, customers: Purchases, span: float) -> Floats:
        """Return P(at least one purchase within `span` from now), shape (n,).

        A customer who is alive returns if the next purchase comes before leaving.
        """
        shape = (self.r + customers.repeats)[:, None]
        scale = (self.alpha + customers.age)[:, None]
        leaving_scale = (self.beta + customers.age)[:, None]
        times = QUADRATURE_NODES * span
        density = (
            shape
            / scale
            * (scale / (scale + times)) ** (shape + 1)
            * (leaving_scale / (leaving_scale + times)) ** self.s
        )
        return self.probability_alive(customers) * (density @ QUADRATURE_WEIGHTS) * span

    def expected_purchases(self, customers: Purchases, span: float) -> Floats:
        """Return expected purchases within `span` from now, shape (n,)."""
        return expected_purchases(*self._arguments(customers), span)

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
    start_points = (np.log([0.5, 0.5, 0.5, 0.5]), np.log([1.0, 1.0, 1.5, 3.0]))
    log_parameters, time_unit, log_likelihood = maximize_likelihood(
        "Pareto/NBD", customers, _log_likelihoods, start_points, _sample_distinct
    )
    r, alpha, s, beta = np.exp(log_parameters).tolist()
    return ParetoNbd(r, alpha * time_unit, s, beta * time_unit, log_likelihood)


def _sample_distinct(customers: Purchases) -> tuple[Purchases, Floats]:
    """Sample at most `DISTINCT_CUSTOMERS_MAX` distinct customers evenly, with their weights."""
    distinct_customers, customer_counts = count_distinct(customers)
    if len(customer_counts) <= DISTINCT_CUSTOMERS_MAX:
        return distinct_customers, customer_counts
    total_count = float(customer_counts.sum())
    positions = np.searchsorted(
        np.cumsum(customer_counts),
        (np.arange(DISTINCT_CUSTOMERS_MAX) + 0.5) * total_count / DISTINCT_CUSTOMERS_MAX,
    )
    sampled_indexes, sample_counts = np.unique(positions, return_counts=True)
    return Purchases(
        distinct_customers.repeats[sampled_indexes],
        distinct_customers.recency[sampled_indexes],
        distinct_customers.age[sampled_indexes],
    ), sample_counts.astype(np.float64) * (total_count / DISTINCT_CUSTOMERS_MAX)


def _log_likelihoods(customers: Purchases, r: float, alpha: float, s: float, beta: float) -> Floats:
    x = customers.repeats
    recency = customers.recency
    age = customers.age
    alive = (
        gammaln(r + x)
        - gammaln(r)
        + r * np.log(alpha)
        - (r + x) * np.log(alpha + age)
        + s * (np.log(beta) - np.log(beta + age))
    )
    return alive + np.log1p(odds_of_having_left(x, recency, age, r, alpha, s, beta))
