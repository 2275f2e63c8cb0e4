"""The shared part of both churn benchmarks.

A data set goes through `tailorbird import` and `training.tasks.churn.train.study`, and comes out as
figures in JSON. As in `benchmarks.quality.running`, the data take the same way as a user's data.
Each seed runs in a process of its own; with --keep its figures are kept there, and a run that was
stopped goes on with the missing seeds.
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

from benchmarks.quality.running import (
    PROJECTS,
    QueryCount,
    environment,
    make_parser,
    require_data_set,
)
from tailorbird.config import open_project
from tailorbird.events import DAY, micros
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.lake import Lake
from tailorbird.training.tasks.churn.backtest import ChurnBacktest, ChurnSettings, run_backtest
from tailorbird.training.tasks.churn.contact import contact_curve
from tailorbird.training.tasks.churn.labels import Window
from tailorbird.training.tasks.churn.report import cut_to_dict
from tailorbird.training.tasks.churn.rows import needed_columns
from tailorbird.training.tasks.churn.training_rows import FitSettings

SEEDS = (7, 8, 9)
OUR_MODEL = "tailorbird"


@dataclass(frozen=True)
class Plan:
    """The windows of a data set, and their use.

    Attributes:
        windows: oldest first.
        judged: how many of the last are reported; the others only choose and calibrate.
        learn_until: rows to learn from are of moments before it; 0 for all known at each origin.
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
        targets: figure → target for the last cut: a lower bound, for `mae` an upper one, for `bias`
        a bound of its size.
        rows: how many one model learns from, at most.
        ceiling: from the folder of the data to rows of the best possible figures if a model of
        purchases were true; None for none.
        format_ceilings: formats the same rows for people.
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
    format_ceilings: Callable[[list[dict[str, Any]]], str] = json.dumps


