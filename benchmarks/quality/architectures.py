"""Every architecture on the simulated site: the order of what was shown, the *true* expected reward of its lists, and what an answer costs.

python -m benchmarks.quality.architectures [--days 21] [--seeds 3] [--quick] [--small] [--only NAME …] [--keep FOLDER] [--json]

All are trained by `tailorbird train`'s own path on the same log. NDCG is of the items that people saw in the newest part of it; the
true reward is that of the twelve items that a model would have shown, out of all that there were, as the site's truth has it. With
`--keep`, each training and each stretch of questions that is done stays done. Ends with status 1 if the architecture that
`tailorbird train` takes by itself does not lie on the front of cost and quality.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.quality import simulated
from benchmarks.quality.architectures_reward import ORACLES, REWARD, rewards_of
from benchmarks.quality.running import _import, environment
from tailorbird.config import Project, open_project
from tailorbird.events import DAY, SimulatedClock
from tailorbird.lake import Lake
from tailorbird.models.architectures import ARCHITECTURES, available
from tailorbird.simulator import Site
from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.judge import PRIMARY, flat
from tailorbird.training.metrics import Calibration
from tailorbird.training.resuming import kept_arrays
from tailorbird.training.settings import TrainReport, TrainSettings
from tailorbird.training.train import train

Floats = npt.NDArray[np.float64]

DEFAULT = TrainSettings().architecture
LEARNED = 15_000  # requests, the same for all
QUESTIONS, CHUNK = 600, 150
POINTWISE = ("auc", "log_loss")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.architectures", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each architecture")
    parser.add_argument("--days", type=int, default=simulated.DAYS, help="of logged answers")
    parser.add_argument("--quick", action="store_true", help="as `tailorbird train --quick`: fewer trees and epochs")
    parser.add_argument("--small", action="store_true", help="8 days, --quick, one seed, few questions: some minutes")
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, help="train these alone; the page keeps what it has of the others")
    parser.add_argument("--keep", type=Path, help="make the project here and keep it, and go on from there")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailorbird-architectures-") as scratch:
        root = given.keep or Path(scratch) / "kept"
        if given.small:
            result = run(root, Design(simulated.SMALL_DAYS, quick=True), seeds=1, small=True, only=given.only)
        else:
            result = run(root, Design(given.days, quick=given.quick), seeds=given.seeds, small=False, only=given.only)
    print(json.dumps(result, indent=1) if given.json else told(result))
    raise SystemExit(0 if result["default_on_front"] in (True, None) else 1)


@dataclass(frozen=True)
class Design:
    """How long the log is, and whether trainings are quick."""

    days: int
    quick: bool

    @property
    def command(self) -> str:
        options = f" --days {self.days}" * (self.days != simulated.DAYS) + " --quick" * self.quick
        return f"python -m benchmarks.quality.architectures{options}"


def run(root: Path, design: Design, *, seeds: int, small: bool, only: Sequence[str] | None = None) -> dict[str, Any]:
    """Train all, ask all, judge."""
    project = imported(root / "project", design)
    every = [(name, seed) for seed in range(seeds) for name in only or ARCHITECTURES if available(name)]
    pieces = {f"{name} {seed}": trained(project, root, name, seed, design) for name, seed in every}
    (root / "asked").mkdir(exist_ok=True)
    site = Site(simulated.SEED, users=simulated.USERS, items=simulated.ITEMS, days=design.days + 1)
    found = rewards_of(
        project, site, {key: piece["version"] for key, piece in pieces.items()}, _settings(project, design), _clock(project),
        questions=QUESTIONS // 10 if small else QUESTIONS, keep=partial(kept_arrays, root / "asked"), chunk=CHUNK,
    )  # fmt: skip
    names = list(dict.fromkeys(name for name, _ in every))
    results, shares, popular = judged(found, names, pieces)
    front = on_front(results)
    return {
        "benchmark": "architectures",
        "title": "The simulated site: every architecture, the true expected reward of its lists, and what an answer costs",
        "small": small,
        "some": list(only or ()),
        "command": design.command,
        "protocol": [
            f"{simulated.USERS:,} people, {simulated.ITEMS} items, {design.days} days of logged answers; features, slot and settings are "
            "those that `tailorbird init` writes, each architecture with its own defaults, none tuned; all learn from the same "
            f"requests, at most {LEARNED:,}, drawn evenly" + ", with fewer trees and at most three epochs" * design.quick,
            "`ndcg_10`: of the items that people saw in the newest part of the log. `reward`: true expectation of 1 a click and 5 a "
            f"purchase of the {REWARD.size} items that a model puts first, of all that there were, for {len(found['person']):,} requests "
            "of that part; no rule, no exploration",
            f"figures are means over {seeds} seed(s); intervals resample people",
            "oracles know the truth: `oracle` all of it; `oracle_lasting` all but what somebody came for in these four hours, which is "
            "drawn anew each time; `oracle_common` what everybody likes and what people of one's country and age like, exactly, and "
            "nothing of the person",
            f"`us`: microseconds to score 200 candidates, one thread; popularity is `{popular}`, the best of its kind by the true reward",
        ],
        "results": results,
        "heads": {name: _heads(name, pieces) for name in names},
        "shares": shares,
        "popular": popular,
        "default": DEFAULT,
        "default_on_front": DEFAULT in front if DEFAULT in names else None,
        "front": front,
        "spread": {name: _spread(name, pieces) for name in names},
        "reliability": pieces[f"{DEFAULT} 0"]["reliability"] if DEFAULT in names else {},
        "seconds": {name: round(float(np.mean([p["seconds"] for k, p in pieces.items() if k.split()[0] == name])), 1) for name in names},
        "environment": environment(),
    }  # fmt: skip


def joined(before: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Figures of some architectures, with what a run before had of the others on the same log and the same questions.

    What an answer costs and how long a fit takes stays as it was: times of two runs, each on a machine as busy as it was, do not compare.

    Raises:
        ValueError: it was of others: then what everybody is held against has other figures.
    """
    for name in (*ORACLES, found["popular"]):
        one, other = (run["results"].get(name, {}).get("reward") for run in (before, found))
        if one != other or before["popular"] != found["popular"]:
            raise ValueError(
                f"{name} has a reward of {one} before and {other} now: the runs are of other logs, and cannot stand in one table"
            )
    every: dict[str, Any] = {part: {**before[part], **found[part]} for part in ("results", "heads", "shares", "spread")}
    for name, each in every["results"].items():
        if "us" in before["results"].get(name, {}):
            every["results"][name] = {**each, "us": before["results"][name]["us"]}
    every["seconds"] = {**before["seconds"], **{name: s for name, s in found["seconds"].items() if name not in before["seconds"]}}
    told = f"{', '.join(found['some'])} were trained in a later run; `us` and seconds are of the run in which all stood together"
    every["protocol"] = [*found["protocol"], told]
    front = on_front(every["results"])
    reliability = found["reliability"] or before["reliability"]
    return {**found, **every, "reliability": reliability, "some": [], "front": front, "default_on_front": DEFAULT in front}


