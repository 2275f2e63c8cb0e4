"""The value formulas in force, as the registry has them, swapped under running requests.

A thread checks `formulas.json` of the registry five times a second. A request takes the formula of
its slot once, at its beginning. A file that cannot be read, or that holds no valid formula, leaves
the previous one in force and is logged. `ranking.policy.formula` defines formulas.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tailorbird.atomic_write import FileStamp, file_stamp
from tailorbird.errors import DeclarationError, TailorbirdError
from tailorbird.periodic import PeriodicTask
from tailorbird.ranking import Slot
from tailorbird.ranking.policy.formula import (
    format_formula,
    missing_heads,
    parse_formula,
    parse_usable_formula,
)
from tailorbird.registry import FormulaChange, Registry, read_formulas
from tailorbird.registry.formulas import FORMULAS_FILE, Formulas
from tailorbird.serving.messages import QueryError, SlotFormula

POLL_S = 0.2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Formula:
    """The value of an item to a slot: head → weight. `version` is "" for the slot's own."""

    weights: Mapping[str, float]
    version: str = ""

    @property
    def text(self) -> str:
        return format_formula(self.weights)


class DeclaredFormulas:
    """The slots' own formulas, for evaluation and tests."""

    def formula_for(self, slot: Slot) -> Formula:
        return Formula(slot.objective)


class LiveFormulas:
    """The formulas of a registry over those that slots declare. `formula_for` may be called from
    any thread.

    Args:
        registry: where they are set.
        slots: by name.
    """

    def __init__(
        self, registry: Registry, slots: Mapping[str, Slot], *, poll_s: float = POLL_S
    ) -> None:
        self._registry = registry
        self._slots = slots
        self._file_stamp: FileStamp | None = None
        self._override_by_slot: Mapping[str, Formula] = {}
        self.periodic_task = PeriodicTask(
            "formulas", self.reload_if_changed, interval_s=poll_s, run_at_start=False
        )

    def formula_for(self, slot: Slot) -> Formula:
        """Return the formula in force for a slot."""
        override = self._override_by_slot.get(slot.name)
        return Formula(slot.objective) if override is None else override

    def describe_all(self) -> list[SlotFormula]:
        """Describe the formula in force for each slot."""
        return describe_formulas(self._registry, self._slots.values())

    def put(self, slot: str, text: str, *, by: str, why: str) -> SlotFormula:
        """Put a formula in force. Raise QueryError if there is no such slot, or the formula is
        unusable.
        """
        if slot not in self._slots:
            fix = f"use one of {', '.join(self._slots)}"
            raise QueryError(
                f"there is no slot {slot[:60]!r}", path="slot", code="unknown_slot", fix=fix
            )
        try:
            set_formula(self._registry, self._slots[slot], text, by=by, why=why)
        except DeclarationError as error:
            raise QueryError(
                error.message, path="$.formula", code="bad_formula", fix=error.fix
            ) from None
        self.reload_if_changed()
        return describe_formulas(self._registry, [self._slots[slot]])[0]

    def start(self) -> None:
        self.reload_if_changed()
        self.periodic_task.start()

    def stop(self) -> None:
        self.periodic_task.stop()

    def reload_if_changed(self) -> bool:
        """Load the formulas in force if the file changed since the last check, and return
        whether it did.
        """
        stamp = file_stamp(self._registry.path / FORMULAS_FILE)
        if stamp == self._file_stamp:
            return False
        self._file_stamp = stamp
        try:
            self._override_by_slot = _load_overrides(self._registry.path)
        except TailorbirdError as error:
            log.error("the formulas were refused, those before stay in force: %s", error)
            return False
        for slot, formula in self._override_by_slot.items():
            log.info("formula %s of slot %s is in force: %s", formula.version, slot, formula.text)
        return True


def set_formula(registry: Registry, slot: Slot, text: str, *, by: str, why: str) -> FormulaChange:
    """Put a formula in force for a slot, once the champion is known to have its heads; ""
    restores the slot's own.

    Raises:
        DeclarationError: it is no formula, does not distinguish items, or needs a head that the
            champion does not have.
    """
    if text:
        champion = registry.champion_folder()
        heads = registry.info(champion.name).heads if champion is not None else None
        model = f"the champion {champion.name}" if champion is not None else ""
        parse_usable_formula(text, heads, model=model, where=f"slot {slot.name}")
    return registry.set_formula(slot.name, text, by=by, why=why)


def weights_in_force(formulas: Formulas, slot: Slot) -> Mapping[str, float]:
    """Return the formula in force for a slot: the one that was set last, or the slot's own."""
    change = formulas.current_change(slot.name)
    if change is None:
        return slot.objective
    return parse_formula(change.text, where=f"slot {slot.name}")


def describe_formulas(registry: Registry, slots: Iterable[Slot]) -> list[SlotFormula]:
    """Describe the formula in force for each slot, with the heads that the champion lacks."""
    formulas = read_formulas(registry.path)
    champion = registry.champion_folder()
    heads = registry.info(champion.name).heads if champion is not None else ()
    descriptions = []
    for slot in slots:
        change = formulas.current_change(slot.name)
        weights = weights_in_force(formulas, slot)
        missing = missing_heads(weights, heads) if heads else ()
        descriptions.append(
            SlotFormula(
                slot=slot.name,
                formula=format_formula(weights),
                version="" if change is None else change.version,
                declared=format_formula(slot.objective),
                by="" if change is None else change.by,
                why="" if change is None else change.why,
                at=0 if change is None else change.at,
                missing=list(missing),
            )
        )
    return descriptions


def _load_overrides(registry_folder: Path) -> dict[str, Formula]:
    formulas = read_formulas(registry_folder)
    overrides: dict[str, Formula] = {}
    for slot in dict.fromkeys(change.slot for change in formulas.changes):
        change = formulas.current_change(slot)
        if change is not None:
            overrides[slot] = Formula(
                parse_formula(change.text, where=f"slot {slot}"), change.version
            )
    return overrides
