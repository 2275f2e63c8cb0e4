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
from tailorbird.features.state.progress import Figures

LOG_INTERVAL_S = 60.0
log = logging.getLogger(__name__)


@dataclass
class MisfitCounter:
    """Counts by field since the last log message: `capped` values and `unreadable` ones."""

    capped: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    logged_at: float = float("-inf")

    def add(self, frame: Frame) -> None:
        self.capped.update(frame.capped)
        self.unreadable.update(frame.unreadable)

    def log_counts(self, now: float) -> None:
        """Log and reset the counts, at most once a minute; `now` is in seconds."""
        if now < self.logged_at + LOG_INTERVAL_S:
            return
        if self.capped:
            text = "%d values were above the maximum that is declared for them, and count as it: %s"
            log.warning(text, self.capped.total(), _format_counts(self.capped))
        if self.unreadable:
            text = "%d values are missing because they are no number or text as declared: %s"
            log.warning(text, self.unreadable.total(), _format_counts(self.unreadable))
        if self.capped or self.unreadable:
            self.capped, self.unreadable, self.logged_at = Counter(), Counter(), now


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))


def add_frame(figures: Figures, frame: Frame) -> Figures:
    """Return the counters with those of one frame added."""
    frame_counts = {
        "capped": frame.capped,
        "unreadable": frame.unreadable,
        "converted": frame.converted,
    }
    return msgspec.structs.replace(
        figures,
        **{
            name: dict(Counter(getattr(figures, name)) + counts)
            for name, counts in frame_counts.items()
            if counts
        },
    )
