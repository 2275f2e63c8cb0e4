"""A shop with a churn champion, whose people leave more often from some day on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from tests.support.monitored import Row
from tests.support.shops.churn_shop import CHURN, FEATURES

from tailorbird.config import Project, open_project
from tailorbird.events import DAY, ROUTED, SimulatedClock
from tailorbird.lake.write.role import LakeRole
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.registry import Registry
from tailorbird.stream import Block, open_writer
from tailorbird.stream.partitions import routed_path
from tailorbird.training.tasks.churn.backtest import ChurnSettings
from tailorbird.training.tasks.churn.train import train_churn
from tailorbird.training.tasks.churn.training_rows import FitSettings

BEGIN = 20_003 * DAY  # a Monday
TRAINED_AT = BEGIN + 250 * DAY
SHIFT_DAY = 330
KNOWN_AT = BEGIN + 400 * DAY  # so long after the shift that its outcomes are known
SETTINGS = """
[train]
every = ""
retrieval = "tables"

[rollout]
approval = ["promote"]
"""
QUICK_SETTINGS = ChurnSettings(
    FitSettings(gbdt=GbdtSettings(trees=30, rate=0.1, patience=10), rows=6_000),
    cuts=3,
    grid_rows=12_000,
    lateness_us=DAY,
    replicates=50,
)


def write_leaving_shop(folder: Path) -> Project:
    """Write declarations and purchases of 440 days."""
    folder.mkdir(parents=True, exist_ok=True)
    files = ("features.py", FEATURES), ("churn.py", CHURN), ("tailorbird.toml", SETTINGS)
    for name, text in files:
        (folder / name).write_text(text)
    (folder / "slots.py").write_text("from tailorbird.ranking import Slot\n\nhome = Slot('home')\n")
    project = open_project(folder)
    rows = _draw_purchases()
    columns = {name: [row.get(name) for row in rows] for name in ROUTED.names}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROUTED) as writer:
        writer.write_table(pa.table(columns, schema=ROUTED))
    stream = folder / "stream"
    with open_writer(routed_path(stream), partition="routed", first_position=1) as log:
        log.append([Block("events", len(rows), sink.getvalue().to_pybytes())])
    with LakeRole(stream, project.paths.lake, clock=SimulatedClock(KNOWN_AT)) as role:
        role.drain()
    return project


def train_champion(project: Project) -> str:
    """Train a model on the days before the shift, make it the champion, and return its version."""
    folder, clock = project.paths.churn("churn"), SimulatedClock(TRAINED_AT)
    training_result = train_churn(
        project.features,
        project.churn["churn"],
        lake=project.paths.lake,
        registry=folder,
        clock=clock,
        settings=QUICK_SETTINGS,
        by="ada",
    )
    Registry(folder, clock=clock).promote(training_result.version, by="ada", why="a champion")
    return training_result.version


def _draw_purchases(people: int = 600, days: int = 440) -> list[Row]:
    rng, rows = np.random.default_rng(0), []
    for number in range(people):
        day, rate = float(rng.uniform(0, days * 0.9)), rng.gamma(1.5, 0.08) + 0.02
        leaving_probability = rng.beta(1, 9)
        while day < days:
            rows.append((BEGIN + int(day * DAY), f"u{number}"))
            if rng.random() < (leaving_probability if day < SHIFT_DAY else 0.5):
                break
            day += rng.exponential(1 / rate) + 1
    return [
        {"type": "purchase", "ts": ts, "received_at": ts, "person": user, "user_id": user}
        | {"item_id": "i", "price": 2.0, "quantity": 1.0, "agent": "person", "counts": True}
        | {"timeless": False, "p": log_position, "event_id": f"e{log_position}"}
        | {"raw_partition": "collector", "raw_offset": log_position, "raw_row": 0}
        for log_position, (ts, user) in enumerate(sorted(rows), 1)
    ]
