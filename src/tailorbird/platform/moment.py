"""Clocks for training, evaluation and answers: `as_of`, today, or the end of an imported log."""

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
    allow_lateness: bool = True,
    notify: Callable[[str], None] = lambda note: None,
) -> Clock:
    """Return the clock to train or evaluate by.

    For "" it is the project's clock, or `latest` if the log was imported and ended long ago.
    `latest` lies just after the newest event. With `allow_lateness` it lies later by up to the allowed
    lateness, as far as that time has passed, because labels count only when no late event can
    change them any more. While events may still arrive it is now. `notify` gets a sentence if the
    end of the log is chosen by default.

    Raises:
        UsageError: the text is not a time.
        NotReadyError: `latest`, and the lake is empty.
    """
    machine = SystemClock()
    if text == NOW:
        return machine
    if text not in ("", LATEST):
        return SimulatedClock(parse_time(text, "--as-of", f", or {LATEST}"))
    end = end_of_log(project)
    if not text:
        clock = project.clock()
        if clock.behind or clock.was_live or not (end.is_imported and end.has_ended(machine.now())):
            return clock
        notify(f"{end.describe(machine.now())}: as of its end; --as-of {NOW} goes by today.")
    elif not end.record_end:
        # Raises the error for a missing lake.
        Lake(project.paths.lake).sql("SELECT p FROM events LIMIT 1")
    last = max(end.activity_end, 1)
    return (
        _clock_after_lateness(last, project.plan.lateness_us, machine)
        if allow_lateness
        else SimulatedClock(last)
    )


def response_clock(text: str, project: Project, machine: Clock) -> tuple[Clock, str]:
    """Return the clock of a response without a server, and a notice if it is not the machine's.

    For "" it is the project's clock, or the end of a log that ended long ago, so that users are as
    they were then. `now` selects the machine's clock.

    Raises:
        UsageError: the text is not a time.
        NotReadyError: `latest`, and the lake is empty.
    """
    if text == NOW:
        return machine, ""
    if text not in ("", LATEST):
        clock = clock_as_of(text, project)
        return clock, f"Answered as of {to_iso(clock.now())}."
    end = end_of_log(project)
    if not text and (behind_us := project.clock().behind):
        moment = to_iso(machine.now() - behind_us)[:16].replace("T", " ")
        return (
            project.clock(),
            f"{end.describe(machine.now())}: the project goes on from there, and it is "
            f"{moment} UTC.",
        )
    if not end.activity_end or (
        not text and (project.clock().was_live or not end.has_ended(machine.now()))
    ):
        return machine, ""
    return SimulatedClock(
        end.activity_end
    ), f"{end.describe(machine.now())}: answered as of its end; --as-of {NOW} goes by today."


def _clock_after_lateness(end: int, lateness_us: int, machine: Clock) -> Clock:
    """Return the machine's clock if late events may still come, otherwise the settled end.

    A machine whose clock is behind the log cannot know of late events.
    """
    now = machine.now()
    return (
        machine
        if end <= now < end + lateness_us
        else SimulatedClock(max(end, min(now, end + lateness_us)))
    )


def parse_time(text: str, option: str, alternatives: str = "") -> int:
    """Parse a date or a time to microseconds, in UTC if it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"expected a time such as 2026-11-25{alternatives}, got {text!r}", where=option
        ) from None
    # Integers throughout, because a float of seconds cannot represent every microsecond.
    return (
        (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)
    ) // timedelta(microseconds=1)
