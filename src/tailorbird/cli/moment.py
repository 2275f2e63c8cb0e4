"""Times on the command line; `--as-of`: training and judging as if it were then, for histories that ended long ago."""

from datetime import UTC, datetime, timedelta

from tailorbird.config import Project
from tailorbird.errors import UsageError
from tailorbird.events import Clock, SimulatedClock, SystemClock
from tailorbird.lake import Lake

LATEST = "latest"


def clock_as_of(text: str, project: Project, *, settled: bool = True) -> Clock:
    """The machine's clock for ""; else one that stands still at a time, or behind the newest event of the lake for `latest`.

    `settled`: so far behind it that labels of the last answers count, which wait for what comes in late.

    Raises:
        UsageError: the text is no time.
        NotReadyError: `latest`, and the lake holds nothing.
    """
    if not text:
        return SystemClock()
    if text == LATEST:
        newest = Lake(project.paths.lake).sql("SELECT max(ts) AS ts FROM events WHERE NOT timeless").column("ts")[0]
        # Nothing behind the newest event is known: what the last answers led to was cut off with the log.
        return SimulatedClock((newest.value or 0) + (project.plan.lateness_us if settled else 0) + 1)
    return SimulatedClock(time_of(text, "--as-of", f", or {LATEST}"))


def time_of(text: str, option: str, otherwise: str = "") -> int:
    """Microseconds of a date or a time, in UTC where it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"expected a time such as 2026-11-25{otherwise}, got {text!r}", where=option) from None
    # Whole numbers throughout: a float of seconds cannot hold every microsecond.
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
