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
from benchmarks.quality.product.report import describe_provenance
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
NEW_ITEM_IMPRESSIONS_MAX = 100  # impressions before the cut, below which an item is new
BEST_ITEM_COUNT = 10  # new items by their true appeal
PROTOCOL = [
    "The project of `product --set simulated`, trained once. Each drawn request is answered at the "
    "same moment without exploration, at the rate that `init` declares, and at twice that; lists "
    "have the slot's own length. Nobody reacts to what is served.",
    "`cost` is the true expected reward that exploration gives up, paired by request. "
    f"New items have under {NEW_ITEM_IMPRESSIONS_MAX} impressions at the cut, and are shown if one list has them; "
    f"`best_new_items_shown` is of the {BEST_ITEM_COUNT} of them with the most true appeal. `new_places` is "
    "their share of the shown places, `explored_new` how many explored places they filled.",
]


@dataclass(frozen=True)
class Lists:
    """The lists of one rate, shape (questions, size).

    Attributes:
        items: codes of the items, -1 behind the end.
        is_explored: the places that exploration filled.
    """

    items: Ints
    is_explored: Bools


def measure(folder: Path, world: World, *, quick: bool = False) -> dict[str, Any]:
    """Train once, ask every request at each rate, and compare the true rewards."""
    prepared = prepare(folder, world)
    train_once(prepared, SEED, quick=quick)
    lists_by_rate = ask_questions(prepared, prepared.root(SEED, quick=quick), SEED)
    return {"rates": compare(world, prepared, lists_by_rate), "questions": len(prepared.questions)}


def ask_questions(prepared: Prepared, root: Path, seed: int) -> dict[float, Lists]:
    """Replay in a copy of the project, and ask each question at 0, 1 and 2 times its own rate."""
    live_root = prepared.folder / "live" / project.PROJECT_NAME
    project.copy_project(root, live_root)
    live_project = open_project(live_root)
    slot = live_project.slots[live_project.settings.train.slot]
    assert slot.explore is not None
    rates = [times * slot.explore.rate for times in (0, 1, 2)]
    questions = prepared.questions
    shape = (len(questions), slot.size)
    lists_by_rate = {rate: Lists(np.full(shape, -1), np.zeros(shape, bool)) for rate in rates}
    with Site(live_root, prepared.stream, prepared.log, lambda _: nullcontext(), seed) as site:
        pipelines = {
            rate: site.server.pipeline_for(with_exploration_rate(live_project.slots, rate), seed)
            for rate in rates
        }
        for number in track(range(shape[0]), "replay", console=Console(stderr=True)):
            site.advance(int(questions.at[number]), int(questions.now[number]))
            query = msgspec.structs.replace(site.query(int(questions.asker[number])), size=None)
            for rate, pipeline in pipelines.items():
                for position, item in enumerate(pipeline.answer(query).items):
                    lists_by_rate[rate].items[number, position] = int(item.item_id[1:])
                    lists_by_rate[rate].is_explored[number, position] = (
                        item.reason_code == "explore"
                    )
    return lists_by_rate


def with_exploration_rate(slots: Mapping[str, Slot], rate: float) -> dict[str, Slot]:
    """Return slots whose exploration has another rate."""
    return {
        name: replace(slot, explore=replace(slot.explore, rate=rate)) if slot.explore else slot
        for name, slot in slots.items()
    }


def compare(world: World, prepared: Prepared, lists: Mapping[float, Lists]) -> list[dict[str, Any]]:
    """Return the figures of each rate; costs are against the first."""
    log, questions = prepared.log, prepared.questions
    resampling = Resampling.of(log.people[log.person[questions.asker]])
    rewards = {
        rate: true_reward(world, log, questions, lists_of_rate.items)
        for rate, lists_of_rate in lists.items()
    }
    unexplored_reward = next(iter(rewards.values()))
    new_items = find_new_items(world, prepared.history)
    best_items = select_best_items(world, new_items)
    return [
        {
            "rate": rate,
            "reward": _value_with_interval(*resampling.mean(rewards[rate]), len(questions)),
            "cost": _value_with_interval(
                *resampling.mean(unexplored_reward - rewards[rate]), len(questions)
            ),
            "cost_share": _value_with_interval(
                *resampling.ratio(unexplored_reward - rewards[rate], unexplored_reward),
                len(questions),
            ),
            "new_items_shown": _value_with_interval(
                *resampling.coverage(lists_of_rate.items, new_items), len(new_items)
            ),
            "best_new_items_shown": _value_with_interval(
                *resampling.coverage(lists_of_rate.items, best_items), len(best_items)
            ),
            "new_places": _value_with_interval(
                *resampling.ratio(
                    np.isin(lists_of_rate.items, new_items).sum(axis=1).astype(float),
                    (lists_of_rate.items >= 0).sum(axis=1).astype(float),
                ),
                len(questions),
            ),
            "explored": int(lists_of_rate.is_explored.sum()),
            "explored_new": int(
                np.isin(lists_of_rate.items[lists_of_rate.is_explored], new_items).sum()
            ),
        }
        for rate, lists_of_rate in lists.items()
    ]


def find_new_items(world: World, history: Sequence[bytes]) -> Ints:
    """Return items with few impressions in the history that can be had in the replayed days."""
    decoder = msgspec.json.Decoder(Event)
    impressions_by_item: Counter[str] = Counter()
    for line in history:
        if b'"impression"' in line:
            try:
                impressions_by_item.update(decoder.decode(line).items or ())
            except msgspec.DecodeError:  # dirt, which the contract refuses
                continue
    items = world.site.items
    arrived_items = np.flatnonzero(items.arrival_day < world.days + world.live)
    impressions = np.array([impressions_by_item[f"i{item:05d}"] for item in arrived_items.tolist()])
    return arrived_items[impressions < NEW_ITEM_IMPRESSIONS_MAX].astype(np.int64)


def select_best_items(world: World, items: Ints) -> Ints:
    """Return those with the most appeal for all, ascending."""
    appeal = world.site.taste.appeal(float(world.days + world.live))[items]
    return np.sort(items[np.argsort(-appeal)[:BEST_ITEM_COUNT]])


def _value_with_interval(value: float, draws: Floats, n: int) -> dict[str, float]:
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
        **describe_provenance(command),
    }
    print(json.dumps(report, indent=1) if options.json else table(results))


if __name__ == "__main__":
    sys.exit(main())
