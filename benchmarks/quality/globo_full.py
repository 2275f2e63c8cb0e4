"""What the fuller set of features gains over the first one on Globo.com: two models, the same clicks, the same requests.

python -m benchmarks.quality.globo_full [--data PATH] [--small] [--validation] [--leave-out NAME …] [--json]

The project declares both sets. The first model leaves the newer features out and becomes the incumbent; the second has them, and is
judged beside the incumbent on the same test requests, so that the gain is a paired difference with its interval over people. Look at
variants with `--validation`, which ends the history a day earlier: the last day is judged once.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.quality import globo
from benchmarks.quality.running import PROJECTS, _drawn, _import, environment, folder_or_skip, options, show
from tailorbird.config import open_project
from tailorbird.events import DAY, SimulatedClock
from tailorbird.features import load_features
from tailorbird.lake import Lake
from tailorbird.registry import Registry
from tailorbird.training.settings import TrainReport, TrainSettings
from tailorbird.training.train import train

FIRST = "first_features"
TOLD = ("results", "differences", "slices", "heads", "reasons", "requests", "people", "rows", "notes", "about")
# Counts that swing with the traffic, and what is only there to be divided by; see `globo.COUNTS`.
PARTS = ("fading_15m", "fading_1h", "fading_6h", "all_fading_1h", "readers_1h", "readers_1d", "sessions_1h", "direct_6h", "searched_6h")
PARTS += ("by_weekday", "seen_by_me")


def main() -> None:
    parser = options(
        "globo_full",
        __doc__.splitlines()[0],
        small="a part of the data",
        keep="make the project here and keep it; one that is there is used again",
    )
    parser.add_argument("--validation", action="store_true", help="without the last day: to choose features by")
    parser.add_argument("--leave-out", nargs="*", default=(), help="of the newer features, beside those that are only parts of others")
    given = parser.parse_args()
    data = folder_or_skip(globo.CASE.folder, given.data)
    with tempfile.TemporaryDirectory(prefix="tailorbird-globo-full-") as scratch:
        result = run(data, Path(scratch), given)
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


def run(data: Path, scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    from shutil import copytree

    root = given.keep or scratch / "globo_full"
    begun = time.monotonic()
    if not root.exists():
        copytree(PROJECTS / "globo_full", root)
        if given.small:
            (scratch / "data").mkdir()
            globo.trim(data, scratch / "data")
        _import(globo.CASE, root, scratch / "data" if given.small else data)
    seconds = {"import": round(time.monotonic() - begun, 1)}
    newer = sorted(set(load_features(root / "features.py").numeric) - set(load_features(PROJECTS / "globo" / "features.py").numeric))
    newer += ["user_first_device", "user_last_device"]
    first = _train(root, given, leave_out=(*globo.COUNTS, *newer))
    Registry(open_project(root).paths.registry, clock=SimulatedClock(0)).promote(first.version, by="benchmark", why="the first set")
    second = _train(root, given, leave_out=(*globo.COUNTS, *PARTS, *given.leave_out))
    told = second.plain()
    for figures in (told["results"], told["differences"]):
        figures[FIRST] = figures.pop(first.version)
    for figures in told["slices"].values():
        figures[FIRST] = figures.pop(first.version)
    model = next(name for name in told["results"] if name in ("tailorbird", second.version))
    told["results"]["tailorbird"] = told["results"].pop(model)
    return {
        "benchmark": "globo_full",
        "title": "Globo.com news: what the fuller set of features gains",
        "small": given.small,
        "protocol": [
            *globo.CASE.protocol,
            f"`{FIRST}` is the model of [globo](#globo) with its features, trained and judged in the same run on the same requests; the "
            f"fuller set adds {', '.join(name for name in newer if name not in (*PARTS, *given.leave_out))}.",
            "`user_fading_1d`, a reader's clicks that halve within a day, moves with the time since the last of them, and so a little with "
            "the invented 30 s: it could tell that a session ends, though not by which article.",
            "The set was fixed before; the last day was judged once." if not given.validation else "Without the last day: to choose by.",
            *_drawn(second),
        ],
        **{
            name: told[name]
            for name in ("results", "differences", "slices", "heads", "reasons", "requests", "people", "rows", "notes", "about")
        },
        "promoted": second.promoted,
        "counted": [],
        "seconds": {**seconds, **told["seconds"]},
        "environment": environment(),
    }


def _train(root: Path, given: argparse.Namespace, *, leave_out: tuple[str, ...]) -> TrainReport:
    project = open_project(root)
    span = Lake(project.paths.lake).sql("SELECT min(ts) AS low, max(ts) AS high FROM events WHERE NOT timeless")
    low, high = (span.column(name).cast(pa.int64())[0].as_py() for name in ("low", "high"))
    settings: TrainSettings = globo.settings(low, high)
    now = high + 1
    if given.validation:
        now = settings.test_from
        settings = replace(settings, validation_from=settings.validation_from - DAY, test_from=settings.test_from - DAY)
    settings = replace(globo.small(settings) if given.small else settings, leave_out=leave_out)
    paths = project.paths
    return train(
        project.features,
        project.slots[project.settings.train.slot],
        lake=paths.lake,
        registry=paths.registry,
        reports=None,
        clock=SimulatedClock(now),
        settings=settings,
        by="benchmark",
        promote=False,
    )


if __name__ == "__main__":
    main()
