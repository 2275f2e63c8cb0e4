"""Times on the command line; `--as-of`: training and judging as if it were then, for histories that ended long ago."""

from datetime import UTC, datetime, timedelta

from tailorbird.config import Project
from tailorbird.errors import UsageError
from tailorbird.events import DAY, Clock, SimulatedClock, SystemClock, to_iso
from tailorbird.lake import Lake

LATEST, NOW = "latest", "now"
IDLE_US = 2 * DAY  # since the newest event, from which on a log is taken for one that ended


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
        end = max(_end_of(project), 1)
        return _latest(end, project.plan.lateness_us, SystemClock()) if settled else SimulatedClock(end)
    return SimulatedClock(time_of(text, "--as-of", f", or {LATEST}"))


def clock_of_answers(text: str, project: Project, machine: Clock) -> tuple[Clock, str]:
    """The clock that an answer goes by without a server, and a sentence where that is not the machine's own.

    For "", the end of a log that ended long ago, so that people are as they were then; `now` takes the machine's own.

    Raises:
        UsageError: the text is no time.
        NotReadyError: `latest`, and the lake holds nothing.
    """
    if text == NOW:
        return machine, ""
    if text not in ("", LATEST):
        clock = clock_as_of(text, project)
        return clock, f"Answered as of {to_iso(clock.now())}."
    end = _end_of(project) if text or Lake(project.paths.lake).exists("events") else 0
    idle = machine.now() - end
    if not end or (not text and idle < IDLE_US):
        return machine, ""
    days = f", {idle // DAY:,} days ago" if idle >= DAY else ""
    return SimulatedClock(end), f"The log ended on {to_iso(end)[:10]}{days}: answered as of its end; --as-of {NOW} goes by today."


def _end_of(project: Project) -> int:
    """Just behind the newest that somebody did; 0 where nothing has a time. An answer alone, as to a look at an old log, is no life."""
    newest = Lake(project.paths.lake).sql("SELECT max(ts) AS ts FROM events WHERE NOT timeless AND type <> 'answer'").column("ts")[0]
    return newest.value + 1 if newest.is_valid else 0


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
