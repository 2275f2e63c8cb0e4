"""A site whose people have tastes that can be learned, with a bundle as `tailorbird train` makes it: for the benchmark of retrieval.

    P(item | person, category of the visit) ~ exp(quality + taste · style)

A person comes for one of four categories in three of four visits, else for any; what is looked at stays in the visit's category in four of
five cases. Items of a brand are alike in style. What is shown and not looked at is drawn by quality alone. Files, state and profiles are as
in `benchmarks.serving_site`; ranker, tower and index are trained on the lake's events, on nothing that came later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from benchmarks.forty import SEQUENCE_LENGTH, TYPES
from benchmarks.serving_site import CATEGORIES, CLOCK, SPAN, Drawn, Site, Size
from benchmarks.site import START
from tailorbird.events import DAY, MINUTE
from tailorbird.features import FeatureSet, entity, sequence
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake.ledger import Ledger
from tailorbird.lake.tables import TABLES
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking import Slot
from tailorbird.registry import Registry
from tailorbird.stream import routed_path
from tailorbird.training.settings import TrainSettings
from tailorbird.training.train import train

STYLES, BRANDS_EACH = 6, 6
LIKED, VISIT = 4, 6  # categories of a person, events of a visit on average
DRAWN_AT_ONCE = 20_000
SOURCES = {"own_history": 50, "sequence": 50, "item_to_item": 100, "popular_in_category": 250, "popular": 50}
SLOT = Slot("home", size=20, sources=SOURCES, hide_seen=(), denominator="answer")


@dataclass(frozen=True)
class LearnedSite(Site):
    """As the site of serving, but for what people want and how the bundle came to be."""

    @property
    def state_seen(self) -> Path:
        return self.folder / "state-seen"

    @cached_property
    def seen(self) -> FeatureSet:
        """What people saw or did, the newest 64, for whom the set of forty has only clicks and purchases in order."""
        return FeatureSet.from_declarations([sequence("seen", entity("user"), list(TYPES), length=SEQUENCE_LENGTH)])

    def make(self, told: Callable[[str], None] = lambda what: None) -> None:
        super().make(told)
        if not self.state_seen.exists():
            drawn = self._draw()
            with FeatureWorker(routed_path(self.stream), self.state_seen, self.seen, clock=CLOCK) as worker:
                worker.bootstrap(lambda after: drawn.tables(), drawn.last_p)

    def _draw(self) -> Drawn:
        return Tastes.of(self.size)

    def _build_bundle(self, drawn: Drawn, told: Callable[[str], None]) -> None:
        told("the lake")
        self._write_lake(drawn)
        told("ranker, tower and index")
        small = self.size.items < 50_000
        settings = TrainSettings(
            window_us=SPAN,
            lateness_us=0,
            rows="clicks",
            requests=2_000 if small else 6_000,
            test_requests=200 if small else 500,
            index_parts=1,
            gbdt=GbdtSettings(trees=self.size.trees, patience=0, leaves=31),
            retrieval="sequence",
        )
        report = train(
            self.features, SLOT, lake=self.folder / "lake", registry=self.registry, clock=CLOCK, settings=settings, by="benchmark",
            promote=False,
        )  # fmt: skip
        Registry(self.registry, clock=CLOCK).promote(report.version, by="benchmark", why="the only one")

    def _write_lake(self, drawn: Drawn) -> None:
        """The tables, and a ledger that vouches for them."""
        lake, parts, by = self.folder / "lake", 0, TABLES["events"].partition
        assert by is not None
        for table in drawn.history():
            parts += 1
            days = pa.array(table["ts"].cast(pa.int64()).to_numpy() // DAY, pa.int32()).cast(pa.date32())
            write_deltalake(lake / "events", table.append_column("day", days), partition_by=[by], mode="append")
        items = drawn.catalogue()
        columns = {name: items[name] for name in items.column_names}
        columns |= {"version": items["id"], "received_at": items["valid_from"]}
        columns |= {"timeless": pa.array(np.zeros(len(items), bool)), "p": pa.array(1 + np.arange(len(items)))}
        schema = TABLES["items"].schema
        write_deltalake(lake / "items", pa.table([columns[one.name].cast(one.type) for one in schema], schema=schema), mode="append")
        ledger = Ledger(lake / "ledger.jsonl", writer=True)
        for name, version in (("events", parts - 1), ("items", 0)):
            ledger.append("commit", name, version, written_at=START, positions={"routed": drawn.last_p + 1})


class Tastes(Drawn):
    """Events of people who choose by what they like."""

    @classmethod
    def of(cls, size: Size, seed: int = 20261127) -> "Tastes":
        rng = np.random.default_rng(seed)
        each = size.items // CATEGORIES
        quality = 1.2 * rng.normal(size=(CATEGORIES, each))
        brand = np.repeat(np.arange(CATEGORIES), each).reshape(CATEGORIES, each) * BRANDS_EACH + np.arange(each) % BRANDS_EACH
        style = 0.8 * rng.normal(size=(CATEGORIES * BRANDS_EACH, STYLES))[brand] + 0.6 * rng.normal(size=(CATEGORIES, each, STYLES))
        taste = 1.5 / np.sqrt(STYLES) * rng.normal(size=(size.people, STYLES))
        crowd = 1.0 / np.arange(1, CATEGORIES + 1) ** 0.5
        crowd = np.cumsum(rng.permutation(crowd) / crowd.sum())
        liked = _by(crowd, rng.random((size.people, LIKED)))

        visits = size.events // VISIT
        visitor = cls.people_of(rng, visits, size.people)
        wanted = np.where(rng.random(visits) < 0.75, liked[visitor, rng.integers(0, LIKED, visits)], _by(crowd, rng.random(visits)))
        visit = np.sort(rng.integers(0, visits, size.events))
        began = START - SPAN + rng.integers(0, SPAN - 20 * MINUTE, visits)
        ts = began[visit] + rng.integers(0, 20 * MINUTE, size.events)
        order = np.argsort(ts, kind="stable")
        visit, ts, person = visit[order], ts[order], visitor[visit][order]
        category = np.where(rng.random(size.events) < 0.8, wanted[visit], _by(crowd, rng.random(size.events)))
        type = rng.choice(len(TYPES), size.events, p=[0.45, 0.3, 0.22, 0.03])
        chosen = np.empty(size.events, np.int64)
        for start in range(0, size.events, DRAWN_AT_ONCE):
            here = slice(start, start + DRAWN_AT_ONCE)
            mine = np.where(type[here, None] == 0, 0.0, taste[person[here]])
            weight = np.exp(quality[category[here]] + np.einsum("nks,ns->nk", style[category[here]], mine))
            weight = np.cumsum(weight, axis=1)
            chosen[here] = (weight < rng.random((len(weight), 1)) * weight[:, -1:]).sum(axis=1)
        return cls(person, category + CATEGORIES * np.minimum(chosen, each - 1), type, ts, size)


def _by(cumulated: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(cumulated, drawn), len(cumulated) - 1)
