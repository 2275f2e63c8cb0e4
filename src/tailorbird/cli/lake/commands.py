"""`tailorbird lake verify|quarantine|replay`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.output import Json, console, print_json, print_table, progress_bars

if TYPE_CHECKING:
    from tailorbird.lake.write.replay import ReplayReport

_BODY_CHARS_SHOWN = 160
_PATHS_SHOWN = 3


def verify(*, erased: str = "", deep: bool = False, json: Json = False) -> None:
    """Check archive, ledger and tables against each other, to the last row and checksum.

    It ends with status 1 if anything differs. It counts the rows of the logs that are not in the
    tables yet, and names what a plain copy of a running project lacks.

    Example:  tailorbird -C shop lake verify

    Example:  tailorbird -C shop lake verify --deep

    Example:  tailorbird -C shop lake verify --erased 42

    Parameters
    ----------
    erased:
        search every byte of the project for this user instead, who was erased; - reads the id from
            standard input
    deep:
        compare the content of each archived row with the tables' too; takes several times as long
    """
    from tailorbird.config import open_project
    from tailorbird.platform.lake.verify import verify as verify_lake

    if erased:
        from tailorbird.cli.lake.privacy import print_search

        print_search(erased, json)
    result = verify_lake(open_project(), deep=deep)
    if json:
        print_json(result.to_dict())
    else:
        console().print(repr(result))
    raise SystemExit(0 if result.is_sound else 1)


def quarantine(
    *,
    reason: list[str] | None = None,
    path: str = "",
    since: str = "",
    limit: Annotated[int, Parameter(name=["--limit", "--rows"])] = 10,
    json: Json = False,
) -> None:
    """Show refused rows: by reason their number, first and last time and fields, and samples.

    Rows are kept exactly as received.

    After a fix, `lake replay` sends it again; `replayed` counts the rows that were.

    Example:  tailorbird -C shop lake quarantine

    Example:  tailorbird -C shop lake quarantine --reason bad_time --limit 3

    Parameters
    ----------
    reason:
        only this reason; may be given several times
    path:
        only where this field was wrong, or one below it, such as $.properties
    since:
        only what came in at this time or later
    limit:
        how many samples to print, the newest first
    """
    from tailorbird.config import open_project
    from tailorbird.events import to_iso
    from tailorbird.platform.lake.replay import read_quarantine

    result = read_quarantine(
        open_project(), reasons=reason or (), path=path, since=since, limit=limit
    )
    if json:
        counts = [
            {
                "code": reason_count.code,
                "rows": reason_count.rows,
                "replayed": reason_count.replayed,
                "first": to_iso(reason_count.first),
                "last": to_iso(reason_count.last),
                "paths": reason_count.paths,
            }
            for reason_count in result.reasons
        ]
        print_json(
            {
                "counts": counts,
                "samples": [{**row, "body": _decode_body(row["body"])} for row in result.samples],
            }
        )
        return
    if not result.reasons:
        console().print(
            "The quarantine is empty."
            if not (reason or path or since)
            else "Nothing was refused for that."
        )
        return
    rows = [
        (
            reason.code,
            reason.rows,
            reason.replayed,
            _format_time(reason.first),
            _format_time(reason.last),
            _format_paths(reason.paths),
        )
        for reason in result.reasons
    ]
    print_table(
        "Refused, by reason",
        ["code", "rows", "replayed", "first", "last", "fields"],
        rows,
        numeric_columns=["rows", "replayed"],
    )
    if result.samples:
        print_table(
            "Samples",
            ["code", "path", "message", "body"],
            [
                (row["code"], row["path"], row["message"], _format_record(row["body"]))
                for row in result.samples
            ],
        )


def replay(
    *,
    reason: list[str],
    path: str = "",
    since: str = "",
    dry_run: bool = False,
    route: bool = True,
    json: Json = False,
) -> None:
    """Resend refused rows after the declarations, an adapter or the contract were fixed.

    What is accepted now goes through the raw log as it came, with the time at which it was first
    received, and from there into features and lake; what is still refused stays in the quarantine.
    Nothing is taken twice: not by a second replay, not where the sender has sent it again
    meanwhile. A replay that was interrupted goes on where it was. Roles that are running decide by
    the declarations with which they were started: start `up` again first. A router on this machine
    that was not is an error.

    Example:  tailorbird -C shop lake replay --reason unknown_type --dry-run

    Example:  tailorbird -C shop lake replay --reason bad_time --path $.ts --since 2026-11-01

    Parameters
    ----------
    reason:
        which reason, as `lake quarantine` lists them; may be given several times
    path:
        only where this field was wrong, or one below it, such as $.properties
    since:
        only what came in at this time or later
    dry_run:
        only say what would be accepted
    route:
        also route the events and load the lake here; not needed where `up` is running
    """
    from tailorbird.config import open_project
    from tailorbird.platform.lake.replay import replay as replay_rows

    with progress_bars(quiet=json) as progress:
        result = replay_rows(
            open_project(),
            reasons=reason,
            path=path,
            since=since,
            dry_run=dry_run,
            route=route,
            progress=progress,
        )
    if json:
        print_json(result.to_dict())
    else:
        _print_report(result.report, result.count_by_decision, dry_run, route)


def _print_report(
    report: "ReplayReport", count_by_decision: dict[str, int] | None, dry_run: bool, route: bool
) -> None:
    from tailorbird.cli.output import print_routed_counts

    out = console()
    if report.replayed_before:
        out.print(f"{report.replayed_before:,} rows were replayed before.")
    if not report.examined:
        out.print("Nothing else was refused for that.")
        if (
            route
            and not dry_run
            and report.replayed_before
            and (count_by_decision is None or any(count_by_decision.values()))
        ):
            print_routed_counts(count_by_decision, "replay")
        return
    outcomes = ["accepted", "repeats", "left_out", "refused"]
    rows = [
        (reason, *(count_by_outcome.get(outcome, 0) for outcome in outcomes))
        for reason, count_by_outcome in sorted(report.by_reason.items())
    ]
    title = (
        f"{report.examined:,} rows, as they would be taken now"
        if dry_run
        else f"{report.examined:,} rows, read again"
    )
    print_table(
        title,
        ["refused for", "accepted", "in the lake already", "left out", "refused again"],
        rows,
        numeric_columns=["accepted", "in the lake already", "left out", "refused again"],
    )
    if report.refused:
        out.print(
            "Refused again for: "
            f"{', '.join(f'{count:,} {code}' for code, count in report.refused.most_common())}."
        )
        for example in report.examples:
            out.print(f"  {example}")
    if dry_run:
        out.print("Nothing was sent.")
    elif route and (count_by_decision is not None or report.sent):
        print_routed_counts(count_by_decision, "replay")


def _format_paths(paths: dict[str, int]) -> str:
    names = list(paths)
    return ", ".join(names[:_PATHS_SHOWN]) + (", …" if len(names) > _PATHS_SHOWN else "")


def _format_time(time_us: int) -> str:
    from tailorbird.events import to_iso

    return to_iso(time_us)[:19] + "Z"


def _format_record(body: bytes) -> str:
    """Return the body as received, without the adapter's wrapper."""
    import msgspec

    from tailorbird.events.contract.contract import parse_unread

    unread_record = parse_unread(body)
    return (
        _decode_body(body)
        if unread_record is None
        else f"{unread_record.format}: {msgspec.json.encode(unread_record.record).decode()}"
    )[:_BODY_CHARS_SHOWN]


def _decode_body(body: bytes) -> str:
    return bytes(body).decode(errors="replace")
