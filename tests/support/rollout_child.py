"""A process that takes the next steps of a rollout, to be killed in the middle of one.

python -m tests.support.rollout_child FOLDER NOW STEPS
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tailorbird.config.paths import Paths
from tailorbird.config.rollout_settings import CanarySection, RolloutSection
from tailorbird.config.settings import Settings
from tailorbird.events import SimulatedClock
from tailorbird.platform.rollout import advance_rollout
from tailorbird.ranking import Slot
from tailorbird.registry import Manifest, Registry, seal


def open_shop(folder: Path, **rollout: Any) -> Any:
    settings = Settings(
        rollout=RolloutSection(**rollout), canary=CanarySection(answers_min=100, margin=0.2)
    )
    slots = {"home": Slot("home")}
    return SimpleNamespace(paths=Paths(folder), settings=settings, slots=slots, churn={})


def add_version(folder: Path, now: int, *, by: str = "trainer", accepted: bool = True) -> str:
    bundle = folder / "new"
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "model.bin").write_bytes(b"weights")
    metrics = {"about": {"slot": "home"}, "accepted": accepted}
    seal(bundle, Manifest(created_at=now, schema_hash="s", metrics=metrics))
    registry = Registry(folder / "registry", clock=SimulatedClock(now))
    return registry.add(bundle, by=by, why="the gate accepted it")


if __name__ == "__main__":
    project, clock = open_shop(Path(sys.argv[1])), SimulatedClock(int(sys.argv[2]))
    for _ in range(int(sys.argv[3])):
        advance_rollout(project, clock)
