"""Slots: the places of a site that show something, as a project declares them in `slots.py`.

from tailorbird.experiments import Experiment
from tailorbird.ranking import Explore, Slot

home = Slot(
    "home",
    size=12,
    objective={"click": 1.0, "purchase": 8.0},
    sources={"item_to_item": 200, "popular": 200, "fresh": 40},
    rules=["item.stock > 0"],
    explore=Explore(rate=0.2, pool=50),
    experiment=Experiment("home-model", arms={"popular": 0.5, "model": 0.5}),
)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tailorbird.errors import DeclarationError
from tailorbird.experiments.assign import Experiment

SOURCES = ("item_to_item", "popular", "popular_in_category", "fresh", "search")
ARM_POLICIES = ("model", "popular", "recent", "random")


@dataclass(frozen=True)
class Explore:
    """Exploration with a known propensity: with probability `rate` one position of the answer, drawn evenly among the
    positions from `first` on, shows an item drawn evenly from the `pool` best candidates that are not in the answer.

    So an item of the ranked list is shown at its explorable position with probability 1 − rate/m, and an explored one
    with rate/(m · pool), where m is the number of explorable positions.
    """

    rate: float = 0.1
    pool: int = 50
    first: int = 2


@dataclass(frozen=True)
class Slot:
    """One place that shows items.

    Args:
        name: as requests name it.
        size: how many items an answer has unless the request says otherwise.
        objective: the value formula: head (a target such as `click`) → weight of its calibrated probability.
        sources: candidate source → how many candidates it contributes at most; see `SOURCES`.
        rules: expressions over `item.*`, `user.*` and `context.*` that an item must satisfy to be shown.
        hide_seen: leave out items of the person's recent sequence with one of these event types.
        per_category: at most this many items of one category in an answer; 0 is no limit.
        explore: exploration, or None.
        experiment: an A/B experiment on this slot, whose arms are named after policies (`ARM_POLICIES`), or None.
        denominator: `impression` (seen, reported by the client) or `answer`: what a rate is divided by.
        attribution: how long after an answer a click without a request_id still belongs to it, such as `30m`.
    """

    name: str
    size: int = 12
    objective: Mapping[str, float] = field(default_factory=lambda: {"click": 1.0})
    sources: Mapping[str, int] = field(default_factory=lambda: {"item_to_item": 200, "popular": 200, "fresh": 40})
    rules: Sequence[str] = ()
    hide_seen: Sequence[str] = ("purchase",)
    per_category: int = 0
    explore: Explore | None = None
    experiment: Experiment | None = None
    denominator: str = "impression"
    attribution: str = "30m"

    def __post_init__(self) -> None:
        for source in self.sources:
            if source not in SOURCES:
                raise DeclarationError(f"unknown source {source!r}", where=f"slot {self.name}", fix=f"use one of {', '.join(SOURCES)}")
        if self.denominator not in ("impression", "answer"):
            raise DeclarationError(f"unknown denominator {self.denominator!r}", where=f"slot {self.name}", fix="use impression or answer")
        if self.size < 1:
            raise DeclarationError(f"expected a size of at least 1, got {self.size}", where=f"slot {self.name}")
        self._check_arms()

    def _check_arms(self) -> None:
        if self.experiment is None:
            return
        for arm in self.experiment.arms:
            if self.experiment.policy_of(arm) not in ARM_POLICIES:
                fix = f"use one of {', '.join(ARM_POLICIES)}"
                raise DeclarationError(f"arm {arm!r} names no policy", where=f"slot {self.name}", fix=fix)
