"""What else changed while an experiment ran, and may explain a turn of its metric."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TimelineEvent:
    """A change of the project: `at` in microseconds; `kind` is model, experiment or incident."""

    at: int
    kind: str
    what: str


def select_events(
    events: Iterable[TimelineEvent], start: int, stop: int
) -> tuple[TimelineEvent, ...]:
    """Return the events with start ≤ at < stop, in order."""
    selected_events = (event for event in events if start <= event.at < stop)
    return tuple(sorted(selected_events, key=lambda event: event.at))
