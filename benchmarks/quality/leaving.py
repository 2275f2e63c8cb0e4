"""What the two benchmarks of churn share: data set → `tailorbird import` →
`training.churn.train.study` → figures as JSON.

As in `benchmarks.quality.running`, everything goes the way that a user's data goes. Each seed runs
in a process of its own; with --keep its figures are kept there, and a run that was stopped goes on
with the seeds that are missing.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.running import PROJECTS, Counted, environment, folder_or_skip, options
from tailorbird.config import open_project
from tailorbird.events import DAY, micros
from tailorbird.features.attached import JoinedEvents
from tailorbird.lake import Lake
from tailorbird.training.churn.contact import contact_curve
from tailorbird.training.churn.fit import FitSettings
from tailorbird.training.churn.labels import Window
from tailorbird.training.churn.report import cut_to_dict
from tailorbird.training.churn.rows import needed_columns
from tailorbird.training.churn.train import ChurnBacktest, ChurnSettings, run_backtest

SEEDS = (7, 8, 9)
OURS = "tailorbird"


@dataclass(frozen=True)
class Plan:
    """How a data set is walked over.

    Attributes:
        windows: oldest first; judged: how many of the last are told, the others only choose and
            calibrate.
        learn_until: rows to learn from are of moments before it; 0 for all that is known at each
            origin.
    """

    windows: tuple[Window, ...]
    judged: int
    learn_until: int = 0


@dataclass(frozen=True)
class Case:
    """One data set and the protocol on it.

    Attributes:
        prepare: writes the file that is imported into a folder.
        plan: from the first day of the log (midnight) and the midnight after its last.
        targets: figure → what is wanted, of the last cut; a lower bound, of `mae` an upper one, of
            `bias` of its size.
        rows: that one model learns from, at most.
        ceiling: from the folder of the data to rows of how well anybody could do, were a model of
            purchases true; None for none.
        ceiling_told: the same rows for people.
    """

    name: str
    title: str
    folder: str
    prepare: Callable[[Path, Path], None]
    plan: Callable[[int, int], Plan]
    protocol: tuple[str, ...]
    expected: dict[str, int] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    rows: int = 60_000
    ceiling: Callable[[Path], list[dict[str, Any]]] | None = None
    ceiling_told: Callable[[list[dict[str, Any]]], str] = json.dumps


def main(case: Case) -> None:
    """The command line of a case."""
    parser = options(
        case.name,
        case.title,
        small="one seed and a part of the rows, within a minute or two",
        keep="make project and figures of each seed here, and use those that are there",
    )
    parser.add_argument("--seed", type=int, help="run this seed alone and print its figures")
    if case.ceiling is not None:
        parser.add_argument(
            "--ceiling",
            action="store_true",
            help="print how well anybody could do, were a model true, and nothing else",
        )
    given = parser.parse_args()
    data = folder_or_skip(case.folder, given.data)
    if case.ceiling is not None and given.ceiling:
        rows = case.ceiling(data)
        print(json.dumps(rows, indent=1) if given.json else case.ceiling_told(rows))
        return
    with tempfile.TemporaryDirectory(prefix=f"tailorbird-{case.name}-") as scratch:
        root = given.keep or Path(scratch) / case.name
        counted = _project(case, root, data, Path(scratch))
        if given.seed is not None:
            found = _seed(case, root, given.seed, small=given.small)
            (root / f"seed-{given.seed}.json").write_text(json.dumps(found))
            print(json.dumps(found, indent=1))
            return
        seeds = SEEDS[:1] if given.small else SEEDS
        for seed in seeds:
            if not (root / f"seed-{seed}.json").exists():
                again = [
                    sys.executable,
                    "-m",
                    f"benchmarks.quality.{case.name}",
                    "--keep",
                    str(root),
                    "--data",
                    str(data),
                    "--seed",
                    str(seed),
                ]
                subprocess.run(
                    [*again, *(["--small"] if given.small else [])],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
        parts = [json.loads((root / f"seed-{seed}.json").read_text()) for seed in seeds]
    result = _together(case, parts, counted, small=given.small)
    if case.ceiling is not None and not given.small:
        result["ceiling"] = case.ceiling(data)
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        _show(result)


def _project(case: Case, root: Path, data: Path, scratch: Path) -> list[Counted]:
    """Make the project and import the data, unless both are there."""
    import shutil

    if not root.exists():
        shutil.copytree(PROJECTS / case.name, root)
        (scratch / "data").mkdir()
        case.prepare(data, scratch / "data")
        command = [
            str(Path(sys.executable).with_name("tailorbird")),
            "-C",
            str(root),
            "import",
            "mapping",
        ]
        done = subprocess.run(
            [*command, "--mapping", str(root / "mapping.toml"), str(scratch / "data"), "--json"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stderr or done.stdout)
    lake = Lake(open_project(root).paths.lake)
    return [
        Counted(query, int(lake.sql(query).column(0)[0].as_py()), expected)
        for query, expected in case.expected.items()
    ]


def _seed(case: Case, root: Path, seed: int, *, small: bool) -> dict[str, Any]:
    """Everything with one seed: a cut's figures each."""
    project = open_project(root)
    churn = project.churn["churn"]
    events = JoinedEvents(Lake(project.paths.lake), project.features).table(
        needed_columns(project.features)
    )
    ts = micros(events["ts"])
    first, end = int(ts.min()) // DAY * DAY, -(-(int(ts.max()) + 1) // DAY) * DAY
    plan = case.plan(first, end)
    rows = case.rows // 4 if small else case.rows
    settings = ChurnSettings(
        FitSettings(rows=rows, seed=seed), grid_rows=150_000 if small else 600_000, lateness_us=0
    )
    if small:
        plan = Plan(plan.windows[-2:], 1, plan.learn_until)
    found = run_backtest(
        project.features,
        churn,
        events,
        now=end,
        settings=settings,
        windows=plan.windows,
        learn_until=plan.learn_until,
        progress=_quiet,
    )
    return {
        "seed": seed,
        "cuts": [_cut(found, place, churn.contact) for place in range(-plan.judged, 0)],
        "leaks": found.leaks,
    }


