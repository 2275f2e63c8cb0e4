"""Values that do not fit their declaration: counted as events come in, and logged about once a
minute.

A number above its declared maximum counts as the maximum; one that is text, NaN or infinite, or a
category that is an object, is missing. A truth or a list where a number is expected is used as 1 or
0, or as its first element. All are signs that a client, or a declaration, may be wrong. Conversions
are only counted, since a declaration may intend them.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from tailorbird.features.event_columns.columns import Frame
from tailorbird.features.state.progress import WorkerProgress

LOG_INTERVAL_S = 60.0
log = logging.getLogger(__name__)


@dataclass
class MismatchCounter:
    """Counts by field since the last log message: `capped` values and `unreadable` ones."""

    capped: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    logged_at: float = float("-inf")

    def add(self, frame: Frame) -> None:
        self.capped.update(frame.capped_counts)
        self.unreadable.update(frame.unreadable_counts)

    def log_counts(self, now: float) -> None:
        """Log and reset the counts, at most once a minute; `now` is in seconds."""
        if now < self.logged_at + LOG_INTERVAL_S:
            return
        if self.capped:
            message = (
                "%d values were above the maximum that is declared for them, and count as it: %s"
            )
            log.warning(message, self.capped.total(), _format_counts(self.capped))
        if self.unreadable:
            message = "%d values are missing because they are no number or text as declared: %s"
            log.warning(message, self.unreadable.total(), _format_counts(self.unreadable))
        if self.capped or self.unreadable:
            self.capped = Counter()
            self.unreadable = Counter()
            self.logged_at = now


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))


def add_mismatches(progress: WorkerProgress, frame: Frame) -> WorkerProgress:
    """Return the counters with those of one frame added."""
    frame_counts = {
        "capped": frame.capped_counts,
        "unreadable": frame.unreadable_counts,
        "converted": frame.converted_counts,
    }
    return msgspec.structs.replace(
        progress,
        **{
            name: dict(Counter(getattr(progress, name)) + counts)
            for name, counts in frame_counts.items()
            if counts
        },
    )
