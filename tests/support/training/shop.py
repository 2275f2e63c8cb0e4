"""A shop to train on."""

import atexit
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tailorbird.events import DAY, RoutePlan, SimulatedClock, SlotPlan
from tailorbird.features import FeatureSet, load_features
from tailorbird.lake import LakeRole
from tailorbird.ranking import Slot
from tailorbird.router import Router
from tailorbird.simulator import Site
from tailorbird.stream.importer import import_files
from tailorbird.training.evaluation.evaluate import evaluate
from tailorbird.training.pipeline import train
from tailorbird.training.settings import TrainSettings

DAYS = 8


HOME = Slot("home", objective={"click": 1.0, "purchase": 5.0})


@dataclass(frozen=True)
class Shop:
    """A lake that was filled as a project's is, and what training needs beside it."""

    folder: Path
    features: FeatureSet
    lake: Path
    clock: SimulatedClock

    @classmethod
    def open(cls, folder: Path, change: Callable[[Path], None] | None = None) -> "Shop":
        """Fill a folder, once a process if nothing of the history is changed."""
        if change is not None:
            return _fill_folder(folder, change)
        unchanged_shop = _make_unchanged_shop()
        shutil.copytree(unchanged_shop.folder, folder, dirs_exist_ok=True)
        clock = SimulatedClock(unchanged_shop.clock.now())
        return cls(folder, load_features(folder / "features.py"), folder / "lake", clock)

    def train(
        self,
        name: str,
        slot: Any = HOME,
        heads: int = (),
        promote: bool = True,
        page: bool = False,
        **more: Any,
    ) -> Any:
        """Train and register a model; `page` draws its report too, a fifth of the time."""
        settings = TrainSettings(quick=True, **more)
        folders = {
            "lake": self.lake,
            "registry": self.folder / name,
            "reports_folder": self.folder / f"{name}-reports" if page else None,
        }
        return train(
            self.features,
            slot,
            **folders,
            clock=self.clock,
            settings=settings,
            extra_heads=heads,
            promote=promote,
        )

    def evaluate(self, name: str, slot: Any, version: str) -> Any:
        folders = {"lake": self.lake, "registry": self.folder / name}
        return evaluate(
            self.features,
            slot,
            (version,),
            **folders,
            clock=self.clock,
            settings=TrainSettings(quick=True),
        )


def _fill_folder(folder: Path, change: Callable[[Path], None]) -> Shop:
    (folder / "features.py").write_text(
        (files("tailorbird.platform") / "templates" / "features.py").read_text()
    )
    features = load_features(folder / "features.py")
    lake = folder / "lake"
    site = Site(3, users=900, items=250, days=DAYS + 2)
    clock = SimulatedClock(site.start + DAYS * DAY)
    site.history(DAYS).write(folder / "history.jsonl")
    change(folder / "history.jsonl")
    plan = RoutePlan(
        user_attributes=features.user_attributes,
        item_attributes=features.item_attributes,
        slots={"home": SlotPlan()},
    )
    stream = folder / "stream"
    stream.mkdir()
    import_files(stream, "tailorbird", folder / "history.jsonl", plan=plan, clock=clock)
    with Router(stream, plan, clock=clock) as router:
        while router.step().rows:
            pass
    with LakeRole(stream, lake, clock=clock) as role:
        role.drain()
    return Shop(folder, features, lake, clock)


@cache
def _make_unchanged_shop() -> Shop:
    folder = Path(mkdtemp(prefix="tailorbird-shop-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _fill_folder(folder, lambda history: None)
