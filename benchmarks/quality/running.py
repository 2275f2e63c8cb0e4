"""What the quality benchmarks share: data set → `tailorbird import` → `training.train` → figures as JSON.

A case is a project folder beside this file (features, slot, mapping), where its data lies, and how it is cut. Everything goes the
way that a user's data goes: the command imports, routes and fills the lake; training draws requests and candidates from the lake,
computes features by backfill, and judges the model beside every baseline on the last part of the time.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy
import pyarrow as pa

from benchmarks.quality.over_seeds import by_seed, mean_over
from tailorbird.config import open_project
from tailorbird.events import SimulatedClock
from tailorbird.lake import Lake
from tailorbird.training.judge import PRIMARY
from tailorbird.training.retrieval import CHOICES, Choice
from tailorbird.training.settings import TrainReport, TrainSettings
from tailorbird.training.train import train
from tailorbird.version import __version__

PROJECTS = Path(__file__).with_name("projects")
OVER_SEEDS = ("results", "differences", "slices", "heads", "requests", "people", "seconds")
SEED = 7  # of the first training; the others' follow


@dataclass(frozen=True)
class Case:
    """One data set and the protocol on it.

    Attributes:
        folder: of the data set, below the folder of all data.
        import_: arguments of `tailorbird import` before the path; `{project}` is replaced.
        settings: from the time of the first and the last event.
        small: cuts the settings down, for `--small`.
        trim: makes a smaller copy of the data, for `--small`; None takes all.
        data: makes the data in a folder, where they are no files of others; told whether the run is small.
        project: makes the project folder, where it is none of those beside this file.
        protocol: what a reader must know, a sentence each.
        expected: figures of the data set that the lake must agree with: SQL → value.
    """

    name: str
    title: str
    folder: str
    import_: tuple[str, ...]
    settings: Callable[[int, int], TrainSettings]
    small: Callable[[TrainSettings], TrainSettings]
    protocol: tuple[str, ...]
    trim: Callable[[Path, Path], None] | None = None
    expected: dict[str, int] = field(default_factory=dict)
    data: Callable[[Path, bool], None] | None = None
    project: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Counted:
    """One figure of the lake beside what the data set's description says."""

    query: str
    found: int
    expected: int


def main(case: Case) -> None:
    """The command line of a case."""
    keep = "keep the project here, and what each training told: a run that was cut short goes on"
    parser = options(case.name, case.title, small="a part of the data, within a minute", keep=keep)
    parser.add_argument("--retrieval", choices=CHOICES, default="tables", help="where candidates come from, as in `tailorbird train`")
    parser.add_argument("--shuffle", action="store_true", help="train on shuffled labels: the gate must refuse the result")
    parser.add_argument("--seeds", type=int, default=3, help="trainings on the same lake, whose figures are averaged (default 3)")
    given = parser.parse_args()
    data = folder_or_skip(case.folder, given.data) if case.data is None else folder_of(case.folder, given.data)
    seeds = 1 if given.small else given.seeds
    result = run(case, data, small=given.small, keep=given.keep, shuffle=given.shuffle, retrieval=given.retrieval, seeds=seeds)
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


def options(name: str, about: str, *, small: str, keep: str) -> argparse.ArgumentParser:
    """What every benchmark over real data may be told; it adds what is its own.

    Args:
        small, keep: what `--small` leaves of it, and what `--keep` is good for.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.quality.{name}", description=about)
    parser.add_argument("--data", type=Path, default=default_data(), help="the folder that holds the data sets, or this one")
    parser.add_argument("--small", action="store_true", help=small)
    parser.add_argument("--keep", type=Path, help=keep)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser


def default_data() -> Path | None:
    """The folder of data sets: TAILORBIRD_DATA, or `shared/data` beside the repository."""
    named = os.environ.get("TAILORBIRD_DATA")
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(named) if named else beside if beside.is_dir() else None


def folder_of(folder: str, data: Path | None) -> Path | None:
    """Where the data set lies that is kept in `folder`, or None."""
    if data is None or not folder:
        return None
    if (data / folder).is_dir():
        return data / folder
    return data if data.is_dir() and data.name == folder else None


def folder_or_skip(folder: str, data: Path | None) -> Path:
    """Where the data set lies; ends the command with status 3, saying so, where it is not here."""
    found = folder_of(folder, data)
    if found is None:
        print(f"skipped: no {folder} in {data or 'any folder'}; name it by --data or TAILORBIRD_DATA", file=sys.stderr)
        raise SystemExit(3)
    return found


def run(
    case: Case,
    data: Path | None,
    *,
    small: bool = False,
    keep: Path | None = None,
    shuffle: bool = False,
    retrieval: Choice = "tables",
    seeds: int = 1,
) -> dict[str, Any]:
    """Import, train with each seed, judge: figures are means over the seeds, the gate's words are of the first."""
    with tempfile.TemporaryDirectory(prefix=f"tailorbird-{case.name}-") as scratch:
        root = keep or Path(scratch) / case.name
        if not root.exists():
            (case.project or partial(shutil.copytree, PROJECTS / case.name))(root)
        data = _data(case, data, Path(scratch) / "data", small)
        begin = time.monotonic()
        imported = _import(case, root, data)
        import_s = time.monotonic() - begin
        counted = [] if small else _count(case, root)
        every = {
            seed: _told(case, root, small=small, shuffle=shuffle, retrieval=retrieval, seed=seed) for seed in range(SEED, SEED + seeds)
        }
    first = every[SEED]
    told = {**first, **{name: mean_over([each[name] for each in every.values()]) for name in OVER_SEEDS}}
    return {
        "benchmark": case.name,
        "title": case.title,
        "small": small,
        "protocol": [*case.protocol, *first["drawn"]],
        "results": told["results"],
        "differences": told["differences"],
        "slices": told["slices"],
        "heads": told["heads"],
        "promoted": told["promoted"],
        "reasons": told["reasons"],
        "requests": told["requests"],
        "people": told["people"],
        "rows": told["rows"],
        "notes": told["notes"],
        "about": told["about"],
        "imported": {name: imported[name] for name in ("rows", "accepted", "routed")},
        "counted": [vars(each) for each in counted],
        "seeds": by_seed(every, "tailorbird", PRIMARY),
        "seconds": {**({} if imported["already"] else {"import": round(import_s, 1)}), **told["seconds"]},
        "environment": environment(),
    }


