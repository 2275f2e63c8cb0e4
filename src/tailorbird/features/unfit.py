"""Values that do not fit what is declared: counted as events come in, and told in the worker's log
about once a minute.

A number above its declared maximum counts as the maximum; one that is text, NaN or infinite, or a
category that is an object, is missing. A truth or a list where a number is asked for is taken as 1
or 0, or as its first element. All are signs that a client, or a declaration, may be wrong; what is
taken is only counted, for a declaration may mean it.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from tailorbird.features.columns import Frame
from tailorbird.features.figures import Figures

TELL_EVERY_S = 60.0
log = logging.getLogger(__name__)


@dataclass
class Unfit:
    """What came since it was last told, by field: `capped` values and `unreadable` ones."""

    capped: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    told_at: float = float("-inf")

    def take(self, frame: Frame) -> None:
        self.capped.update(frame.capped)
        self.unreadable.update(frame.unreadable)

    def tell(self, now: float) -> None:
        """Log and forget, unless that was done within the last minute; `now` is in seconds."""
        if now < self.told_at + TELL_EVERY_S:
            return
        if self.capped:
            text = "%d values were above the maximum that is declared for them, and count as it: %s"
            log.warning(text, self.capped.total(), _fields(self.capped))
        if self.unreadable:
            text = "%d values are missing because they are no number or text as declared: %s"
            log.warning(text, self.unreadable.total(), _fields(self.unreadable))
        if self.capped or self.unreadable:
            self.capped, self.unreadable, self.told_at = Counter(), Counter(), now


def _fields(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))


def with_frame(figures: Figures, frame: Frame) -> Figures:
    """The counters with one frame more."""
    new = {"capped": frame.capped, "unreadable": frame.unreadable, "converted": frame.converted}
    return msgspec.structs.replace(
        figures,
        **{
            name: dict(Counter(getattr(figures, name)) + more) for name, more in new.items() if more
        },
    )
