"""Measure what the exploration of a slot costs, and which new items it shows.

    python -m benchmarks.quality.exploration [--small] [--keep FOLDER] [--json]

The project of `product --set simulated` is trained once. Requests of the days after it are asked at
the same moment, over the same state, with no exploration, with the rate that `init` declares, and
with twice that. The site's truth gives the expected reward of each list.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from benchmarks.quality.pages.exploration_page import table
from benchmarks.quality.product import project
from benchmarks.quality.product.figures import Floats, Resampling
from benchmarks.quality.product.log import Ints
from benchmarks.quality.product.replay import Site
from benchmarks.quality.product.report import how_run
from benchmarks.quality.product.simulated import (
    FULL,
    SMALL,
    Prepared,
    World,
    folder_name,
    prepare,
    train_once,
    true_reward,
)
from benchmarks.quality.running import SEED
from tailorbird.config import open_project
from tailorbird.events import Event
from tailorbird.ranking import Slot

Bools = npt.NDArray[np.bool_]

QUESTIONS, SMALL_QUESTIONS = 4_000, 400
NEW_MAX = 100  # impressions before the cut, below which an item is new
BEST = 10  # new items by their true appeal
PROTOCOL = [
    "The project of `product --set simulated`, trained once. Each drawn request is answered at the "
    "same moment without exploration, at the rate that `init` declares, and at twice that; lists "
    "have the slot's own length. Nobody reacts to what is served.",
    "`cost` is the true expected reward that exploration gives up, paired by request. "
    f"New items have under {NEW_MAX} impressions at the cut, and are shown if one list has them; "
    f"`best_new_items_shown` is of the {BEST} of them with the most true appeal. `new_places` is "
    "their share of the shown places, `explored_new` how many explored places they filled.",
]


@dataclass(frozen=True)
class Lists:
    """The lists of one rate, shape (questions, size).

    Attributes:
        items: codes of the items, -1 behind the end.
        explored: the places that exploration filled.
    """

    items: Ints
    explored: Bools


def measure(folder: Path, world: World, *, quick: bool = False) -> dict[str, Any]:
    """Train once, ask every request at each rate, and compare the true rewards."""
    prepared = prepare(folder, world)
    train_once(prepared, SEED, quick=quick)
    lists = ask(prepared, prepared.root(SEED, quick=quick), SEED)
    return {"rates": compare(world, prepared, lists), "questions": len(prepared.questions)}


def ask(prepared: Prepared, root: Path, seed: int) -> dict[float, Lists]:
    """Replay in a copy of the project, and ask each question at 0, 1 and 2 times its own rate."""
    live = prepared.folder / "live" / project.NAME
    project.copy_project(root, live)
    declared = open_project(live)
    slot = declared.slots[declared.settings.train.slot]
    assert slot.explore is not None
    rates = [times * slot.explore.rate for times in (0, 1, 2)]
    questions = prepared.questions
    shape = (len(questions), slot.size)
    lists = {rate: Lists(np.full(shape, -1), np.zeros(shape, bool)) for rate in rates}
    with Site(live, prepared.stream, prepared.log, lambda _: nullcontext(), seed) as site:
        pipelines = {
            rate: site.parts.pipeline_for(with_rate(declared.slots, rate), seed) for rate in rates
        }
        for number in track(range(shape[0]), "replay", console=Console(stderr=True)):
            site.advance(int(questions.at[number]), int(questions.now[number]))
            query = msgspec.structs.replace(site.query(int(questions.asker[number])), size=None)
            for rate, pipeline in pipelines.items():
                for place, shown in enumerate(pipeline.answer(query).items):
                    lists[rate].items[number, place] = int(shown.item_id[1:])
                    lists[rate].explored[number, place] = shown.reason_code == "explore"
    return lists


def with_rate(slots: Mapping[str, Slot], rate: float) -> dict[str, Slot]:
    """Return slots whose exploration has another rate."""
    return {
        name: replace(slot, explore=replace(slot.explore, rate=rate)) if slot.explore else slot
        for name, slot in slots.items()
    }


def compare(world: World, prepared: Prepared, lists: Mapping[float, Lists]) -> list[dict[str, Any]]:
    """Return the figures of each rate; costs are against the first."""
    log, questions = prepared.log, prepared.questions
    resampling = Resampling.of(log.people[log.person[questions.asker]])
    rewards = {rate: true_reward(world, log, questions, each.items) for rate, each in lists.items()}
    unexplored = next(iter(rewards.values()))
    new = find_new_items(world, prepared.history)
    best = best_items(world, new)
    return [
        {
            "rate": rate,
            "reward": _figure(*resampling.mean(rewards[rate]), len(questions)),
            "cost": _figure(*resampling.mean(unexplored - rewards[rate]), len(questions)),
            "cost_share": _figure(
                *resampling.ratio(unexplored - rewards[rate], unexplored), len(questions)
            ),
            "new_items_shown": _figure(*resampling.coverage(each.items, new), len(new)),
            "best_new_items_shown": _figure(*resampling.coverage(each.items, best), len(best)),
            "new_places": _figure(
                *resampling.ratio(
                    np.isin(each.items, new).sum(axis=1).astype(float),
                    (each.items >= 0).sum(axis=1).astype(float),
                ),
                len(questions),
            ),
            "explored": int(each.explored.sum()),
            "explored_new": int(np.isin(each.items[each.explored], new).sum()),
        }
        for rate, each in lists.items()
    ]


def find_new_items(world: World, history: Sequence[bytes]) -> Ints:
    """Return items with few impressions in the history that can be had in the replayed days."""
    decoder = msgspec.json.Decoder(Event)
    shown: Counter[str] = Counter()
    for line in history:
        if b'"impression"' in line:
            try:
                shown.update(decoder.decode(line).items or ())
            except msgspec.DecodeError:  # dirt, which the contract refuses
                continue
    items = world.site.items
    arrived = np.flatnonzero(items.arrival < world.days + world.live)
    impressions = np.array([shown[f"i{item:05d}"] for item in arrived.tolist()])
    return arrived[impressions < NEW_MAX].astype(np.int64)


def best_items(world: World, items: Ints) -> Ints:
    """Return those with the most appeal for all, ascending."""
    appeal = world.site.taste.appeal(float(world.days + world.live))[items]
    return np.sort(items[np.argsort(-appeal)[:BEST]])


def _figure(value: float, draws: Floats, n: int) -> dict[str, float]:
    """Return a figure with the 95 % interval of its draws, which resample people."""
    low, high = np.quantile(draws[np.isfinite(draws)], (0.025, 0.975))
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.exploration", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--small", action="store_true", help="a third of the people, one day")
    parser.add_argument("--keep", type=Path, help="keep what is done in this folder")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    options = parser.parse_args()
    world = (
        replace(SMALL, questions=SMALL_QUESTIONS)
        if options.small
        else replace(FULL, questions=QUESTIONS)
    )
    with tempfile.TemporaryDirectory(prefix="tailorbird-exploration-") as scratch:
        folder = (options.keep or Path(scratch)) / folder_name(small=options.small)
        results = measure(folder, world, quick=options.small)
    command = (
        f"python -m benchmarks.quality.exploration{' --small' if options.small else ''} --json"
    )
    report = {
        "benchmark": "exploration",
        "small": options.small,
        "protocol": PROTOCOL,
        "results": results,
        **how_run(command),
    }
    print(json.dumps(report, indent=1) if options.json else table(results))


if __name__ == "__main__":
    sys.exit(main())
