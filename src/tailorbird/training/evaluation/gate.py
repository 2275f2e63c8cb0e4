"""Promotion gate: decide from evaluation figures whether a new model may replace the champion.

All models are evaluated on the same test requests, over the candidates that servers had at each
request's time, so the champion is evaluated as it would serve now.

    same recipe     a fresher model: not worse than the champion by more than the margin
                    (non-inferiority)
    other recipe    must be better: the lower end of the paired interval of its gain is above 0
                    (superiority)

A fresher model must also stay within the margin of two fixed anchors, the best baseline and the
last model that won by superiority, so that small losses cannot add up. A model of another recipe
must beat the best baseline. In any case probabilities must be about right, lists must not shrink to
a few items, and no column may look like target leakage. Where the log can tell, the model must not
be estimated to earn less than the champion (`off_policy`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tailorbird.training.evaluation.bootstrap import Interval

RELATIVE_MARGIN = 0.01  # relative
USERS_MIN = 30  # with fewer users, a bootstrap says little
CALIBRATION_MAX = 2.0  # largest ratio of predicted to observed mean of a head, and its inverse
COVERAGE_MIN = 0.5  # relative to the champion's, or the best baseline's
SUPERIORITY = "superiority"
NON_INFERIORITY = "non-inferiority"


@dataclass(frozen=True)
class Decision:
    """A promotion decision, with one reason per check; the deciding reason comes first.

    Attributes:
        rule: `superiority` or `non-inferiority`, the rule applied to the champion.
    """

    is_accepted: bool
    reasons: tuple[str, ...]
    rule: str = SUPERIORITY

    @property
    def reason(self) -> str:
        return self.reasons[0]


@dataclass(frozen=True)
class Rival:
    """A model or baseline evaluated on the same requests.

    Attributes:
        gain: paired interval of (new − rival).
        value: the rival's own figure.
    """

    name: str
    gain: Interval
    value: float

    @property
    def is_beaten(self) -> bool:
        """Return whether the new model is significantly better."""
        return self.gain.has_bounds and self.gain.low > 0

    def is_matched(self, margin: float) -> bool:
        """Return whether the new model is not worse by more than a share of the rival's figure."""
        return self.gain.has_bounds and self.gain.low >= -margin * abs(self.value)


@dataclass(frozen=True)
class Evidence:
    """Inputs of the gate, all from the same test requests.

    Attributes:
        metric: compared metric, such as `ndcg_10`.
        baselines: evaluated baselines.
        champion: None without one that can be evaluated.
        anchor: last model that won by superiority, if it is not the champion.
        has_same_recipe: whether the new model was made like the champion.
        champion_note: why the champion could not be evaluated; "" if it was, or there is none.
        user_count: users of the test part with a positive.
        calibration_ratios: head → mean prediction ÷ observed mean.
        coverage: share of chosen items in the new model's lists.
        coverage_reference: the same for the champion or the best baseline.
        leak_reasons: columns that look like target leakage, with the reason.
        margin: relative margin of non-inferiority.
        estimate: the off-policy estimate of both, or why there is none; "" without a champion.
        is_estimated_worse: whether its whole interval is below 0.
    """

    metric: str
    baselines: tuple[Rival, ...]
    champion: Rival | None = None
    anchor: Rival | None = None
    has_same_recipe: bool = False
    champion_note: str = ""
    user_count: int = 0
    calibration_ratios: Mapping[str, float] | None = None
    coverage: float = 1.0
    coverage_reference: float = 0.0
    leak_reasons: Mapping[str, str] | None = None
    margin: float = RELATIVE_MARGIN
    estimate: str = ""
    is_estimated_worse: bool = False


def decide(evidence: Evidence) -> Decision:
    """Decide whether to promote the new model."""
    refusals = _guardrail_failures(evidence)
    notes = []
    is_refresh = evidence.has_same_recipe and evidence.champion is not None
    best = max(evidence.baselines, key=lambda rival: rival.value, default=None)
    comparisons: list[tuple[Rival | None, str, bool]] = [
        (evidence.champion, "the champion", is_refresh),
        (best, "the best baseline", is_refresh),
        (evidence.anchor, "the last model that won by superiority", True),
    ]
    for rival, role, has_margin in comparisons:
        if rival is None:
            continue
        comparison_text = f"{evidence.metric} {rival.gain.signed_text} over {role}, {rival.name}"
        if has_margin:
            comparison_text += (
                f", where it may lose {evidence.margin:.0%} "
                f"({evidence.margin * abs(rival.value):.4f})"
            )
        passes = rival.is_matched(evidence.margin) if has_margin else rival.is_beaten
        failure = (
            "falls too far behind: "
            if has_margin or rival.gain.high < 0
            else "no gain that could not be chance: "
        )
        (notes if passes else refusals).append(
            comparison_text if passes else f"{failure}{comparison_text}"
        )
    if evidence.is_estimated_worse:
        refusals.append(f"earns less than the champion: {evidence.estimate}")
    elif evidence.estimate:
        notes.append(evidence.estimate)
    if evidence.champion_note:
        notes.append(evidence.champion_note)
    if best is None and evidence.champion is None:
        refusals.append("nothing to compare with: neither a baseline nor a champion was judged")
    return Decision(
        not refusals, tuple(refusals or notes), NON_INFERIORITY if is_refresh else SUPERIORITY
    )


def describe_unevaluated(champion: str, why: str) -> str:
    """Describe a champion that the new model could not be compared with."""
    return f"the champion {champion} could not be judged on this test part: it {why}"


def _guardrail_failures(evidence: Evidence) -> list[str]:
    """Return the guardrails that the model fails, whatever its gain."""
    refusals = []
    if evidence.user_count < USERS_MIN:
        refusals.append(
            f"the test part has {evidence.user_count} people with a positive; at least "
            f"{USERS_MIN} are needed to tell a gain from noise"
        )
    for column, why in (evidence.leak_reasons or {}).items():
        refusals.append(f"column {column} looks as if it knew the answer: {why}")
    for head, ratio in (evidence.calibration_ratios or {}).items():
        if not 1 / CALIBRATION_MAX <= ratio <= CALIBRATION_MAX:
            refusals.append(
                f"its probabilities of {head} are off: on average {ratio:.2g} times what happened"
            )
    if evidence.coverage < COVERAGE_MIN * evidence.coverage_reference:
        refusals.append(
            f"its lists hold {evidence.coverage:.1%} of the items that people chose, less "
            f"than half of the {evidence.coverage_reference:.1%} "
            "of what would answer without it"
        )
    return refusals
