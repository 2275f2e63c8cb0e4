"""What tuning is worth: the defaults and what each sampler chooses, architecture by architecture under equal budgets, judged on later data.

python -m benchmarks.quality.tuning [simulated|movielens …] [--data PATH] [--keep FOLDER] [--architectures gbdt,mlp,dcn]
                                    [--seconds 60] [--trials 12] [--small] [--json]

Each architecture and each sampler gets the same budget, seconds of fits or trials, whichever ends first, over the same splits in time;
then its defaults and its best trial are trained, and judged on the test part, which no trial saw, in paired differences. Where `--keep`
names a folder, a run that was stopped goes on, search by search and training by training.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pyarrow as pa

from benchmarks.quality import movielens, simulated
from benchmarks.quality.running import PROJECTS, Case, _data, _import, default_data, environment, folder_of, folder_or_skip
from tailorbird.config import Project, open_project
from tailorbird.events import SimulatedClock
from tailorbird.lake import Lake
from tailorbird.models.architectures import available
from tailorbird.registry import Registry
from tailorbird.training.judge import PRIMARY, flat
from tailorbird.training.settings import TrainSettings
from tailorbird.training.train import train
from tailorbird.training.tune.run import TuneSettings, tune
from tailorbird.training.tune.study import Budget, Sampler
from tailorbird.training.tune.tuned import tuned_of, with_tuned, write_tuned

CASES = {"simulated": simulated.CASE, "movielens": movielens.CASE}
SAMPLERS: tuple[Sampler, ...] = ("random", "tpe")
NAMES = ("gbdt", "mlp", "dcn")
SPLITS, SEEDS, FINALISTS = 3, 2, 1
REQUESTS, JUDGED, TESTED = 1_500, 400, 1_000
BUDGET = Budget(12, 60.0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.tuning", description="What tuning is worth on later data")
    parser.add_argument("names", nargs="*", help=f"data sets: {', '.join(CASES)}; simulated unless told otherwise")
    parser.add_argument("--data", type=Path, default=default_data(), help="the folder that holds the data sets")
    parser.add_argument("--keep", type=Path, help="make the projects here and keep them, and go on from there")
    parser.add_argument("--architectures", default=",".join(NAMES), help="each gets the same budget")
    parser.add_argument("--seconds", type=float, default=BUDGET.seconds, help="of fits, of each architecture and sampler")
    parser.add_argument("--trials", type=int, default=BUDGET.trials, help="at most, of each architecture and sampler")
    parser.add_argument("--small", action="store_true", help="trees alone, four trials")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    given = parser.parse_args()
    architectures = ("gbdt",) if given.small else tuple(name for name in given.architectures.split(",") if available(name))
    budget = Budget(4 if given.small else given.trials, given.seconds)
    found = {}
    for name in given.names or ("simulated",):
        case = CASES[name]
        data = folder_or_skip(case.folder, given.data) if case.data is None else folder_of(case.folder, given.data)
        with tempfile.TemporaryDirectory(prefix=f"tailorbird-tuning-{name}-") as scratch:
            found[name] = _case(case, data, (given.keep or Path(scratch)) / name, architectures, budget, Path(scratch))
    protocol = [
        f"each architecture and sampler: {budget.seconds:.0f} seconds of fits or {budget.trials} trials, whichever ends first, the "
        f"defaults being the first trial; {SPLITS} splits whose origin rolls on in time; trials below the median are given up; the best "
        f"trial and the defaults are fitted again under {SEEDS} seeds on every split; it is taken where its gain is above its spread",
        f"at most {REQUESTS:,} requests to learn from, nets at most three epochs: small, so that a budget holds several trials of a net",
        "on later data: the newest fifth, which no trial saw; gain over the same architecture's defaults, paired, taken or not",
    ]
    title = "What tuning is worth under equal budgets"
    result = {"benchmark": "tuning", "title": title, "command": command(list(found), budget), "protocol": protocol}
    result |= {"cases": found}
    result |= {"budget": {"seconds": budget.seconds, "trials": budget.trials}, "small": given.small, "environment": environment()}
    print(json.dumps(result, indent=1)) if given.json else _show(found)


def command(names: Sequence[str], budget: Budget) -> str:
    """What to type for the same figures."""
    return f"python -m benchmarks.quality.tuning {' '.join(names)} --trials {budget.trials} --seconds {budget.seconds:g}"


def _case(
    case: Case, data: Path | None, root: Path, architectures: Sequence[str], budget: Budget, scratch: Path
) -> dict[str, Any]:  # fmt: skip
    if not (root / "imported").exists():
        rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        (case.project or partial(copytree, PROJECTS / case.name))(root)
        _import(case, root, _data(case, data, scratch / "data", True))
        (root / "imported").touch()
    project = open_project(root)
    span = Lake(project.paths.lake).sql("SELECT min(ts) AS low, max(ts) AS high FROM events WHERE NOT timeless")
    low, high = (span.column(name).cast(pa.int64())[0].as_py() for name in ("low", "high"))
    settings = replace(case.small(case.settings(low, high)), quick=True, requests=REQUESTS, test_requests=TESTED)
    clock = SimulatedClock(high + 1)
    searches: list[dict[str, Any]] = []
    defaults: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for architecture in architectures:
        mine = replace(settings, architecture=architecture)
        plain = _kept(root / f"defaults-{architecture}.json", partial(_trained, project, clock, mine, architecture, ""))
        defaults[architecture] = plain["later"]
        for sampler in SAMPLERS:
            search = partial(_search, project, clock, settings, budget, architecture, sampler)
            found = _kept(root / f"search-{architecture}-{sampler}.json", search)
            later = _kept(root / f"later-{architecture}-{sampler}.json", partial(_trained, project, clock, mine, architecture, sampler))
            searches.append({"architecture": architecture, "sampler": sampler, **found, **later})
    told = {name: plain[name] for name in ("requests", "best_baseline", "baseline")}
    return {"searches": searches, "defaults": defaults, **told}


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def _search(
    project: Project, clock: SimulatedClock, settings: TrainSettings, budget: Budget, architecture: str, sampler: Sampler
) -> dict[str, Any]:
    """One search, in a folder of its own."""
    slot = project.slot()
    asked = TuneSettings(
        train=settings, names=(architecture,), trials=budget.trials, seconds=budget.seconds, sampler=sampler, judged=JUDGED,
        splits=SPLITS, seeds=SEEDS, finalists=FINALISTS,
    )  # fmt: skip
    out = project.paths.data / "tune" / f"{architecture}-{sampler}"
    report = tune(project.features, slot, lake=project.paths.lake, clock=clock, out=out, settings=asked)
    taken, plain = report.choice.taken, report.plain()
    path = project.root / f"tuned-{architecture}-{sampler}.toml"
    path.unlink(missing_ok=True)
    best = next((one for one in report.choice.finalists if not one.trial.default), report.choice.reference)
    write_tuned(path, slot.name, tuned_of(architecture, best.trial.settings, report.until, ""))
    states = [one.state for one in report.trials[architecture]]
    told = next(one for one in plain["finalists"] if one["name"] == best.name)
    return {
        "trials": len(states),
        "pruned": states.count("pruned"),
        "seconds": report.about["spent"][architecture]["seconds"],
        "taken": not taken.trial.default,
        "why": report.choice.why,
        "best": {**told, "quality": round(float(best.quality.mean()), 6)},
        "importance": plain["importance"][architecture],
    }


def _trained(project: Project, clock: SimulatedClock, settings: TrainSettings, architecture: str, sampler: str) -> dict[str, Any]:
    """A training by the defaults, which becomes the incumbent, or by the best trial of a search, which is judged beside it."""
    slot, registry = project.slot(), project.root / f"registry-{architecture}"
    tuned = with_tuned(settings, slot.name, project.root / f"tuned-{architecture}-{sampler}.toml") if sampler else settings
    store = Registry(registry, clock=clock)
    if not sampler:
        rmtree(registry, ignore_errors=True)
    report = train(project.features, slot, lake=project.paths.lake, clock=clock, promote=False, registry=registry, settings=tuned)
    figures = report.evaluation.figures
    if not sampler:
        store.promote(report.version, by="benchmark", why="to be compared with")
        best = report.evaluation.best_baseline
        return {
            "later": flat(figures["tailorbird"]),
            "best_baseline": best,
            "baseline": flat(figures[best]),
            "requests": report.evaluation.requests,
        }
    return {"later": flat(figures["tailorbird"]), "gain_later": flat({PRIMARY: report.evaluation.differences[report.incumbent]})}


def _show(found: Mapping[str, Any]) -> None:
    for name, each in found.items():
        print(f"{name}: {each['requests']:,} later requests; {each['best_baseline']} {each['baseline'][PRIMARY]:.4f}")
        for architecture, figures in each["defaults"].items():
            print(f"  {architecture:6} defaults {figures[PRIMARY]:.4f} ({figures[f'{PRIMARY}_low']:.4f}–{figures[f'{PRIMARY}_high']:.4f})")
        for one in each["searches"]:
            gain = one["gain_later"]
            print(f"  {one['architecture']} {one['sampler']}: {one['trials']} trials, {one['pruned']} given up, {one['seconds']:.0f} s")
            low, high = gain[f"{PRIMARY}_low"], gain[f"{PRIMARY}_high"]
            print(f"    {one['why']}; on later data {gain[PRIMARY]:+.4f} ({low:+.4f} to {high:+.4f}) over the defaults")


if __name__ == "__main__":
    main()
