"""`tailorbird checks run`: check the data of a day."""

from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, print_table

_STATUS_LABELS = {"ok": "fine", "failed": "FAILED"}


def run(*, day: str = "", out: Path | None = None, alert: bool = False, json: Json = False) -> None:
    """Check the data of a day: volume, repeats, gaps, lateness, nulls, drift and more.

    The day is checked in itself and against the seven days before. `contract.toml` may declare
    further checks (daily_min, fresh_within, unique). The command ends with status 1 if a check
    fails. Results are stored in data/checks, with a page of all days. `up` runs the checks daily,
    catches up on the last seven days, and reports failures to `checks.alert`. A day without any
    event fails, however old the newest event is.

    If another system answers some of the slots, leave `request_id` out of its impressions and
    clicks. Nothing else in an event tells whose answer it follows, and the check `orphans` would
    take such clicks for clicks on lost answers.

    Example:  tailorbird -C shop checks run

    Example:  tailorbird -C shop checks run --day 2026-11-24 --out checks.html

    Parameters
    ----------
    day:
        the day to check, in UTC, by default yesterday; of today, the completed hours are checked
    out:
        also write the page to this file
    alert:
        also report a failed check to `checks.alert`
    """
    from tailorbird.config import open_project
    from tailorbird.platform.diagnostics.daily_checks import check_day

    result = check_day(open_project(), day, out=out, should_alert=alert)
    if json:
        print_json(result.to_dict())
    else:
        rows = [
            (row["check"], _STATUS_LABELS.get(row["status"], "not judged"), row["finding"])
            for row in result.to_frame().to_pylist()
        ]
        report = result.report
        print_table(f"{report.day}, {report.rows:,} events", ["check", "", "finding"], rows)
        console().print(f"{result.alert_result}\n{result.page_path}".strip())
    raise SystemExit(0 if result.is_sound else 1)
