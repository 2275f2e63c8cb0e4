"""Detection of joins: order lines whose time and customer are in the order, and lookup tables.

order_items(order_id, product_id, price) + orders(order_id, customer_id, created_at)
    by order_id
products(product_id, department_id) + departments(department_id, department)
    by department_id
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from tailorbird.events.guess.inspection import Inspection
from tailorbird.events.guess.kind import is_unique
from tailorbird.events.guess.roles import roles_of
from tailorbird.events.guess.values import ColumnGuess, MappingHints
from tailorbird.events.tables.columns import read_sample
from tailorbird.events.tables.forms import Join

_PERSON = ("user_id", "anonymous_id")


def join_tables(
    inspections: Mapping[Path, Inspection], hints: MappingHints
) -> tuple[dict[Path, Inspection], dict[Path, str]]:
    """Add the joins to each inspected file.

    Also returns the files that were joined into others, each with a reason.
    """
    roles = {file: roles_of(inspection[1], hints)[0] for file, inspection in inspections.items()}
    joined_to: dict[Path, str] = {}
    joined_inspections = dict(inspections)
    for file, inspection in inspections.items():
        for other, key in (
            *_order_tables(file, inspections, roles),
            *_lookup_tables(file, inspections, roles),
        ):
            form, _, notes = joined_inspections[file]
            form = replace(form, joins=(*form.joins, Join(other, key)))
            why = f"joined by {key}, which no two of its rows share"
            joined_inspections[file] = (
                form,
                inspection[1],
                [*notes, ColumnGuess("", f"join {other.name}", why)],
            )
            joined_to[other] = f"joined to {file.name} by {key}"
    return {
        file: (form, read_sample(file, form) if form.joins else sample, notes)
        for file, (form, sample, notes) in joined_inspections.items()
    }, joined_to


def _order_tables(
    file: Path, inspections: Mapping[Path, Inspection], roles: Mapping[Path, dict[str, str]]
) -> list[tuple[Path, str]]:
    """Return the table that adds user and time to rows with only an item, and the key."""
    own_roles = roles[file]
    missing = {
        role
        for role, has_role in (("person", _has_person(own_roles)), ("ts", "ts" in own_roles))
        if not has_role
    }
    if "item_id" not in own_roles or not missing:
        return []
    for other in inspections:
        other_roles = roles[other]
        provided_roles = {
            role
            for role, has_role in (
                ("person", _has_person(other_roles)),
                ("ts", "ts" in other_roles),
            )
            if has_role
        } & missing
        if (
            other == file
            or "item_id" in other_roles
            or "person" in missing - provided_roles
            or not provided_roles
        ):
            continue
        keys = [
            name
            for name in _find_join_keys(inspections[file][1], inspections[other][1])
            if name != own_roles["item_id"]
        ]
        if keys:
            return [(other, keys[0])]
    return []


def _lookup_tables(
    file: Path, inspections: Mapping[Path, Inspection], roles: Mapping[Path, dict[str, str]]
) -> list[tuple[Path, str]]:
    """Return the lookup tables that name the values of a column, and the column."""
    sample, own_roles = inspections[file][1], roles[file]
    if (
        "item_id" not in own_roles
        or _has_person(own_roles)
        or not is_unique(sample.column(own_roles["item_id"]))
    ):
        return []
    lists = [
        other
        for other in inspections
        if other != file and not {"item_id", *_PERSON} & roles[other].keys()
    ]
    return [
        (other, keys[0])
        for other in lists
        if (keys := _find_join_keys(sample, inspections[other][1]))
        and keys[0] != own_roles["item_id"]
    ]


def _has_person(roles: Mapping[str, str]) -> bool:
    """Return whether a column identifies a user; a session that stands for one does not."""
    return any(role in roles and roles[role] != roles.get("session_id") for role in _PERSON)


def _find_join_keys(sample: pa.RecordBatch, other: pa.RecordBatch) -> list[str]:
    """Return the columns that both tables have and that are unique in the second."""
    shared = [name for name in sample.schema.names if name in other.schema.names]
    return [name for name in shared if other.num_rows > 1 and is_unique(other.column(name))]
