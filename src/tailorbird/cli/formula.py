"""`tailorbird formula show|set|reset`: the value formulas of slots."""

from typing import Annotated

from cyclopts import Parameter

from tailorbird.cli.models.commands import format_time, open_registry
from tailorbird.cli.output import By, Json, Why, console, print_json, print_table


def show(*, history: bool = False, json: Json = False) -> None:
    """Show the current value formula of each slot, and since when it applies.

    Example:  tailorbird -C shop formula show

    Example:  tailorbird -C shop formula show --history

    Parameters
    ----------
    history:
        show every change, newest first, with its author and reason
    """
    import msgspec

    from tailorbird.registry import read_formulas
    from tailorbird.serving.pipeline.formulas import describe_formulas

    project, registry = open_registry()
    if history:
        changes = read_formulas(registry.path).changes[::-1]
        if json:
            print_json({"changes": msgspec.to_builtins(changes)})
            return
        rows = [
            (
                change.version,
                format_time(change.at),
                change.slot,
                change.text or "as declared",
                change.by,
                change.why,
            )
            for change in changes
        ]
        print_table("", ["version", "set", "slot", "formula", "by", "why"], rows)
        return
    formulas = describe_formulas(registry, project.slots.values())
    if json:
        print_json({"formulas": msgspec.to_builtins(formulas)})
        return
    rows = [
        (
            formula.slot,
            formula.formula,
            f"{formula.version}, {format_time(formula.at)}" if formula.version else "slots.py",
        )
        for formula in formulas
    ]
    print_table("", ["slot", "formula", "from"], rows)
    for formula in formulas:
        if formula.missing:
            console().print(
                f"slot {formula.slot}: the champion predicts no {', '.join(formula.missing)}; left "
                "out until a model does"
            )


def set(
    slot: str,
    formula: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    why: Why,
    by: By = "",
) -> None:
    """Change the value formula of a slot, without a new model or a restart.

    Servers apply it within a second. Each answer logs the formula that ordered it. A head that the
    champion does not predict is refused.

    Example:  tailorbird -C shop formula set home "1.0*click + 8.0*purchase" --why "December"

    Parameters
    ----------
    slot:
        name of a slot in slots.py
    formula:
        a sum of heads, each with its weight
    """
    from tailorbird.config import open_project
    from tailorbird.errors import UsageError
    from tailorbird.platform.models.formulas import set_formula

    if not formula.strip():
        raise UsageError(
            "the formula is empty",
            fix=f"such as 1.0*click; its own: tailorbird formula reset {slot} --why …",
        )
    change = set_formula(open_project(), slot, formula, why=why, by=by)
    console().print(
        f"{change.version}: slot {slot} orders by {change.text}. Back:  tailorbird formula "
        f"reset {slot} --why …"
    )


def reset(slot: str, *, why: Why, by: By = "") -> None:
    """Return to the slot's own formula in slots.py.

    Example:  tailorbird -C shop formula reset home --why "December is over"

    Parameters
    ----------
    slot:
        name of a slot in slots.py
    """
    from tailorbird.config import open_project
    from tailorbird.platform.models.formulas import set_formula
    from tailorbird.ranking.policy.formula import format_formula

    project = open_project()
    change = set_formula(project, slot, "", why=why, by=by)
    console().print(
        f"{change.version}: slot {slot} orders by its own formula again: "
        f"{format_formula(project.slot(slot).objective)}"
    )
