"""Clocks for training, evaluation and answers: `as_of`, today, or the end of an imported log."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tailorbird.config import Project
from tailorbird.config.log_end import end_of_log
from tailorbird.errors import UsageError
from tailorbird.events import Clock, SimulatedClock, SystemClock, to_iso
from tailorbird.lake import Lake

LATEST = "latest"
NOW = "now"


def clock_as_of(
    as_of: str,
    project: Project,
    *,
    allow_lateness: bool = True,
    notify: Callable[[str], None] = lambda note: None,
) -> Clock:
    """Return the clock to train or evaluate by.

    For "" it is the project's clock, or `latest` if the log was imported and ended long ago.
    `latest` lies just after the newest event. With `allow_lateness` it lies later by up to the
    allowed lateness, as far as that time has passed, because labels count only when no late event
    can change them any more. While events may still arrive it is now. `notify` gets a sentence if
    the end of the log is chosen by default.

    Raises:
        UsageError: `as_of` is not a time.
        NotReadyError: `latest`, and the lake is empty.
    """
    system_clock = SystemClock()
    if as_of == NOW:
        return system_clock
    if as_of not in ("", LATEST):
        return SimulatedClock(parse_time(as_of, "--as-of", f", or {LATEST}"))
    log_end = end_of_log(project)
    if not as_of:
        clock = project.clock()
        if (
            clock.lag_us
            or clock.was_live
            or not (log_end.is_imported and log_end.has_ended(system_clock.now()))
        ):
            return clock
        notify(
            f"{log_end.describe(system_clock.now())}: as of its end; --as-of {NOW} goes by today."
        )
    elif not log_end.record_end:
        # Raises the error for a missing lake.
        Lake(project.paths.lake).sql("SELECT p FROM events LIMIT 1")
    last_event_us = max(log_end.activity_end, 1)
    return (
        _clock_after_lateness(last_event_us, project.plan.lateness_us, system_clock)
        if allow_lateness
        else SimulatedClock(last_event_us)
    )


def response_clock(as_of: str, project: Project, system_clock: Clock) -> tuple[Clock, str]:
    """Return the clock of a response without a server, and a notice if it is not the machine's.

    For "" it is the project's clock (behind the machine's by `lag_us` if the project goes on from
    the end of an imported log), or the end of a log that ended long ago, so that users are as they
    were then. `now` selects the machine's clock.

    Raises:
        UsageError: `as_of` is not a time.
        NotReadyError: `latest`, and the lake is empty.
    """
    if as_of == NOW:
        return system_clock, ""
    if as_of not in ("", LATEST):
        clock = clock_as_of(as_of, project)
        return clock, f"Answered as of {to_iso(clock.now())}."
    log_end = end_of_log(project)
    if not as_of and (lag_us := project.clock().lag_us):
        project_time = to_iso(system_clock.now() - lag_us)[:16].replace("T", " ")
        return (
            project.clock(),
            f"{log_end.describe(system_clock.now())}: the project goes on from there, and it is "
            f"{project_time} UTC.",
        )
    if not log_end.activity_end or (
        not as_of and (project.clock().was_live or not log_end.has_ended(system_clock.now()))
    ):
        return system_clock, ""
    return (
        SimulatedClock(log_end.activity_end),
        f"{log_end.describe(system_clock.now())}: answered as of its end; --as-of {NOW} goes by "
        "today.",
    )


def _clock_after_lateness(end_us: int, lateness_us: int, system_clock: Clock) -> Clock:
    """Return the machine's clock if late events may still come, otherwise the settled end.

    A machine whose clock is behind the log cannot know of late events.
    """
    now = system_clock.now()
    return (
        system_clock
        if end_us <= now < end_us + lateness_us
        else SimulatedClock(max(end_us, min(now, end_us + lateness_us)))
    )


def parse_time(text: str, option: str, alternatives: str = "") -> int:
    """Parse a date or a time to microseconds, in UTC if it names no zone."""
    try:
        parsed_time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"expected a time such as 2026-11-25{alternatives}, got {text!r}", where=option
        ) from None
    # Integers throughout, because a float of seconds cannot represent every microsecond.
    return (
        (parsed_time if parsed_time.tzinfo else parsed_time.replace(tzinfo=UTC))
        - datetime.fromtimestamp(0, UTC)
    ) // timedelta(microseconds=1)
