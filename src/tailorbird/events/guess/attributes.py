"""Detection of item and user attributes: columns that are constant over all rows of their owner."""

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.guess.names import ATTRIBUTE_NAMES, has_usual_name

_AGREEMENT_MIN = 0.99  # share of owners whose rows must agree
_TITLE_AGREEMENT_MIN = 0.8  # for titles, which shops rewrite now and then; the last one counts
_OWNERS_MIN = 5  # minimum number of owners with several rows


def find_attributes(
    sample: pa.RecordBatch, roles: dict[str, str], column_names: list[str]
) -> dict[str, str]:
    """Return the owner, `items` or `users`, of each column that is an attribute.

    Args:
        sample: rows from all over a file of events.
        roles: role → column.
        column_names: columns without a role.
    """
    owner_by_column: dict[str, str] = {}
    for owner, role in (("items", "item_id"), ("users", "user_id")):
        if role in roles:
            candidates = [
                name
                for name in column_names
                if name not in owner_by_column and _has_varying_values(sample.column(name))
            ]
            owner_by_column |= dict.fromkeys(
                _find_constant_columns(
                    sample, roles[role], candidates, may_retitle=owner == "items"
                ),
                owner,
            )
    return owner_by_column


def _has_varying_values(column: pa.Array) -> bool:
    return (
        not pa.types.is_null(column.type) and pc.count_distinct(_to_countable(column)).as_py() > 1
    )


def _find_constant_columns(
    sample: pa.RecordBatch, owner_column: str, column_names: list[str], *, may_retitle: bool
) -> list[str]:
    """Return the columns that are constant within all rows of an owner, empty values aside."""
    if not column_names:
        return []
    columns = {name: _to_countable(sample.column(name)) for name in column_names}
    table = pa.table(
        {"owner": sample.column(owner_column), "one": pa.repeat(1, sample.num_rows)}
        | {str(number): column for number, column in enumerate(columns.values())}
    )
    counts_by_owner = table.group_by("owner", use_threads=False).aggregate(
        [
            ("one", "sum"),
            *(
                (str(number), "count_distinct", pc.CountOptions(mode="only_valid"))
                for number in range(len(column_names))
            ),
        ]
    )
    repeated_owners = counts_by_owner.filter(pc.greater(counts_by_owner["one_sum"], 1))
    if repeated_owners.num_rows < _OWNERS_MIN:
        return []
    shares = {
        name: pc.mean(pc.less_equal(repeated_owners[f"{number}_count_distinct"], 1)).as_py()
        for number, name in enumerate(column_names)
    }
    share_min_by_column = {
        name: _TITLE_AGREEMENT_MIN
        if may_retitle and has_usual_name(name, ATTRIBUTE_NAMES["title"])
        else _AGREEMENT_MIN
        for name in column_names
    }
    return [name for name, share in shares.items() if share >= share_min_by_column[name]]


def _to_countable(column: pa.Array) -> pa.Array:
    """Return a column whose values can be counted: lists as their text."""
    if not pa.types.is_nested(column.type):
        return column
    return pa.array(
        [None if value is None else str(value) for value in column.to_pylist()], pa.string()
    )
