"""How far an interval must reach for choices that the log lacks.

Weights average 1 if the log has all that the policy chooses. A log that lacks rare choices by
chance shows it only in a mean below 1: no resample holds what was never seen. Those choices may
have earned whatever lies between bounds, so an interval reaches as far as their share times the
bounds (Manski 1990; Khan, Saveski & Ugander 2024). Only a share beyond noise counts, since the
bootstrap covers the noise. What an estimator cuts of the weights stays its bias.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.off_policy.estimators import Terms, prediction_range
from tailorbird.experiments.off_policy.sample import PolicySample

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class IntervalExtension:
    """How far an interval extends below and above that of the bootstrap."""

    below: float
    above: float

    def minus(self, other: "IntervalExtension") -> "IntervalExtension":
        """Return the extension of a difference to a value with another extension."""
        return IntervalExtension(self.below + other.above, self.above + other.below)


def interval_extension(sample: PolicySample, terms: Terms) -> IntervalExtension:
    """Return how far the choices that the log lacks may move an estimate."""
    missing_shares = missing_share_by_position(sample)
    if not missing_shares.any():
        return IntervalExtension(0.0, 0.0)
    reward_min, reward_max = reward_range(sample)
    assumed_min, assumed_max = terms.assumed_range
    below = np.maximum(assumed_max - reward_min, 0.0)
    above = np.maximum(reward_max - assumed_min, 0.0)
    return IntervalExtension(float(missing_shares @ below), float(missing_shares @ above))


def missing_share_by_position(sample: PolicySample) -> Floats:
    """Return the share of the policy's choices that the log lacks by position, shape (k,).

    It is what the weights lack to an average of 1, if their 95 % interval, clustered by person,
    excludes 1; or what is known to be unsupported.
    """
    person_count, person_code = sample.person_groups
    standard_error = [
        np.std(np.bincount(person_code, column, person_count)) for column in (sample.weight - 1).T
    ]
    share = 1.0 - sample.weight.mean(axis=0)
    is_noise = share * sample.response_count < 1.96 * np.sqrt(person_count) * np.array(
        standard_error
    )
    share = np.where(is_noise, 0.0, share)
    if sample.unsupported is None:
        return share
    return np.maximum(share, np.where(sample.shown, sample.unsupported, 0.0).mean(axis=0))


def reward_range(sample: PolicySample) -> Floats:
    """Return what a choice may earn on average by position, shape (2, k).

    At least the least logged reward; at most the largest that is predicted, or without a model
    the largest logged.
    """
    reward_max = prediction_range(sample)[1] if sample.has_model else sample.reward.max(axis=0)
    return np.stack([sample.reward.min(axis=0), reward_max])