def _quiet(stage: str, done: int, total: int) -> None:
    if os.environ.get("TAILORBIRD_DEBUG"):
        print(stage, done, total, file=sys.stderr)


def _cut(found: ChurnBacktest, place: int, contact: Any) -> dict[str, Any]:
    figures = found.figures[place]
    cut = figures.cut
    curve = contact_curve(cut.probability, cut.gone, contact)
    best = curve.best
    sums = [
        round(float(each[best - 1]), 1) if best else 0.0
        for each in (curve.expected, curve.realised)
    ]
    return {
        **cut_to_dict(figures),
        "contact": {"people": best, "expected": sums[0], "realised": sums[1]},
    }


def _together(
    case: Case, parts: Sequence[dict[str, Any]], counted: list[Counted], *, small: bool
) -> dict[str, Any]:
    """The mean over seeds of each figure and of the ends of its interval, and how far seeds lie
    apart.
    """
    cuts = [
        _mean([part["cuts"][place] for part in parts]) for place in range(len(parts[0]["cuts"]))
    ]
    last = cuts[-1]
    return {
        "benchmark": case.name,
        "title": case.title,
        "small": small,
        "protocol": list(case.protocol),
        "results": last["results"],
        "differences": last["differences"],
        "origins": cuts,
        "targets": {
            name: {
                "target": want,
                "found": last["results"][OURS][name],
                "met": _met(name, last["results"][OURS][name], want),
            }
            for name, want in case.targets.items()
        },
        "seeds": [part["seed"] for part in parts],
        "leaks": parts[0]["leaks"],
        "counted": [vars(each) for each in counted],
        "environment": environment(),
    }


def _mean(cuts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = cuts[0]
    results = {
        name: _means([cut["results"][name] for cut in cuts], spread=True)
        for name in first["results"]
    }
    differences = {
        name: _means([cut["differences"][name] for cut in cuts]) for name in first["differences"]
    }
    kept = {
        name: first[name]
        for name in ("origin", "window_days", "people", "gone", "slices", "contact")
    }
    return {
        **kept,
        "choice": [cut["choice"] for cut in cuts],
        "results": results,
        "differences": differences,
    }


def _means(
    each: Sequence[dict[str, float | None]], *, spread: bool = False
) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in each[0]:
        values = [figures[name] for figures in each]
        known = [value for value in values if value is not None]
        out[name] = round(float(np.mean(known)), 6) if len(known) == len(values) else None
        if spread and not name.endswith(("_low", "_high")) and len(known) == len(values):
            out[f"{name}_seeds"] = round(float(np.ptp(known)), 6)
    return out


def _met(name: str, found: float | None, want: float) -> bool:
    if found is None:
        return False
    return (
        found <= want if name == "mae" else abs(found) <= want if name == "bias" else found >= want
    )


def _show(result: dict[str, Any]) -> None:
    """The result for people."""
    print(result["title"])
    for sentence in result["protocol"]:
        print(f"  {sentence}")
    shown = (
        "auc",
        "ap",
        "ap_gone",
        "log_loss",
        "lift_10",
        "calibration_error_debiased",
        "mae",
        "bias",
    )
    for cut in result["origins"]:
        print(
            f"\n{cut['origin'][:10]}: {cut['people']:,} people, {cut['gone']:.1%} gone "
            f"within {cut['window_days']:g} days"
        )
        print(f"{'':16}" + "".join(f"{name[:18]:>20}" for name in shown))
        for name, figures in sorted(
            cut["results"].items(), key=lambda entry: -(entry[1]["auc"] or 0)
        ):
            print(f"{name:16}" + "".join(f"{_plain(figures.get(figure)):>20}" for figure in shown))
    for name, each in result["targets"].items():
        print(
            f"{name}: {each['found']:.4f}, wanted {each['target']:g}: "
            f"{'met' if each['met'] else 'MISSED'}"
        )


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
