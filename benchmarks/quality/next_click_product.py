"""Globo.com news, hour by hour, by the product: what a bundle of `tailorbird train` lists beside what `next_click` compares.

python -m benchmarks.quality.next_click_product [--data PATH] [--small] [--keep FOLDER] [--json]

The protocol is that of `next_click`, on every fortieth reader: sessions of 2 to 20 clicks, predict the last one. The clicks go through
`tailorbird import`; each judged day is asked of the bundle that `tailorbird train --quick --as-of` makes when the day begins, by its own
sources, features and model. With `--keep`, what is done stays done, and a run goes on where one was cut short.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality import globo, hourly
from benchmarks.quality.hourly import BY_SEED, FIGURES, Log, contexts_of, days_learned_from, judged, read_log, run_day
from benchmarks.quality.hourly_figures import OURS, Judged, by_seed, figures, show
from benchmarks.quality.next_click import SEEDS
from benchmarks.quality.next_click_bundle import Asking, judge_day
from benchmarks.quality.running import PROJECTS, _import, environment, folder_or_skip, options
from tailorbird.events import HOUR, MINUTE, to_iso
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers import Popular
from tailorbird.models.retrievers.neighbours import Neighbours
from tailorbird.models.retrievers.sessions import Sequences

EVERY = 40
DAYS = (12, 13)
TICK = 10 * MINUTE
NOW = ("clicks_1h_now", "vsknn_now", "stan_now")
PROTOCOL = (
    f"Sessions, questions and baselines of [next_click](#next_click), on every {EVERY}th reader, who are all that any model knows of; "
    f"judged are the last {len(DAYS)} of the 14 days. What the whole log gives is in that section.",
    "`tailorbird` is a bundle as `tailorbird train --quick --as-of` makes it when the day begins, with its settings: trees on 15,000 "
    "requests of the four days before, columns as in `globo` and by sessions. Each question is asked as a server would: candidates by "
    "the slot's sources (60 by V-SkNN, 60 by STAN, 40 by co-occurrence, 80 of the last hour), less what the reader clicked before, "
    "features as of the moment, and of the ranked the best 20. Indexes are as of the beginning of the hour, as all tables of the "
    "protocol: a server has them so if it is trained anew each hour. `bundle_all_day` is the same bundle with the index that it came "
    "with, all day. Both are means over three seeds of the training, and `hourly_ranker` over three of its trees.",
    "The stream's counts, which are columns of the product, know the clicks until the moment that is asked, while the protocol's "
    f"baselines know those until the hour. `{'`, `'.join(NOW)}` are these baselines as of ten minutes ago at most.",
    "Sessions of the product are runs of a reader's clicks without a pause of 30 minutes, over the newest 100,000 of the day before, "
    "compared by its default settings; the baselines have the set's own sessions and the settings that the publishers tuned.",
    "`hourly_ranker` is what [next_click](#next_click) calls `tailorbird`: trees of the benchmark, which no server runs.",
    "Intervals resample readers (paired); `hours` resamples hours instead.",
)


def main() -> None:
    parser = options(
        "next_click_product",
        __doc__.splitlines()[0],
        small="every eightieth reader, one day judged",
        keep="keep the project and what each day gave in this folder, and go on from there",
    )
    parser.add_argument("--day", type=int, choices=DAYS, help="only this day, for a run in pieces with --keep")
    parser.add_argument("--threads", type=int, default=2, help="of the hourly ranker's trees")
    given = parser.parse_args()
    data = folder_or_skip("globo-clicks", given.data)
    with tempfile.TemporaryDirectory(prefix="tailorbird-next-click-") as scratch:
        result = run(data, given.keep or Path(scratch), small=given.small, day=given.day, threads=given.threads)
    if result is None:
        return
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


def run(data: Path, folder: Path, *, small: bool, day: int | None = None, threads: int = 2) -> dict[str, Any] | None:
    """Import, then for each day: train, ask, compare; None where only one of several days was to be run."""
    every, days = (2 * EVERY, DAYS[-1:]) if small else (EVERY, DAYS)
    log = read_log(data, every=every)
    folder.mkdir(parents=True, exist_ok=True)
    root, seconds = folder / "project", {}
    if not (folder / "imported").exists():
        begun = time.monotonic()
        shutil.rmtree(root, ignore_errors=True)
        make_project(root)
        _trim(data, folder / "data", every)
        _import(globo.CASE, root, folder / "data")
        seconds["import"] = round(time.monotonic() - begun, 1)
        (folder / "imported").touch()
    paths = {each: folder / f"judged-{each:02}.npz" for each in days}
    for each in (day,) if day is not None and day in days else days:
        path = paths[each]
        if not path.exists():
            begun = time.monotonic()
            found = _day(log, root, each, folder, threads, SEEDS[:1] if small else SEEDS)
            with path.with_suffix(".part").open("wb") as file:
                np.savez(file, seconds=time.monotonic() - begun, **found)  # type: ignore[arg-type]  # no array is called as an argument is
            path.with_suffix(".part").rename(path)
    if day is not None and len(days) > 1:
        return None
    return report([dict(np.load(path)) for path in paths.values()], small=small, seconds=seconds)


def make_project(root: Path) -> None:
    """The project of `globo`, with a slot and settings of its own."""
    shutil.copytree(PROJECTS / "globo", root)
    shutil.copytree(PROJECTS / "next_click_product", root, dirs_exist_ok=True)


def report(parts: list[dict[str, Any]], *, small: bool, seconds: Mapping[str, float]) -> dict[str, Any]:
    """What the page shows."""
    asking = Asking.of(parts)
    spent = float(sum(part.pop("seconds") for part in parts))
    whole = Judged.of([{name: value for name, value in part.items() if not name.startswith("asking_")} for part in parts])
    return {
        "benchmark": "next_click_product",
        "title": "Globo.com news, hour by hour: the last click of each session, by a bundle of `tailorbird train`",
        "small": small,
        "protocol": list(PROTOCOL),
        **figures(whole),
        "tree_seeds": by_seed(parts),
        "sessions": len(whole.hour),
        "hours": len(np.unique(whole.hour)),
        "found": asking.found,
        "asking": asking.plain(),
        "seconds": {**seconds, "training and judging": round(spent, 1)},
        "environment": environment(),
    }


def _trim(data: Path, target: Path, every: int) -> None:
    """The clicks of every so many readers."""
    table = pq.read_table(data / globo.CLICKS)
    target.mkdir(exist_ok=True)
    pq.write_table(table.filter(pa.array(table["user_id"].to_numpy() % every == 0)), target / globo.CLICKS)


def _day(log: Log, root: Path, day: int, folder: Path, threads: int, seeds: Sequence[int]) -> dict[str, npt.NDArray]:
    """Figures of each session of one day; ours are means over the trainings of all seeds, of which each is a `tree_seed_SEED` too."""
    for before in days_learned_from(day):
        if not (folder / f"rows-{before:02}.npz").exists():
            run_day(log, before, folder, threads=threads, judge=False)
    found = run_day(log, day, folder, threads=threads, seeds=seeds)
    found = {name.replace("tailorbird_", "hourly_ranker_"): values for name, values in found.items() if not name.startswith(BY_SEED)}
    at = np.concatenate([hourly.asked(log, hour).at for hour in range(24 * day, 24 * day + 24)])
    found |= _as_of_now(log, at)
    told = {seed: judge_day(root, _train(root, log.begin + 24 * day * HOUR, seed), log, at) for seed in seeds}
    found |= {name: np.mean([each[name] for each in told.values()], axis=0) for name in told[seeds[0]]}
    return found | ({f"{BY_SEED}{seed}": each[f"{OURS}_{FIGURES[0]}"] for seed, each in told.items()} if len(seeds) > 1 else {})


def _train(root: Path, moment: int, seed: int) -> str:
    """The version that the command makes as of a moment."""
    command = [str(Path(sys.executable).with_name("tailorbird")), "-C", str(root), "train", "--quick"]
    command += ["--as-of", to_iso(moment), "--seed", str(seed), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr or done.stdout}")
    return json.loads(done.stdout)["version"]


def _as_of_now(log: Log, at: npt.NDArray) -> dict[str, npt.NDArray]:
    """The baselines as of ten minutes ago at most: `NOW`."""
    truth = log.item[log.first[at] + log.length[at] - 1]
    tick = (log.ts[log.first[at] + log.length[at] - 2] - log.begin) // TICK
    found: dict[str, npt.NDArray] = {}
    for each in np.unique(tick).tolist():
        t, chosen = log.begin + each * TICK, np.flatnonzero(tick == each)
        rows = np.flatnonzero(log.ts < t)
        seen, contexts = (
            Interactions(log.session[rows], log.item[rows], log.ts[rows], len(log.first), log.items),
            contexts_of(log, at[chosen]),
        )
        sequences = Sequences.of(seen)
        tops = {
            "clicks_1h_now": Popular(HOUR).fit(seen.before(t, t - HOUR), t).top(contexts, hourly.K),
            "vsknn_now": Neighbours(hourly.V_SKNN, sequences).top(contexts, hourly.K),
            "stan_now": Neighbours(hourly.S_TAN, sequences).top(contexts, hourly.K),
        }
        for name, top in tops.items():
            for figure, value in judged(top, truth[chosen]).items():
                found.setdefault(f"{name}_{figure}", np.zeros(len(at), np.float32))[chosen] = value
    return found


if __name__ == "__main__":
    main()
