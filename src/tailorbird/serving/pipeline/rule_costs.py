"""The cost of each rule of a slot: the value of the answer with it, compared with that without it.

The value of an answer is the sum of its items' values by the formula, before boosts and without
exploration, as if all positions were equal. Both answers are made of the same candidates, the union
over all variants, so that they differ by the rule alone. A rule that changes nothing costs 0; a
positive cost is expected value that is given up for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailorbird.events import Clock
from tailorbird.ranking import Slot
from tailorbird.serving.experiments import Assignment
from tailorbird.serving.pipeline.deadlines import UNBOUNDED, Breakers
from tailorbird.serving.pipeline.protocols import NullMetrics
from tailorbird.serving.pipeline.request import Candidates, Request
from tailorbird.serving.pipeline.stages import STALE_AFTER_US, Stages

ALL_RULES = "all"


def slot_without_each_rule(slot: Slot) -> dict[str, Slot]:
    """Return each rule in words, with the slot without it."""
    variants: dict[str, Slot] = {}
    for rule in dict.fromkeys(slot.rules):
        variants[f"rule {rule}"] = replace(
            slot, rules=[other for other in slot.rules if other != rule]
        )
    for boost in slot.boosts:
        variants[f"boost {boost.factor:g} for {boost.when}"] = replace(
            slot, boosts=[other for other in slot.boosts if other != boost]
        )
    for pin in slot.pins:
        condition_suffix = f" where {pin.when}" if pin.when else ""
        variants[f"pin {pin.item} at {pin.position}{condition_suffix}"] = replace(
            slot, pins=[other for other in slot.pins if other != pin]
        )
    for promotion in slot.promotions:
        variants[f"promotion {promotion.share:g} for {promotion.when}"] = replace(
            slot, promotions=[other for other in slot.promotions if other != promotion]
        )
    for cap in slot.caps:
        variants[f"cap {cap.most} of {cap.sequence} within {cap.within}"] = replace(
            slot, caps=[other for other in slot.caps if other != cap]
        )
    for quota in slot.all_quotas:
        scope_suffix = (
            f" among the first {quota.first}"
            if quota.first
            else f" in any {quota.window}"
            if quota.window
            else ""
        )
        variants[f"quota {quota.most} of a {quota.by}{scope_suffix}"] = _without_quota(slot, quota)
    for name, variant in (
        ("allow", replace(slot, allow=())),
        ("deny", replace(slot, deny=())),
        ("hide_seen", replace(slot, hide_seen=())),
    ):
        if getattr(slot, name):
            variants[name] = variant
    return variants | ({"diversity": replace(slot, diversity=None)} if slot.diversity else {})


def _without_quota(slot: Slot, quota: object) -> Slot:
    if quota in slot.quotas:
        return replace(slot, quotas=[other for other in slot.quotas if other != quota])
    return replace(slot, per_category=0)


@dataclass(frozen=True)
class VariantOutcome:
    """The answer of a variant of a slot, and the sum of its items' values."""

    items: tuple[str, ...]
    value: float


class VariantComparer:
    """Answers a request by several variants of a slot at once, without logging or random draws.

    Args:
        slot: the slot whose rules are compared.
    """

    def __init__(self, slot: Slot, clock: Clock) -> None:
        base_slot = replace(slot, explore=None, experiment=None)
        self._slot_by_variant = {ALL_RULES: base_slot, **slot_without_each_rule(base_slot)}
        rng = np.random.default_rng(0)
        breakers = Breakers(UNBOUNDED)
        self._stages_by_variant = {
            name: Stages(
                {variant.name: variant},
                clock,
                rng,
                NullMetrics(),
                STALE_AFTER_US,
                breakers=breakers,
            )
            for name, variant in self._slot_by_variant.items()
        }

    @property
    def names(self) -> list[str]:
        """The rules, as `slot_without_each_rule` names them."""
        return [name for name in self._slot_by_variant if name != ALL_RULES]

    def compare(
        self, request: Request, limit_by_source: Mapping[str, int], size: int
    ) -> dict[str, VariantOutcome] | None:
        """Return the answer with all rules, as `ALL_RULES`, and the one without each rule.

        None where features or the model fail.
        """
        if not request.may_score:
            return None
        request.assignment = Assignment()  # the person may be in an arm without a model
        candidate_lists: list[Candidates] = []
        for name, stages in self._stages_by_variant.items():
            request.slot = self._slot_by_variant[name]
            candidate_lists.append(stages.find_candidates(request, limit_by_source, size))
        request.slot = self._slot_by_variant[ALL_RULES]
        all_candidates = _merge_candidates(candidate_lists)
        stages = self._stages_by_variant[ALL_RULES]
        scores = stages.score(
            request,
            all_candidates,
            stages.features.read_features(request, all_candidates.ids, all_candidates.keys),
        )
        if (
            scores is None
            or request.index is None
            or {"model", "features", "rules"} & set(request.degraded)
        ):
            return None
        outcome_by_variant = {}
        for name, stages in self._stages_by_variant.items():
            request.slot = self._slot_by_variant[name]
            visible_positions = np.flatnonzero(
                stages.visible_mask(request, request.index, all_candidates.rows)
            )
            visible_candidates = all_candidates.select(visible_positions)
            values = scores.value[visible_positions]
            slate = stages.choose_slate(
                request,
                visible_candidates,
                stages.apply_boosts(request, visible_candidates, values),
                size,
            )
            outcome_by_variant[name] = VariantOutcome(
                tuple(visible_candidates.ids[index] for index in slate.items.tolist()),
                float(values[slate.items].sum()),
            )
        return outcome_by_variant


@dataclass(frozen=True)
class Cost:
    """The cost of a rule over some requests.

    Attributes:
        changed: the share of answers that differ without it.
        value: lost per request, with its 95 % interval from `low` to `high`.
        share: of the value of the answers with all rules.
    """

    rule: str
    changed: float
    value: float
    low: float
    high: float
    share: float


def compute_costs(outcomes: Sequence[Mapping[str, VariantOutcome]]) -> list[Cost]:
    """Return the average cost of each rule, the most expensive first.

    The interval is that of a mean over requests, by the normal distribution.
    """
    if not outcomes:
        return []
    mean_value = float(
        np.mean([outcome_by_variant[ALL_RULES].value for outcome_by_variant in outcomes])
    )
    rule_costs = []
    for rule in (name for name in outcomes[0] if name != ALL_RULES):
        losses = np.array(
            [
                outcome_by_variant[rule].value - outcome_by_variant[ALL_RULES].value
                for outcome_by_variant in outcomes
            ]
        )
        half_width = (
            1.96 * float(losses.std(ddof=1)) / np.sqrt(losses.size)
            if losses.size > 1
            else float("inf")
        )
        changed = float(
            np.mean(
                [
                    outcome_by_variant[rule].items != outcome_by_variant[ALL_RULES].items
                    for outcome_by_variant in outcomes
                ]
            )
        )
        value = float(losses.mean())
        rule_costs.append(
            Cost(
                rule,
                changed,
                value,
                value - half_width,
                value + half_width,
                value / mean_value if mean_value > 0 else float("nan"),
            )
        )
    return sorted(rule_costs, key=lambda cost: -cost.value)


def _merge_candidates(candidate_lists: Sequence[Candidates]) -> Candidates:
    """Return the union of all candidates."""
    merged = candidate_lists[0]
    for candidates in candidate_lists[1:]:
        new_positions = np.flatnonzero(~np.isin(candidates.keys, merged.keys))
        merged = merged.concat(candidates.select(new_positions)) if new_positions.size else merged
    return merged
