"""Whether encodings help trees on a column of many values: item titles of the simulated site, one
for nearly each item.

python -m benchmarks.quality.transforms [--small] [--json]

Each way of taking the column is trained on the same rows and judged on the same requests beside a
model without it. Twice: with the project's features, which already count clicks and impressions of
each item, and without all that counts by item.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.quality.running import environment
from benchmarks.quality.true_reward import DAYS, ITEMS, SEED, SMALL_DAYS, USERS
from tailorbird.config import Project, open_project
from tailorbird.events import DAY, SimulatedClock
from tailorbird.features.transforms import Transform, frequency, hashing, target, transform
from tailorbird.lake import Lake
from tailorbird.registry import Registry
from tailorbird.simulator import Site
from tailorbird.training.judge import PRIMARY
from tailorbird.training.replaying import select_live_columns
from tailorbird.training.settings import TrainSettings
from tailorbird.training.train import train

COLUMN = "title"
WAYS: dict[str, tuple[Transform, ...]] = {
    "codes": (),
    "hashing": (transform(COLUMN, hashing(256)),),
    "frequency": (transform(COLUMN, frequency()),),
    "target": (transform(COLUMN, target("click", smoothing=50)),),
    "codes and target": (transform(COLUMN), transform(COLUMN, target("click", smoothing=50))),
}
COUNTED = ("item_clicks_1d", "item_clicks_7d", "item_ctr_7d", "item_purchases_28d", "item_lift")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.transforms", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--small", action="store_true", help=f"{SMALL_DAYS} days instead of {DAYS}")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailorbird-transforms-") as scratch:
        result = run(Path(scratch), small=given.small)
    print(json.dumps(result, indent=1) if given.json else told(result))


def write_history(folder: Path, days: int) -> None:
    """What the site would have kept, as lines of our own format."""
    Site(SEED, users=USERS, items=ITEMS, days=days + 1).history(days).write(
        folder / "history.jsonl"
    )


def make_project(folder: Path) -> None:
    """The project that `tailorbird init` writes."""
    folder.mkdir()
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        (folder / name).write_text((files("tailorbird.platform") / "templates" / name).read_text())


def run(folder: Path, *, small: bool) -> dict[str, Any]:
    """Import once, train each way, twice."""
    root, data = folder / "shop", folder / "data"
    make_project(root)
    with (root / "features.py").open("a") as features:
        features.write(f'\nattribute("{COLUMN}", item, "title", kind="categorical")\n')
    data.mkdir()
    days = SMALL_DAYS if small else DAYS
    write_history(data, days)
    command = [
        str(Path(sys.executable).with_name("tailorbird")),
        "-C",
        str(root),
        "import",
        "tailorbird",
        str(data),
        "--json",
    ]
    subprocess.run(command, check=True, capture_output=True)
    project = open_project(root)
    results = {}
    by_sources = select_live_columns(project.features, project.slot()).candidates.names
    for name, left in (
        ("beside counts by item", ()),
        ("without counts by item", (*COUNTED, *by_sources)),
    ):
        results |= {
            f"{name}: {way}": figures
            for way, figures in _compare(project, folder / name, left, days).items()
        }
    title = (
        f"Ways to take a column of {ITEMS} values: the simulated site, {USERS:,} people, "
        f"{days} days"
    )
    return {
        "benchmark": "transforms",
        "title": title,
        "small": small,
        "results": results,
        "environment": environment(),
    }


def _compare(
    project: Project, registry: Path, left: tuple[str, ...], days: int
) -> dict[str, dict[str, float]]:
    """NDCG@10 by way, and the paired difference from the model without the column."""
    newest = (
        Lake(project.paths.lake)
        .sql("SELECT max(ts) AS high FROM events WHERE NOT timeless")
        .column("high")
        .cast("int64")[0]
        .as_py()
    )
    clock = SimulatedClock(newest + 1)
    settings = TrainSettings(window_us=days * DAY, lateness_us=DAY, quick=True, leave_out=left)

    def trained(transforms: tuple[Transform, ...], leave_out: tuple[str, ...]) -> Any:
        return train(
            replace(project.features, transforms=transforms),
            project.slot(),
            lake=project.paths.lake,
            registry=registry,
            clock=clock,
            settings=replace(settings, leave_out=leave_out),
            by="benchmark",
            promote=False,
        )

    without = trained((), (*left, COLUMN))
    Registry(registry, clock=clock).promote(
        without.version, by="benchmark", why="the others are compared with it"
    )
    figures = {"left out": {PRIMARY: without.evaluation.figures["tailorbird"][PRIMARY].value}}
    for way, transforms in WAYS.items():
        evaluation = trained(transforms, left).evaluation
        gain = evaluation.differences[without.version]
        value = evaluation.figures["tailorbird"][PRIMARY].value
        figures[way] = {
            PRIMARY: value,
            "gain": gain.value,
            "gain_low": gain.low,
            "gain_high": gain.high,
        }
    return figures


def told(result: dict[str, Any]) -> str:
    lines = [result["title"]]
    for name, each in result["results"].items():
        gain = (
            f"{each['gain']:+.4f} ({each['gain_low']:+.4f} – {each['gain_high']:+.4f})"
            if "gain" in each
            else ""
        )
        lines.append(f"{name:42} {each[PRIMARY]:.4f}  {gain}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
