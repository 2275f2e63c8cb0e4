"""`tailorbird formula show|set|reset`."""

import getpass
from typing import Annotated

from cyclopts import Parameter

from tailorbird.cli.models import open_registry, time_told
from tailorbird.cli.output import By, Json, Why, console, print_json, print_table


def show(*, history: bool = False, json: Json = False) -> None:
    """Show what an item is worth to each slot now, and since when.

    Example:  tailorbird -C shop formula show

    Example:  tailorbird -C shop formula show --history

    Parameters
    ----------
    history:
        every change, newest first, with who and why
    """
    import msgspec

    from tailorbird.registry import read_formulas
    from tailorbird.serving.formulas import describe_formulas

    project, registry = open_registry()
    if history:
        changes = read_formulas(registry.path).changes[::-1]
        if json:
            print_json({"changes": msgspec.to_builtins(changes)})
            return
        rows = [
            (
                each.version,
                time_told(each.at),
                each.slot,
                each.text or "as declared",
                each.by,
                each.why,
            )
            for each in changes
        ]
        print_table("", ["version", "set", "slot", "formula", "by", "why"], rows)
        return
    told = describe_formulas(registry, project.slots.values())
    if json:
        print_json({"formulas": msgspec.to_builtins(told)})
        return
    rows = [
        (
            each.slot,
            each.formula,
            f"{each.version}, {time_told(each.at)}" if each.version else "slots.py",
        )
        for each in told
    ]
    print_table("", ["slot", "formula", "from"], rows)
    for each in told:
        if each.missing:
            console().print(
                f"slot {each.slot}: the champion predicts no {', '.join(each.missing)}; left "
                "out until a model does"
            )


def set(
    slot: str,
    formula: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    why: Why,
    by: By = "",
) -> None:
    """Change what an item is worth to a slot: servers take it within a second, without a new model
    and without a restart.

    Each answer logs the formula that ordered it. A head that the champion does not predict is
    refused.

    Example:  tailorbird -C shop formula set home "1.0*click + 8.0*purchase" --why "purchases count more in December"

    Parameters
    ----------
    slot:
        of slots.py
    formula:
        a sum of heads, each with its weight
    """
    from tailorbird.errors import UsageError
    from tailorbird.serving.formulas import set_formula

    if not formula.strip():
        raise UsageError(
            "the formula is empty",
            fix=f"such as 1.0*click; its own: tailorbird formula reset {slot} --why …",
        )
    project, registry = open_registry()
    change = set_formula(registry, project.slot(slot), formula, by=by or getpass.getuser(), why=why)
    console().print(
        f"{change.version}: slot {slot} orders by {change.text}. Back:  tailorbird formula "
        f"reset {slot} --why …"
    )


def reset(slot: str, *, why: Why, by: By = "") -> None:
    """Let the slot's own formula of slots.py hold again.

    Example:  tailorbird -C shop formula reset home --why "December is over"

    Parameters
    ----------
    slot:
        of slots.py
    """
    from tailorbird.ranking.formula import format_formula
    from tailorbird.serving.formulas import set_formula

    project, registry = open_registry()
    declared = project.slot(slot)
    change = set_formula(registry, declared, "", by=by or getpass.getuser(), why=why)
    console().print(
        f"{change.version}: slot {slot} orders by its own formula again: {format_formula(declared.objective)}"
    )
