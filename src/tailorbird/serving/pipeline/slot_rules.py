"""The rules of a slot beyond an item's value, compiled once and applied to the candidates of each
request.

    filters   rules, allow and deny lists, caps: what may be shown at all; pushed into the
              sources as far as they are the same for everybody
    boosts    factors of values
    layout    pins, promotions, quotas, diversity: a `policy.SlateSpec`

docs/how-to/rules.md specifies how these interact, and its examples are tested. An expression that
fails at run time is skipped and reported: the other rules hold, and lists always do.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailorbird.events import hash64, hash64s, parse_duration
from tailorbird.ranking import Pin, Slot
from tailorbird.ranking.policy.policy import SlateSpec, apply_boosts
from tailorbird.ranking.policy.rule_columns import RuleRequest, seen_mask
from tailorbird.ranking.policy.rule_language import ITEM_FIELDS
from tailorbird.ranking.policy.rules import Rules, compile_rules
from tailorbird.ranking.slot import Cap
from tailorbird.retrieval import Index
from tailorbird.serving.pipeline.request import (
    Candidates,
    Floats,
    Mask,
    Request,
    RowIndices,
    context_fields,
    filter_mask,
)

PINNED = "pinned"
VIEWS_MAX = 8  # champion, canary, versions of arms, and their predecessors alternate
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _SlotView:
    """An index and its view without the items that nobody may see.

    `bundle_identity` identifies its bundle, whose later index replaces it.
    """

    bundle_identity: tuple[int, int]
    index: Index
    view: Index


RARE_ATTRIBUTES = {"is_hidden"}  # attributes that few items or none have


class SlotRules:
    """The compiled rules of a slot. Thread-safe.

    Args:
        slot: the slot.
        report_failure: called when an expression fails at run time.
    Raises:
        DeclarationError: a rule, or the `when` of another one, is not of the language.
    """

    def __init__(self, slot: Slot, report_failure: Callable[[], None] = lambda: None) -> None:
        where = f"slot {slot.name}"
        self.slot = slot
        self._report_failure = report_failure
        self.rules = compile_rules(slot.rules, where=where)
        self.boosts = [
            (boost.factor, compile_rules([boost.when], where=f"{where}, boost"))
            for boost in slot.boosts
        ]
        self.promotion_rules = [
            compile_rules([promotion.when], where=f"{where}, promotion")
            for promotion in slot.promotions
        ]
        self.pins = [
            (pin, compile_rules([pin.when], where=f"{where}, pin") if pin.when else Rules(()))
            for pin in slot.pins
        ]
        self._global_rules = self.rules.item_only
        self._allow_keys = hash64s(sorted(slot.allow))
        self._deny_keys = hash64s(sorted(slot.deny))
        self._key_by_pinned_item = {pin.item: hash64(pin.item) for pin in slot.pins}
        self._views: tuple[_SlotView, ...] = ()
        self._view_lock = threading.Lock()
        self._empty_reason = ""  # last reported reason why nothing is shown

    @property
    def item_attributes(self) -> frozenset[str]:
        """Attributes of items that the rules read."""
        rule_sets = (
            self.rules,
            *(rules for _, rules in self.boosts),
            *self.promotion_rules,
            *(rules for _, rules in self.pins),
        )
        return frozenset().union(
            *(rules.item_fields for rules in rule_sets),
            (quota.by for quota in self.slot.all_quotas),
        ) - set(ITEM_FIELDS)

    # Filters

    def public_view(self, index: Index) -> Index:
        """Return the index without items that are forbidden for everybody, computed once for each
        index.
        """
        if not self._global_rules.rules and not self._allow_keys.size and not self._deny_keys.size:
            return index
        if (view := self._cached_view(index)) is not None:
            return view
        with self._view_lock:
            if (view := self._cached_view(index)) is not None:
                return view
            if missing := sorted(self.item_attributes - index.attributes.keys() - RARE_ATTRIBUTES):
                log.warning(
                    "slot %s asks for %s, which no item has", self.slot.name, ", ".join(missing)
                )
            shown_mask = self._visible_to_all(index, np.arange(len(index)))
            self._warn_if_empty(self._reason_for_empty(index, shown_mask))
            bundle_identity = (
                index.as_of,
                id(index.text.base_index) if index.text is not None else 0,
            )
            other_views = [
                slot_view
                for slot_view in self._views
                if slot_view.bundle_identity != bundle_identity
            ]
            slot_view = _SlotView(bundle_identity, index, index.restrict(shown_mask))
            self._views = (slot_view, *other_views[: VIEWS_MAX - 1])
            return slot_view.view

    def _cached_view(self, index: Index) -> Index | None:
        return next((cached.view for cached in self._views if cached.index is index), None)

    def explain_empty(self, index: Index) -> str:
        """Return why nobody may see any item of an index; "" if somebody may, or none exists."""
        return self._reason_for_empty(index, self._visible_to_all(index, np.arange(len(index))))

    def rules_unmet_by_strangers(self, index: Index) -> list[str]:
        """Return the rules about the person that no item satisfies for an unknown person.

        That is somebody new, or anybody without the store.
        """
        inputs = RuleRequest(index, np.arange(len(index)), index.as_of)
        personal_rules = [
            rule
            for rule in self.rules.rules
            if "user." in rule.text and "context." not in rule.text
        ]
        return [
            rule.text
            for rule in personal_rules
            if not self._rule_mask(Rules((rule,)), inputs).any()
        ]

    def _warn_if_empty(self, reason: str) -> None:
        """Warn once, rather than with each new item."""
        if reason and reason != self._empty_reason:
            log.warning("slot %s shows nothing: %s", self.slot.name, reason)
        self._empty_reason = reason

    def _reason_for_empty(self, index: Index, shown_mask: Mask) -> str:
        """Return why `shown_mask` shows no item; "" if it shows any, or none exists."""
        item_count = len(index)
        if not item_count or shown_mask.any():
            return ""
        inputs = RuleRequest(index, np.arange(item_count))
        unmet_conditions = [
            rule.text
            for rule in self._global_rules.rules
            if not self._rule_mask(Rules((rule,)), inputs).any()
        ]
        return (
            f"no item satisfies {' | '.join(unmet_conditions)}"
            if unmet_conditions
            else "its rules and lists together leave no item"
        )

    def _visible_to_all(self, index: Index, rows: RowIndices) -> Mask:
        """Return which rows may be shown to anybody."""
        return self._allowed_by_lists(index, rows) & self._rule_mask(
            self._global_rules, RuleRequest(index, rows)
        )

    def _allowed_by_lists(self, index: Index, rows: RowIndices) -> Mask:
        """Return which rows the lists allow."""
        mask = np.ones(rows.size, bool)
        if self._allow_keys.size:
            mask &= np.isin(index.keys[rows], self._allow_keys)
        return mask & ~np.isin(index.keys[rows], self._deny_keys) if self._deny_keys.size else mask

    def visible_mask(self, request: Request, index: Index, rows: RowIndices) -> Mask:
        """Return which rows this request may show: by lists and rules, the query's filters, and
        seen items.
        """
        query = request.query
        mask = filter_mask(index, rows, query)
        if query.exclude:
            mask &= ~np.isin(index.keys[rows], hash64s(query.exclude))
        return mask & self._allowed_mask(request, index, rows)

    def is_empty_for(self, request: Request, index: Index) -> bool:
        """Return whether the slot alone leaves no item for this person, whatever the query."""
        return not self._allowed_mask(request, index, np.arange(len(index))).any()

    def _allowed_mask(self, request: Request, index: Index, rows: RowIndices) -> Mask:
        mask = np.ones(rows.size, bool)
        if self.slot.hide_seen:
            for sequence in request.sequences.values():  # any sequence may contain such events
                mask &= ~seen_mask(index, rows, sequence, types=self.slot.hide_seen)
        for cap in self.slot.caps:
            mask &= ~self._capped_mask(request, index, rows, cap)
        return (
            mask
            & self._allowed_by_lists(index, rows)
            & self._rule_mask(self.rules, rule_inputs(request, rows), request)
        )

    def _rule_mask(
        self,
        rules: Rules,
        inputs: RuleRequest,
        request: Request | None = None,
        *,
        value_on_failure: bool = True,
    ) -> Mask:
        """Return where all of some rules hold.

        A rule that fails counts as `value_on_failure`: a filter passes, the `when` of a boost, pin
        or promotion does not hold. The other rules still apply.
        """
        mask = np.ones(inputs.rows.size, bool)
        for rule in rules.rules:
            try:
                mask &= rule.mask(inputs)
            except Exception:  # a failing rule must not fail the answer
                log.exception("slot %s: %s failed", self.slot.name, rule.text)
                self._report_failure()
                if request is not None:
                    request.mark_degraded("rules")
                mask &= value_on_failure
        return mask

    def _capped_mask(self, request: Request, index: Index, rows: RowIndices, cap: Cap) -> Mask:
        """Return which rows a cap hides: those that the person met `cap.most` times lately."""
        sequence = request.sequences.get(cap.sequence)
        since = request.now - parse_duration(cap.within)
        if sequence is None or not sequence.item.size:
            return np.zeros(rows.size, bool)
        keys, counts = np.unique(sequence.item[sequence.ts >= since], return_counts=True)
        return np.isin(index.keys[rows], keys[counts >= cap.most])

    # Layout

    def with_pins(
        self, request: Request, index: Index, candidates: Candidates, size: int
    ) -> Candidates:
        """Return the pinned items for an answer of `size`, followed by the other candidates.

        Pinned items come first so that no time budget cuts them off.
        """
        keys = [
            self._key_by_pinned_item[pin.item] for pin in self._active_pins(request, index, size)
        ]
        pinned_rows = index.find(np.array(keys, np.uint64))
        if not pinned_rows.size:
            return candidates
        is_pinned = np.isin(candidates.rows, pinned_rows)
        if is_pinned.any():  # its source is the pin, even if another source found it too
            candidates = candidates.select(np.argsort(~is_pinned, kind="stable"))
            pinned_count = int(np.count_nonzero(is_pinned))
            candidates = replace(
                candidates, sources=[*[PINNED] * pinned_count, *candidates.sources[pinned_count:]]
            )
        pinned_rows = pinned_rows[~np.isin(pinned_rows, candidates.rows)]
        ids = [index.ids[row] for row in pinned_rows.tolist()]
        pinned_candidates = Candidates(
            pinned_rows,
            ids,
            index.keys[pinned_rows],
            [PINNED] * pinned_rows.size,
            np.zeros(pinned_rows.size),
        )
        return pinned_candidates.concat(candidates) if pinned_rows.size else candidates

    def _active_pins(self, request: Request, index: Index, size: int) -> list[Pin]:
        """Return the pins whose `when` holds, one a position and one an item, the first declared
        first.

        Pins beyond the answer's end are left out.
        """
        pins_by_position: dict[int, Pin] = {}
        for pin, when_rules in self.pins:
            if (
                pin.position > size
                or pin.position in pins_by_position
                or any(pin.item == other.item for other in pins_by_position.values())
            ):
                continue
            row = index.find(np.array([self._key_by_pinned_item[pin.item]], np.uint64))
            if (
                row[0] >= 0
                and self._rule_mask(
                    when_rules, rule_inputs(request, row), request, value_on_failure=False
                )[0]
            ):
                pins_by_position[pin.position] = pin
        return list(pins_by_position.values())

    def slate_spec(self, request: Request, candidates: Candidates, size: int) -> SlateSpec:
        """Return the layout that the policy has to satisfy, for an answer of `size`."""
        index = request.index
        slot = self.slot
        if index is None:
            return SlateSpec(None, candidates.rows)
        position_by_key = {key: position for position, key in enumerate(candidates.keys.tolist())}
        active_pins = self._active_pins(request, index, size) if self.pins else []
        candidate_by_slate_position = {
            pin.position - 1: position_by_key[self._key_by_pinned_item[pin.item]]
            for pin in active_pins
            if self._key_by_pinned_item[pin.item] in position_by_key
        }
        return SlateSpec(
            index,
            candidates.rows,
            quotas=slot.all_quotas,
            diversity=slot.diversity,
            pins=candidate_by_slate_position,
            promotions=tuple(slot.promotions),
            promoted=self._compute_masks(request, candidates, self.promotion_rules),
        )

    def boost_masks(self, request: Request, candidates: Candidates) -> list[tuple[float, Mask]]:
        """Return for each boost its factor and the candidates that it applies to."""
        masks = self._compute_masks(request, candidates, [rules for _, rules in self.boosts])
        return [(factor, mask) for (factor, _), mask in zip(self.boosts, masks, strict=True)]

    def explain_placement(
        self, request: Request, shown_candidates: Candidates, values: Floats
    ) -> list[tuple[dict[str, float], list[str]]]:
        """Return for each item of an answer the effect of every boost, and its pin and promotions.

        `shown_candidates` is in the answer's order; `values` are those before the boosts.
        """
        boost_effects_by_item: list[dict[str, float]] = [{} for _ in range(len(shown_candidates))]
        placements_by_item: list[list[str]] = [[] for _ in range(len(shown_candidates))]
        if request.index is None:
            return list(zip(boost_effects_by_item, placements_by_item, strict=True))
        for boost, (factor, mask) in zip(
            self.slot.boosts, self.boost_masks(request, shown_candidates), strict=True
        ):
            boosted_values = apply_boosts(values, [(factor, mask)])
            effect_name = f"boost {boost.when}"
            for position in np.flatnonzero(mask).tolist():
                effects = boost_effects_by_item[position]
                effect = float(boosted_values[position] - values[position])
                effects[effect_name] = effects.get(effect_name, 0.0) + effect
            values = boosted_values
        for pin in self._active_pins(request, request.index, len(shown_candidates)):
            if shown_candidates.ids[pin.position - 1] == pin.item:
                placements_by_item[pin.position - 1].append(f"pin {pin.position}")
        for promotion, mask in zip(
            self.slot.promotions,
            self._compute_masks(request, shown_candidates, self.promotion_rules),
            strict=True,
        ):
            for position in np.flatnonzero(mask).tolist():
                placements_by_item[position].append(f"promotion {promotion.when}")
        return list(zip(boost_effects_by_item, placements_by_item, strict=True))

    def _compute_masks(
        self, request: Request, candidates: Candidates, rule_sets: Sequence[Rules]
    ) -> list[Mask]:
        if not rule_sets:
            return []
        inputs = rule_inputs(request, np.maximum(candidates.rows, 0))
        return [
            self._rule_mask(rules, inputs, request, value_on_failure=False) & (candidates.rows >= 0)
            for rules in rule_sets
        ]


def rule_inputs(request: Request, rows: RowIndices) -> RuleRequest:
    """Return the inputs of rules for some rows of the request's index."""
    assert request.index is not None
    return RuleRequest(
        request.index,
        rows,
        now=request.now,
        user=request.user_features,
        context=context_fields(request),
        recent_events=request.recent_events,
        popularity=request.ranked_lists.popularity_percentiles,
    )
