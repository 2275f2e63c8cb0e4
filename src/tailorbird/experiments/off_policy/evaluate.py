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

from tailorbird.experiments.off_policy.bounds import Reach, missing_reach
from tailorbird.experiments.off_policy.estimators import (
    Terms,
    available_estimators,
    select_estimators,
)
from tailorbird.experiments.off_policy.sample import PolicySample
from tailorbird.experiments.off_policy.support import (
    ESS_MIN,
    FIX,
    UNSUPPORTED_MAX,
    Support,
    check_support,
)
from tailorbird.experiments.plain_data import replace_not_finite

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

REPLICATES = 1_000
ONE_STEP = "one-step reward over logged contexts"
_CELLS_AT_ONCE = 4_000_000  # draws in memory at once


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
        return f"{refusal}; {FIX}" if refusal else ""

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
    drawn = _Drawn.of([sample], names, replicates, seed)
    return drawn.policy_value(0, sample, support, level)


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
    drawn = _Drawn.of(samples, names, replicates, seed)
    refusal = supports[0].refusal or supports[1].refusal
    difference = {
        name: _estimate(
            name,
            drawn.values[0, index] - drawn.values[1, index],
            drawn.replicates[:, 0, index] - drawn.replicates[:, 1, index],
            drawn.reach[0][index].against(drawn.reach[1][index]),
            level,
            refusal,
        )
        for index, name in enumerate(names)
    }
    return PolicyEvaluation(
        drawn.policy_value(0, new, supports[0], level),
        drawn.policy_value(1, old, supports[1], level),
        difference,
    )


@dataclass(frozen=True)
class _Drawn:
    """Estimates by sample and estimator: values, replicates, and how far intervals reach beyond."""

    names: Sequence[str]
    values: Floats
    replicates: Floats
    reach: Sequence[Sequence[Reach]]

    @classmethod
    def of(
        cls, samples: Sequence[PolicySample], names: Sequence[str], replicates: int, seed: int
    ) -> "_Drawn":
        chosen = select_estimators(names)
        terms = [[estimator(sample) for estimator in chosen.values()] for sample in samples]
        values = np.array([[term.value for term in row] for row in terms])
        drawn = bootstrap_people(
            [term for row in terms for term in row], samples[0].people, replicates, seed
        )
        reach = [
            [missing_reach(sample, term) for term in row]
            for sample, row in zip(samples, terms, strict=True)
        ]
        return cls(names, values, drawn.reshape(replicates, *values.shape), reach)

    def policy_value(
        self, index: int, sample: PolicySample, support: Support, level: float
    ) -> PolicyValue:
        estimates = {
            name: _estimate(
                name,
                float(self.values[index, column]),
                self.replicates[:, index, column],
                self.reach[index][column],
                level,
                support.refusal,
            )
            for column, name in enumerate(self.names)
        }
        logged = float(sample.reward.sum() / max(sample.responses, 1))
        return PolicyValue(support, logged, estimates, level)


def bootstrap_people(
    terms: Sequence[Terms], people: tuple[int, Ints], replicates: int, seed: int
) -> Floats:
    """Return bootstrap replicates (replicates, len(terms)), with Poisson weights of people.

    All terms share the weights of a replicate, so differences are paired. A resample without any
    weight at a position counts 0 there.

    Args:
        people: of `PolicySample`.
    """
    rng = np.random.default_rng(seed)
    units, unit = people
    columns = [
        np.bincount(unit, part[:, column], units)
        for term in terms
        for part in (term.numerator, term.denominator)
        for column in range(part.shape[1])
    ]
    totals = np.stack(columns, axis=1) if columns else np.zeros((units, 0))
    drawn = np.empty((replicates, len(terms)))
    step = max(1, _CELLS_AT_ONCE // max(units, 1))
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        sums = rng.poisson(1.0, (count, units)).astype(np.float64) @ totals
        position = 0
        for index, term in enumerate(terms):
            k = term.numerator.shape[1]
            numerator = sums[:, position : position + k]
            denominator = sums[:, position + k : position + 2 * k]
            ratio = np.divide(
                numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0
            )
            drawn[start : start + count, index] = ratio.sum(axis=1)
            position += 2 * k
    return drawn


def _estimate(
    name: str, value: float, replicates: Floats, reach: Reach, level: float, refusal: str
) -> Estimate:
    if refusal:
        return Estimate(name, math.nan, math.nan, math.nan, math.nan, refusal)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(replicates, [tail, 1.0 - tail])
    low, high = float(low) - reach.below, float(high) + reach.above
    return Estimate(name, value, low, high, float(np.std(replicates)))
