"""What the columns of people's kind that `tailorbird init` declares cost and bring: with them and without, on the simulated site.

python -m benchmarks.quality.default_columns [--seeds 3] [--small] [--keep FOLDER] [--json]

Backfill and reading take turns, with and without, so that a busy machine is busy for both; ratios are what to quote. `--keep` takes the
folder of `architectures`, whose project and trainings are the same.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.architectures import Design, _clock, _settings, imported
from benchmarks.quality.running import environment
from benchmarks.quality.simulated import DAYS, ITEMS, SMALL_DAYS, USERS
from tailorbird.config import Project
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.training.evaluate import thinned
from tailorbird.training.judge import PRIMARY, flat
from tailorbird.training.matrix import featured
from tailorbird.training.rows import load_material
from tailorbird.training.serving_cost import read_us as read_us_of
from tailorbird.training.serving_cost import request_bytes, without
from tailorbird.training.settings import TrainSettings
from tailorbird.training.train import train

COLUMNS = (
    "country_category_ctr_28d", "age_category_ctr_28d", "item_lift", "user_lift", "country_lift", "age_lift", "expected_ctr",
)  # fmt: skip
WITH, WITHOUT = "with", "without"
REPEATS, READS = 7, 2
BACKFILLED = 4_000  # requests
SEED = 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.default_columns", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="trainings with the columns, and as many without")
    parser.add_argument("--small", action="store_true", help="8 days, one seed, trees as --quick grows them")
    parser.add_argument("--keep", type=Path, help="the folder of `architectures`, or a new one: its project is used and kept")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    given = parser.parse_args()
    design = Design(SMALL_DAYS, quick=True) if given.small else Design(DAYS, quick=False)
    with tempfile.TemporaryDirectory(prefix="tailorbird-columns-") as scratch:
        project = imported((given.keep or Path(scratch) / "kept") / "project", design)
        result = run(project, Path(scratch), design, seeds=1 if given.small else given.seeds, small=given.small)
    print(json.dumps(result, indent=1) if given.json else told(result))


def run(project: Project, scratch: Path, design: Design, *, seeds: int, small: bool) -> dict[str, Any]:
    """Backfill, read, train and judge, with the columns and without."""
    lake, settings = Lake(project.paths.lake), _settings(project, design)
    fewer, stay = without(project.features, COLUMNS, project.plan.event_types)
    assert not stay, f"{', '.join(stay)} cannot be left away"
    sets = {WITH: project.features, WITHOUT: fewer}
    backfill_s, requests, rows = _backfilled(project, sets, settings)
    orders = [list(sets), list(reversed(sets))] * READS  # who comes second finds the caches warm
    reads = [dict(zip(order, read_us_of([sets[name] for name in order], lake), strict=True)) for order in orders]
    cost = {
        name: {
            "columns": len(one.numeric) + len(one.categorical),
            "backfill_s": round(backfill_s[name], 3),
            "read_us": round(min(each[name] for each in reads), 1),
            "request_bytes": request_bytes(one),
        }
        for name, one in sets.items()
    }
    quality = {name: [_trained(project, scratch, settings, name, SEED + seed) for seed in range(seeds)] for name in sets}
    return {
        "benchmark": "default_columns",
        "title": "The simulated site: what the seven columns of people's kind cost and bring",
        "small": small,
        "protocol": [
            f"{USERS:,} people, {ITEMS} items, {design.days} days; {', '.join(f'`{name}`' for name in COLUMNS)}, with all that `tailorbird "
            "init` declares beside them, and left away",
            f"`backfill_s`: {requests:,} requests, {rows:,} rows, all columns, seconds of the processor, median of {REPEATS}; `read_us`: "
            f"reading one person and 200 candidates from a state in LMDB, least of {2 * READS} medians of 200 requests; "
            "`request_bytes`: of the reading records of such a request",
            f"`{PRIMARY}`: of the trees that `architectures` trains, {seeds} seed(s), on the newest part of the log; `score_us`: to score "
            "200 candidates, one thread",
        ],
        "cost": cost,
        "quality": {name: _mean(each) for name, each in quality.items()},
        "spread": {name: [one[PRIMARY] for one in each] for name, each in quality.items()},
        "ratios": {
            **{figure: round(cost[WITH][figure] / cost[WITHOUT][figure], 3) for figure in ("backfill_s", "read_us", "request_bytes")},
            "score_us": round(_mean(quality[WITH])["score_us"] / _mean(quality[WITHOUT])["score_us"], 3),
        },
        "environment": environment(),
    }


def _backfilled(project: Project, sets: Mapping[str, FeatureSet], settings: TrainSettings) -> tuple[dict[str, float], int, int]:
    """Processor seconds of the columns of some requests, by set, and how many requests and rows these are."""
    material = load_material(
        Lake(project.paths.lake), project.features, project.slots["home"], settings.wanted(_clock(project).now())
    )  # fmt: skip
    some = material.data.take(thinned(np.arange(material.data.requests), BACKFILLED, 0))
    taken: dict[str, list[float]] = {name: [] for name in sets}
    for turn in range(REPEATS + 1):
        for name, features in sets.items():
            begun = time.process_time()
            for _ in featured(some, features, material.events):
                pass
            if turn:  # the first loads compiled loops
                taken[name].append(time.process_time() - begun)
    return {name: statistics.median(each) for name, each in taken.items()}, some.requests, some.rows


def _trained(project: Project, scratch: Path, settings: TrainSettings, name: str, seed: int) -> dict[str, float]:
    settings = replace(settings, seed=seed, leave_out=COLUMNS if name == WITHOUT else ())
    report = train(
        project.features, project.slots["home"], lake=project.paths.lake, registry=scratch / f"registry-{name}-{seed}",
        reports=scratch / "reports", clock=_clock(project), settings=settings, promote=False, by="benchmark",
    )  # fmt: skip
    figures = flat(report.evaluation.figures["tailorbird"])
    score = next(one["us"] for one in report.priced if one["name"] == "tailorbird")
    wanted = (PRIMARY, f"{PRIMARY}_low", f"{PRIMARY}_high")
    return {key: value for key in wanted if (value := figures[key]) is not None} | {"score_us": score}


def _mean(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: round(float(np.mean([one[key] for one in each])), 6) for key in each[0]}


def told(result: Mapping[str, Any]) -> str:
    """For people."""
    lines = [result["title"], *result["protocol"]]
    for name in (WITH, WITHOUT):
        lines.append(f"{name:8} {result['cost'][name]} {result['quality'][name]} {result['spread'][name]}")
    lines.append(f"with ÷ without: {result['ratios']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