def imported(root: Path, design: Design) -> Project:
    """The project with the site's log, made now or before."""
    if not (root / "imported").exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        simulated.make_project(root)
        with tempfile.TemporaryDirectory(prefix="tailorbird-history-") as data:
            simulated.write_history(Path(data), design.days)
            _import(simulated.CASE, root, Path(data))
        (root / "imported").touch()
    return open_project(root)


def _clock(project: Project) -> SimulatedClock:
    newest = Lake(project.paths.lake).sql("SELECT max(ts) AS ts FROM events WHERE NOT timeless").column("ts")
    return SimulatedClock(newest.cast(pa.int64())[0].as_py() + 1)


def _settings(project: Project, design: Design) -> TrainSettings:
    now = _clock(project).now()
    return replace(simulated.CASE.settings(now - (design.days + 1) * DAY, now), requests=LEARNED, quick=design.quick)


def trained(project: Project, root: Path, architecture: str, seed: int, design: Design) -> dict[str, Any]:
    """What a training came to, kept by architecture and seed."""
    kept = root / f"trained-{architecture}-{seed}.json"
    if not kept.exists():
        settings = replace(_settings(project, design), architecture=architecture, seed=seed)
        report = train(
            project.features, project.slots["home"], lake=project.paths.lake, registry=root / "registry", reports=root / "reports",
            clock=_clock(project), settings=settings, promote=False, by="benchmark",
        )  # fmt: skip
        kept.write_text(json.dumps(_piece(report, architecture)))
    return json.loads(kept.read_text())


