"""Measure whether encodings help trees on a column of many values.

    python -m benchmarks.quality.transforms [--small] [--json]

The column holds item titles of the simulated site, one for nearly each item. Each encoding is
trained on the same rows and evaluated on the same requests beside a model without the column. This
is done twice: with the project's features, which already count clicks and impressions of each item,
and without all counts by item.
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
from tailorbird.training.dataset.replay import select_live_columns
from tailorbird.training.evaluation.figures import PRIMARY_METRIC
from tailorbird.training.pipeline import train
from tailorbird.training.settings import TrainSettings

COLUMN = "title"
TRANSFORMS_BY_WAY: dict[str, tuple[Transform, ...]] = {
    "codes": (),
    "hashing": (transform(COLUMN, hashing(256)),),
    "frequency": (transform(COLUMN, frequency()),),
    "target": (transform(COLUMN, target("click", smoothing=50)),),
    "codes and target": (transform(COLUMN), transform(COLUMN, target("click", smoothing=50))),
}
COUNTED_COLUMNS = (
    "item_clicks_1d",
    "item_clicks_7d",
    "item_ctr_7d",
    "item_purchases_28d",
    "item_lift",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.transforms", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--small", action="store_true", help=f"{SMALL_DAYS} days instead of {DAYS}")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailorbird-transforms-") as scratch:
        result = run(Path(scratch), small=arguments.small)
    print(json.dumps(result, indent=1) if arguments.json else format_report(result))


def write_history(folder: Path, days: int) -> None:
    """Write the site's history as lines of our own format."""
    Site(SEED, users=USERS, items=ITEMS, days=days + 1).history(days).write(
        folder / "history.jsonl"
    )


def make_project(folder: Path) -> None:
    """Write the project that `tailorbird init` writes."""
    folder.mkdir()
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        (folder / name).write_text((files("tailorbird.platform") / "templates" / name).read_text())


def run(folder: Path, *, small: bool) -> dict[str, Any]:
    """Import once, train each encoding, twice."""
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
    source_columns = select_live_columns(project.features, project.slot()).candidates.names
    for name, left_out in (
        ("beside counts by item", ()),
        ("without counts by item", (*COUNTED_COLUMNS, *source_columns)),
    ):
        results |= {
            f"{name}: {way}": figures
            for way, figures in _compare(project, folder / name, left_out, days).items()
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
    project: Project, registry: Path, left_out: tuple[str, ...], days: int
) -> dict[str, dict[str, float]]:
    """Return NDCG@10 by encoding, and the paired difference from the model without the column."""
    newest = (
        Lake(project.paths.lake)
        .sql("SELECT max(ts) AS high FROM events WHERE NOT timeless")
        .column("high")
        .cast("int64")[0]
        .as_py()
    )
    clock = SimulatedClock(newest + 1)
    settings = TrainSettings(window_us=days * DAY, lateness_us=DAY, quick=True, leave_out=left_out)

    def train_model(transforms: tuple[Transform, ...], leave_out: tuple[str, ...]) -> Any:
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

    model_without_column = train_model((), (*left_out, COLUMN))
    Registry(registry, clock=clock).promote(
        model_without_column.version, by="benchmark", why="the others are compared with it"
    )
    metrics_by_way = {
        "left out": {
            PRIMARY_METRIC: model_without_column.evaluation.intervals["tailorbird"][
                PRIMARY_METRIC
            ].value
        }
    }
    for way, transforms in TRANSFORMS_BY_WAY.items():
        evaluation = train_model(transforms, left_out).evaluation
        gain = evaluation.differences[model_without_column.version]
        value = evaluation.figures["tailorbird"][PRIMARY_METRIC].value
        metrics_by_way[way] = {
            PRIMARY_METRIC: value,
            "gain": gain.value,
            "gain_low": gain.low,
            "gain_high": gain.high,
        }
    return metrics_by_way


def format_report(result: dict[str, Any]) -> str:
    lines = [result["title"]]
    for name, figures_ in result["results"].items():
        gain = (
            f"{figures_['gain']:+.4f} ({figures_['gain_low']:+.4f} – {figures_['gain_high']:+.4f})"
            if "gain" in figures_
            else ""
        )
        lines.append(f"{name:42} {figures_[PRIMARY_METRIC]:.4f}  {gain}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
