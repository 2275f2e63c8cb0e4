"""Globo.com news, hour by hour: the last click of each session, from what was known when its hour began.

python -m benchmarks.quality.next_click [--data PATH] [--small] [--keep FOLDER] [--json]

The protocol is that of the published tables (Transformers4Rec, RecSys 2021): sessions of 2 to 20 clicks, a window for each hour, train
on the past, predict the last click, rank the whole catalogue, mean over the hours. `globo` asks something else: before each click of the
last day, with all that is known at that moment. With `--keep`, days that are done stay done, and a run goes on where one was cut short.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.hourly import DAYS_TUNED, days_learned_from, read_log, run_day
from benchmarks.quality.hourly_figures import Judged, by_seed, figures, show
from benchmarks.quality.running import environment, folder_or_skip, options

ASKED_EVERY = 8
SEEDS = (7, 8, 9)  # of the trees
PUBLISHED = "Published over 16 days, NDCG@20 / HR@20: XLNet with side features .3675 / .6721, STAN .3570 / .6681, V-SkNN .3511 / .6601"
PROTOCOL = (
    "Sessions of 2 to 20 clicks (the first 20 of longer ones), repeats within a session removed, cut into windows of one hour by their "
    "first click. Before each hour all models know every click until then, and none after; asked is the last click of each of its "
    "sessions, from the clicks before it. The whole catalogue is ranked, less what the session had; an article that nobody clicked "
    "before the hour is a miss for all. Mean over hours of the hours' means. Asked are "
    f"the sessions of every {ASKED_EVERY}th reader, in all hours of the ten days; models learn from everybody's.",
    f"{PUBLISHED}. V-SkNN (k 800, sample 500, quadratic) and STAN (k 500, sample 500, λ .6725, 100 d, .6725) run with the settings that "
    "the publishers tuned for this set, on whole hours of the 14 days that are there.",
    "`tailorbird` ranks what these two, co-occurrence and the clicks of the last hour and quarter find, about 110 articles a session, "
    "by trees (`models.gbdt`, lambdarank) over their scores and what the crowd did until the hour began: shares of the traffic, trends, "
    "ages, lifts by device, region and referrer. Trees are grown anew each day on the two days before; figures "
    "are means over three seeds of them. It knows no people.",
    "Its columns and settings were chosen on the first four days, which are not judged: the ten days after them are. "
    "No column holds the time since the session's previous click, which the publishers made up for the last one.",
    "Intervals resample readers (paired); `hours` resamples hours instead.",
)


def main() -> None:
    parser = options(
        "next_click",
        __doc__.splitlines()[0],
        small="every eighth reader, two days judged",
        keep="keep what each day gave in this folder, and go on from there",
    )
    parser.add_argument("--days", type=int, nargs=2, metavar=("FROM", "TO"), help="only these days, for a run in pieces with --keep")
    parser.add_argument("--threads", type=int, default=2, help="of the trees; the figures do not depend on it")
    given = parser.parse_args()
    data = folder_or_skip("globo-clicks", given.data)
    with tempfile.TemporaryDirectory(prefix="tailorbird-hourly-") as scratch:
        result = run(
            data, given.keep or Path(scratch), small=given.small, days=tuple(given.days) if given.days else None, threads=given.threads
        )
    if result is None:
        return
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


def run(data: Path, folder: Path, *, small: bool, days: tuple[int, int] | None = None, threads: int = 2) -> dict[str, Any] | None:
    """All days that are not there yet; None where only some were to be run."""
    from rich.console import Console
    from rich.progress import track

    log = read_log(data, every=8 if small else 1, asked_every=1 if small else ASKED_EVERY)
    first_day, last_day = (3, 5) if small else (DAYS_TUNED, log.hours // 24)
    folder.mkdir(parents=True, exist_ok=True)
    for day in track(range(*(days or (first_day, last_day))), "days", console=Console(stderr=True)):
        path = folder / f"day-{day:02}.npz"
        if path.exists():
            continue
        begun = time.process_time()
        for before in days_learned_from(day):
            if not (folder / f"rows-{before:02}.npz").exists():
                run_day(log, before, folder, threads=threads, judge=False)
        judged = run_day(log, day, folder, threads=threads, seeds=SEEDS)
        with (path.with_suffix(".part")).open("wb") as file:
            np.savez(file, seconds=time.process_time() - begun, **judged)  # type: ignore[arg-type]  # no array is called as an argument is
        path.with_suffix(".part").rename(path)
    if days is not None:
        return None
    return report(folder, small=small, first_day=first_day, last_day=last_day)


def report(folder: Path, *, small: bool, first_day: int, last_day: int) -> dict[str, Any]:
    """What the page shows."""
    parts = [dict(np.load(folder / f"day-{day:02}.npz")) for day in range(first_day, last_day)]
    judged = Judged.of(parts)
    return {
        "benchmark": "next_click",
        "title": "Globo.com news, hour by hour: the last click of each session",
        "small": small,
        "protocol": list(PROTOCOL),
        **figures(judged),
        "tree_seeds": by_seed(parts),
        "sessions": len(judged.hour),
        "asked_every": 1 if small else ASKED_EVERY,
        "hours": len(np.unique(judged.hour)),
        "found": float(judged.found.mean()),
        "published": PUBLISHED,
        "seconds": {"ten days, of one core": round(float(sum(part["seconds"] for part in parts)), 1)},
        "environment": environment(),
    }


if __name__ == "__main__":
    main()