def _data(case: Case, given: Path | None, scratch: Path, small: bool) -> Path:
    """The data set, a smaller copy of it, or data made here."""
    if case.data is not None:
        scratch.mkdir()
        case.data(scratch, small)
        return scratch
    assert given is not None
    if not small or case.trim is None:
        return given
    scratch.mkdir()
    case.trim(given, scratch)
    return scratch


def show(result: dict[str, Any]) -> None:
    """The result for people."""
    print(result["title"])
    for sentence in result["protocol"]:
        print(f"  {sentence}")
    figures = [name for name in next(iter(result["results"].values())) if not name.endswith(("_low", "_high"))]
    print(f"{'':16}" + "".join(f"{name:>26}" for name in figures))
    for name, each in sorted(result["results"].items(), key=lambda entry: -(entry[1]["ndcg_10"] or 0)):
        print(f"{name:16}" + "".join(f"{_cell(each, figure):>26}" for figure in figures))
    print("; ".join(result["reasons"]))
    for each in result["counted"]:
        print(f"{each['query']}: {each['found']:,} (expected {each['expected']:,})")
    print("seconds:", result["seconds"])


def environment() -> dict[str, str]:
    """Versions, machine and day."""
    versions = {"tailorbird": __version__, "python": platform.python_version(), "lightgbm": lightgbm.__version__}
    machine = {"numpy": numpy.__version__, "pyarrow": str(pa.__version__), "cpu": _cpu(), "cores": str(os.cpu_count())}
    return versions | machine | {"day": time.strftime("%Y-%m-%d")}


def fewer(settings: TrainSettings, *, requests: int, test: int) -> TrainSettings:
    """A smaller run of the same."""
    return replace(settings, requests=requests, test_requests=test, gbdt=replace(settings.gbdt, trees=150, rate=0.1, patience=15))


def _import(case: Case, root: Path, data: Path) -> dict[str, Any]:
    arguments = [each.format(project=root) for each in case.import_]
    command = [str(Path(sys.executable).with_name("tailorbird")), "-C", str(root), "import", *arguments, str(data), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr or done.stdout}")
    return json.loads(done.stdout)


def _count(case: Case, root: Path) -> list[Counted]:
    lake = Lake(open_project(root).paths.lake)
    return [Counted(query, int(lake.sql(query).column(0)[0].as_py()), expected) for query, expected in case.expected.items()]


def _told(case: Case, root: Path, *, small: bool, shuffle: bool, retrieval: Choice, seed: int) -> dict[str, Any]:
    """What a training told, kept beside the project: one that is there is not trained again."""
    variant = f"{retrieval}{'-small' if small else ''}{'-shuffled' if shuffle else ''}"
    kept = root / f"told-{variant}-{seed}.json"
    if not kept.exists():
        report = _train(case, root, small=small, shuffle=shuffle, retrieval=retrieval, seed=seed)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps({**report.plain(), "drawn": _drawn(report)}))
        part.rename(kept)
    return json.loads(kept.read_text())


def _train(case: Case, root: Path, *, small: bool, shuffle: bool, retrieval: Choice, seed: int) -> TrainReport:
    project = open_project(root)
    span = Lake(project.paths.lake).sql("SELECT min(ts) AS low, max(ts) AS high FROM events WHERE NOT timeless")
    low, high = (span.column(name).cast(pa.int64())[0].as_py() for name in ("low", "high"))
    settings = case.settings(low, high)
    settings = replace(case.small(settings) if small else settings, shuffle=shuffle, retrieval=retrieval, seed=seed)
    slot = project.slots[project.settings.train.slot]
    paths = project.paths
    clock = SimulatedClock(high + 1)
    registry = paths.registry if seed == SEED else root / f"registry-{seed}"  # so that none is held against the seed before it
    shutil.rmtree(registry, ignore_errors=True)  # nor against what a run left that was cut short
    return train(
        project.features,
        slot,
        lake=paths.lake,
        registry=registry,
        reports=paths.reports,
        clock=clock,
        settings=settings,
        by="benchmark",
    )


def _drawn(report: TrainReport) -> list[str]:
    """How requests and candidates of the test part were drawn, from what training noted."""
    about, scheme = report.about, report.evaluation.about
    requests = about["requests"]
    window = about["window_text"]
    text = f"learned from {window['from'][:16]} to {window['train_until'][:16]} ({requests['train']:,} requests)"
    judged = (
        f"judged from {window['test_from'][:16]} to {window['test_to'][:16]} UTC on {report.evaluation.requests:,} requests drawn evenly"
    )
    found = [f"candidates: {scheme['candidates']}"] if "candidates" in scheme else []
    return [f"{text}; {judged}", *found]


def _cell(figures: dict[str, float | None], name: str) -> str:
    value, low, high = (figures[name + end] for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f}–{high:.4f})"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
