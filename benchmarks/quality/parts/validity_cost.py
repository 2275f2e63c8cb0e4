"""What the assignment of arms costs a request, with 50 running experiments in 10 layers."""

import tempfile
import time
from pathlib import Path

import numpy as np

from tailorbird.events import SimulatedClock
from tailorbird.experiments.assign import Experiment
from tailorbird.platform.experiments.commands import freeze_declaration
from tailorbird.ranking import Slot
from tailorbird.registry import Experiments, Registry
from tailorbird.serving.experiments import LiveExperiments

SLOTS, EXPERIMENTS_PER_SLOT = 10, 5  # each slot is a layer of its own, which its experiments share
REQUESTS, BATCHES = 2_000, 30


def measure_assignment(seed: int) -> dict[str, dict[str, float]]:
    """Return microseconds of a request, as the mean of batches with the least and the largest.

    Each experiment has a ramp and a holdout, and every fifth a condition on the device.
    """
    slots = {name: Slot(name) for name in (f"slot{number}" for number in range(SLOTS))}
    rng = np.random.default_rng(seed)
    people = [f"u{number}" for number in rng.integers(0, 1_000_000, REQUESTS)]
    names = [f"slot{number}" for number in rng.integers(0, SLOTS, REQUESTS)]
    requests = [(slots[name], person) for name, person in zip(names, people, strict=True)]
    user: dict[str, float] = {}
    context = {"device": "phone", "country": "NO"}
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder), clock=SimulatedClock(1))
        registry.change_experiments("start", "all", _start_experiments, by="benchmark", why="cost")
        live = LiveExperiments(registry, slots)
        live.tick()
        times = []
        for _ in range(BATCHES):
            start = time.perf_counter()
            for slot, person in requests:
                live.assign(
                    slot, person, person, "", lambda condition: condition.holds(user, context)
                )
            times.append((time.perf_counter() - start) / REQUESTS * 1e6)
        assigned = sum(bool(live.assign(slot, person, person).arm) for slot, person in requests)
    figure = {"value": float(np.mean(times)), "low": min(times), "high": max(times)}
    return {"assignment": figure | {"n": BATCHES * REQUESTS, "in_an_arm": assigned / REQUESTS}}


def _start_experiments(experiments: Experiments) -> Experiments:
    for number in range(SLOTS * EXPERIMENTS_PER_SLOT):
        declared = Experiment(
            f"experiment{number}",
            {"old": 0.5, "new": 0.5},
            policies={"old": "popular", "new": "model"},
            slot=f"slot{number // EXPERIMENTS_PER_SLOT}",
            where="context.device == 'phone'" if number % EXPERIMENTS_PER_SLOT == 0 else "",
            share=1 / EXPERIMENTS_PER_SLOT,
            holdout=0.02,
        )
        new = freeze_declaration(declared, ramp=0.9)
        experiments = experiments.start(new, by="benchmark", why="cost", at=1)
    return experiments
