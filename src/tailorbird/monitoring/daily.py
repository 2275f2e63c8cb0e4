"""Running the checks of a day, keeping what they found, and telling somebody when one fails.

    CHECKS/2026-11-24.json    a day's report, written whole and renamed into place
    CHECKS/index.html         a page of the newest day, with the days before; see `monitoring.daily_page`

A report of a whole day is not made again by the schedule, one that was made by hand while the day
went on is; by hand both are replaced. The schedule catches up on days on which it did not run, and
tells of what a run by hand found before it, without telling anybody. An alert is a URL that gets
the report as JSON by POST, or a command, started without a shell, that gets it on its input.
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

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import DAY, Clock, to_iso
from tailorbird.lake import Lake
from tailorbird.monitoring.amounts import Wanted
from tailorbird.monitoring.checks import run_checks
from tailorbird.monitoring.daily_page import write_page
from tailorbird.monitoring.day import load_day
from tailorbird.monitoring.verdict import FAILED, Check
from tailorbird.places import Place
from tailorbird.whole import write_whole

PAGE = "index.html"
ALERT_S = 15.0
LOOK_S = 60.0
AGAIN_S = 600.0  # until an alert that did not go out is tried again
CATCH_UP_DAYS = 7
_NAME = re.compile(r"\d{4}-\d\d-\d\d\.json\Z")
log = logging.getLogger(__name__)

Further = Callable[[int], Sequence[Check]]  # day → checks that this package cannot make


class DayReport(msgspec.Struct, frozen=True):
    """What the checks of a day found."""

    day: str
    at: str
    rows: int
    checks: list[Check]
    newest_before: str = ""  # the newest day before on which people did something
    untold: bool = (
        False  # an alert is due and is not known to have gone out, so that it is tried again
    )

    @property
    def of_use(self) -> bool:
        """Whether there is anything to tell: of days before the first event there is not."""
        return bool(self.rows or self.newest_before)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == FAILED]


def run_day(
    lake: Lake, number: int, now: int, wanted: Wanted, further: Further = lambda number: ()
) -> DayReport:
    """Check a day, given by its number since 1970. Raises NotReadyError if there is no lake."""
    day = load_day(lake, number, now)
    newest = "" if day.newest_before is None else _name(day.newest_before)
    return DayReport(
        day.name, to_iso(now), day.events.num_rows, run_checks(day, wanted, further(number)), newest
    )


def keep(folder: Path, report: DayReport) -> Path:
    """Keep the report, and make the page anew; where the page is."""
    write_whole(
        folder / f"{report.day}.json",
        msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n",
    )
    return write_page(folder / PAGE, history(folder))


def history(folder: Path) -> list[DayReport]:
    """The reports that are kept, the newest first; one that cannot be read is left out."""
    found = []
    for path in sorted(folder.glob("*.json"), reverse=True) if folder.is_dir() else []:
        if _NAME.match(path.name):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=DayReport))
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                log.warning("%s cannot be read: %s", path, error)
    return found


def alert(target: str, report: DayReport) -> str:
    """Tell of a day on which a check failed; "" if that worked or there was nothing to tell, else
    why it did not.
    """
    if not target or not report.failed:
        return ""
    data = msgspec.json.encode(report)
    try:
        if target.startswith(("http://", "https://")):
            asked = urllib.request.Request(target, data, {"content-type": "application/json"})
            with urllib.request.urlopen(asked, timeout=ALERT_S):
                return ""
        done = subprocess.run(
            shlex.split(target), input=data, capture_output=True, timeout=ALERT_S, check=False
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # its text may hold the address, which may be secret
        return f"the alert did not go out: {type(error).__name__}"
    if done.returncode == 0:
        return ""
    return (
        f"the alert's command ended with status {done.returncode}; it is started without a "
        "shell: for | and > write sh -c '…'"
    )


def due(folder: Path, now: int, after_us: int) -> list[int]:
    """The last days, the newest first, that are over for `after_us` and have no report of all their
    hours: yesterday, and those on which nobody checked.
    """
    newest = (now - after_us) // DAY - 1
    made = {report.day: report.at for report in history(folder)}
    return [
        number
        for number in range(newest, newest - CATCH_UP_DAYS, -1)
        if made.get(_name(number), "") < to_iso((number + 1) * DAY + after_us)
    ]


def owed(folder: Path, report: DayReport, target: str) -> bool:
    """Whether the schedule has yet to tell of this day, of which a report is made by hand: it
    fails, and nobody was told before.
    """
    before = next((one for one in history(folder) if one.day == report.day), None)
    return bool(target and report.failed) and (before is None or before.untold)


def _name(number: int) -> str:
    return to_iso(number * DAY)[:10]


def watch(
    lake: Place,
    folder: Path,
    clock: Clock,
    stop: threading.Event,
    *,
    wanted: Wanted,
    after_us: int,
    target: str,
    further: Further,
    look_s: float = LOOK_S,
    again_s: float = AGAIN_S,
) -> None:
    """Check each day once it is over, until `stop`. What goes wrong is said and never stops the
    role.

    An alert that does not go out is tried again, also by the role that is started next, until its
    day is older than a week. One that went out when the role was killed goes out twice.
    """
    tried = 0.0
    while not stop.wait(look_s):
        if time.monotonic() - tried >= again_s:
            _tell_again(folder, target, clock.now())
            tried = time.monotonic()
        for number in due(folder, clock.now(), after_us):
            begun = time.monotonic()
            try:
                report = run_day(Lake(lake), number, clock.now(), wanted, further)
                if report.of_use:
                    due_alert = bool(target and report.failed)
                    keep(
                        folder, msgspec.structs.replace(report, untold=due_alert)
                    )  # before: who dies meanwhile tells when it is back
                    if not _tell(target, report) and due_alert:
                        keep(folder, report)
            except NotReadyError:
                break
            except (TailorbirdError, OSError, ValueError) as error:
                log.warning("the day could not be checked: %s", error)
            if stop.wait(20 * (time.monotonic() - begun)):
                return


def _tell_again(folder: Path, target: str, now: int) -> None:
    """Tell of the last days; of one that goes on, whose report was made by hand, when it is checked
    as a whole.
    """
    for report in history(folder):
        if not _name(now // DAY - CATCH_UP_DAYS) <= report.day < report.at[:10]:
            continue
        if report.untold and not (told := alert(target, report)):
            log.info("the alert of %s went out", report.day)
            keep(folder, msgspec.structs.replace(report, untold=False))
        elif report.untold:
            log.error("%s", told)


def _tell(target: str, report: DayReport) -> str:
    if told := alert(target, report):
        log.error("%s", told)
    for check in report.failed:
        log.error("check %s of %s failed: %s", check.name, report.day, check.told)
    return told
