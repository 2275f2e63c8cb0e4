"""Time as an argument. Every role takes a `Clock`; nothing else in the package asks the operating
system for the date.

Times are UTC, int64 microseconds since 1970. Latency is measured on the monotonic clock, never on
these.
"""

import re
import time
from datetime import UTC, datetime
from typing import Protocol

from tailorbird.errors import UsageError

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday; Monday is 0
# The largest pause within a session, for features, candidates and visits; `SESSION_MS` of the
# tracker is the same.
SESSION_GAP = 30 * MINUTE
ATTRIBUTION_WINDOW = (
    30 * MINUTE
)  # how long after an answer a click belongs to it, unless the slot says
BACKWARD_TOLERANCE = (
    2 * SECOND
    # A clock that steps back by less is held still; beyond that, it was ahead before.
)


class Clock(Protocol):
    """A source of the current time in microseconds since 1970, UTC.

    It steps back by more than `BACKWARD_TOLERANCE`, or not at all.
    """

    def now(self) -> int: ...


class SystemClock:
    """The machine's clock, made monotonic over small corrections.

    While the machine's clock goes back a little this one stands still. Where the machine's clock
    was far ahead, this one is set back with it.
    """

    def __init__(self) -> None:
        self._latest = 0

    def now(self) -> int:
        # in this order: a thread that is held up between sees no clock go back
        latest = self._latest
        now = time.time_ns() // 1_000
        self._latest = now = now if now < latest - BACKWARD_TOLERANCE else max(latest, now)
        return now


class SimulatedClock:
    """A clock that moves only by `advance_to`, for history, simulations and tests."""

    def __init__(self, start: int) -> None:
        self._now = start

    def now(self) -> int:
        return self._now

    def advance_to(self, ts: int) -> None:
        """Move to `ts`; raises ValueError if that is in this clock's past."""
        if ts < self._now:
            raise ValueError(f"a clock cannot go back from {self._now} to {ts}")
        self._now = ts


def to_iso(ts: int) -> str:
    """Format a time in microseconds as `2026-11-25T12:00:00.000000Z`, for reports and messages."""
    return datetime.fromtimestamp(ts / SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def to_iso_minute(ts: int) -> str:
    """Format a time in microseconds as `2026-11-25T12:00Z`, where a minute is exact enough."""
    return f"{to_iso(ts)[:16]}Z"


DURATION_MAX = 36_500 * DAY  # Longer durations overflow 64-bit times.
_UNIT_US = {"ms": 1_000, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"(\d+)\s*(ms|s|m|h|d|w)\Z")


def parse_duration(text: str) -> int:
    """Parse a duration such as `90s`, `30m`, `6h`, `7d` or `2w` into microseconds.

    Raises:
        UsageError: the text is no such duration, or it is zero, or longer than a hundred years.

    >>> parse_duration("6h") == 6 * HOUR
    True
    """
    match = _DURATION.match(text.strip())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"expected a duration such as 30m, 6h or 7d, got {text!r}")
    duration_us = int(match[1]) * _UNIT_US[match[2]]
    if duration_us > DURATION_MAX:
        raise UsageError(f"expected a duration of at most 100 years, got {text!r}")
    return duration_us


def format_duration(duration_us: int) -> str:
    """Format a duration in its shortest exact form: `6h`, not `21600000000`."""
    for unit in ("w", "d", "h", "m", "s", "ms"):
        if duration_us % _UNIT_US[unit] == 0 and duration_us:
            return f"{duration_us // _UNIT_US[unit]}{unit}"
    return f"{duration_us}us"
