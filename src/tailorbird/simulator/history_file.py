"""The history of a synthetic shop as a file, for `tailorbird import`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tailorbird.errors import UsageError
from tailorbird.events import DAY, SystemClock
from tailorbird.pages.notebook import text_html
from tailorbird.simulator.incidents import SERVING_KINDS, Incident, draw_incidents, draw_start
from tailorbird.simulator.site import Site
from tailorbird.simulator.wire import DefectRates, InjectedCounts

LINES_PER_REPORT = 5_000


@dataclass(frozen=True, repr=False)
class HistoryFile:
    """A written history.

    Attributes:
        start: its first moment, microseconds.
        injected: faults that it has, by kind.
        incidents: what happens in it: kind, start, size and who.
    """

    path: Path
    lines: int
    days: int
    start: int
    injected: InjectedCounts
    incidents: tuple[Incident, ...] = ()

    def __repr__(self) -> str:
        first_day = datetime.fromtimestamp(self.start / 1e6, UTC).date()
        return f"{self.lines:,} lines of {self.days} days from {first_day} on in {self.path}"

    _repr_html_ = text_html


def write_history(
    path: str | Path,
    *,
    days: int = 14,
    users: int = 2_000,
    items: int = 800,
    seed: int = 1,
    has_faults: bool = True,
    incidents: Sequence[str] = (),
    draw_first_day: bool = False,
    progress: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
) -> HistoryFile:
    """Write the history of a synthetic shop up to last midnight (UTC).

    Args:
        path: the file to write; it must not exist.
        seed: the same seed gives the same history for the same day.
        incidents: `KIND[:size[:hours]]` each. What is not given is drawn from the seed, the start
            in the second half of the days. Faults of serving show in no history.
        draw_first_day: draw weekday and season from the seed; the history then ends on another
            day than the last one.
        has_faults: also write repeats, late and malformed events, skewed clocks and a bot.

    Raises:
        UsageError: the file exists, or a number is too small.
    """
    output_path = Path(path)
    if output_path.exists():
        raise UsageError(
            "already there; nothing was written", where=str(output_path), fix="choose another file"
        )
    if days < 1 or users < 1 or items < 20:
        raise UsageError(
            f"expected at least 1 day, 1 user and 20 items, got {days}, {users}, {items}"
        )
    if seed < 0:
        raise UsageError(f"expected 0 or more, got {seed}", where="--seed")
    start = draw_start(seed) if draw_first_day else (SystemClock().now() // DAY - days) * DAY
    drawn_incidents = draw_incidents(
        incidents, seed=seed, first=start + days * DAY // 2, last=start + days * DAY
    )
    if invisible := [
        incident.KIND for incident in drawn_incidents if incident.KIND in SERVING_KINDS
    ]:
        raise UsageError(
            f"{invisible[0]} lies in serving, and a history has none",
            where="--incident",
            fix="use python -m benchmarks.quality.decisions --kinds "
            f"{invisible[0]}, or a drill of docs/operate",
        )
    site = Site(
        seed, users=users, items=items, start=start, days=days + 60, incidents=drawn_incidents
    )
    history = site.history(days, defects=DefectRates() if has_faults else DefectRates.none())
    output_path.parent.mkdir(parents=True, exist_ok=True)
    line_count = 0
    temporary_file = output_path.with_name(f"{output_path.name}.part")
    with temporary_file.open("wb") as file:
        for line_count, arrival in enumerate(history, 1):
            file.write(arrival.body + b"\n")
            if line_count % LINES_PER_REPORT == 0:
                progress("simulate", line_count, None)
    progress("simulate", line_count, line_count)
    temporary_file.rename(output_path)
    return HistoryFile(
        output_path, line_count, days, start, history.injected, tuple(drawn_incidents)
    )