def _piece(report: TrainReport, architecture: str) -> dict[str, Any]:
    fits = ("trees of ", "net ")
    return {
        "version": report.version,
        "results": {name: flat(figures) for name, figures in report.evaluation.figures.items()},
        "priced": {one["name"]: one["us"] for one in report.priced},
        "reliability": {head: _reliability(each.calibration) for head, each in report.evaluation.heads.items()},
        "heads": report.plain()["heads"],
        "seconds": sum(spent for stage, spent in report.seconds.items() if stage.startswith(fits)),
    }


def _reliability(found: Calibration) -> dict[str, list[float]]:
    kept = found.count > 0
    return {name: [round(float(each), 6) for each in getattr(found, name)[kept]] for name in ("count", "predicted", "observed")}


def judged(
    found: Mapping[str, npt.NDArray], names: Sequence[str], pieces: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Figures of models, baselines and oracles; what share of the oracles' gain over popularity each has; which popularity that is."""
    _, person = np.unique(found["person"], return_inverse=True)
    bootstrap = Bootstrap(person.astype(np.int64))
    reward = {key: column for key, column in found.items() if key != "person"}
    for name in names:
        mine = [key for key in reward if key.split()[0] == name and key != name]
        reward[name] = np.mean([reward[key] for key in mine], axis=0)
        for key in mine:
            del reward[key]
    popular = max((name for name in reward if name.startswith("popular_")), key=lambda name: float(reward[name].mean()))
    first = pieces[f"{names[0]} 0"]
    results: dict[str, Any] = {}
    for name, column in reward.items():
        results[name] = flat({"reward": bootstrap.mean(column)})
        if name in names:
            mine = [piece for key, piece in pieces.items() if key.split()[0] == name]
            results[name] |= _mean([piece["results"]["tailorbird"] for piece in mine], PRIMARY)
            results[name]["us"] = round(float(np.median([piece["priced"]["tailorbird"] for piece in mine])), 1)
        elif name in first["results"]:
            results[name] |= _mean([first["results"][name]], PRIMARY) | {"us": first["priced"][name]}
    shares = {}
    for name in names:
        shares[name] = {
            oracle: _told(bootstrap.ratio(reward[name] - reward[popular], reward[oracle] - reward[popular])) for oracle in ORACLES
        }
        shares[name]["popular"] = _told(bootstrap.difference(reward[name], reward[popular]))
    return results, shares, popular


def _mean(figures: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    return {key: round(float(np.mean([each[key] for each in figures])), 6) for key in (name, f"{name}_low", f"{name}_high")}


def _told(interval: Interval) -> list[float]:
    return [round(float(each), 6) for each in (interval.value, interval.low, interval.high)]


def _heads(name: str, pieces: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Head → AUC and log loss, means over seeds."""
    mine = [piece["heads"] for key, piece in pieces.items() if key.split()[0] == name]
    return {
        head: {key: value for figure in POINTWISE for key, value in _mean([each[head] for each in mine], figure).items()}
        for head in mine[0]
    }


def _spread(name: str, pieces: Mapping[str, Mapping[str, Any]]) -> list[float]:
    return [piece["results"]["tailorbird"][PRIMARY] for key, piece in pieces.items() if key.split()[0] == name]


def on_front(results: Mapping[str, Mapping[str, Any]], quality: str = PRIMARY) -> list[str]:
    """Those than which nothing that was judged is both at least as good and at least as cheap; by quality."""
    priced = {name: (each[quality], -each["us"]) for name, each in results.items() if "us" in each}
    front = [
        name for name, mine in priced.items()
        if not any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in priced.values())
    ]  # fmt: skip
    return sorted(front, key=lambda name: priced[name])


def told(result: Mapping[str, Any]) -> str:
    """For people."""
    lines = [result["title"], *result["protocol"]]
    for name, each in sorted(result["results"].items(), key=lambda entry: -entry[1]["reward"]):
        mark = "on the front" if name in result["front"] else ""
        ndcg = f"{each[PRIMARY]:.4f}" if PRIMARY in each else "–"
        lines.append(f"{name:18} reward {each['reward']:.4f}  {PRIMARY} {ndcg:8} µs {each.get('us', '–'):>8}  {mark}")
    for name, each in result["shares"].items():
        lines.append(f"{name}: " + ", ".join(f"{what} {v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" for what, v in each.items()))
    lines.append(f"default {result['default']}: {'on' if result['default_on_front'] else 'NOT on'} the front")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
