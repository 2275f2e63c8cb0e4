"""Choice of the faults to try: every point of every scene if there is time, else a spread.

A count above the number of points means the same scenes with other traffic, by another seed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.faults.chaos import trials
from tests.faults.chaos.injection import Point
from tests.faults.chaos.trials import Trial

T = TypeVar("T")
Prepare = Callable[[int], dict[str, list[Point]]]  # by seed: the points of each scene
SEEDS_MAX = 50


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return `count` items, spread evenly.

    >>> evenly("abcdef", 3)
    ['a', 'c', 'e']
    """
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def one_of_each_scene(trials_there: Sequence[Trial], count: int) -> list[Trial]:
    """Return `count` trials, spread evenly after one of each scene, if so many are wanted."""
    of_scene: dict[str, list[Trial]] = {}
    for trial in trials_there:
        of_scene.setdefault(trial.scene, []).append(trial)
    if count < len(of_scene):
        return evenly(trials_there, count)
    first = [here[len(here) // 2] for here in of_scene.values()]
    others = [trial for trial in trials_there if trial not in first]
    return [*first, *evenly(others, count - len(first))]


def plan(prepare: Prepare, counts: dict[str, int], first_seed: int) -> list[Trial]:
    """Return the trials, `counts[kind]` of each kind."""
    chosen: list[Trial] = []
    left = dict(counts)
    for seed in range(first_seed, first_seed + SEEDS_MAX):
        left = {kind: count for kind, count in left.items() if count > 0}
        if not left:
            break
        points_by_scene = prepare(seed)
        for kind, count in left.items():
            trials_there = [
                trial
                for scene, points in points_by_scene.items()
                for trial in trials.trials_of(kind, scene, points, seed)
            ]
            taken = one_of_each_scene(trials_there, count)
            chosen += taken
            left[kind] = count - len(taken) if trials_there else 0
    return chosen


def choose_root(parent: Path | None) -> Path:
    """Return the folder for scenes: in memory if possible, since power cuts are simulated."""
    memory = Path("/dev/shm")
    if parent is not None:
        return parent
    return memory if memory.is_dir() else Path.cwd()
