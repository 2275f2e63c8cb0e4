"""Schedules: an interval such as `1d`, or a cron expression such as `0 3 * * *`, in UTC."""

from datetime import UTC, datetime

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events.clock import SECOND, parse_duration

_EXAMPLE = "such as 0 3 * * * for every day at 03:00 UTC, or an interval such as 1d"


def check_schedule(text: str) -> None:
    """Check a schedule; a cron expression is not checked where cronsim is not installed.

    Raises:
        UsageError: it is neither an interval nor a cron expression that ever comes.
    """
    try:
        next_run(text, 0)
    except NotReadyError:
        return


def next_run(text: str, after_ts: int) -> int:
    """Return when a schedule is due next after a time, microseconds.

    Raises:
        UsageError: the text is no schedule.
        NotReadyError: it is a cron expression, and cronsim is not installed.

    >>> next_run("1d", 0) == 86_400 * SECOND
    True
    """
    if len(text.split()) == 1:
        return after_ts + parse_duration(text)
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise NotReadyError(
            "cronsim is not installed, which cron expressions need",
            fix="pip install 'tailorbird[train]'",
        ) from None
    try:
        next_time = next(CronSim(text, datetime.fromtimestamp(after_ts / SECOND, UTC)))
    except (CronSimError, StopIteration) as error:
        message = f"expected a cron expression of five fields, got {text!r}: {error}"
        raise UsageError(message.removesuffix(": "), fix=_EXAMPLE) from None
    return int(next_time.timestamp()) * SECOND
