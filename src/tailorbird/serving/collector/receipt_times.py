"""Receipt times of bodies by the collector's clock, in the order of its log, even if the clock
is set back.

    10:00  10:01 │ +1 day  +1 day │ 10:03  10:04    a clock that was wrong and is set right
    10:00  10:01 │ +1 day  +1 day │ 10:03  10:04    receipt times
    10:00  10:01    10:00.5 → 10:01                 a clock set back by at most 2 s, as by NTP

The router orders an answer before its clicks by these times, so they do not go back within a log
without a reason. But if they stayed at the newest time of a clock that was ahead, everything until
then would silently be dated ahead.
"""

import logging

from tailorbird.events import BACKWARD_TOLERANCE, SECOND, Clock, format_duration

log = logging.getLogger(__name__)


class ReceiptTimes:
    """The receipt times of one collector; call it under the collector's lock.

    Attributes:
        newest: the time of the newest receipt.
        set_back_count: how often the clock, and the times with it, was set back.
        ahead_count: answers that read something further ahead of the clock than a client's clock may be.
    """

    def __init__(self, clock: Clock, skew_us: int) -> None:
        self._clock = clock
        self._skew_us = skew_us
        self.newest = self.set_back_count = self.ahead_count = 0

    def next(self, at: int | None = None) -> int:
        """Return the time of what is queued now: its arrival `at`, if the order and the clock still
        allow it.
        """
        now = self._clock.now()
        if now < self.newest - BACKWARD_TOLERANCE:
            self.set_back_count += 1
            log.warning(
                "the clock was set back by %s, and times of receipt with it; what came in "
                "while it was ahead keeps times that are ahead",
                _format_span(self.newest - now),
            )
            self.newest = now
        is_valid = at is not None and self.newest <= at <= now + BACKWARD_TOLERANCE
        self.newest = at if is_valid else max(now, self.newest)
        return self.newest

    def note_response(self, t: int) -> None:
        """Count an answer whose time is ahead, and warn of the first."""
        ahead_us = t - self.newest
        if ahead_us <= self._skew_us:
            return
        self.ahead_count += 1
        if self.ahead_count == 1:
            text = (
                "an answer is dated %s ahead of the clock, since events that it read of are; "
                "so will be others until then"
            )
            log.warning(text, _format_span(ahead_us))


def _format_span(span_us: int) -> str:
    return format_duration(max(1, round(span_us / SECOND)) * SECOND)
