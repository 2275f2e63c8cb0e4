"""`tailorbird sql`: query the lake."""

import csv as csv_module
import re
import sys
from datetime import datetime

import msgspec

from tailorbird.cli.output import Json, print_json, print_table

# Text that a spreadsheet would run as a formula (OWASP, CSV injection), except a plain number.
_SPREADSHEET_FORMULA = re.compile(r"[=+\-@\t\r](?![0-9.,]*([eE][+-]?[0-9]+)?\Z)|[=@\t\r]")


def sql(
    query: str,
    *,
    rows: int = 50,
    json: Json = False,
    csv: bool = False,
    as_is: bool = False,
    timeout: str = "5m",
    memory: str = "4GB",
) -> None:
    """Query the lake in SQL.

    Tables: events, answers, users, items, quarantine, duplicates, commits.

    Example:  tailorbird sql "SELECT type, count(*) AS events FROM events GROUP BY type"

    Example:  tailorbird sql "SELECT * FROM quarantine" --csv > refused.csv

    Parameters
    ----------
    query:
        one SELECT; it cannot change anything
    rows:
        maximum number of rows to print; --json and --csv print all
    csv:
        print comma-separated values; a text that a spreadsheet would take for a formula (=, +, -,
        @) gets a leading '
    as_is:
        with --csv, do not escape formulas, for programs
    timeout:
        time limit of the query; Ctrl-C ends it at once
    memory:
        memory limit of the query
    """
    from tailorbird.cli.limits import continue_in_child, parse_size
    from tailorbird.events import SECOND, parse_duration

    continue_in_child(parse_duration(timeout) / SECOND, parse_size(memory))
    from tailorbird.config import open_project
    from tailorbird.lake import Lake

    table = Lake(open_project().paths.lake).sql(query)
    if json:
        print_json({"columns": table.column_names, "rows": table.to_pylist()})
    elif csv:
        writer = csv_module.writer(sys.stdout, lineterminator="\n")
        to_cell = _to_cell if as_is else _to_safe_cell
        writer.writerow([to_cell(name) for name in table.column_names])
        for batch in table.to_batches():
            writer.writerows(
                [to_cell(value) for value in row.values()] for row in batch.to_pylist()
            )
    else:
        printed_rows = table.slice(0, rows).to_pylist()
        print_table("", table.column_names, [list(row.values()) for row in printed_rows])
        if table.num_rows > rows:
            print(f"… {table.num_rows - rows:,} more rows (--rows {table.num_rows})")


def _to_cell(value: object) -> object:
    """Return a value for a CSV cell: times as text, lists as JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value


def _to_safe_cell(value: object) -> object:
    """Return a value for a CSV cell that a spreadsheet does not run as a formula."""
    cell = _to_cell(value)
    return f"'{cell}" if isinstance(cell, str) and _SPREADSHEET_FORMULA.match(cell) else cell
