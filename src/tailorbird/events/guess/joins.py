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

from tailorbird.events.guess.facts import TableFacts
from tailorbird.events.guess.inspection import Inspection
from tailorbird.events.guess.kind import is_unique
from tailorbird.events.guess.roles import assign_roles
from tailorbird.events.guess.values import ColumnGuess, MappingHints
from tailorbird.events.tables.columns import read_sample
from tailorbird.events.tables.forms import Join

_USER_ROLES = ("user_id", "anonymous_id")


def join_tables(
    inspections: Mapping[Path, Inspection], hints: MappingHints
) -> tuple[dict[Path, Inspection], dict[Path, str]]:
    """Add the joins to each inspected file.

    Also returns the files that were joined into others, each with a reason.
    """
    roles_by_file = {
        file: assign_roles(TableFacts(inspection.sample), hints, file.name)[0]
        for file, inspection in inspections.items()
    }
    reason_by_joined_file: dict[Path, str] = {}
    joined_inspections = dict(inspections)
    for file, inspection in inspections.items():
        for other_file, key in (
            *_find_order_table(file, inspections, roles_by_file),
            *_find_lookup_tables(file, inspections, roles_by_file),
        ):
            table_spec, _, notes = joined_inspections[file]
            table_spec = replace(table_spec, joins=(*table_spec.joins, Join(other_file, key)))
            why = f"joined by {key}, which no two of its rows share"
            note = ColumnGuess("", f"join {other_file.name}", why)
            joined_inspections[file] = Inspection(table_spec, inspection.sample, [*notes, note])
            reason_by_joined_file[other_file] = f"joined to {file.name} by {key}"
    return {
        file: Inspection(
            table_spec, read_sample(file, table_spec) if table_spec.joins else sample, notes
        )
        for file, (table_spec, sample, notes) in joined_inspections.items()
    }, reason_by_joined_file


def _find_order_table(
    file: Path, inspections: Mapping[Path, Inspection], roles_by_file: Mapping[Path, dict[str, str]]
) -> list[tuple[Path, str]]:
    """Return the table that adds user and time to rows with only an item, and the key."""
    own_roles = roles_by_file[file]
    missing_roles = {
        role
        for role, has_role in (("person", _has_user(own_roles)), ("ts", "ts" in own_roles))
        if not has_role
    }
    if "item_id" not in own_roles or not missing_roles:
        return []
    for other_file in inspections:
        other_roles = roles_by_file[other_file]
        provided_roles = {
            role
            for role, has_role in (("person", _has_user(other_roles)), ("ts", "ts" in other_roles))
            if has_role
        } & missing_roles
        if (
            other_file == file
            or "item_id" in other_roles
            or "person" in missing_roles - provided_roles
            or not provided_roles
        ):
            continue
        keys = [
            name
            for name in _find_join_keys(inspections[file].sample, inspections[other_file].sample)
            if name != own_roles["item_id"]
        ]
        if keys:
            return [(other_file, keys[0])]
    return []


def _find_lookup_tables(
    file: Path, inspections: Mapping[Path, Inspection], roles_by_file: Mapping[Path, dict[str, str]]
) -> list[tuple[Path, str]]:
    """Return the lookup tables that name the values of a column, and the column."""
    sample = inspections[file].sample
    own_roles = roles_by_file[file]
    if (
        "item_id" not in own_roles
        or _has_user(own_roles)
        or not is_unique(sample.column(own_roles["item_id"]))
    ):
        return []
    lookup_tables = [
        other_file
        for other_file in inspections
        if other_file != file and not {"item_id", *_USER_ROLES} & roles_by_file[other_file].keys()
    ]
    return [
        (other_file, keys[0])
        for other_file in lookup_tables
        if (keys := _find_join_keys(sample, inspections[other_file].sample))
        and keys[0] != own_roles["item_id"]
    ]


def _has_user(column_by_role: Mapping[str, str]) -> bool:
    """Return whether a column identifies a user; a session that stands for one does not."""
    return any(
        role in column_by_role and column_by_role[role] != column_by_role.get("session_id")
        for role in _USER_ROLES
    )


def _find_join_keys(sample: pa.RecordBatch, other_sample: pa.RecordBatch) -> list[str]:
    """Return the columns that both tables have and that are unique in the second."""
    shared_columns = [name for name in sample.schema.names if name in other_sample.schema.names]
    return [
        name
        for name in shared_columns
        if other_sample.num_rows > 1 and is_unique(other_sample.column(name))
    ]