def main(case: Case) -> None:
    """Run the command line of a case."""
    parser = make_parser(
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
    arguments = parser.parse_args()
    data = require_data_set(case.folder, arguments.data)
    if case.ceiling is not None and arguments.ceiling:
        rows = case.ceiling(data)
        print(json.dumps(rows, indent=1) if arguments.json else case.format_ceilings(rows))
        return
    with tempfile.TemporaryDirectory(prefix=f"tailorbird-{case.name}-") as scratch:
        root = arguments.keep or Path(scratch) / case.name
        query_counts = _prepare_project(case, root, data, Path(scratch))
        if arguments.seed is not None:
            figures = _run_seed(case, root, arguments.seed, small=arguments.small)
            (root / f"seed-{arguments.seed}.json").write_text(json.dumps(figures))
            print(json.dumps(figures, indent=1))
            return
        seeds = SEEDS[:1] if arguments.small else SEEDS
        for seed in seeds:
            if not (root / f"seed-{seed}.json").exists():
                command = [
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
                    [*command, *(["--small"] if arguments.small else [])],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
        seed_results = [json.loads((root / f"seed-{seed}.json").read_text()) for seed in seeds]
    result = _combine_seeds(case, seed_results, query_counts, small=arguments.small)
    if case.ceiling is not None and not arguments.small:
        result["ceiling"] = case.ceiling(data)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _print_report(result)


def _prepare_project(case: Case, root: Path, data: Path, scratch: Path) -> list[QueryCount]:
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
        process = subprocess.run(
            [*command, "--mapping", str(root / "mapping.toml"), str(scratch / "data"), "--json"],
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise SystemExit(process.stderr or process.stdout)
    lake = Lake(open_project(root).paths.lake)
    return [
        QueryCount(query, int(lake.sql(query).column(0)[0].as_py()), expected)
        for query, expected in case.expected.items()
    ]


def _run_seed(case: Case, root: Path, seed: int, *, small: bool) -> dict[str, Any]:
    """Run everything with one seed and return the figures of each cut."""
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
    backtest = run_backtest(
        project.features,
        churn,
        events,
        now=end,
        settings=settings,
        windows=plan.windows,
        learn_until=plan.learn_until,
        progress=_show_progress,
    )
    return {
        "seed": seed,
        "cuts": [
            _cut_figures(backtest, cut_index, churn.contact) for cut_index in range(-plan.judged, 0)
        ],
        "leaks": backtest.leaks,
    }


def _show_progress(stage: str, done: int, total: int) -> None:
    if os.environ.get("TAILORBIRD_DEBUG"):
        print(stage, done, total, file=sys.stderr)


def _cut_figures(backtest: ChurnBacktest, cut_index: int, contact: Any) -> dict[str, Any]:
    figures = backtest.cut_metrics[cut_index]
    cut = figures.cut
    curve = contact_curve(cut.probability, cut.churned, contact)
    best = curve.best_k
    values = [
        round(float(uplift[best - 1]), 1) if best else 0.0
        for uplift in (curve.expected_value, curve.realised_value)
    ]
    return {
        **cut_to_dict(figures),
        "contact": {"people": best, "expected": values[0], "realised": values[1]},
    }


def _combine_seeds(
    case: Case,
    seed_results: Sequence[dict[str, Any]],
    query_counts: list[QueryCount],
    *,
    small: bool,
) -> dict[str, Any]:
    """Return the mean over seeds of each figure and interval, and the spread of the seeds."""
    cuts = [
        _mean_cut([part["cuts"][cut_index] for part in seed_results])
        for cut_index in range(len(seed_results[0]["cuts"]))
    ]
    last_cut = cuts[-1]
    return {
        "benchmark": case.name,
        "title": case.title,
        "small": small,
        "protocol": list(case.protocol),
        "results": last_cut["results"],
        "differences": last_cut["differences"],
        "origins": cuts,
        "targets": {
            name: {
                "target": target,
                "found": last_cut["results"][OUR_MODEL][name],
                "met": _is_met(name, last_cut["results"][OUR_MODEL][name], target),
            }
            for name, target in case.targets.items()
        },
        "seeds": [part["seed"] for part in seed_results],
        "leaks": seed_results[0]["leaks"],
        "counted": [vars(counted_query) for counted_query in query_counts],
        "environment": environment(),
    }


def _mean_cut(cuts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = cuts[0]
    results = {
        name: _mean_figures([cut["results"][name] for cut in cuts], spread=True)
        for name in first["results"]
    }
    differences = {
        name: _mean_figures([cut["differences"][name] for cut in cuts])
        for name in first["differences"]
    }
    facts = {
        name: first[name]
        for name in ("origin", "window_days", "people", "gone", "slices", "contact")
    }
    return {
        **facts,
        "choice": [cut["choice"] for cut in cuts],
        "results": results,
        "differences": differences,
    }


def _mean_figures(
    figures_by_seed: Sequence[dict[str, float | None]], *, spread: bool = False
) -> dict[str, float | None]:
    mean_by_figure: dict[str, float | None] = {}
    for name in figures_by_seed[0]:
        values = [figures[name] for figures in figures_by_seed]
        present_values = [value for value in values if value is not None]
        mean_by_figure[name] = (
            round(float(np.mean(present_values)), 6) if len(present_values) == len(values) else None
        )
        if spread and not name.endswith(("_low", "_high")) and len(present_values) == len(values):
            mean_by_figure[f"{name}_seeds"] = round(float(np.ptp(present_values)), 6)
    return mean_by_figure


def _is_met(name: str, value: float | None, target: float) -> bool:
    if value is None:
        return False
    return (
        value <= target
        if name == "mae"
        else abs(value) <= target
        if name == "bias"
        else value >= target
    )


def _print_report(result: dict[str, Any]) -> None:
    """Print the result for people."""
    print(result["title"])
    for sentence in result["protocol"]:
        print(f"  {sentence}")
    shown_figures = (
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
        print(f"{'':16}" + "".join(f"{name[:18]:>20}" for name in shown_figures))
        for name, figures in sorted(
            cut["results"].items(), key=lambda entry: -(entry[1]["auc"] or 0)
        ):
            print(
                f"{name:16}"
                + "".join(f"{_format_figure(figures.get(figure)):>20}" for figure in shown_figures)
            )
    for name, each in result["targets"].items():
        print(
            f"{name}: {each['found']:.4f}, wanted {each['target']:g}: "
            f"{'met' if each['met'] else 'MISSED'}"
        )


def _format_figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
