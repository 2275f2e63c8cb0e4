"""Values that do not fit what is declared: counted as events come in, and told in the worker's log about once a minute.

A number above its declared maximum counts as the maximum; one that is text, NaN or infinite, or a category that is an object,
is missing. Either is a sign that a client, or a declaration, is wrong.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field

from tailorbird.features.columns import Frame

TELL_EVERY_S = 60.0
log = logging.getLogger(__name__)


@dataclass
class Unfit:
    """What came since it was last told: `capped` values, and `unreadable` ones by field."""

    capped: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    told_at: float = float("-inf")

    def take(self, frame: Frame) -> None:
        self.capped += frame.capped
        self.unreadable.update(frame.unreadable)

    def tell(self, now: float) -> None:
        """Log and forget, unless that was done within the last minute; `now` is in seconds."""
        if now < self.told_at + TELL_EVERY_S:
            return
        if self.capped:
            log.warning("%d values were above the maximum that is declared for them, and count as it", self.capped)
        if self.unreadable:
            fields = ", ".join(f"{name} ({count})" for name, count in self.unreadable.most_common(5))
            log.warning("%d values are missing because they are no number or text as declared: %s", self.unreadable.total(), fields)
        if self.capped or self.unreadable:
            self.capped, self.unreadable, self.told_at = 0, Counter(), now
