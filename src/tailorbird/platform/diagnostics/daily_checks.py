"""Checks of the data of a day, in itself and against the seven days before."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.platform.frames import Frame

if TYPE_CHECKING:
    from tailorbird.monitoring.amounts import DayExpectations
    from tailorbird.monitoring.daily import DayReport
    from tailorbird.monitoring.verdict import Check


@dataclass(frozen=True, repr=False)
class DayCheck:
    """The checks of a day.

    Attributes:
        page_path: HTML page of all days.
        alert_result: what the receiver of `checks.alert` said, or "".
    """

    report: "DayReport"
    page_path: Path
    alert_result: str = ""

    @property
    def is_sound(self) -> bool:
        """True if no check failed."""
        return not self.report.failed_checks

    def to_frame(self) -> Frame:
        """Return a row for each check."""
        return Frame.from_rows(
            ["check", "status", "finding"],
            [
                (check.name, check.status, "; ".join(check.details) or check.explanation)
                for check in self.report.checks
            ],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird checks run --json` prints."""
        import msgspec

        report = msgspec.to_builtins(self.report)
        return {**report, "page": str(self.page_path), "alert": self.alert_result}

    @property
    def _header(self) -> str:
        return f"{self.report.day}, {self.report.rows:,} events"

    def __repr__(self) -> str:
        return f"{self._header}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)


def check_day(
    project: Project,
    day: str = "",
    *,
    out: Path | None = None,
    should_alert: bool = False,
    now: int | None = None,
) -> DayCheck:
    """Check the data of a day, and store the result with a page of all days.

    Args:
        day: ISO 8601, in UTC; "" is yesterday.
        out: also write the page to this file.
        should_alert: also report a failed check to `checks.alert`.
        now: the time of the check; by default the system's.

    Raises:
        UsageError: the day has not come yet.
        NotReadyError: the lake has no event of the day, nor of any before.
    """
    import msgspec

    from tailorbird.events import DAY, SystemClock
    from tailorbird.lake import Lake
    from tailorbird.monitoring import daily
    from tailorbird.monitoring.daily_page import write_page

    now = SystemClock().now() if now is None else now
    day_number = _day_number(day) if day else now // DAY - 1
    if day_number * DAY > now:
        raise UsageError(f"{day} has not come yet", where="--day")
    report = daily.check_day(
        Lake(project.paths.lake),
        day_number,
        now,
        day_expectations(project),
        lambda number: check_features(project, number),
    )
    if not report.has_content:
        raise NotReadyError(
            f"the lake has no event of {report.day}, nor of any day before",
            fix="name another day by --day",
        )
    alert_target = project.settings.checks.alert
    folder = project.paths.checks
    alert_result = daily.send_alert(alert_target, report) if should_alert else ""
    is_alert_due = (
        bool(alert_result) if should_alert else daily.is_alert_due(folder, report, alert_target)
    )
    page_path = daily.save_report(
        folder, msgspec.structs.replace(report, has_unsent_alert=is_alert_due)
    )
    if out is not None:
        page_path = write_page(out, daily.read_reports(folder))
    return DayCheck(report, page_path, alert_result)


def day_expectations(project: Project) -> "DayExpectations":
    """Return what the project declares about its days."""
    from tailorbird.monitoring.amounts import DayExpectations

    return DayExpectations(
        project.event_contract.unique,
        project.event_contract.daily_min,
        project.event_contract.fresh_within,
    )


def check_features(project: Project, day_number: int) -> "Sequence[Check]":
    """Recompute some answers of the day from the lake and compare their features."""
    from tailorbird.events import DAY
    from tailorbird.features.parity.watch import RECENT_US, compare_recent_responses
    from tailorbird.lake import Lake
    from tailorbird.monitoring.verdict import FAILED, NOT_JUDGED, OK, Check

    lake = Lake(project.paths.lake)
    if not lake.exists("answers"):
        return [Check("features", NOT_JUDGED, 0.0, 0.0, "no answer was logged")]
    report, _ = compare_recent_responses(
        project.features,
        lake,
        day_number * DAY + RECENT_US,
        until=(day_number + 1) * DAY,
        seed=day_number,
    )
    if not report.answers:
        return [
            Check(
                "features", NOT_JUDGED, 0.0, 0.0, "no answer of these declarations was logged since"
            )
        ]
    unequal_by_feature = {name: count for name, count in report.by_feature.items() if count}
    if not unequal_by_feature:
        return [
            Check(
                "features", OK, 0.0, 0.0, f"{report.answers:,} answers, computed again, are equal"
            )
        ]
    details = [
        f"{count:,} values of {name} differ from the lake; tailorbird features verify"
        for name, count in unequal_by_feature.items()
    ]
    return [
        Check(
            "features",
            FAILED,
            float(sum(unequal_by_feature.values())),
            0.0,
            details[0],
            details[:5],
        )
    ]


def _day_number(day: str) -> int:
    try:
        return (date.fromisoformat(day) - date(1970, 1, 1)).days
    except ValueError:
        raise UsageError(f"expected a day such as 2026-11-25, got {day!r}", where="--day") from None
