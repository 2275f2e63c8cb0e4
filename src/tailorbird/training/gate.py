"""The gate: whether a new model may take the incumbent's place. Pure: figures in, a decision with its reasons out.

A model goes live only if, on a test part that is later than anything it learned from, the *lower end* of the paired interval of
its gain is above 0: against the incumbent where there is one, and against every baseline in any case. A model that does not
pass is kept and not promoted, with the reason. One trained on shuffled labels cannot pass: it has nothing to gain with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tailorbird.training.bootstrap import Interval


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and a sentence for each thing that was looked at; the first one says what decided."""

    promote: bool
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        return self.reasons[0]


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at, all on the same test requests.

    Attributes:
        metric: what was compared, such as `ndcg_10`.
        over_baselines: baseline → paired interval of (new − baseline).
        over_incumbent: paired interval of (new − incumbent), or None without an incumbent that can be judged.
        incumbent: its version, "" without one.
        unjudged: why the incumbent could not be judged, such as `has another schema`.
        people: of the test part, with something good to find.
        leaks: columns that look as if they knew the answer, with why.
    """

    metric: str
    over_baselines: Mapping[str, Interval]
    over_incumbent: Interval | None = None
    incumbent: str = ""
    unjudged: str = "has another schema"
    people: int = 0
    leaks: Mapping[str, str] | None = None


PEOPLE_MIN = 30  # below, a bootstrap over people says little


def decide(evidence: Evidence) -> Decision:
    """Promote, or keep without promoting."""
    refusals, notes = [], []
    if evidence.people < PEOPLE_MIN:
        refusals.append(
            f"the test part has {evidence.people} people with a positive; at least {PEOPLE_MIN} are needed to tell a gain from noise"
        )
    for column, why in (evidence.leaks or {}).items():
        refusals.append(f"column {column} looks as if it knew the answer: {why}")
    if evidence.over_baselines:
        ordered = sorted(evidence.over_baselines.items(), key=lambda entry: entry[1].value)
        best = ordered[0][0]
        # One that is worse on average may still be as good by chance: its interval is its own.
        name, gain = next((each for each in ordered if not _above(each[1])), ordered[0])
        text = f"{evidence.metric} {gain.signed} over {'the best baseline, ' if name == best else 'the baseline '}{name}"
        (notes if _above(gain) else refusals).append(text if _above(gain) else f"no gain that could not be chance: {text}")
    if evidence.over_incumbent is not None:
        gain = evidence.over_incumbent
        text = f"{evidence.metric} {gain.signed} over the incumbent {evidence.incumbent}"
        if _above(gain):
            notes.insert(0, text)
        else:
            refusals.append(f"does not beat the incumbent: {text}")
    elif evidence.incumbent:
        notes.append(not_judged(evidence.incumbent, evidence.unjudged))
    if not notes and not refusals:
        refusals.append("nothing to compare with: neither a baseline nor an incumbent was judged")
    return Decision(not refusals, tuple(refusals or notes))


def not_judged(incumbent: str, why: str) -> str:
    """A sentence on an incumbent that the new model could not be compared with."""
    return f"the incumbent {incumbent} could not be judged on this test part: it {why}"


def _above(gain: Interval) -> bool:
    return gain.known and gain.low > 0
