"""The anytime-valid test of the split of units (Lindon, Malek 2022).

The Bayes factor of a Dirichlet mixture around the declared shares against the shares themselves is
a martingale if the split is right. By Ville's inequality it ever exceeds 1 / alpha with a chance of
at most alpha, so that the test may be looked at after every unit.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

P_ALARM = 0.001  # p below which a split is broken
# Of the mixture: at equal shares a standard deviation of 5 %, 1.6 % and .5 %. An average of three
# martingales is one, and finds large imbalances early and small ones at all.
CONCENTRATIONS = (100.0, 1_000.0, 10_000.0)


def sample_ratio_log_factors(
    counts: npt.ArrayLike,
    shares: npt.ArrayLike,
    *,
    concentrations: Sequence[float] = CONCENTRATIONS,
) -> npt.NDArray[np.float64]:
    """Return the log Bayes factor at each look, shape (looks,).

    Args:
        counts: units of each arm so far, shape (looks, arms).
        shares: declared, above 0, shape (arms,); scaled to sum to 1.
    """
    unit_counts = np.atleast_2d(np.asarray(counts, np.float64))
    expected_shares = np.asarray(shares, np.float64) / np.sum(shares)
    total = unit_counts.sum(axis=1)
    log_factors = []
    for concentration in concentrations:
        prior = concentration * expected_shares
        log_normaliser = gammaln(concentration) - gammaln(concentration + total)
        log_factors.append(
            log_normaliser + (gammaln(prior + unit_counts) - gammaln(prior)).sum(axis=1)
        )
    return (
        logsumexp(log_factors, axis=0)
        - math.log(len(log_factors))
        - unit_counts @ np.log(expected_shares)
    )


def sample_ratio_p(counts: npt.ArrayLike, shares: npt.ArrayLike) -> float:
    """Return the p-value over all looks so far; valid whenever one looks.

    >>> sample_ratio_p([[500, 500]], [1, 1]), round(sample_ratio_p([[50_500, 49_500]], [1, 1]), 3)
    (1.0, 0.064)
    """
    log_factors = sample_ratio_log_factors(counts, shares)
    return float(min(1.0, np.exp(-max(log_factors.max(), 0.0)))) if len(log_factors) else 1.0
