"""Roles of columns (user, item, time, …), by their names and values."""

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.guess.kind import NOT_EVENT_TIME_NAMES, can_be_time
from tailorbird.events.guess.names import ROLE_NAMES, find_usual_columns
from tailorbird.events.guess.values import ColumnGuess, MappingHints

_LATER_SHARE_MIN = 0.5
_TYPES_MAX = 100  # event types of a site; more are something else, such as titles


def assign_roles(
    sample: pa.RecordBatch, hints: MappingHints
) -> tuple[dict[str, str], list[ColumnGuess]]:
    """Return role → column, and the reason for each."""
    roles: dict[str, str] = {}
    column_guesses: list[ColumnGuess] = []
    names = sample.schema.names
    for role, role_names in ROLE_NAMES.items():
        for name in find_usual_columns(names, role_names):
            if (
                role in roles
                or name in roles.values()
                or not _allows_role(role, sample.column(name), hints)
            ):
                continue
            roles[role] = name
            column_guesses.append(ColumnGuess(name, role, "its name is usual for it"))
    time_columns = [
        name
        for name in names
        if pa.types.is_timestamp(sample.column(name).type) or name.lower().endswith("_date")
    ]
    time_columns = [
        name
        for name in time_columns
        if name.lower() not in NOT_EVENT_TIME_NAMES and can_be_time(sample.column(name))
    ]
    if "ts" not in roles and len(time_columns) == 1:
        roles["ts"] = time_columns[0]
        column_guesses.append(ColumnGuess(time_columns[0], "ts", "the only column of times"))
    elif "ts" not in roles and (earliest_column := _find_earliest(sample, time_columns)):
        roles["ts"] = earliest_column
        column_guesses.append(
            ColumnGuess(
                earliest_column,
                "ts",
                f"in each row the first of its times: {', '.join(time_columns)}",
            )
        )
    if "session_id" in roles and "user_id" not in roles and "anonymous_id" not in roles:
        roles["anonymous_id"] = roles["session_id"]
        column_guesses.append(
            ColumnGuess(
                roles["session_id"],
                "anonymous_id",
                "there is no user, so each session is a person of its own",
            )
        )
    return roles, column_guesses


def _allows_role(role: str, column: pa.Array, hints: MappingHints) -> bool:
    """Return whether the values of a column allow a role."""
    if role == "ts":
        return can_be_time(column) or bool(hints.ts_format and pa.types.is_string(column.type))
    if role == "type":
        return pa.types.is_string(column.type) and len(column.unique()) <= _TYPES_MAX
    if role in ("session_id", "user_id", "item_id") and column.null_count > len(column) / 2:
        return False
    return not pa.types.is_nested(column.type)


def _find_earliest(sample: pa.RecordBatch, names: list[str]) -> str:
    """Return the column whose time is never after that of another, or ""."""
    time_columns = [name for name in names if pa.types.is_timestamp(sample.column(name).type)]
    for name in time_columns:
        other_times = [sample.column(other) for other in time_columns if other != name]
        if other_times and not any(
            pc.any(pc.greater(sample.column(name), other)).as_py() for other in other_times
        ):
            return name
    return ""


def is_mostly_later(column: pa.Array, ts: pa.Array) -> bool:
    """Return whether a column is a time later than the event in most rows."""
    if not (
        pa.types.is_timestamp(column.type) and pa.types.is_timestamp(ts.type)
    ) or column.null_count == len(column):
        return False
    return pc.mean(pc.greater(column, ts).cast(pa.float64())).as_py() > _LATER_SHARE_MIN
