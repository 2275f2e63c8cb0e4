"""Value formulas of slots, changed without a new model."""

import getpass
from pathlib import Path

from tailorbird.config import Project, open_project
from tailorbird.errors import UsageError
from tailorbird.events import SystemClock, to_iso
from tailorbird.platform.frames import Frame
from tailorbird.registry import FormulaChange, Registry, read_formulas


def set_formula(
    project: Project, slot: str, formula: str, *, why: str, by: str = ""
) -> FormulaChange:
    """Change the formula of a slot; "" returns to the one in slots.py.

    Raises:
        DeclarationError: the formula is invalid, or the champion predicts no such head.
    """
    from tailorbird.serving.pipeline import formulas

    registry = Registry(project.paths.registry, clock=SystemClock())
    author = by or getpass.getuser()
    return formulas.set_formula(registry, project.slot(slot), formula, by=author, why=why)


class FormulaView:
    """The value formula of each slot; servers apply a change within a second."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def current(self) -> Frame:
        """Return the formula of each slot, its version ("" is slots.py), and missing heads."""
        from tailorbird.serving.pipeline.formulas import describe_formulas

        project = open_project(self._root)
        registry = Registry(project.paths.registry, clock=SystemClock())
        return Frame.from_rows(
            ["slot", "formula", "version", "missing_heads"],
            [
                (
                    slot_formula.slot,
                    slot_formula.formula,
                    slot_formula.version,
                    ", ".join(slot_formula.missing),
                )
                for slot_formula in describe_formulas(registry, project.slots.values())
            ],
        )

    def history(self) -> Frame:
        """Return every change, the newest first; an empty formula is the slot's own."""
        changes = read_formulas(open_project(self._root).paths.registry).changes[::-1]
        return Frame.from_rows(
            ["version", "at", "slot", "formula", "by", "reason"],
            [
                (
                    change.version,
                    to_iso(change.at)[:19],
                    change.slot,
                    change.text,
                    change.by,
                    change.why,
                )
                for change in changes
            ],
        )

    def set(self, slot: str, formula: str, *, reason: str, by: str = "") -> None:
        """Change the formula of a slot, such as `1.0*click + 8.0*purchase`.

        Raises:
            UsageError: the formula is empty.
            DeclarationError: it is invalid, or the champion predicts no such head.
        """
        if not formula.strip():
            raise UsageError("the formula is empty", fix="such as 1.0*click; or reset(slot)")
        set_formula(open_project(self._root), slot, formula, why=reason, by=by)

    def reset(self, slot: str, *, reason: str, by: str = "") -> None:
        """Return to the slot's own formula in slots.py."""
        set_formula(open_project(self._root), slot, "", why=reason, by=by)

    def __repr__(self) -> str:
        return repr(self.current())

    def _repr_html_(self) -> str:
        return self.current().to_html()
