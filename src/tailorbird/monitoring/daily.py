"""Run the checks of a day, store the report, and alert if one fails.

    CHECKS/2026-11-24.json    a day's report, written atomically
    CHECKS/index.html         page of the newest day and the days before, see
                              `monitoring.daily_page`

The schedule does not repeat the report of a complete day, but replaces one made by hand while the
day went on; a run by hand replaces both. The schedule catches up on missed days, and alerts on
failures that an earlier run by hand found without alerting. An alert is a URL that gets the report
as JSON by POST, or a command, started without a shell, that gets it on standard input.
"""

import logging
import re
import shlex
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import DAY, Clock, to_iso
from tailorbird.lake import Lake
from tailorbird.monitoring.amounts import DayExpectations
from tailorbird.monitoring.checks import run_checks
from tailorbird.monitoring.daily_page import write_page
from tailorbird.monitoring.day import load_day
from tailorbird.monitoring.verdict import FAILED, Check
from tailorbird.storage_paths import StoragePath

PAGE_FILE = "index.html"
ALERT_S = 15.0
POLL_S = 60.0
RETRY_S = 600.0  # until a failed alert is retried
CATCH_UP_DAYS = 7
_REPORT_NAME = re.compile(r"\d{4}-\d\d-\d\d\.json\Z")
log = logging.getLogger(__name__)

ExtraChecks = Callable[[int], Sequence[Check]]  # day → checks from outside this package


class DayReport(msgspec.Struct, frozen=True):
    """The results of a day's checks."""

    day: str
    at: str
    rows: int
    checks: list[Check]
    newest_before: str = ""  # the newest earlier day with events of people
    has_unsent_alert: bool = False  # an alert is due and is not confirmed, so it is retried

    @property
    def has_content(self) -> bool:
        """True if the report is worth keeping, unlike days before the first event."""
        return bool(self.rows or self.newest_before)

    @property
    def failed_checks(self) -> list[Check]:
        return [check for check in self.checks if check.status == FAILED]


def check_day(
    lake: Lake,
    day_number: int,
    now: int,
    expectations: DayExpectations,
    extra_checks: ExtraChecks = lambda day_number: (),
) -> DayReport:
    """Check a day, given by its number since 1970. Raises NotReadyError without a lake."""
    day = load_day(lake, day_number, now)
    newest = "" if day.newest_before is None else _day_name(day.newest_before)
    return DayReport(
        day.name,
        to_iso(now),
        day.events.num_rows,
        run_checks(day, expectations, extra_checks(day_number)),
        newest,
    )


def save_report(folder: Path, report: DayReport) -> Path:
    """Store the report, rebuild the page, and return the page's path."""
    atomic_write(
        folder / f"{report.day}.json",
        msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n",
    )
    return write_page(folder / PAGE_FILE, read_reports(folder))


def read_reports(folder: Path) -> list[DayReport]:
    """Return the stored reports, newest first; unreadable ones are skipped."""
    reports = []
    for path in sorted(folder.glob("*.json"), reverse=True) if folder.is_dir() else []:
        if _REPORT_NAME.match(path.name):
            try:
                reports.append(msgspec.json.decode(path.read_bytes(), type=DayReport))
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                log.warning("%s cannot be read: %s", path, error)
    return reports


def send_alert(alert_target: str, report: DayReport) -> str:
    """Send an alert for a failed day; return why it failed, or "".

    There is nothing to send if no check failed.
    """
    if not alert_target or not report.failed_checks:
        return ""
    data = msgspec.json.encode(report)
    try:
        if alert_target.startswith(("http://", "https://")):
            request = urllib.request.Request(
                alert_target, data, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=ALERT_S):
                return ""
        completed = subprocess.run(
            shlex.split(alert_target), input=data, capture_output=True, timeout=ALERT_S, check=False
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # The error's text may contain the address, which may be secret.
        return f"the alert did not go out: {type(error).__name__}"
    if completed.returncode == 0:
        return ""
    return (
        f"the alert's command ended with status {completed.returncode}; it is started without a "
        "shell: for | and > write sh -c '…'"
    )


def find_due_days(folder: Path, now: int, delay_us: int) -> list[int]:
    """Return the last days, newest first, that ended `delay_us` ago and lack a complete report."""
    newest_day = (now - delay_us) // DAY - 1
    written_at_by_day = {report.day: report.at for report in read_reports(folder)}
    return [
        day_number
        for day_number in range(newest_day, newest_day - CATCH_UP_DAYS, -1)
        if written_at_by_day.get(_day_name(day_number), "")
        < to_iso((day_number + 1) * DAY + delay_us)
    ]


def is_alert_due(folder: Path, report: DayReport, alert_target: str) -> bool:
    """Return whether the schedule still has to alert for a report made by hand."""
    stored_report = next(
        (daily_report for daily_report in read_reports(folder) if daily_report.day == report.day),
        None,
    )
    return bool(alert_target and report.failed_checks) and (
        stored_report is None or stored_report.has_unsent_alert
    )


def _day_name(day_number: int) -> str:
    return to_iso(day_number * DAY)[:10]


def run_daily_checks(
    lake: StoragePath,
    folder: Path,
    clock: Clock,
    stop: threading.Event,
    *,
    expectations: DayExpectations,
    delay_us: int,
    alert_target: str,
    extra_checks: ExtraChecks,
    poll_s: float = POLL_S,
    retry_s: float = RETRY_S,
) -> None:
    """Check each day once it is over, until `stop`.

    Errors are logged and never stop the role. An alert that fails is retried, also after a restart,
    until its day is older than a week. One that was being sent when the role was killed is sent
    twice.
    """
    last_retry = 0.0
    while not stop.wait(poll_s):
        if time.monotonic() - last_retry >= retry_s:
            _retry_alerts(folder, alert_target, clock.now())
            last_retry = time.monotonic()
        for day_number in find_due_days(folder, clock.now(), delay_us):
            started = time.monotonic()
            try:
                report = check_day(Lake(lake), day_number, clock.now(), expectations, extra_checks)
                if report.has_content:
                    needs_alert = bool(alert_target and report.failed_checks)
                    save_report(
                        folder, msgspec.structs.replace(report, has_unsent_alert=needs_alert)
                    )  # stored first, so that a crash leads to a retry
                    if not _alert_and_log(alert_target, report) and needs_alert:
                        save_report(folder, report)
            except NotReadyError:
                break
            except (TailorbirdError, OSError, ValueError) as error:
                log.warning("the day could not be checked: %s", error)
            # The checks take a twentieth of the time at most, also when many days are due.
            if stop.wait(20 * (time.monotonic() - started)):
                return


def _retry_alerts(folder: Path, alert_target: str, now: int) -> None:
    """Retry alerts of the last days; a day in progress alerts once it is complete."""
    for report in read_reports(folder):
        if not _day_name(now // DAY - CATCH_UP_DAYS) <= report.day < report.at[:10]:
            continue
        if report.has_unsent_alert and not (error := send_alert(alert_target, report)):
            log.info("the alert of %s went out", report.day)
            save_report(folder, msgspec.structs.replace(report, has_unsent_alert=False))
        elif report.has_unsent_alert:
            log.error("%s", error)


def _alert_and_log(alert_target: str, report: DayReport) -> str:
    """Alert, and log each failed check; return why the alert failed, or ""."""
    if error := send_alert(alert_target, report):
        log.error("%s", error)
    for check in report.failed_checks:
        log.error("check %s of %s failed: %s", check.name, report.day, check.explanation)
    return error
