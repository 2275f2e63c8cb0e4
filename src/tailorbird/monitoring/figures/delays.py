"""The delay between a response and its conversion, and the correction of recent counts for it.

A conversion is observed only if its delay is shorter than the response's age: delays are truncated
on the right. The reverse hazard of bucket j is the share of the conversions with a delay up to j
that fall into j, among responses that are old enough to show them:

    r_j = d_j / n_j      F(j) = Π over k > j of (1 − r_k)

This is Lynden-Bell's product-limit estimator (Monthly Notices of the RAS 1971; Lagakos et al.,
Biometrika 1988). It holds whatever the conversion rate does over time, because it conditions on the
conversions. A response of age a counts its conversions 1 / F(a) times. `HALF_LIFE_US` forgets old
responses, so that the estimate follows delays that change.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.events import DAY, SECOND

BUCKETS = 64
BUCKET_EDGES = np.concatenate(
    [[0.0], np.geomspace(SECOND, 60 * DAY, BUCKETS)]
)  # upper edges from 1 on
HALF_LIFE_US = 7 * DAY  # of a response; a longer one lags behind delays that change
KNOWN_SHARE_MIN = (
    0.1  # with less of its conversions known, a response's rate is taken from the others
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DelayDistribution:
    """Distribution of delays, conditional on delays up to the oldest response's age.

    Attributes:
        share: F at each of `BUCKET_EDGES`, shape (BUCKETS + 1,).
        variance: of log F at each edge, shape (BUCKETS + 1,).
        conversions: number of conversions that it was estimated from.
    """

    share: Floats
    variance: Floats
    conversions: float

    def share_known(self, ages: Floats) -> tuple[Floats, Floats]:
        """Return the share of conversions known at each age, and the variance of its logarithm."""
        return np.interp(ages, BUCKET_EDGES, self.share), np.interp(
            ages, BUCKET_EDGES, self.variance
        )


@dataclass(frozen=True)
class CorrectedCount:
    """A number of conversions, corrected for those that are still to come.

    `estimated_share` is the part of `value` that was not observed.
    """

    value: float
    low: float
    high: float
    observed: float

    @property
    def estimated_share(self) -> float:
        return 1.0 - self.observed / self.value if self.value > 0 else 0.0


def delay_buckets(delays_us: npt.NDArray[np.int64]) -> Ints:
    """Return the bucket of each delay, 0 to BUCKETS − 1; longer ones are in the last."""
    return np.minimum(np.searchsorted(BUCKET_EDGES[1:], delays_us, side="left"), BUCKETS - 1)


def estimate_delays(counts: Floats, ages: Floats) -> DelayDistribution:
    """Estimate the distribution of delays.

    Args:
        counts: conversions of each cell by bucket of delay, shape (cells, BUCKETS).
        ages: age of each cell's responses when they were counted, microseconds, shape (cells,).
    """
    order = np.argsort(-ages, kind="stable")
    ages = ages[order]
    weight = np.exp2(-(ages - ages.min(initial=0.0)) / HALF_LIFE_US)[:, None] if len(ages) else 1.0
    weighted_counts = counts[order] * weight
    # Row i is the total of the i oldest cells, so that a bucket reads those that are old enough.
    cumulative_counts = np.vstack([np.zeros(BUCKETS), np.cumsum(weighted_counts, axis=0)])
    cumulative_squares = np.vstack([np.zeros(BUCKETS), np.cumsum(weighted_counts * weight, axis=0)])
    old_enough_cells = np.searchsorted(-ages, -BUCKET_EDGES[1:], side="right")
    buckets = np.arange(BUCKETS)
    bucket_counts = cumulative_counts[old_enough_cells, buckets]
    at_risk = np.cumsum(cumulative_counts, axis=1)[old_enough_cells, buckets]
    # As many conversions of equal weight would have the same error (Kish).
    at_risk_squares = np.cumsum(cumulative_squares, axis=1)[old_enough_cells, buckets]
    effective_counts = np.divide(
        at_risk**2, at_risk_squares, out=np.zeros(BUCKETS), where=at_risk_squares > 0
    )
    hazard = np.divide(bucket_counts, at_risk, out=np.zeros(BUCKETS), where=at_risk > 0)
    hazard[0] = 0.0  # of what is in the first bucket, everything is
    hazard = np.minimum(hazard, 1.0 - 1e-9)
    log_share = np.concatenate([np.cumsum(np.log1p(-hazard)[::-1])[::-1][1:], [0.0]])
    variance_terms = np.divide(
        hazard, effective_counts * (1.0 - hazard), out=np.zeros(BUCKETS), where=effective_counts > 0
    )
    log_variance = np.concatenate([np.cumsum(variance_terms[::-1])[::-1][1:], [0.0]])
    share = np.exp(log_share)
    if not counts.any():
        share[:] = 1.0  # nothing is known of delays, so nothing is corrected
    return DelayDistribution(
        np.concatenate([[0.0], share]),
        np.concatenate([[log_variance[0]], log_variance]),
        float(counts.sum()),
    )


def correct_conversions(
    observed: Floats, requests: Floats, ages: Floats, delays: DelayDistribution, *, z: float = 1.96
) -> CorrectedCount:
    """Return the conversions that these responses will have had in the end.

    Args:
        observed, requests, ages: of each cell, shape (cells,).
        z: half width of the interval in standard errors.
    """
    share, log_variance = delays.share_known(ages)
    is_usable = share >= KNOWN_SHARE_MIN
    corrected = observed[is_usable] / share[is_usable]
    # The final count is estimated, not a rate: what is observed has no error any more.
    own_variance = float((corrected * (1.0 / share[is_usable] - 1.0)).sum())
    total = float(corrected.sum())
    # The error of F is common to all cells, so it adds up before it is squared.
    common_error = float(
        (corrected * np.sqrt(log_variance[is_usable]))[share[is_usable] < 1.0].sum()
    )
    young_factor = 1.0  # all responses over those that are old enough to tell
    if not is_usable.all() and requests[is_usable].sum() > 0:
        young_factor = float(requests.sum() / requests[is_usable].sum())
    observed_total = float(observed.sum())
    # The error grows with the final count, not with its estimate: a score interval, as Wilson's.
    shift = 0.5 * z**2 * own_variance / total if total > 0 else 0.0
    error = np.sqrt(z**2 * (own_variance + common_error**2) + shift**2)
    low, value, high = (
        max(estimate * young_factor, observed_total)
        for estimate in (total + shift - error, total, total + shift + error)
    )
    return CorrectedCount(value, low, high, observed_total)
