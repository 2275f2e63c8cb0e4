"""`tailorbird lake verify|quarantine`."""

from tailorbird.cli.output import Json, console, print_json, print_table


def verify(*, json: Json = False) -> None:
    """Check archive, ledger and tables against each other, to the last row and checksum. Ends with status 1 if anything differs.

    Example:  tailorbird -C shop lake verify
    """
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.lake import verify as run_verify

    report = run_verify(open_project().paths.lake)
    if json:
        print_json(msgspec.to_builtins(report))
    else:
        console().print(str(report), markup=False)
    raise SystemExit(0 if report.clean else 1)


def quarantine(*, rows: int = 10, json: Json = False) -> None:
    """Show what was refused: counts by reason, and samples with their path and message. Everything is kept whole.

    Example:  tailorbird -C shop lake quarantine

    Parameters
    ----------
    rows:
        how many samples to print
    """
    from tailorbird.config import open_project
    from tailorbird.lake import Lake

    lake = Lake(open_project().paths.lake)
    counts = lake.sql("SELECT code, count(*) AS rows FROM quarantine GROUP BY code ORDER BY rows DESC").to_pylist()
    samples = lake.sql(f"SELECT received_at, source, code, path, message, body FROM quarantine LIMIT {max(0, int(rows))}").to_pylist()
    if json:
        print_json({"counts": counts, "samples": [{**row, "body": _text(row["body"])} for row in samples]})
        return
    if not counts:
        console().print("The quarantine is empty.")
        return
    print_table("Refused, by reason", ["code", "rows"], [list(row.values()) for row in counts], right=["rows"])
    shown = [(row["code"], row["path"], row["message"], _text(row["body"])[:120]) for row in samples]
    print_table("Samples", ["code", "path", "message", "body"], shown)


def _text(body: bytes) -> str:
    return bytes(body).decode(errors="replace")
