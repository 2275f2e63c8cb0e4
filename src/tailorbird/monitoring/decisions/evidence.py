"""Evidence that a rate is too high, valid at any time.

An e-value is the wealth of a gambler who bets against the hypothesis and starts with 1. Under the
hypothesis it exceeds 1/α at any time with probability at most α (Ville), so one may look as often
as one likes. Here it is a likelihood ratio with a uniform mixture over the alternatives (Robbins,
Annals of Mathematical Statistics 1970; the mixture SPRT). `log_evidence` is its logarithm.
"""

import numpy as np
from scipy.special import betainc, betaln, xlog1py, xlogy


def rate_above(hits: float, trials: float, limit: float) -> float:
    """Return the log evidence against a Bernoulli rate of at most `limit`.

    The mixture is uniform over the rates above the limit.
    """
    if trials <= 0 or hits <= limit * trials:
        return 0.0
    limit = min(max(limit, 1e-9), 1.0 - 1e-9)
    probability_above = 1.0 - betainc(hits + 1.0, trials - hits + 1.0, limit)
    mixture = betaln(hits + 1.0, trials - hits + 1.0) + np.log(max(probability_above, 1e-300))
    null = xlogy(hits, limit) + xlog1py(trials - hits, -limit)
    return float(mixture - np.log1p(-limit) - null)


def rate_below(
    hits: float, exposure: float, other_hits: float, other_exposure: float, *, margin: float = 0.0
) -> float:
    """Return the log evidence that a rate is below (1 − margin) × another rate.

    Given the total of both, the hits of the other are binomial with its part of the exposure, if
    the rates are equal (Przyborowski and Wilenski, Biometrika 1940). For hits that are no rare
    events this is conservative.
    """
    if exposure <= 0 or other_exposure <= 0:
        return 0.0
    share = other_exposure / (other_exposure + exposure * (1.0 - margin))
    return rate_above(other_hits, hits + other_hits, share)
