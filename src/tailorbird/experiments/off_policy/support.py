"""Whether a log can tell the value of a policy: effective sample size and support.

Where the log could have shown everything that the policy chooses, the weights average 1. What is
missing to 1 is the share of its choices that the log could never have shown, and whose reward is
thus unknown. An estimate with too little of either is refused, with the reason and the remedy.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.off_policy.sample import PolicySample

Floats = npt.NDArray[np.float64]

ESS_MIN = 100.0
UNSUPPORTED_MAX = 0.05
REFUSAL_FIX = (
    'log more, or let a share of requests draw the whole slate: Explore(method="plackett_luce", '
    "first=1, share=0.1, temperature=0.3); tailorbird experiment plan --drawn-shares tells the share"
)


@dataclass(frozen=True)
class Support:
    """How far a log covers a policy.

    Attributes:
        responses, people: size of the log.
        effective: effective sample size (Σw)² / Σw² of the position that has the least.
        unsupported: share of the policy's choices that the log could never have shown.
        unsupported_low: the lower end of its interval.
        largest_weight: the largest importance weight.
        refusal: why the value cannot be told, which `REFUSAL_FIX` remedies; "" if it can.
    """

    responses: int
    people: int
    effective: float
    unsupported: float
    unsupported_low: float
    largest_weight: float
    refusal: str = ""

    @property
    def is_enough(self) -> bool:
        return not self.refusal

    def __str__(self) -> str:
        text = (
            f"effective sample size {self.effective:,.0f} of {self.responses:,} responses; "
            f"{self.unsupported:.1%} of the choices are not in the log"
        )
        return f"{text}: refused, {self.refusal}" if self.refusal else text


def effective_sample_size(weight: Floats) -> float:
    """Return (Σw)² / Σw² of weights (n,); 0 without any (Kong 1992)."""
    squares = float(np.sum(weight**2))
    return float(np.sum(weight)) ** 2 / squares if squares > 0 else 0.0


def check_support(
    sample: PolicySample, *, ess_min: float = ESS_MIN, unsupported_max: float = UNSUPPORTED_MAX
) -> Support:
    """Return how far a log covers a policy, and refuse what it cannot tell.

    Positions that fewer than half of the responses have are not judged alone.
    """
    is_common = sample.shown.mean(axis=0) >= 0.5 if sample.response_count else np.zeros(0, bool)
    effective_size = min(
        (
            effective_sample_size(sample.weight[sample.shown[:, column], column])
            for column in np.flatnonzero(is_common)
        ),
        default=0.0,
    )
    person_count, _ = sample.person_groups
    unsupported, unsupported_low = _unsupported_share(sample)
    support = Support(
        responses=sample.response_count,
        people=person_count,
        effective=effective_size,
        unsupported=unsupported,
        unsupported_low=unsupported_low,
        largest_weight=float(sample.weight[sample.shown].max(initial=0.0)),
    )
    reasons = []
    if unsupported_low > unsupported_max:
        reasons.append(
            f"the log could never have shown {unsupported:.0%} of what the policy chooses "
            f"(at most {unsupported_max:.0%} is allowed)"
        )
    if effective_size < ess_min:
        reasons.append(
            f"the effective sample size is {effective_size:,.0f} of {sample.response_count:,} responses "
            f"(at least {ess_min:,.0f} are needed)"
        )
    if not reasons:
        return support
    return replace(support, refusal=" and ".join(reasons))


def _unsupported_share(sample: PolicySample) -> tuple[float, float]:
    """Return the share of unsupported choices, and the lower end of its 95 % interval.

    With cascade weights it is the share of slates down to a position.
    """
    if not sample.shown.any():
        return 1.0, 1.0
    if sample.unsupported is not None:
        share = float(sample.unsupported[sample.shown].mean())
        return share, share
    weight_sum_by_slate = np.where(sample.shown, sample.weight, 0.0).sum(axis=1)
    slate_size = sample.shown.sum(axis=1)
    share = 1.0 - float(weight_sum_by_slate.sum() / slate_size.sum())
    standard_error = (
        float(np.std(weight_sum_by_slate - (1.0 - share) * slate_size))
        * np.sqrt(len(weight_sum_by_slate))
        / slate_size.sum()
    )
    return float(np.clip(share, 0.0, 1.0)), float(np.clip(share - 1.96 * standard_error, 0.0, 1.0))
