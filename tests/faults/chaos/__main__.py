"""Inject hundreds of faults and judge the results: `make chaos`, or python -m tests.faults.chaos.

    --kills N       how many kills and power cuts (default 1,500: each point of each scene once, and
                    the real processes under load)
    --quick         a few of the injected faults and no real processes: what `make test` runs; with
                    NIGHTLY=1 over a hundred
    --mutants       unsafe changes instead, each of which the same scenes must notice; with --quick
                    without those of the feature engine
    --json PATH     all results, for docs/reliability.md
    --keep PATH     each result as it comes; with the same file again, an interrupted run continues

The last line reads `kills N, lost 0, doubled 0, unequal 0` with the actual counts; the exit status
is 1 if any of the three is not 0.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tests.faults.chaos import injection, mutants, power, trials
from tests.faults.chaos.injection import Point
from tests.faults.chaos.judging import Verdict, save_events, warm
from tests.faults.chaos.live import LIVE
from tests.faults.chaos.plan import choose_root, plan
from tests.faults.chaos.scenes import SCENES
from tests.faults.chaos.site import Site
from tests.faults.chaos.trials import Result

T = TypeVar("T")
R = TypeVar("R")
KILLS = 1_500
# Of the kills: at points of scenes, power cuts at points, and the rest by the drills with real
# processes.
SHARE = {"kill": 0.72, "power": 0.08, "sync": 0.15, "full": 0.15, "lost": 0.1}
_LINE_EVERY = 100  # into a file, where a bar does not move
QUICK = (
    {"kill": 72, "power": 14, "sync": 16, "full": 14, "lost": 10}
    if os.environ.get("NIGHTLY")
    else {"kill": 24, "power": 4, "sync": 6, "full": 5, "lost": 4}
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=KILLS, help="kills and power cuts in all")
    parser.add_argument("--quick", action="store_true", help="what `make test` runs")
    parser.add_argument(
        "--mutants", action="store_true", help="whether the scenes notice unsafe changes"
    )
    parser.add_argument(
        "--scene", action="append", default=[], help="only this scene or drill; may be given again"
    )
    parser.add_argument(
        "--kind", action="append", default=[], choices=trials.KINDS, help="only faults of this kind"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what the clients send")
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="scenes played at a time"
    )
    parser.add_argument("--json", type=Path, help="write what was found into this file")
    parser.add_argument(
        "--keep", type=Path, help="a file of results, to which this run adds those that it lacks"
    )
    parser.add_argument("--root", type=Path, help="a folder to work in, instead of memory")
    options = parser.parse_args(arguments)
    if injection.WHY_NOT:
        sys.stderr.write(f"no faults can be injected: {injection.WHY_NOT}\n")
        return 2
    root = Path(tempfile.mkdtemp(prefix="chaos-", dir=choose_root(options.root)))
    try:
        return _mutants(root, options) if options.mutants else _chaos(root, options)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _chaos(root: Path, options: argparse.Namespace) -> int:
    started = time.monotonic()
    no_power = power.why_not()
    counts = (
        dict(QUICK)
        if options.quick
        else {kind: round(share * options.kills) for kind, share in SHARE.items()}
    )
    if no_power:
        counts.pop("power")
        sys.stderr.write(f"no power cuts: {no_power}\n")
    if options.kind:
        counts = {kind: count for kind, count in counts.items() if kind in options.kind}
    names = [
        scene.name
        for scene in SCENES
        if scene.name in options.scene or (not options.scene and (scene.quick or not options.quick))
    ]
    revision = revision_of(Path(__file__))
    earlier_results, drills = _read_results(options.keep)
    results = list(earlier_results.values())
    if names:
        if not options.kind:
            counts["none"] = len(names)  # an undisturbed trial must be clean, or the judge is wrong
        chosen = plan(partial(_prepare, root, names, options.jobs), counts, options.seed)
        chosen = [
            trial
            for trial in chosen
            if (trial.kind, trial.scene, trial.place, trial.seed) not in earlier_results
        ]
        for result in _run_in_pool(partial(_attempt, root), chosen, options.jobs, "faults"):
            results.append(replace(result, revision=revision, at=_today()))
            _append_row(options.keep, asdict(results[-1]))
    if not options.quick and not options.kind:
        done = sum(result.hit for result in results if result.kind in ("kill", "power"))
        remaining_kills = max(40, options.kills - done)
        for drill in LIVE:
            if (not options.scene or drill.name in options.scene) and drill.name not in {
                each["name"] for each in drills
            }:
                played = drill.play(
                    root / drill.name.lower().replace(" ", "-"),
                    round(remaining_kills * drill.share) or 1,
                )
                drills.append({**played, "revision": revision, "at": _today()})
                _print_drill(drills[-1])
                _append_row(options.keep, {"drill": drills[-1]})
    return _report(
        results, drills, options, time.monotonic() - started, continued=bool(earlier_results)
    )


def revision_of(path: Path) -> str:
    """Return the commit under test, with a mark if its files were changed since.

    Empty outside of a repository.
    """
    outputs = []
    for command in (
        ["rev-parse", "--short=10", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no"],
    ):
        process = subprocess.run(
            ["git", "-C", str(path.parent), *command], capture_output=True, text=True, check=False
        )
        if process.returncode:
            return ""
        outputs.append(process.stdout.strip())
    return outputs[0] + ("+" if outputs[1] else "")


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _revisions_by_scene(results: list[Result]) -> dict[str, dict[str, str]]:
    """Return for each scene the revisions of its results, and the date of the last one."""
    revisions_by_scene: dict[str, dict[str, str]] = {}
    for scene in sorted({result.scene for result in results}):
        scene_results = [result for result in results if result.scene == scene]
        revisions = ", ".join(
            dict.fromkeys(result.revision for result in scene_results if result.revision)
        )
        revisions_by_scene[scene] = {
            "revision": revisions,
            "at": max(result.at for result in scene_results),
        }
    return revisions_by_scene


def _read_results(
    path: Path | None,
) -> tuple[dict[tuple[str, str, str, int], Result], list[dict[str, Any]]]:
    """Return the results of an interrupted run, by trial, and the drills that it finished."""
    results: dict[tuple[str, str, str, int], Result] = {}
    drills: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path is not None and path.exists() else []:
        row = json.loads(line)
        if "drill" in row:
            drills.append(row["drill"])
        else:
            result = Result(**{**row, "verdict": Verdict(**row["verdict"])})
            results[result.kind, result.scene, result.point, result.seed] = result
    return results, drills


def _append_row(path: Path | None, row: dict[str, Any]) -> None:
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _report(
    results: list[Result],
    drills: list[dict[str, Any]],
    options: argparse.Namespace,
    seconds: float,
    *,
    continued: bool,
) -> int:
    wrong = [result for result in results if result.kind == "none" and not result.verdict.is_clean]
    results = [result for result in results if result.kind != "none"]
    hit = [result for result in results if result.hit]
    kinds = {kind: [result for result in hit if result.kind == kind] for kind in trials.KINDS}
    kills = len(kinds["kill"]) + len(kinds["power"]) + sum(drill["kills"] for drill in drills)
    # A write that a disk swallowed cannot be restored. Only its detection counts, which is a
    # figure of its own.
    wrong += [result for result in hit if not result.verdict.is_clean and result.kind != "lost"]
    totals = {
        name: sum(getattr(result.verdict, name) for result in wrong)
        for name in ("lost", "doubled", "unequal")
    }
    for name in totals:
        totals[name] += sum(drill[name] for drill in drills)
    for result in wrong:
        print(
            f"{result.kind} in {result.scene}, {result.point}, seed {result.seed}: "
            f"{'; '.join(result.verdict.notes[:4])}"
        )
    table = {
        kind: dict(Counter(result.scene for result in results_))
        for kind, results_ in kinds.items()
        if results_
    }
    for kind, scenes in table.items():
        print(
            f"{kind:<6}{sum(scenes.values()):>6}  "
            + ", ".join(f"{scene} {count}" for scene, count in scenes.items())
        )
    swallowed_writes = kinds["lost"]
    spent = sum(result.seconds for result in results) / options.jobs + sum(
        drill["seconds"] for drill in drills
    )
    named_by_counts = Counter(
        "role" if result.verdict.told else result.verdict.named_by or "harmless"
        for result in swallowed_writes
        if not result.silent
    )
    silent = [result for result in swallowed_writes if result.silent]
    silent_counts = {
        name: sum(getattr(result.verdict, name) for result in silent)
        for name in ("lost", "doubled", "unequal")
    }
    if swallowed_writes:
        places = "; ".join(f"{each.scene} {each.point}" for each in silent)
        print(
            f"swallowed writes {len(swallowed_writes)}, of which nobody was told "
            f"{len(silent)}: {places}"
        )
    recoveries = sorted(result.verdict.seconds for result in hit if result.verdict.seconds)
    summary = {
        "kills": kills,
        **totals,
        "faults": len(hit),
        "by_kind": table,
        "not_hit": len(results) - len(hit),
        "swallowed_writes": {
            "tried": len(swallowed_writes),
            "silent": len(silent),
            "silent_counts": silent_counts,
            **named_by_counts,
        },
        "recovery_s": {
            "median": _quantile(recoveries, 0.5),
            "p99": _quantile(recoveries, 0.99),
            "max": _quantile(recoveries, 1.0),
        },
        "drills": drills,
        "tried": _revisions_by_scene(hit),
        "seconds": round(spent),
        "seed": options.seed,
        "continued": continued,
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python "
        f"{platform.python_version()}",
    }
    if options.json:
        wrong_rows = [asdict(result) for result in wrong]
        options.json.write_text(json.dumps({**summary, "wrong": wrong_rows}, indent=1) + "\n")
    print(
        f"{len(hit)} faults injected and hit, {len(results) - len(hit)} not reached, "
        f"{len(drills)} drills, in {seconds:.0f} s"
    )
    print(
        f"kills {kills}, lost {totals['lost']}, doubled {totals['doubled']}, unequal "
        f"{totals['unequal']}"
    )
    return int(any(totals.values()))


def _mutants(root: Path, options: argparse.Namespace) -> int:
    names = sorted({name for mutant in mutants.MUTANTS for name in mutant.scenes})
    points_by_scene = _prepare(root, names, options.jobs, 1)
    for name in names:  # without a mutant each scene must be clean
        result = trials.attempt(
            root, trials.trials_of("none", name, points_by_scene[name], 1)[0], root / "room"
        )
        assert result.verdict.is_clean, (
            f"scene {name} is not clean without a mutant: {result.verdict.notes}"
        )
    mutant_names = [
        name
        for name in mutants.names(engine=not options.quick)
        if not options.scene or any(each in name for each in options.scene)
    ]
    rows = sorted(
        _run_in_pool(partial(_try_mutant, root), mutant_names, options.jobs, "mutants"),
        key=lambda row: mutant_names.index(row["name"]),
    )
    for row in rows:
        row["how"] = row["how"].replace(f"{root}/", "").splitlines()[0]
        print(f"{'caught' if row['caught'] else 'MISSED':<7} {row['name']}: {row['how']}")
    caught = sum(row["caught"] for row in rows)
    if options.json:
        options.json.write_text(json.dumps({"mutants": rows}, indent=1) + "\n")
    print(f"mutants {len(rows)}, caught {caught}")
    return int(caught != len(rows))


def _prepare(root: Path, names: list[str], jobs: int, seed: int) -> dict[str, list[Point]]:
    points_by_scene = dict(
        _run_in_pool(partial(_points, root, seed), names, jobs, f"scenes, seed {seed}")
    )
    if not (root / "events.arrow").exists():
        outcome = injection.run(
            lambda _: save_events(
                Site(trials.base_of(root, names[0], seed)), root / "events.arrow"
            ),
            root / "log",
        )
        assert outcome.status == 0, outcome.error
        warm(root / "events.arrow")
    return {name: points_by_scene[name] for name in names}


def _points(root: Path, seed: int, name: str) -> tuple[str, list[Point]]:
    return name, trials.prepare(root, name, seed)


def _attempt(root: Path, trial: trials.Trial) -> Result:
    return trials.attempt(root, trial, root / f"room-{os.getpid()}")


def _try_mutant(root: Path, name: str) -> dict[str, Any]:
    return mutants.attempt(root, name, root / f"room-{os.getpid()}")


def _run_in_pool(work: Callable[[T], R], items: list[T], jobs: int, label: str) -> Iterator[R]:
    """Yield results from worker processes as they come.

    Each process is a fork of this one, with all imported and compiled modules.
    """
    with _bar(label, len(items)) as advance, multiprocessing.get_context("fork").Pool(jobs) as pool:
        for result in pool.imap_unordered(work, items):
            advance()
            yield result


@contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # No refresh thread: a fork would leave its locks held.
    console = Console(stderr=True)
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task(label, total=total)

        def advance() -> None:
            progress.update(task, advance=1)
            progress.refresh()
            done = int(progress.tasks[0].completed)
            if not console.is_terminal and done % _LINE_EVERY == 0:
                sys.stderr.write(f"{label}: {done} of {total}\n")

        yield advance


def _print_drill(drill: dict[str, Any]) -> None:
    if drill.get("skipped"):
        print(f"drill {drill['name']}: not run: {drill['skipped']}")
        return
    counts = (
        f"kills {drill['kills']}, acknowledged {drill['acked']}, lost {drill['lost']}, "
        f"doubled {drill['doubled']}"
    )
    print(f"drill {drill['name']}: {counts}, unequal {drill['unequal']}; {drill['what']}")
    for note in drill["notes"][:5]:
        print(f"  {note}")


def _quantile(values: list[float], share: float) -> float:
    return round(values[min(len(values) - 1, int(share * len(values)))], 2) if values else 0.0


if __name__ == "__main__":
    sys.exit(main())
