"""Which faults are tried: every point of every scene where there is time, else so many of them,
evenly spread.

More than there are points means the same scenes with other traffic, by another seed.
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
    """So many of the items, from the whole length.

    >>> evenly("abcdef", 3)
    ['a', 'c', 'e']
    """
    if count >= len(items):
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def plan(prepare: Prepare, wanted: dict[str, int], first_seed: int) -> list[Trial]:
    """The trials: of each kind as many as wanted."""
    chosen: list[Trial] = []
    left = dict(wanted)
    for seed in range(first_seed, first_seed + SEEDS_MAX):
        left = {kind: count for kind, count in left.items() if count > 0}
        if not left:
            break
        found = prepare(seed)
        for kind, count in left.items():
            there = [
                trial
                for scene, points in found.items()
                for trial in trials.trials_of(kind, scene, points, seed)
            ]
            taken = evenly(there, count)
            chosen += taken
            left[kind] = count - len(taken) if there else 0
    return chosen


def root_of(parent: Path | None) -> Path:
    """Where scenes are played: in memory where there is room, since what a power cut takes is
    simulated anyway.
    """
    memory = Path("/dev/shm")
    if parent is not None:
        return parent
    return memory if memory.is_dir() else Path.cwd()
