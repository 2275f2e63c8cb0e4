"""The simulated site's holdout: logged answers under a known policy, with what people did; no data set is needed.

python -m benchmarks.quality.simulated [--small] [--json] [--shuffle]
"""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from benchmarks.quality.running import Case, main
from tailorbird.events import DAY
from tailorbird.simulator import Site
from tailorbird.training.settings import TrainSettings

SEED, USERS, ITEMS, DAYS = 11, 3_000, 800, 21
SMALL_DAYS = 8


def write_history(folder: Path, days: int) -> None:
    """What the site would have kept, as lines of our own format."""
    Site(SEED, users=USERS, items=ITEMS, days=days + 1).history(days).write(folder / "history.jsonl")


def make_project(folder: Path) -> None:
    """The project that `tailorbird init` writes."""
    folder.mkdir()
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        (folder / name).write_text((files("tailorbird.cli") / "templates" / name).read_text())


CASE = Case(
    name="simulated",
    title=f"The simulated site: {USERS:,} people, {ITEMS} items, {DAYS} days of logged answers",
    folder="",
    import_=("tailorbird",),
    settings=lambda low, high: TrainSettings(window_us=high - low, lateness_us=DAY),
    small=lambda settings: replace(settings, quick=True),
    protocol=(
        "Rows are the items that people saw in answers of the site's own policy, a mixture of popular and random lists; the gain is 1 "
        "for a click and 5 for a purchase. Lists are short, so figures lie close together: chance already finds most.",
        "Features, slot and settings are those that `tailorbird init` writes.",
    ),
    data=lambda folder, small: write_history(folder, SMALL_DAYS if small else DAYS),
    project=make_project,
)

if __name__ == "__main__":
    main(CASE)
