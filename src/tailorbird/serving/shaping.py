"""What a slot asks of its answers beside their value: compiled once, applied to the candidates of
each request.

    filters     rules, allow and deny lists, caps    what may be shown at all; pushed into the sources as far as they are the same for all
    boosts      factors of values
    pins, promotions, quotas, diversity              what stands where: a `policy.Shape`

How these act on each other stands in docs/how-to/rules.md, and is tested there where it is done. An
expression that fails at run time is left away, and told: the other rules hold, and lists always do.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from tailorbird.events import duration, hash64, hash64s
from tailorbird.ranking import Pin, Slot
from tailorbird.ranking.policy import Shape, boosted
from tailorbird.ranking.rule_columns import Request as Asked
from tailorbird.ranking.rule_columns import seen_mask
from tailorbird.ranking.rules import ITEM_FIELDS, Rules, compile_rules
from tailorbird.retrieval import Index
from tailorbird.serving.request import Candidates, Floats, Mask, RowIndices, Request, filter_mask

PINNED = "pinned"
VIEWS_MAX = 4  # champion, canary, and the ones before them are asked for in turn
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Viewed:
    """An index and what of it may be shown to anybody; `base` tells its bundle, whose later index
    takes its place.
    """

    base: tuple[int, int]
    index: Index
    view: Index


RARE = {"is_hidden"}  # attributes that few items have, and perhaps none


class Shaping:
    """A slot's wishes, compiled. Safe to use from several threads.

    Args:
        slot: what wants them.
        failed: called when an expression fails at run time.
    Raises:
        DeclarationError: a rule, or the `when` of something, is not of the language.
    """

    def __init__(self, slot: Slot, failed: Callable[[], None] = lambda: None) -> None:
        where = f"slot {slot.name}"
        self.slot, self._failed = slot, failed
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
        self._for_everybody = self.rules.for_everybody
        self._allow, self._deny = hash64s(sorted(slot.allow)), hash64s(sorted(slot.deny))
        self._pin_keys = {pin.item: hash64(pin.item) for pin in slot.pins}
        self._viewed: tuple[_Viewed, ...] = ()
        self._viewing = threading.Lock()
        self._nothing = ""  # what was last told of why nothing is shown

    @property
    def asks(self) -> frozenset[str]:
        """Attributes that items are asked for."""
        compiled = (
            self.rules,
            *(rules for _, rules in self.boosts),
            *self.promotions,
            *(rules for _, rules in self.pins),
        )
        return frozenset().union(
            *(rules.item_fields for rules in compiled), (quota.by for quota in self.slot.limits)
        ) - set(ITEM_FIELDS)

    # Filters

    def view(self, index: Index) -> Index:
        """The index whose sources find nothing that is forbidden for everybody: computed once for
        each index, not in each request.
        """
        if not self._for_everybody.rules and not self._allow.size and not self._deny.size:
            return index
        if (view := self._view_of(index)) is not None:
            return view
        with self._viewing:
            if (view := self._view_of(index)) is not None:
                return view
            if unknown := sorted(self.asks - index.attributes.keys() - RARE):
                log.warning(
                    "slot %s asks for %s, which no item has", self.slot.name, ", ".join(unknown)
                )
            shown = self._common(index, np.arange(len(index)))
            self._tell_nothing(self._why_nothing(index, shown))
            base = index.as_of, id(index.text.built) if index.text is not None else 0
            others = [one for one in self._viewed if one.base != base]
            made = _Viewed(base, index, index.only(shown))
            self._viewed = (made, *others[: VIEWS_MAX - 1])
            return made.view

    def _view_of(self, index: Index) -> Index | None:
        return next((one.view for one in self._viewed if one.index is index), None)

    def why_nothing(self, index: Index) -> str:
        """Why nothing of an index may be shown to anybody; "" where something may, or where there
        is nothing.
        """
        return self._why_nothing(index, self._common(index, np.arange(len(index))))

    def empty_for_strangers(self, index: Index) -> list[str]:
        """Rules about the person that hold for no item where nothing is known of who asks: somebody
        new, or anybody without the store.
        """
        about = Asked(index, np.arange(len(index)), index.as_of)
        of_people = [
            rule
            for rule in self.rules.rules
            if "user." in rule.text and "context." not in rule.text
        ]
        return [rule.text for rule in of_people if not self._holds(Rules((rule,)), about).any()]

    def _tell_nothing(self, why: str) -> None:
        """Once, rather than with each item that comes in."""
        if why and why != self._nothing:
            log.warning("slot %s shows nothing: %s", self.slot.name, why)
        self._nothing = why

    def _why_nothing(self, index: Index, shown: Mask) -> str:
        every = len(index)
        if not every or shown.any():
            return ""
        about = Asked(index, np.arange(every))
        alone = [
            rule.text
            for rule in self._for_everybody.rules
            if not self._holds(Rules((rule,)), about).any()
        ]
        return (
            f"no item satisfies {' | '.join(alone)}"
            if alone
            else "its rules and lists together leave no item"
        )

    def _common(self, index: Index, rows: RowIndices) -> Mask:
        """What may be shown to anybody."""
        return self._listed(index, rows) & self._holds(self._for_everybody, Asked(index, rows))

    def _listed(self, index: Index, rows: RowIndices) -> Mask:
        """What the lists allow."""
        kept = np.ones(rows.size, bool)
        if self._allow.size:
            kept &= np.isin(index.keys[rows], self._allow)
        return kept & ~np.isin(index.keys[rows], self._deny) if self._deny.size else kept

    def shown(self, request: Request, index: Index, rows: RowIndices) -> Mask:
        """What of some rows may be shown in this request: by lists and rules, the query's own
        filters, and what the person has had.
        """
        query = request.query
        kept = filter_mask(index, rows, query)
        if query.exclude:
            kept &= ~np.isin(index.keys[rows], hash64s(query.exclude))
        return kept & self._allowed(request, index, rows)

    def allows_nothing(self, request: Request, index: Index) -> bool:
        """Whether it is the slot that leaves not one item for this person, whatever the query asks
        for.
        """
        return not self._allowed(request, index, np.arange(len(index))).any()

    def _allowed(self, request: Request, index: Index, rows: RowIndices) -> Mask:
        kept = np.ones(rows.size, bool)
        if self.slot.hide_seen:
            for sequence in request.sequences.values():  # whichever of them keeps such events
                kept &= ~seen_mask(index, rows, sequence, types=self.slot.hide_seen)
        for cap in self.slot.caps:
            kept &= ~self._capped(
                request, index, rows, cap.sequence, cap.most, request.now - duration(cap.within)
            )
        return (
            kept
            & self._listed(index, rows)
            & self._holds(self.rules, asked(request, rows), request)
        )

    def _holds(
        self, rules: Rules, about: Asked, request: Request | None = None, *, otherwise: bool = True
    ) -> Mask:
        """Where all of some rules hold; one that fails is no reason to show nothing, nor for the
        others not to hold.

        `otherwise` is taken for one that fails: a filter lets through, the `when` of a wish does
        not hold.
        """
        kept = np.ones(about.rows.size, bool)
        for rule in rules.rules:
            try:
                kept &= rule.mask(about)
            except Exception:  # counted and named
                log.exception("slot %s: %s failed", self.slot.name, rule.text)
                self._failed()
                if request is not None:
                    request.mark_degraded("rules")
                kept &= otherwise
        return kept

    def _capped(
        self, request: Request, index: Index, rows: RowIndices, name: str, most: int, since: int
    ) -> Mask:
        sequence = request.sequences.get(name)
        if sequence is None or not sequence.item.size:
            return np.zeros(rows.size, bool)
        keys, counts = np.unique(sequence.item[sequence.ts >= since], return_counts=True)
        return np.isin(index.keys[rows], keys[counts >= most])

    # What stands where

    def with_pins(self, request: Request, index: Index, found: Candidates, size: int) -> Candidates:
        """The pinned items that hold for an answer of `size`, which no lack of time cuts off, and
        the other candidates.
        """
        keys = [self._pin_keys[pin.item] for pin in self._held(request, index, size)]
        rows = index.find(np.array(keys, np.uint64))
        if not rows.size:
            return found
        there = np.isin(found.rows, rows)
        if (
            there.any()
        ):  # it stands where it does because it is pinned, whoever else would have found it
            found = found.select(np.argsort(~there, kind="stable"))
            pinned = int(np.count_nonzero(there))
            found = replace(found, sources=[*[PINNED] * pinned, *found.sources[pinned:]])
        rows = rows[~np.isin(rows, found.rows)]
        ids = [index.ids[row] for row in rows.tolist()]
        more = Candidates(rows, ids, index.keys[rows], [PINNED] * rows.size, np.zeros(rows.size))
        return more.concat(found) if rows.size else found

    def _held(self, request: Request, index: Index, size: int) -> list[Pin]:
        """The pins whose `when` holds, one a position and one an item, the first declared first;
        none behind the answer's end.
        """
        held: dict[int, Pin] = {}
        for pin, when in self.pins:
            if (
                pin.position > size
                or pin.position in held
                or any(pin.item == other.item for other in held.values())
            ):
                continue
            row = index.find(np.array([self._pin_keys[pin.item]], np.uint64))
            if row[0] >= 0 and self._holds(when, asked(request, row), request, otherwise=False)[0]:
                held[pin.position] = pin
        return list(held.values())

    def shape(self, request: Request, found: Candidates, size: int) -> Shape:
        """What the policy is asked for, for an answer of `size`."""
        index, slot = request.index, self.slot
        if index is None:
            return Shape(None, found.rows)
        place_of = {key: place for place, key in enumerate(found.keys.tolist())}
        held = self._held(request, index, size) if self.pins else []
        pins = {pin.position - 1: place_of.get(self._pin_keys[pin.item], -1) for pin in held}
        return Shape(
            index,
            found.rows,
            slot.limits,
            slot.diversity,
            {position: place for position, place in pins.items() if place >= 0},
            tuple(slot.promotions),
            self._masks(request, found, self.promotions),
        )

    def factors(self, request: Request, found: Candidates) -> list[tuple[float, Mask]]:
        """For each boost its factor and the candidates that it is for."""
        masks = self._masks(request, found, [rules for _, rules in self.boosts])
        return [(factor, mask) for (factor, _), mask in zip(self.boosts, masks, strict=True)]

    def told(
        self, request: Request, shown: Candidates, values: Floats
    ) -> list[tuple[dict[str, float], list[str]]]:
        """For each item of an answer what every boost did to its value, and the pin and promotions
        that it is there for.

        `shown` is in the answer's order; `values` are those before the boosts.
        """
        moved: list[dict[str, float]] = [{} for _ in range(len(shown))]
        placed: list[list[str]] = [[] for _ in range(len(shown))]
        if request.index is None:
            return list(zip(moved, placed, strict=True))
        for boost, factor in zip(self.slot.boosts, self.factors(request, shown), strict=True):
            after, name = boosted(values, [factor]), f"boost {boost.when}"
            for place in np.flatnonzero(factor[1]).tolist():
                moved[place][name] = moved[place].get(name, 0.0) + float(
                    after[place] - values[place]
                )
            values = after
        for pin in self._held(request, request.index, len(shown)):
            if shown.ids[pin.position - 1] == pin.item:
                placed[pin.position - 1].append(f"pin {pin.position}")
        for promotion, those in zip(
            self.slot.promotions, self._masks(request, shown, self.promotions), strict=True
        ):
            for place in np.flatnonzero(those).tolist():
                placed[place].append(f"promotion {promotion.when}")
        return list(zip(moved, placed, strict=True))

    def _masks(self, request: Request, found: Candidates, compiled: Sequence[Rules]) -> list[Mask]:
        if not compiled:
            return []
        about = asked(request, np.maximum(found.rows, 0))
        return [
            self._holds(rules, about, request, otherwise=False) & (found.rows >= 0)
            for rules in compiled
        ]


def asked(request: Request, rows: RowIndices) -> Asked:
    """What rules may look at, for some rows of the request's index."""
    assert request.index is not None
    context = msgspec.structs.asdict(request.query.context) | {
        "local_hour": request.read_request.local_hour
    }
    return Asked(
        request.index,
        rows,
        request.now,
        request.user,
        context,
        request.recent,
        request.lists.popularity,
    )
