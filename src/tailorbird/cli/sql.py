"""`tailorbird sql`."""

import csv as csv_module
import re
import sys
from datetime import datetime

import msgspec

from tailorbird.cli.output import Json, print_json, print_table

# What a spreadsheet runs (OWASP, CSV injection), but for a lone number.
_FORMULA = re.compile(r"[=+\-@\t\r](?![0-9.,]*([eE][+-]?[0-9]+)?\Z)|[=@\t\r]")


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
    """Ask the lake in SQL. Tables: events, answers, users, items, quarantine, duplicates, commits.

    Example:  tailorbird sql "SELECT type, count(*) AS events FROM events GROUP BY type ORDER BY events DESC"

    Example:  tailorbird sql "SELECT * FROM quarantine" --csv > refused.csv

    Parameters
    ----------
    query:
        one SELECT; nothing can be changed by it
    rows:
        how many rows to print at most; --json and --csv print all
    csv:
        print comma-separated values; a text that a spreadsheet would take for a formula (=, +, -,
            @) begins with '
    as_is:
        with --csv, for programs: such texts as they are
    timeout:
        after which time to give up; Ctrl-C does so at once
    memory:
        how much the query may take before it is given up
    """
    from tailorbird.cli.limits import go_on_within, size_of
    from tailorbird.events import SECOND, parse_duration

    go_on_within(parse_duration(timeout) / SECOND, size_of(memory))
    from tailorbird.config import open_project
    from tailorbird.lake import Lake

    table = Lake(open_project().paths.lake).sql(query)
    if json:
        print_json({"columns": table.column_names, "rows": table.to_pylist()})
    elif csv:
        writer = csv_module.writer(sys.stdout, lineterminator="\n")
        cell = _cell if as_is else _guarded
        writer.writerow([cell(name) for name in table.column_names])
        for batch in table.to_batches():
            writer.writerows([cell(value) for value in row.values()] for row in batch.to_pylist())
    else:
        shown = table.slice(0, rows).to_pylist()
        print_table("", table.column_names, [list(row.values()) for row in shown])
        if table.num_rows > rows:
            print(f"… {table.num_rows - rows:,} more rows (--rows {table.num_rows})")


def _cell(value: object) -> object:
    """A value as a spreadsheet takes it: times as text, lists as JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value


def _guarded(value: object) -> object:
    """Likewise, so that nothing that somebody sent is run by it."""
    cell = _cell(value)
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
