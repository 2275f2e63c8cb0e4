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

    `base` identifies its bundle, whose later index replaces it.
    """

    base: tuple[int, int]
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
        self.slot, self._report_failure = slot, report_failure
        self.rules = compile_rules(slot.rules, where=where)
        self.boosts = [
            (boost.factor, compile_rules([boost.when], where=f"{where}, boost"))
            for boost in slot.boosts
        ]
        self.promotions = [
            compile_rules([promotion.when], where=f"{where}, promotion")
            for promotion in slot.promotions
        ]
        self.pins = [
            (pin, compile_rules([pin.when], where=f"{where}, pin") if pin.when else Rules(()))
            for pin in slot.pins
        ]
        self._global_rules = self.rules.item_only
        self._allow, self._deny = hash64s(sorted(slot.allow)), hash64s(sorted(slot.deny))
        self._pin_keys = {pin.item: hash64(pin.item) for pin in slot.pins}
        self._views: tuple[_SlotView, ...] = ()
        self._view_lock = threading.Lock()
        self._empty_reason = ""  # last reported reason why nothing is shown

    @property
    def item_attributes(self) -> frozenset[str]:
        """Attributes of items that the rules read."""
        compiled = (
            self.rules,
            *(rules for _, rules in self.boosts),
            *self.promotions,
            *(rules for _, rules in self.pins),
        )
        return frozenset().union(
            *(rules.item_fields for rules in compiled), (quota.by for quota in self.slot.all_quotas)
        ) - set(ITEM_FIELDS)

    # Filters

    def view(self, index: Index) -> Index:
        """Return the index without items that are forbidden for everybody, computed once for each
        index.
        """
        if not self._global_rules.rules and not self._allow.size and not self._deny.size:
            return index
        if (view := self._view_of(index)) is not None:
            return view
        with self._view_lock:
            if (view := self._view_of(index)) is not None:
                return view
            if missing := sorted(self.item_attributes - index.attributes.keys() - RARE_ATTRIBUTES):
                log.warning(
                    "slot %s asks for %s, which no item has", self.slot.name, ", ".join(missing)
                )
            shown = self._visible_to_all(index, np.arange(len(index)))
            self._warn_if_empty(self._explain_empty(index, shown))
            base = index.as_of, id(index.text.built) if index.text is not None else 0
            older = [view for view in self._views if view.base != base]
            slot_view = _SlotView(base, index, index.only(shown))
            self._views = (slot_view, *older[: VIEWS_MAX - 1])
            return slot_view.view

    def _view_of(self, index: Index) -> Index | None:
        return next((cached.view for cached in self._views if cached.index is index), None)

    def explain_empty(self, index: Index) -> str:
        """Return why nobody may see any item of an index; "" if somebody may, or none exists."""
        return self._explain_empty(index, self._visible_to_all(index, np.arange(len(index))))

    def empty_for_strangers(self, index: Index) -> list[str]:
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

    def _warn_if_empty(self, why: str) -> None:
        """Warn once, rather than with each new item."""
        if why and why != self._empty_reason:
            log.warning("slot %s shows nothing: %s", self.slot.name, why)
        self._empty_reason = why

    def _explain_empty(self, index: Index, shown: Mask) -> str:
        item_count = len(index)
        if not item_count or shown.any():
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
        if self._allow.size:
            mask &= np.isin(index.keys[rows], self._allow)
        return mask & ~np.isin(index.keys[rows], self._deny) if self._deny.size else mask

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
            mask &= ~self._mark_capped(
                request,
                index,
                rows,
                cap.sequence,
                cap.most,
                request.now - parse_duration(cap.within),
            )
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
        on_failure: bool = True,
    ) -> Mask:
        """Return where all of some rules hold.

        A rule that fails counts as `on_failure`: a filter passes, the `when` of a boost, pin or
        promotion does not hold. The other rules still apply.
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
                mask &= on_failure
        return mask

    def _mark_capped(
        self, request: Request, index: Index, rows: RowIndices, name: str, most: int, since: int
    ) -> Mask:
        sequence = request.sequences.get(name)
        if sequence is None or not sequence.item.size:
            return np.zeros(rows.size, bool)
        keys, counts = np.unique(sequence.item[sequence.ts >= since], return_counts=True)
        return np.isin(index.keys[rows], keys[counts >= most])

    # Layout

    def with_pins(
        self, request: Request, index: Index, candidates: Candidates, size: int
    ) -> Candidates:
        """Return the pinned items for an answer of `size`, followed by the other candidates.

        Pinned items come first so that no time budget cuts them off.
        """
        keys = [self._pin_keys[pin.item] for pin in self._active_pins(request, index, size)]
        rows = index.find(np.array(keys, np.uint64))
        if not rows.size:
            return candidates
        is_pinned = np.isin(candidates.rows, rows)
        if is_pinned.any():  # its source is the pin, even if another source found it too
            candidates = candidates.select(np.argsort(~is_pinned, kind="stable"))
            pinned = int(np.count_nonzero(is_pinned))
            candidates = replace(
                candidates, sources=[*[PINNED] * pinned, *candidates.sources[pinned:]]
            )
        rows = rows[~np.isin(rows, candidates.rows)]
        ids = [index.ids[row] for row in rows.tolist()]
        pinned_candidates = Candidates(
            rows, ids, index.keys[rows], [PINNED] * rows.size, np.zeros(rows.size)
        )
        return pinned_candidates.concat(candidates) if rows.size else candidates

    def _active_pins(self, request: Request, index: Index, size: int) -> list[Pin]:
        """Return the pins whose `when` holds, one a position and one an item, the first declared
        first.

        Pins beyond the answer's end are left out.
        """
        pins_by_position: dict[int, Pin] = {}
        for pin, when in self.pins:
            if (
                pin.position > size
                or pin.position in pins_by_position
                or any(pin.item == other.item for other in pins_by_position.values())
            ):
                continue
            row = index.find(np.array([self._pin_keys[pin.item]], np.uint64))
            if (
                row[0] >= 0
                and self._rule_mask(when, rule_inputs(request, row), request, on_failure=False)[0]
            ):
                pins_by_position[pin.position] = pin
        return list(pins_by_position.values())

    def slate_spec(self, request: Request, candidates: Candidates, size: int) -> SlateSpec:
        """Return the layout that the policy has to satisfy, for an answer of `size`."""
        index, slot = request.index, self.slot
        if index is None:
            return SlateSpec(None, candidates.rows)
        position_of = {key: position for position, key in enumerate(candidates.keys.tolist())}
        active = self._active_pins(request, index, size) if self.pins else []
        pin_positions = {
            pin.position - 1: position_of.get(self._pin_keys[pin.item], -1) for pin in active
        }
        return SlateSpec(
            index,
            candidates.rows,
            slot.all_quotas,
            slot.diversity,
            {
                position: index_position
                for position, index_position in pin_positions.items()
                if index_position >= 0
            },
            tuple(slot.promotions),
            self._compute_masks(request, candidates, self.promotions),
        )

    def factors(self, request: Request, candidates: Candidates) -> list[tuple[float, Mask]]:
        """Return for each boost its factor and the candidates that it applies to."""
        masks = self._compute_masks(request, candidates, [rules for _, rules in self.boosts])
        return [(factor, mask) for (factor, _), mask in zip(self.boosts, masks, strict=True)]

    def explain_placement(
        self, request: Request, shown: Candidates, values: Floats
    ) -> list[tuple[dict[str, float], list[str]]]:
        """Return for each item of an answer the effect of every boost, and its pin and promotions.

        `shown` is in the answer's order; `values` are those before the boosts.
        """
        boosts_by_item: list[dict[str, float]] = [{} for _ in range(len(shown))]
        placed: list[list[str]] = [[] for _ in range(len(shown))]
        if request.index is None:
            return list(zip(boosts_by_item, placed, strict=True))
        for boost, factor in zip(self.slot.boosts, self.factors(request, shown), strict=True):
            boosted_values, name = apply_boosts(values, [factor]), f"boost {boost.when}"
            for position in np.flatnonzero(factor[1]).tolist():
                boosts_by_item[position][name] = boosts_by_item[position].get(name, 0.0) + float(
                    boosted_values[position] - values[position]
                )
            values = boosted_values
        for pin in self._active_pins(request, request.index, len(shown)):
            if shown.ids[pin.position - 1] == pin.item:
                placed[pin.position - 1].append(f"pin {pin.position}")
        for promotion, mask in zip(
            self.slot.promotions, self._compute_masks(request, shown, self.promotions), strict=True
        ):
            for position in np.flatnonzero(mask).tolist():
                placed[position].append(f"promotion {promotion.when}")
        return list(zip(boosts_by_item, placed, strict=True))

    def _compute_masks(
        self, request: Request, candidates: Candidates, compiled: Sequence[Rules]
    ) -> list[Mask]:
        if not compiled:
            return []
        inputs = rule_inputs(request, np.maximum(candidates.rows, 0))
        return [
            self._rule_mask(rules, inputs, request, on_failure=False) & (candidates.rows >= 0)
            for rules in compiled
        ]


def rule_inputs(request: Request, rows: RowIndices) -> RuleRequest:
    """Return the inputs of rules for some rows of the request's index."""
    assert request.index is not None
    return RuleRequest(
        request.index,
        rows,
        request.now,
        request.user,
        context_fields(request),
        request.recent,
        request.lists.popularity,
    )
