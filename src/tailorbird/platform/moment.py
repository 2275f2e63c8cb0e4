"""Moments to train, judge and answer by; `as_of`: training and judging as if it were then, for histories that
ended long ago.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tailorbird.config import Project
from tailorbird.config.log_end import end_of_log
from tailorbird.errors import UsageError
from tailorbird.events import Clock, SimulatedClock, SystemClock, to_iso
from tailorbird.lake import Lake

LATEST, NOW = "latest", "now"


def clock_as_of(
    text: str,
    project: Project,
    *,
    settled: bool = True,
    notify: Callable[[str], None] = lambda note: None,
) -> Clock:
    """Return the clock to train or judge by; for "" that of the project, or `latest` where its log
    was imported and ended long ago.

    `settled`: labels are read there, of which those count that no late event may change any more.
    Behind the newest event such events have as long to come as has passed since, and none counts
    that takes longer than the allowed lateness. So it is the end of the log and the lateness where
    that has passed, as for a history that ended long ago, and now while events still come.
    Otherwise it is just behind the newest event. `notify` gets a sentence where the log's end is
    taken without being asked for.

    Raises:
        UsageError: the text is no time.
        NotReadyError: `latest`, and the lake holds nothing.
    """
    machine = SystemClock()
    if text == NOW:
        return machine
    if text not in ("", LATEST):
        return SimulatedClock(parse_time(text, "--as-of", f", or {LATEST}"))
    end = end_of_log(project)
    if not text:
        clock = project.clock()
        if clock.behind or clock.was_live or not (end.imported and end.ended(machine.now())):
            return clock
        notify(f"{end.told(machine.now())}: as of its end; --as-of {NOW} goes by today.")
    elif not end.record:
        Lake(project.paths.lake).sql(
            "SELECT p FROM events LIMIT 1"
        )  # says that there is no lake, where there is none
    last = max(end.deed, 1)
    return _latest(last, project.plan.lateness_us, machine) if settled else SimulatedClock(last)


def clock_of_answers(text: str, project: Project, machine: Clock) -> tuple[Clock, str]:
    """Return the clock that an answer goes by without a server, and a sentence where that is not
    the machine's own.

    For "" that of the project, or the end of a log that ended long ago, so that people are as they
    were then; `now` takes the machine's.

    Raises:
        UsageError: the text is no time.
        NotReadyError: `latest`, and the lake holds nothing.
    """
    if text == NOW:
        return machine, ""
    if text not in ("", LATEST):
        clock = clock_as_of(text, project)
        return clock, f"Answered as of {to_iso(clock.now())}."
    end = end_of_log(project)
    if not text and (behind := project.clock().behind):
        moment = to_iso(machine.now() - behind)[:16].replace("T", " ")
        return (
            project.clock(),
            f"{end.told(machine.now())}: the project goes on from there, and it is {moment} UTC.",
        )
    if not end.deed or (not text and (project.clock().was_live or not end.ended(machine.now()))):
        return machine, ""
    return SimulatedClock(
        end.deed
    ), f"{end.told(machine.now())}: answered as of its end; --as-of {NOW} goes by today."


def _latest(end: int, lateness_us: int, machine: Clock) -> Clock:
    """The machine's own clock where late events may still come; of a machine whose clock is behind
    the log, nothing is known of them.
    """
    now = machine.now()
    return (
        machine
        if end <= now < end + lateness_us
        else SimulatedClock(max(end, min(now, end + lateness_us)))
    )


def parse_time(text: str, option: str, otherwise: str = "") -> int:
    """Microseconds of a date or a time, in UTC where it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"expected a time such as 2026-11-25{otherwise}, got {text!r}", where=option
        ) from None
    # Whole numbers throughout: a float of seconds cannot hold every microsecond.
    return (
        (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)
    ) // timedelta(microseconds=1)
