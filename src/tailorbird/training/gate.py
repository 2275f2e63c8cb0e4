"""The gate: whether a new model may take the incumbent's place. Pure: figures in, a decision with
its reasons out.

Everything is judged on the same test requests, over the candidates that servers have at each
request's moment, so that the incumbent is judged as it would serve now.

    same recipe     the model is fresher, not another: it must not be worse than the incumbent by more than the margin (non-inferiority)
    other recipe    it must be better: the lower end of the paired interval of its gain is above 0 (superiority)

A fresher model must not fall below two fixed anchors by more than the margin either: the best
baseline, and the last model that won by superiority. So small losses cannot add up. A model of
another recipe must be better than the best baseline. In any case probabilities must be about right,
lists must not shrink to a few items, and no column may look as if it knew the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tailorbird.training.bootstrap import Interval

MARGIN = 0.01  # relative
PEOPLE_MIN = 30  # below, a bootstrap over people says little
CALIBRATION_MAX = 2.0  # times that a head's mean may be off
COVERAGE_MIN = 0.5  # of the incumbent's, or of the best baseline's
SUPERIORITY, NON_INFERIORITY = "superiority", "non-inferiority"


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and a sentence for each thing that was looked at; the first one says what
    decided.

    Attributes:
        by: `superiority` or `non-inferiority`, the rule that was applied to the incumbent.
    """

    promote: bool
    reasons: tuple[str, ...]
    by: str = SUPERIORITY

    @property
    def reason(self) -> str:
        return self.reasons[0]


@dataclass(frozen=True)
class Rival:
    """Another that was judged on the same requests.

    Attributes:
        gain: paired interval of (new − rival).
        value: the rival's own figure.
    """

    name: str
    gain: Interval
    value: float

    @property
    def is_beaten(self) -> bool:
        """Whether the new one is better beyond chance."""
        return self.gain.known and self.gain.low > 0

    def is_matched(self, margin: float) -> bool:
        """Whether the new one is not worse by more than a share of the rival's figure, beyond
        chance.
        """
        return self.gain.known and self.gain.low >= -margin * abs(self.value)


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at, all on the same test requests.

    Attributes:
        metric: what was compared, such as `ndcg_10`.
        baselines: those that were judged.
        incumbent: None without one that can be judged.
        anchor: the last model that won by superiority, where it is another than the incumbent.
        same_recipe: whether the new model was made as the incumbent was.
        unjudged: why an incumbent could not be judged; "" where it was, or there is none.
        people: of the test part, with something good to find.
        calibration: head → mean of the predictions ÷ mean of what happened.
        coverage: share of the chosen items in the new model's lists, and `coverage_of`, in those of
            the incumbent or best baseline.
        leaks: columns that look as if they knew the answer, with why.
        margin: relative, of non-inferiority.
    """

    metric: str
    baselines: tuple[Rival, ...]
    incumbent: Rival | None = None
    anchor: Rival | None = None
    same_recipe: bool = False
    unjudged: str = ""
    people: int = 0
    calibration: Mapping[str, float] | None = None
    coverage: float = 1.0
    coverage_of: float = 0.0
    leaks: Mapping[str, str] | None = None
    margin: float = MARGIN


def decide(evidence: Evidence) -> Decision:
    """Promote, or keep without promoting."""
    refusals, notes = _checked(evidence), []
    fresher = evidence.same_recipe and evidence.incumbent is not None
    best = max(evidence.baselines, key=lambda rival: rival.value, default=None)
    pairs: list[tuple[Rival | None, str, bool]] = [
        (evidence.incumbent, "the incumbent", fresher),
        (best, "the best baseline", fresher),
        (evidence.anchor, "the last model that won by superiority", True),
    ]
    for rival, told, by_margin in pairs:
        if rival is None:
            continue
        text = f"{evidence.metric} {rival.gain.signed} over {told}, {rival.name}"
        if by_margin:
            text += (
                f", where it may lose {evidence.margin:.0%} "
                f"({evidence.margin * abs(rival.value):.4f})"
            )
        good = rival.is_matched(evidence.margin) if by_margin else rival.is_beaten
        why = (
            "falls too far behind: "
            if by_margin or rival.gain.high < 0
            else "no gain that could not be chance: "
        )
        (notes if good else refusals).append(text if good else f"{why}{text}")
    if evidence.unjudged:
        notes.append(evidence.unjudged)
    if best is None and evidence.incumbent is None:
        refusals.append("nothing to compare with: neither a baseline nor an incumbent was judged")
    return Decision(
        not refusals, tuple(refusals or notes), NON_INFERIORITY if fresher else SUPERIORITY
    )


def not_judged(incumbent: str, why: str) -> str:
    """A sentence on an incumbent that the new model could not be compared with."""
    return f"the incumbent {incumbent} could not be judged on this test part: it {why}"


def _checked(evidence: Evidence) -> list[str]:
    """What speaks against a model whatever it gains."""
    refusals = []
    if evidence.people < PEOPLE_MIN:
        refusals.append(
            f"the test part has {evidence.people} people with a positive; at least "
            f"{PEOPLE_MIN} are needed to tell a gain from noise"
        )
    for column, why in (evidence.leaks or {}).items():
        refusals.append(f"column {column} looks as if it knew the answer: {why}")
    for head, ratio in (evidence.calibration or {}).items():
        if not 1 / CALIBRATION_MAX <= ratio <= CALIBRATION_MAX:
            refusals.append(
                f"its probabilities of {head} are off: on average {ratio:.2g} times what happened"
            )
    if evidence.coverage < COVERAGE_MIN * evidence.coverage_of:
        refusals.append(
            f"its lists hold {evidence.coverage:.1%} of the items that people chose, less "
            f"than half of the {evidence.coverage_of:.1%} "
            "of what would answer without it"
        )
    return refusals
