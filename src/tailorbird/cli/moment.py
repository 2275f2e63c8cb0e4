"""Times on the command line; `--as-of`: training and judging as if it were then, for histories that ended long ago."""

from datetime import UTC, datetime, timedelta

from tailorbird.config import Project
from tailorbird.errors import UsageError
from tailorbird.events import Clock, SimulatedClock, SystemClock
from tailorbird.lake import Lake

LATEST = "latest"


def clock_as_of(text: str, project: Project, *, settled: bool = True) -> Clock:
    """The machine's clock for ""; else one that stands still at a time, or at the end of what the lake holds for `latest`.

    `settled`: labels are read there, of which those count that no late event may change any more. Behind the newest event such events
    have as long to come as has passed since, and none counts that takes longer than the allowed lateness. So it is the end of the log and
    the lateness where that has passed, as for a history that ended long ago, and now while events still come. Otherwise it is just behind
    the newest event.

    Raises:
        UsageError: the text is no time.
        NotReadyError: `latest`, and the lake holds nothing.
    """
    if not text:
        return SystemClock()
    if text == LATEST:
        newest = Lake(project.paths.lake).sql("SELECT max(ts) AS ts FROM events WHERE NOT timeless").column("ts")[0]
        end = (newest.value or 0) + 1
        return _latest(end, project.plan.lateness_us, SystemClock()) if settled else SimulatedClock(end)
    return SimulatedClock(time_of(text, "--as-of", f", or {LATEST}"))


def _latest(end: int, lateness_us: int, machine: Clock) -> Clock:
    """The machine's own clock where late events may still come; of a machine whose clock is behind the log, nothing is known of them."""
    now = machine.now()
    return machine if end <= now < end + lateness_us else SimulatedClock(max(end, min(now, end + lateness_us)))


def time_of(text: str, option: str, otherwise: str = "") -> int:
    """Microseconds of a date or a time, in UTC where it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"expected a time such as 2026-11-25{otherwise}, got {text!r}", where=option) from None
    # Whole numbers throughout: a float of seconds cannot hold every microsecond.
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
