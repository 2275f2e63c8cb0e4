"""Page of the daily checks: the newest day in words, earlier days as a grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import pages

if TYPE_CHECKING:
    from tailorbird.monitoring.daily import DayReport

DAYS_SHOWN = 60
_STATUS_WORDS = {"ok": "fine", "failed": "failed", "none": "not judged"}
_STATUS_SYMBOLS = {"ok": "✓", "failed": "✗", "none": "·"}


def write_page(path: Path, reports: "Sequence[DayReport]") -> Path:
    """Write the page of reports, newest first, and return its path."""
    shown_reports = reports[:DAYS_SHOWN]
    return pages.write_page(
        path,
        "daily",
        "Daily checks",
        reports=reports,
        days=[(report, {check.name: check for check in report.checks}) for report in shown_reports],
        names=list(
            dict.fromkeys(check.name for report in shown_reports for check in report.checks)
        ),
        words=_STATUS_WORDS,
        signs=_STATUS_SYMBOLS,
    )
