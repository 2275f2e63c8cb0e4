"""`tailorbird checks run`: is the data of a day whole and as usual."""

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
    """Check the data of a day: volume, hours, repeats, gaps, lateness, nulls, shifts, orphan
    clicks, clocks, bots, refusals, features.

    It is compared with itself and with the seven days before; `contract.toml` may declare more
    (daily_min, fresh_within, unique). Ends with status 1 if a check fails. What was found is kept
    in data/checks, with a page of all days. `up` does it each day by itself, catching up on the
    last seven, and tells `checks.alert` of failures. A day without any event fails, however long
    ago the newest is.

    Where another system answers some of the slots, leave `request_id` out of its impressions and
    clicks: nothing else in an event says whose answer it follows, and `orphans` takes such clicks
    for those of answers that were lost.

    Example:  tailorbird -C shop checks run

    Example:  tailorbird -C shop checks run --day 2026-11-24 --out checks.html

    Parameters
    ----------
    day:
        the day, in UTC; yesterday unless told otherwise. Of today the hours that are over are
            checked.
    out:
        write the page there too
    alert:
        tell `checks.alert` as well, if a check fails
    """
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.events import DAY, SystemClock
    from tailorbird.lake import Lake
    from tailorbird.monitoring import daily
    from tailorbird.monitoring.daily_page import write_page

    project, now = open_project(), SystemClock().now()
    number = _number(day) if day else now // DAY - 1
    if number * DAY > now:
        raise UsageError(f"{day} has not come yet", where="--day")
    lake = Lake(project.paths.lake)
    report = daily.run_day(
        lake, number, now, wanted(project), lambda number: features_check(project, number)
    )
    if not report.has_content:
        raise NotReadyError(
            f"the lake has no event of {report.day}, nor of any day before",
            fix="name another day by --day",
        )
    target = project.settings.checks.alert
    told = daily.send_alert(target, report) if alert else ""
    untold = bool(told) if alert else daily.is_alert_due(project.paths.checks, report, target)
    page = daily.save_report(project.paths.checks, msgspec.structs.replace(report, untold=untold))
    if out is not None:
        page = write_page(out, daily.read_reports(project.paths.checks))
    if json:
        print_json({**msgspec.to_builtins(report), "page": str(page), "alert": told})
    else:
        rows = [
            (check.name, _word(check), "; ".join(check.details) or check.told)
            for check in report.checks
        ]
        print_table(f"{report.day}, {report.rows:,} events", ["check", "", "what was found"], rows)
        console().print(f"{told}\n{page}".strip())
    raise SystemExit(1 if report.failed else 0)


def wanted(project: "Project") -> "DayExpectations":
    """What the project declares of its days."""
    from tailorbird.monitoring.amounts import DayExpectations

    return DayExpectations(
        project.declared.unique, project.declared.daily_min, project.declared.fresh_within
    )


def features_check(project: "Project", number: int) -> "Sequence[Check]":
    """A few answers of the day, computed again from the lake."""
    from tailorbird.events import DAY
    from tailorbird.features.watch import RECENT_US, compare_recent
    from tailorbird.lake import Lake
    from tailorbird.monitoring.verdict import FAILED, NONE, OK, Check

    lake = Lake(project.paths.lake)
    if not lake.exists("answers"):
        return [Check("features", NONE, 0.0, 0.0, "no answer was logged")]
    report, _ = compare_recent(
        project.features, lake, number * DAY + RECENT_US, until=(number + 1) * DAY, seed=number
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
    told = [
        f"{count:,} values of {name} differ from the lake; tailorbird features verify"
        for name, count in unequal.items()
    ]
    return [Check("features", FAILED, float(sum(unequal.values())), 0.0, told[0], told[:5])]


def _number(day: str) -> int:
    try:
        return (date.fromisoformat(day) - date(1970, 1, 1)).days
    except ValueError:
        raise UsageError(f"expected a day such as 2026-11-25, got {day!r}", where="--day") from None


def _word(check: "Check") -> str:
    return {"ok": "fine", "failed": "FAILED"}.get(check.status, "not judged")
