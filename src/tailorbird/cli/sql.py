"""`tailorbird sql`."""

import sys

from tailorbird.cli.output import Json, print_json, print_table


def sql(query: str, *, rows: int = 50, json: Json = False, csv: bool = False) -> None:
    """Ask the lake in SQL. Tables: events, answers, users, items, quarantine, commits.

    Example:  tailorbird sql "SELECT type, count(*) AS events FROM events GROUP BY type ORDER BY events DESC"

    Example:  tailorbird sql "SELECT * FROM quarantine" --csv > refused.csv

    Parameters
    ----------
    query:
        one SELECT; nothing can be changed by it
    rows:
        how many rows to print at most; --json and --csv print all
    csv:
        print comma-separated values
    """
    from tailorbird.config import open_project
    from tailorbird.lake import Lake

    table = Lake(open_project().paths.lake).sql(query)
    if json:
        print_json({"columns": table.column_names, "rows": table.to_pylist()})
    elif csv:
        import pyarrow.csv

        pyarrow.csv.write_csv(table, sys.stdout.buffer)
    else:
        shown = table.slice(0, rows).to_pylist()
        print_table("", table.column_names, [list(row.values()) for row in shown])
        if table.num_rows > rows:
            print(f"… {table.num_rows - rows:,} more rows (--rows {table.num_rows})")
