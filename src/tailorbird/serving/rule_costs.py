"""What each wish of a slot costs: the value of the answer that it asks for, beside that of the
answer without it.

The value of an answer is the sum of what the formula says of its items, before boosts and without
exploration: what is expected of it if all its positions were alike. Both answers are made of the
same candidates, those of all variants together, so that they differ by the wish alone. A wish that
changes nothing costs 0; a positive cost is expected value that is given up for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailorbird.events import Clock
from tailorbird.ranking import Slot
from tailorbird.serving.parts import Unwatched
from tailorbird.serving.patience import UNBOUNDED, Patience
from tailorbird.serving.request import Candidates, Request
from tailorbird.serving.stages import STALE_US, Stages

ALL = "all"


def wishes(slot: Slot) -> dict[str, Slot]:
    """Each wish in words, with the slot without it."""
    found: dict[str, Slot] = {}
    for rule in dict.fromkeys(slot.rules):
        found[f"rule {rule}"] = replace(slot, rules=[each for each in slot.rules if each != rule])
    for boost in slot.boosts:
        found[f"boost {boost.factor:g} for {boost.when}"] = replace(
            slot, boosts=[each for each in slot.boosts if each != boost]
        )
    for pin in slot.pins:
        when = f" where {pin.when}" if pin.when else ""
        found[f"pin {pin.item} at {pin.position}{when}"] = replace(
            slot, pins=[each for each in slot.pins if each != pin]
        )
    for one in slot.promotions:
        found[f"promotion {one.share:g} for {one.when}"] = replace(
            slot, promotions=[each for each in slot.promotions if each != one]
        )
    for cap in slot.caps:
        found[f"cap {cap.most} of {cap.sequence} within {cap.within}"] = replace(
            slot, caps=[each for each in slot.caps if each != cap]
        )
    for quota in slot.limits:
        where = (
            f" among the first {quota.first}"
            if quota.first
            else f" in any {quota.window}"
            if quota.window
            else ""
        )
        found[f"quota {quota.most} of a {quota.by}{where}"] = _without_quota(slot, quota)
    for name, without in (
        ("allow", replace(slot, allow=())),
        ("deny", replace(slot, deny=())),
        ("hide_seen", replace(slot, hide_seen=())),
    ):
        if getattr(slot, name):
            found[name] = without
    return found | ({"diversity": replace(slot, diversity=None)} if slot.diversity else {})


def _without_quota(slot: Slot, quota: object) -> Slot:
    if quota in slot.quotas:
        return replace(slot, quotas=[each for each in slot.quotas if each != quota])
    return replace(slot, per_category=0)


@dataclass(frozen=True)
class Weighed:
    """An answer that a variant of a slot would give, and the sum of its items' values."""

    items: tuple[str, ...]
    value: float


class Weigher:
    """Answers a request by several variants of a slot at once; logs nothing, draws nothing.

    Args:
        slot: whose wishes are weighed.
    """

    def __init__(self, slot: Slot, clock: Clock) -> None:
        plain = replace(slot, explore=None, experiment=None)
        self._slots = {ALL: plain, **wishes(plain)}
        rng = np.random.default_rng(0)
        patience = Patience(UNBOUNDED)
        self._variants = {
            name: Stages({each.name: each}, clock, rng, Unwatched(), STALE_US, patience=patience)
            for name, each in self._slots.items()
        }

    @property
    def names(self) -> list[str]:
        """The wishes, as `wishes` tells them."""
        return [name for name in self._slots if name != ALL]

    def weigh(
        self, request: Request, sources: Mapping[str, int], size: int
    ) -> dict[str, Weighed] | None:
        """The answer with all wishes, as `ALL`, and without each; None where features or the model
        fail.
        """
        if not request.scored:
            return None
        request.policy = (
            "model"  # an arm without a model, to which the person may belong, would weigh nothing
        )
        found: list[Candidates] = []
        for name, stages in self._variants.items():
            request.slot = self._slots[name]
            found.append(stages.find(request, sources, size))
        request.slot = self._slots[ALL]
        everything = _together(found)
        stages = self._variants[ALL]
        scores = stages.score(
            request, everything, stages.read(request, everything.ids, everything.keys)
        )
        if (
            scores is None
            or request.index is None
            or {"model", "features", "rules"} & set(request.degraded)
        ):
            return None
        told = {}
        for name, stages in self._variants.items():
            request.slot = self._slots[name]
            kept = np.flatnonzero(stages.may_be_shown(request, request.index, everything.rows))
            some, values = everything.take(kept), scores.value[kept]
            choice = stages.choose(request, some, stages.boosted(request, some, values), size)
            told[name] = Weighed(
                tuple(some.ids[place] for place in choice.items.tolist()),
                float(values[choice.items].sum()),
            )
        return told


@dataclass(frozen=True)
class Cost:
    """What a wish cost over some requests.

    Attributes:
        changed: the share of answers that are other ones without it.
        value: given up, a request, with its 95 % interval from `low` to `high`.
        share: of the value of the answers with all wishes.
    """

    wish: str
    changed: float
    value: float
    low: float
    high: float
    share: float


def costs(weighed: Sequence[Mapping[str, Weighed]]) -> list[Cost]:
    """What each wish cost on average, the dearest first; the interval is that of a mean over
    requests, by the normal distribution.
    """
    if not weighed:
        return []
    mean = float(np.mean([each[ALL].value for each in weighed]))
    found = []
    for wish in (name for name in weighed[0] if name != ALL):
        lost = np.array([each[wish].value - each[ALL].value for each in weighed])
        half = (
            1.96 * float(lost.std(ddof=1)) / np.sqrt(lost.size) if lost.size > 1 else float("inf")
        )
        changed = float(np.mean([each[wish].items != each[ALL].items for each in weighed]))
        value = float(lost.mean())
        found.append(
            Cost(
                wish,
                changed,
                value,
                value - half,
                value + half,
                value / mean if mean > 0 else float("nan"),
            )
        )
    return sorted(found, key=lambda cost: -cost.value)


def _together(found: Sequence[Candidates]) -> Candidates:
    """All candidates, each once."""
    everything = found[0]
    for some in found[1:]:
        new = np.flatnonzero(~np.isin(some.keys, everything.keys))
        everything = everything.joined(some.take(new)) if new.size else everything
    return everything
