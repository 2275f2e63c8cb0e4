"""Values of policies with intervals by a bootstrap over people, and `bounds` for what is missing.

    evaluation = evaluate_policies(new, old)
    print(evaluation)

Both policies are evaluated on the same responses, and each resample gives a person the same weight
for both, so the interval of the difference is paired.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.off_policy.bounds import IntervalExtension, interval_extension
from tailorbird.experiments.off_policy.estimators import (
    Terms,
    available_estimators,
    select_estimators,
)
from tailorbird.experiments.off_policy.sample import PolicySample
from tailorbird.experiments.off_policy.support import (
    ESS_MIN,
    REFUSAL_FIX,
    UNSUPPORTED_MAX,
    Support,
    check_support,
)
from tailorbird.experiments.plain_data import replace_not_finite

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

REPLICATES = 1_000
ONE_STEP = "one-step reward over logged contexts"
_DRAWS_AT_ONCE = 4_000_000  # draws in memory at once


@dataclass(frozen=True)
class Estimate:
    """An estimated value with its interval; NaN where the log cannot tell.

    Attributes:
        estimator: a name of `ESTIMATORS`.
        error: standard error, by the bootstrap.
        refusal: why there is no value; "" if there is one.
    """

    estimator: str
    value: float
    low: float
    high: float
    error: float
    refusal: str = ""

    @property
    def is_refused(self) -> bool:
        return bool(self.refusal)

    def __str__(self) -> str:
        if self.refusal:
            return f"{self.estimator}: refused, {self.refusal}"
        return f"{self.estimator} {self.value:.4f} ({self.low:.4f} – {self.high:.4f})"


@dataclass(frozen=True)
class PolicyValue:
    """The value of a policy per response.

    Attributes:
        logged: mean reward of the logged responses, whichever policy made them.
        estimates: by estimator.
        level: of the intervals.
    """

    support: Support
    logged: float
    estimates: Mapping[str, Estimate]
    level: float

    def __getitem__(self, estimator: str) -> Estimate:
        return self.estimates[estimator]

    def __str__(self) -> str:
        lines = [
            f"value per response, {ONE_STEP} ({self.level:.0%} intervals)",
            f"  logged {self.logged:.4f}; {self.support}",
            *(f"  {estimate}" for estimate in self.estimates.values() if not estimate.refusal),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class PolicyEvaluation:
    """The values of two policies on the same responses, and new − old.

    Attributes:
        difference: by estimator, with the paired interval.
    """

    new: PolicyValue
    old: PolicyValue
    difference: Mapping[str, Estimate]

    @property
    def refusal(self) -> str:
        """Why the two cannot be compared, and what to do; "" if they can."""
        refusal = self.new.support.refusal or self.old.support.refusal
        return f"{refusal}; {REFUSAL_FIX}" if refusal else ""

    def __str__(self) -> str:
        lines = [f"new: {self.new}", f"old: {self.old}", "new − old:"]
        lines += [f"  {estimate}" for estimate in self.difference.values() if not estimate.refusal]
        return "\n".join(lines if not self.refusal else [*lines[:2], f"refused: {self.refusal}"])

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as plain data; what is not finite becomes None."""
        return replace_not_finite(asdict(self))


def evaluate_policy(
    sample: PolicySample,
    estimators: Sequence[str] = (),
    *,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
    ess_min: float = ESS_MIN,
    unsupported_max: float = UNSUPPORTED_MAX,
) -> PolicyValue:
    """Estimate the value of one policy.

    Args:
        estimators: names of `ESTIMATORS`; by default all that the sample allows.
        ess_min, unsupported_max: what the log must have, see `support`.
    """
    names = list(estimators) or available_estimators(sample)
    support = check_support(sample, ess_min=ess_min, unsupported_max=unsupported_max)
    bootstrap = _BootstrapEstimates.from_samples([sample], names, replicates, seed)
    return bootstrap.policy_value(0, sample, support, level)


