"""Checks of slots: their rules, lists and formulas, against the items of the lake."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailorbird.errors import TailorbirdError, suggest_name
from tailorbird.platform.diagnostics.external import Finding
from tailorbird.storage_paths import StoragePath

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.retrieval import Index


_ITEM_VERSIONS_MAX = 50_000  # Versions of items to examine if there is no champion.


def check_formulas(project: "Project") -> Iterator[Finding]:
    """Find formulas with heads that the champion does not predict."""
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry
    from tailorbird.serving.pipeline.formulas import describe_formulas

    try:
        formulas = describe_formulas(
            Registry(project.paths.registry, clock=SystemClock()), project.slots.values()
        )
    except TailorbirdError as error:
        yield "formulas", "error", error.message, error.fix
        return
    for formula in formulas:
        if formula.missing:
            fix = (
                "tailorbird train, once there are enough of them, or leave them out: "
                f"tailorbird formula set {formula.slot} …"
            )
            yield (
                f"formula: {formula.slot}",
                "warning",
                f"the champion predicts no {', '.join(formula.missing)}: left out of the value",
                fix,
            )


def check_slot_rules(project: "Project") -> Iterator[Finding]:
    """Find unknown attributes in rules, and slots whose rules leave no item.

    Items are those of the champion's index, or else those of the lake.
    """
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry
    from tailorbird.retrieval import Index
    from tailorbird.serving.pipeline.slot_rules import RARE_ATTRIBUTES, SlotRules

    try:
        champion = Registry(project.paths.registry, clock=SystemClock()).champion_folder()
        slot_rules = [SlotRules(slot) for slot in project.slots.values()]
        index = (
            _index_lake_items(project.paths.lake)
            if champion is None
            else Index.open(champion / "index")
        )
    except (TailorbirdError, OSError, ValueError) as error:
        yield "rules", "error", str(error), "tailorbird models show champion"
        return
    if not len(index):
        return
    yield from _check_lists(project, index)
    attributes = sorted(index.attributes)
    for rules in slot_rules:
        slot = rules.slot.name
        for name in sorted(rules.item_attributes - {*attributes, *RARE_ATTRIBUTES}):
            fix = suggest_name(
                name,
                attributes,
                f"use one of {', '.join(attributes) or 'none: no item has any'}",
                owner="item.",
            )
            yield f"rules: {slot}", "warning", f"item.{name} is asked for, and no item has it", fix
        if reason := rules.explain_empty(index):
            text = f"shows nothing of {len(index):,} items: {reason}"
            yield (
                f"rules: {slot}",
                "warning",
                text,
                "mend the rule in slots.py, or send items that satisfy it",
            )
        for rule in [] if reason else rules.rules_unmet_by_strangers(index):
            text = (
                "shows nothing to people of whom nothing is known, as everybody at first: no "
                f"item satisfies {rule}"
            )
            yield (
                f"rules: {slot}",
                "warning",
                text,
                "say in the rule what then: missing(user.…) or …",
            )


def _check_lists(project: "Project", index: "Index") -> "Iterator[Finding]":
    """Find unknown items in editorial lists, and lists that are not declared."""
    from tailorbird.serving.pipeline.editorial import LISTS_FILE, check_lists

    try:
        items_by_list = check_lists(project.root / LISTS_FILE, project.slots.values())
    except TailorbirdError as error:
        yield "lists", "error", error.message, error.fix
        return
    for name, items in items_by_list.items():
        if unknown_items := [
            item for item, row in zip(items, index.find_ids(items).tolist(), strict=True) if row < 0
        ]:
            text = (
                f"{len(unknown_items):,} of {len(items):,} items are not known: "
                f"{', '.join(unknown_items[:5])}{', …' if len(unknown_items) > 5 else ''}"
            )
            yield f"list: {name}", "warning", text, f"mend {LISTS_FILE}, or send these items"


def _index_lake_items(lake_path: StoragePath) -> "Index":
    """Return an index of the newest item versions in the lake, up to a limit."""
    import json

    from tailorbird.lake import Lake
    from tailorbird.retrieval import Index, NewItem, with_items

    reader = Lake(lake_path)
    if not reader.exists("items"):
        return Index.from_ids(())
    rows = reader.table("items", ["id", "valid_from", "attributes"]).sort_by("valid_from")
    # The last one of several versions of an item counts.
    newest_rows = rows.slice(max(0, len(rows) - _ITEM_VERSIONS_MAX)).to_pylist()
    return with_items(
        Index.from_ids(()),
        [NewItem(row["id"], json.loads(row["attributes"] or "{}"), 0) for row in newest_rows],
    )
