"""A guessed source as a `[[source]]` table of mapping.toml."""

from pathlib import Path

import pyarrow as pa

from tailorbird.events.guess.event_types import explain_type, format_type_line, get_stem
from tailorbird.events.guess.kind import compute_median
from tailorbird.events.guess.quoting import toml_key, toml_string
from tailorbird.events.guess.values import ColumnGuess
from tailorbird.events.tables.forms import TableSpec


def format_source(
    file: Path,
    kind: str,
    sample: pa.RecordBatch,
    roles: dict[str, str],
    columns: list[ColumnGuess],
    table_spec: TableSpec,
    ts_format: str,
    *,
    is_distinct: bool = False,
) -> str:
    """Return the source as TOML."""
    lines = ["[[source]]", f"file = {toml_string(file.name)}", f'kind = "{kind}"']
    lines += (
        ["distinct = true  # one for each, with what most of its rows say"] if is_distinct else []
    )
    lines += (
        [f"delimiter = {toml_string(table_spec.delimiter)}  # its first lines have it"]
        if table_spec.delimiter
        else []
    )
    lines += (
        ['decimal = ","  # all numbers of a column have one']
        if table_spec.decimal_sign == ","
        else []
    )
    lines += (
        [f"columns = [{', '.join(map(toml_string, table_spec.columns))}]"]
        if table_spec.columns
        else []
    )
    if kind == "events":
        lines.append(
            f"{format_type_line(sample, roles, get_stem(file))}  # "
            f"{explain_type(sample, roles, get_stem(file))}"
        )
    if "ts" in roles:
        lines.append(f"ts = {toml_string(roles['ts'])}{_reason_comment(columns, 'ts')}")
        ts_unit = guess_ts_unit(sample.column(roles["ts"]))
        if ts_unit != "us":
            lines.append(f'ts_unit = "{ts_unit}"')
        if ts_format:
            lines.append(f"ts_format = {toml_string(ts_format)}  # so its times are written")
    lines += [
        f"{role} = {toml_string(roles[role])}{_reason_comment(columns, role)}"
        for role in ("event_id", "user_id", "anonymous_id", "session_id", "item_id", "request_id")
        if role in roles
    ]
    for join in table_spec.joins:
        lines += [
            "[[source.join]]",
            f"file = {toml_string(join.file.name)}",
            f"on = {toml_string(join.key_column)}",
        ]
    for section in ("context", "properties"):
        section_columns = [entry for entry in columns if entry.role.startswith(section + ".")]
        if section_columns:
            lines.append(f"[source.{section}]")
            lines += [
                f"{toml_key(entry.role.partition('.')[2])} = {toml_string(entry.column)}"
                f"  # {entry.why}"
                for entry in section_columns
            ]
    return "\n".join(lines) + "\n"


def _reason_comment(columns: list[ColumnGuess], role: str) -> str:
    """Return the reason of a role as a comment."""
    return next((f"  # {column.why}" for column in columns if column.role == role), "")


def guess_ts_unit(column: pa.Array) -> str:
    """Return the unit of times: of numbers by their size, `us` for the rest."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return "us"
    median = compute_median(column) or 0
    return "s" if median < 1e11 else "ms" if median < 1e14 else "us"
