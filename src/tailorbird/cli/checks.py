"""`tailorbird checks run`: check the data of a day."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.monitoring.amounts import DayExpectations
    from tailorbird.monitoring.verdict import Check


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
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.events import DAY, SystemClock
    from tailorbird.lake import Lake
    from tailorbird.monitoring import daily
    from tailorbird.monitoring.daily_page import write_page

    project, now = open_project(), SystemClock().now()
    day_number = _day_number(day) if day else now // DAY - 1
    if day_number * DAY > now:
        raise UsageError(f"{day} has not come yet", where="--day")
    lake = Lake(project.paths.lake)
    report = daily.run_day(
        lake,
        day_number,
        now,
        day_expectations(project),
        lambda number: features_check(project, number),
    )
    if not report.has_content:
        raise NotReadyError(
            f"the lake has no event of {report.day}, nor of any day before",
            fix="name another day by --day",
        )
    target = project.settings.checks.alert
    alert_result = daily.send_alert(target, report) if alert else ""
    is_owed = (
        bool(alert_result) if alert else daily.is_alert_due(project.paths.checks, report, target)
    )
    page = daily.save_report(project.paths.checks, msgspec.structs.replace(report, untold=is_owed))
    if out is not None:
        page = write_page(out, daily.read_reports(project.paths.checks))
    if json:
        print_json({**msgspec.to_builtins(report), "page": str(page), "alert": alert_result})
    else:
        rows = [
            (check.name, _status_label(check), "; ".join(check.details) or check.told)
            for check in report.checks
        ]
        print_table(f"{report.day}, {report.rows:,} events", ["check", "", "finding"], rows)
        console().print(f"{alert_result}\n{page}".strip())
    raise SystemExit(1 if report.failed else 0)


def day_expectations(project: "Project") -> "DayExpectations":
    """Return what the project declares about its days."""
    from tailorbird.monitoring.amounts import DayExpectations

    return DayExpectations(
        project.event_contract.unique,
        project.event_contract.daily_min,
        project.event_contract.fresh_within,
    )


def features_check(project: "Project", day_number: int) -> "Sequence[Check]":
    """Recompute some answers of the day from the lake and compare their features."""
    from tailorbird.events import DAY
    from tailorbird.features.parity.watch import RECENT_US, compare_recent
    from tailorbird.lake import Lake
    from tailorbird.monitoring.verdict import FAILED, NONE, OK, Check

    lake = Lake(project.paths.lake)
    if not lake.exists("answers"):
        return [Check("features", NONE, 0.0, 0.0, "no answer was logged")]
    report, _ = compare_recent(
        project.features,
        lake,
        day_number * DAY + RECENT_US,
        until=(day_number + 1) * DAY,
        seed=day_number,
    )
    if not report.answers:
        return [
            Check("features", NONE, 0.0, 0.0, "no answer of these declarations was logged since")
        ]
    unequal = {name: count for name, count in report.by_feature.items() if count}
    if not unequal:
        return [
            Check(
                "features", OK, 0.0, 0.0, f"{report.answers:,} answers, computed again, are equal"
            )
        ]
    details = [
        f"{count:,} values of {name} differ from the lake; tailorbird features verify"
        for name, count in unequal.items()
    ]
    return [Check("features", FAILED, float(sum(unequal.values())), 0.0, details[0], details[:5])]


def _day_number(day: str) -> int:
    try:
        return (date.fromisoformat(day) - date(1970, 1, 1)).days
    except ValueError:
        raise UsageError(f"expected a day such as 2026-11-25, got {day!r}", where="--day") from None


def _status_label(check: "Check") -> str:
    return {"ok": "fine", "failed": "FAILED"}.get(check.status, "not judged")
