"""Value formulas that were set without a new model, with the author, time and reason of each
change.

`ROOT/formulas.json` of a registry:

    {"changes": [{"number": 3, "slot": "home", "text": "1.0*click + 9.0*purchase", "by": "ada",
    "why": "margin", "at": …}, …]}

The newest change of a slot is in force; an empty text returns the slot to `slots.py`. The file is
replaced atomically, so a server, which polls it five times a second, reads one state or the next.
`ranking.policy.formula` interprets formulas.
"""

from pathlib import Path

import msgspec

from tailorbird.registry.json_files import read_json

FORMULAS_FILE = "formulas.json"


class FormulaChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of a slot's formula.

    `number` counts from 1 over all slots; `text` is "" where the slot's own formula is in force
    again.
    """

    number: int
    slot: str
    text: str
    by: str
    why: str
    at: int

    @property
    def version(self) -> str:
        """The version as responses log it, such as `f0003`."""
        return f"f{self.number:04d}"


class Formulas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All changes, oldest first."""

    changes: tuple[FormulaChange, ...] = ()

    def current_change(self, slot: str) -> FormulaChange | None:
        """Return the change in force for a slot, or None if its own formula is."""
        newest_change = next(
            (change for change in reversed(self.changes) if change.slot == slot), None
        )
        return newest_change if newest_change is not None and newest_change.text else None

    def with_change(self, slot: str, text: str, *, by: str, why: str, at: int) -> "Formulas":
        number = self.changes[-1].number + 1 if self.changes else 1
        return Formulas((*self.changes, FormulaChange(number, slot, text, by, why, at)))


def read_formulas(root: Path) -> Formulas:
    """Return the formulas of a registry. Raises DamageError if the file is damaged."""
    fix = "tailorbird formula set writes it anew, once removed"
    return read_json(root / FORMULAS_FILE, Formulas, fix=fix)