def evaluate_policies(
    new: PolicySample,
    old: PolicySample,
    estimators: Sequence[str] = (),
    *,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
    ess_min: float = ESS_MIN,
    unsupported_max: float = UNSUPPORTED_MAX,
) -> PolicyEvaluation:
    """Estimate the values of two policies on the same responses, and their difference."""
    names = list(estimators) or available_estimators(new, old)
    samples = (new, old)
    supports = [
        check_support(sample, ess_min=ess_min, unsupported_max=unsupported_max)
        for sample in samples
    ]
    bootstrap = _BootstrapEstimates.from_samples(samples, names, replicates, seed)
    refusal = supports[0].refusal or supports[1].refusal
    difference = {
        name: _build_estimate(
            name=name,
            value=bootstrap.values[0, index] - bootstrap.values[1, index],
            replicates=bootstrap.replicates[:, 0, index] - bootstrap.replicates[:, 1, index],
            extension=bootstrap.extensions[0][index].minus(bootstrap.extensions[1][index]),
            level=level,
            refusal=refusal,
        )
        for index, name in enumerate(names)
    }
    return PolicyEvaluation(
        bootstrap.policy_value(0, new, supports[0], level),
        bootstrap.policy_value(1, old, supports[1], level),
        difference,
    )


@dataclass(frozen=True)
class _BootstrapEstimates:
    """Estimates by sample and estimator: values, replicates, and interval extensions."""

    names: Sequence[str]
    values: Floats
    replicates: Floats
    extensions: Sequence[Sequence[IntervalExtension]]

    @classmethod
    def from_samples(
        cls, samples: Sequence[PolicySample], names: Sequence[str], replicates: int, seed: int
    ) -> "_BootstrapEstimates":
        estimators = select_estimators(names)
        terms_by_sample = [
            [estimator(sample) for estimator in estimators.values()] for sample in samples
        ]
        values = np.array(
            [[term.value for term in sample_terms] for sample_terms in terms_by_sample]
        )
        replicate_values = bootstrap_people(
            [term for sample_terms in terms_by_sample for term in sample_terms],
            samples[0].person_groups,
            replicates,
            seed,
        )
        extensions = [
            [interval_extension(sample, term) for term in sample_terms]
            for sample, sample_terms in zip(samples, terms_by_sample, strict=True)
        ]
        return cls(names, values, replicate_values.reshape(replicates, *values.shape), extensions)

    def policy_value(
        self, sample_index: int, sample: PolicySample, support: Support, level: float
    ) -> PolicyValue:
        estimates = {
            name: _build_estimate(
                name=name,
                value=float(self.values[sample_index, estimator_index]),
                replicates=self.replicates[:, sample_index, estimator_index],
                extension=self.extensions[sample_index][estimator_index],
                level=level,
                refusal=support.refusal,
            )
            for estimator_index, name in enumerate(self.names)
        }
        logged = float(sample.reward.sum() / max(sample.response_count, 1))
        return PolicyValue(support, logged, estimates, level)


def bootstrap_people(
    terms: Sequence[Terms], person_groups: tuple[int, Ints], replicates: int, seed: int
) -> Floats:
    """Return bootstrap replicates (replicates, len(terms)), with Poisson weights of people.

    All terms share the weights of a replicate, so differences are paired. A resample without any
    weight at a position counts 0 there.

    Args:
        person_groups: of `PolicySample`.
    """
    rng = np.random.default_rng(seed)
    person_count, person_code = person_groups
    columns = [
        np.bincount(person_code, term_matrix[:, column], person_count)
        for term in terms
        for term_matrix in (term.numerator, term.denominator)
        for column in range(term_matrix.shape[1])
    ]
    person_totals = np.stack(columns, axis=1) if columns else np.zeros((person_count, 0))
    replicate_values = np.empty((replicates, len(terms)))
    chunk_size_max = max(1, _DRAWS_AT_ONCE // max(person_count, 1))
    for start in range(0, replicates, chunk_size_max):
        chunk_size = min(chunk_size_max, replicates - start)
        sums = rng.poisson(1.0, (chunk_size, person_count)).astype(np.float64) @ person_totals
        first_column = 0
        for index, term in enumerate(terms):
            k = term.numerator.shape[1]
            numerator = sums[:, first_column : first_column + k]
            denominator = sums[:, first_column + k : first_column + 2 * k]
            ratio = np.divide(
                numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0
            )
            replicate_values[start : start + chunk_size, index] = ratio.sum(axis=1)
            first_column += 2 * k
    return replicate_values


def _build_estimate(
    name: str,
    value: float,
    replicates: Floats,
    extension: IntervalExtension,
    level: float,
    refusal: str,
) -> Estimate:
    if refusal:
        return Estimate(
            estimator=name,
            value=math.nan,
            low=math.nan,
            high=math.nan,
            error=math.nan,
            refusal=refusal,
        )
    tail_probability = (1.0 - level) / 2.0
    low, high = np.quantile(replicates, [tail_probability, 1.0 - tail_probability])
    low = float(low) - extension.below
    high = float(high) + extension.above
    return Estimate(name, value, low, high, float(np.std(replicates)))
