"""Estimators of a policy's value, each as one numerator and denominator per response and position.

The value is the sum over positions of Σ numerator / Σ denominator, so that one bootstrap serves all
of them. w is the importance weight, r the reward, q the predicted reward of the logged item, and v
that of what the evaluated policy shows.

    dm         v                                                 needs a model, ignores the log
    ips        w r                                               Horvitz & Thompson 1952
    snips      w r / Σ w                                         Swaminathan & Joachims 2015
    clipped    min(w, M) r                                       Ionides 2008
    dr         v + w (r - q)                                     Dudík et al. 2011
    switch_dr  v + w (r - q) [w ≤ M]                             Wang et al. 2017
    dros       v + λ w / (w² + λ) (r - q)                        Su et al. 2020

By default M = √n, as Ionides recommends, and λ = n, which bounds the shrunk weight by √n / 2. With
item-position weights ips is IIPS, with cascade weights it is RIPS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.experiments.off_policy.sample import PolicySample

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """Numerators and denominators, shape (n, k).

    Attributes:
        assumed_range: least and largest reward, shape (2, k), that the estimate takes choices to earn
            that the log lacks.
    """

    numerator: Floats
    denominator: Floats
    assumed_range: Floats

    @property
    def value(self) -> float:
        """The estimate."""
        return float(_ratio(self.numerator.sum(axis=0), self.denominator.sum(axis=0)).sum())


Estimator = Callable[[PolicySample], Terms]


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN at a position whose weights are all 0, for which the estimate is refused."""
    nan_ratio = np.full(denominator.shape, np.nan)
    return np.divide(numerator, denominator, out=nan_ratio, where=denominator != 0)


def dm(sample: PolicySample) -> Terms:
    """Estimate by the model alone (direct method)."""
    expected = _require_predictions(sample)[1]
    return Terms(expected, np.ones(expected.shape), prediction_range(sample))


def ips(sample: PolicySample) -> Terms:
    """Estimate by inverse propensity scores."""
    return _weigh_rewards(sample, sample.weight)


def snips(sample: PolicySample) -> Terms:
    """Estimate by self-normalised inverse propensity scores."""
    position_values = _ratio((sample.weight * sample.reward).sum(axis=0), sample.weight.sum(axis=0))
    assumed_range = np.stack([position_values, position_values])
    return Terms(sample.weight * sample.reward, sample.weight, assumed_range)


def clipped(sample: PolicySample, *, limit: float | None = None) -> Terms:
    """Estimate by inverse propensity scores with weights of at most `limit`, by default √n."""
    return _weigh_rewards(sample, np.minimum(sample.weight, _weight_limit(sample, limit)))


def dr(sample: PolicySample) -> Terms:
    """Estimate doubly robustly: by the model, and by the weighted error of the model."""
    return _correct_model(sample, sample.weight)


def switch_dr(sample: PolicySample, *, limit: float | None = None) -> Terms:
    """Estimate doubly robustly, by the model alone where the weight exceeds `limit`."""
    is_small = sample.weight <= _weight_limit(sample, limit)
    return _correct_model(sample, np.where(is_small, sample.weight, 0.0))


def dros(sample: PolicySample, *, shrinkage: float | None = None) -> Terms:
    """Estimate doubly robustly with optimistically shrunk weights; `shrinkage` is by default n."""
    shrinkage = float(sample.response_count) if shrinkage is None else shrinkage
    return _correct_model(sample, shrinkage * sample.weight / (sample.weight**2 + shrinkage))


ESTIMATORS: Mapping[str, Estimator] = {
    "ips": ips,
    "snips": snips,
    "clipped": clipped,
    "dm": dm,
    "dr": dr,
    "switch_dr": switch_dr,
    "dros": dros,
}
MODEL_BASED = ("dm", "dr", "switch_dr", "dros")


def available_estimators(*samples: PolicySample) -> list[str]:
    """Return the names of the estimators that samples allow; the direct method is not among them.

    It has no protection against a wrong model, and is only for comparisons.
    """
    has_model = all(sample.has_model for sample in samples)
    return [name for name in ESTIMATORS if name != "dm" and (has_model or name not in MODEL_BASED)]


def select_estimators(names: Sequence[str]) -> dict[str, Estimator]:
    """Return estimators by name.

    Raises:
        UsageError: there is no such estimator.
    """
    for name in names:
        if name not in ESTIMATORS:
            raise UsageError(
                f"there is no estimator {name!r}", fix=f"use one of {', '.join(ESTIMATORS)}"
            )
    return {name: ESTIMATORS[name] for name in names}


def prediction_range(sample: PolicySample) -> Floats:
    """Return the least and the largest predicted reward by position, shape (2, k)."""
    predictions = np.concatenate(_require_predictions(sample))
    return np.stack([predictions.min(axis=0), predictions.max(axis=0)])


def _weigh_rewards(sample: PolicySample, weight: Floats) -> Terms:
    position_count = weight.shape[1]
    return Terms(weight * sample.reward, np.ones(weight.shape), np.zeros((2, position_count)))


def _correct_model(sample: PolicySample, weight: Floats) -> Terms:
    prediction, expected = _require_predictions(sample)
    numerator = expected + weight * (sample.reward - prediction)
    return Terms(numerator, np.ones(weight.shape), prediction_range(sample))


def _require_predictions(sample: PolicySample) -> tuple[Floats, Floats]:
    if sample.prediction is None or sample.expected is None:
        raise UsageError(
            "a doubly robust estimator needs predicted rewards",
            fix="give prediction and expected, or use ips, snips or clipped",
        )
    return sample.prediction, sample.expected


def _weight_limit(sample: PolicySample, limit: float | None) -> float:
    return float(np.sqrt(sample.response_count)) if limit is None else limit
