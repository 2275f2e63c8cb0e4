"""The history of a synthetic shop that ends on a fixed day, so that it is the same on every day."""

from pathlib import Path

from tailorbird.events import DAY
from tailorbird.simulator import DefectRates, Site

LAST_DAY = "2025-05-31"
_END = 20_240 * DAY  # midnight after it


def write_fixed_history(file: Path, *, days: int, users: int, items: int) -> None:
    """Write the history as `tailorbird simulate` does, for `import tailorbird`."""
    site = Site(1, users=users, items=items, start=_END - days * DAY, days=days + 60)
    with file.open("wb") as lines:
        for arrival in site.history(days, defects=DefectRates()):
            lines.write(arrival.body + b"\n")
