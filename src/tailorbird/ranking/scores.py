"""Streaming scores that a project declares in `scores.py`, computed as events arrive.

from tailorbird.ranking import ChurnScore, NextBest

leaving = ChurnScore("churn", above=0.7, on=["view", "purchase"])
next_home = NextBest("home", size=5, on=["click", "cart"], every="10m")

`tailorbird run score` (and `up`) scores the user of each such event, and appends the result to a
log of its own, see `serving.scores.role`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.errors import DeclarationError, TailorbirdError
from tailorbird.events.clock import parse_duration

TRIGGER_TYPES = ("view", "click", "cart", "purchase")
SIZE_MAX = 200


@dataclass(frozen=True)
class ChurnScore:
    """A trigger on a user's churn risk: when it exceeds a threshold, and when it recovers.

    Args:
        model: of churn.py.
        above: the churn probability above which the user is reported, once.
        below: the probability below which the user is reported as recovered; by default nine tenths
            of `above`, as hysteresis.
        on: event types after which a person is scored.
        name: in the log; by default the model's.
    """

    model: str = "churn"
    above: float = 0.7
    below: float = -1.0
    on: Sequence[str] = TRIGGER_TYPES
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.model)
        object.__setattr__(self, "below", self.below if self.below >= 0 else 0.9 * self.above)
        if (
            not 0 < self.above < 1
            or self.below > self.above
            or not self.on
            or isinstance(self.on, str)
        ):
            message = "expected event types and chances between 0 and 1, `below` not over `above`"
            raise DeclarationError(message, where=f"ChurnScore {self.name}")


@dataclass(frozen=True)
class NextBest:
    """A trigger that recomputes a user's slate of a slot, without exploration and experiment.

    Args:
        slot: of slots.py.
        size: how many items; the slot's own size for 0.
        on: event types after which a person is scored.
        every: not more often than this for one person, by the events' own time.
        name: in the log; by default the slot's.
    """

    slot: str
    size: int = 0
    on: Sequence[str] = TRIGGER_TYPES
    every: str = "10m"
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.slot)
        try:
            is_valid = parse_duration(self.every) > 0
        except TailorbirdError:
            is_valid = False
        if (
            not is_valid
            or not 0 <= self.size <= SIZE_MAX
            or not self.on
            or isinstance(self.on, str)
        ):
            message = f"expected event types, at most {SIZE_MAX} items and a time such as 10m"
            raise DeclarationError(message, where=f"NextBest {self.name}")


Score = ChurnScore | NextBest
