"""A site for the benchmark of serving: state, candidate tables, an index, and a bundle.

The folder is kept. People like three of the categories and choose from those in seven of ten cases,
otherwise anywhere; within a category a few items have most of the events. The trees learn from the
final state, which leaks the labels: they cost what an honest model costs, and nothing else is
claimed of them.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from benchmarks.forty import TYPES, forty_features
from benchmarks.site import START
from tailorbird.candidates.batch import segment_keys
from tailorbird.candidates.contract import Contract, build_contract
from tailorbird.candidates.protocol import CandidateRequest
from tailorbird.candidates.query import RequestLists, select_live_sources
from tailorbird.candidates.role import CandidatesRole
from tailorbird.events import DAY, MINUTE, RoutePlan, SimulatedClock
from tailorbird.events.contract.schema import ROUTED
from tailorbird.events.keys import hash64s
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.models.export import gbdt_to_onnx
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.encode.rows import Matrix
from tailorbird.ranking.tower import VECTOR_COLUMNS, Space
from tailorbird.registry import Head, Registry
from tailorbird.retrieval import Index, build_index
from tailorbird.retrieval.vectors import build_content
from tailorbird.serving.models.candidates import LiveTables
from tailorbird.stream import routed_path
from tailorbird.training.dataset.codes import IdVocabulary
from tailorbird.training.dataset.matrix import bundle_columns
from tailorbird.training.dataset.replay import select_live_columns

SPAN = 3 * DAY
CATEGORIES, BRANDS, COUNTRIES = 500, 3_000, ("NO", "SE", "DK", "FI")
TREES, LEAVES = 300, 31
CHUNK_ROWS = 200_000
TOWER_STEPS = 100
SAMPLED, DRAWN = (
    600,
    40,
)  # requests that the trees learn from, and items of each beside those that were chosen
CLOCK = SimulatedClock(START)
SLOTS = {
    "home": Slot(
        "home", size=20, sources={"item_knn": 200, "popular:7d:category": 150, "popular": 150}
    ),
    "search": Slot("search", size=20, sources={"search": 500}),
}


class Size(msgspec.Struct, frozen=True):
    """The size of the site, stored beside it, so that a folder of another size is rebuilt."""

    people: int = 1_000_000
    items: int = 100_000
    events: int = 3_000_000
    trees: int = TREES
    format: int = 4


@dataclass(frozen=True)
class Log:
    """Training data of a tower."""

    events: pa.Table
    person_vocabulary: IdVocabulary
    item_vocabulary: IdVocabulary


@dataclass(frozen=True)
class TrainingRequest:
    """A request that the trees learn from: items, features, index of the chosen item."""

    items: list[str]
    rows: Rows
    live: Matrix
    chosen: int


@dataclass(frozen=True)
class Site:
    """The site's files below `folder`, built on first use."""

    folder: Path
    size: Size

    @cached_property
    def features(self) -> FeatureSet:
        return forty_features()

    @cached_property
    def live(self) -> LiveColumns:
        """Return the columns from candidate tables that `train` selects for the slot."""
        return select_live_columns(self.features, SLOTS["home"])

    @property
    def contract(self) -> Contract:
        return build_contract(
            select_live_sources([name for slot in SLOTS.values() for name in slot.sources])
        )

    @property
    def candidates(self) -> Path:
        return self.folder / "candidates"

    def tables(self) -> LiveTables:
        """Return the candidate tables, open as a server has them."""
        opened = LiveTables(self.candidates, CLOCK)
        opened.tick()
        return opened

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def stream(self) -> Path:
        return self.folder / "stream"

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    @property
    def model(self) -> Path:
        """Return the path of the trees in LightGBM's format."""
        return self.folder / "model.txt"

    @property
    def plan(self) -> RoutePlan:
        return RoutePlan(
            user_attributes=self.features.user_attributes,
            item_attributes=self.features.item_attributes,
        )

    @property
    def registry_vectors(self) -> Path:
        """Return the registry of the same bundle with vectors of people and items."""
        return self.folder / "registry-vectors"

    def make(self, report: Callable[[str], None] = lambda what: None) -> None:
        """Build the site unless it is there in the right size."""
        done = self.folder / "done.json"
        if done.exists() and msgspec.json.decode(done.read_bytes(), type=Size) == self.size:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.stream.mkdir(parents=True)
        report(
            f"the state of {self.size.people:,} people and {self.size.items:,} items, of "
            f"{self.size.events:,} events"
        )
        drawn = EventDraw.of(self.size)
        self._build_state(drawn)
        report("candidate tables")
        self._build_tables(drawn)
        self._build_bundle(drawn, report)
        done.write_bytes(msgspec.json.encode(self.size))

    def requests(self, count: int, seed: int = 7) -> list[dict]:
        """Return request bodies of people drawn with the frequency of their events."""
        rng = np.random.default_rng(seed)
        people = EventDraw.people_of(rng, count, self.size.people)
        return [
            {"slot": "home", "user_id": user(one), "context": context(one)}
            for one in people.tolist()
        ]

    def _build_state(self, drawn: "EventDraw") -> None:
        with FeatureWorker(
            routed_path(self.stream), self.state, self.features, clock=CLOCK
        ) as worker:
            worker.bootstrap(lambda after: drawn.history(), drawn.last_p)
            worker.refresh()  # as the role does each second

    def _build_tables(self, drawn: "EventDraw") -> None:
        with CandidatesRole(
            routed_path(self.stream), self.candidates, self.contract, clock=CLOCK
        ) as role:
            role.build(lambda after: drawn.history(), drawn.last_p)
            role.publish(everything=True)

    def _build_bundle(self, drawn: "EventDraw", report: Callable[[str], None]) -> None:
        report("the index")
        build_index(
            self.folder / "index", pa.concat_tables(drawn.tables()), drawn.catalogue(), as_of=START
        )
        report(f"{self.size.trees} trees")
        index = Index.open(self.folder / "index")
        training_requests = self._training_requests(drawn)
        self._fit(training_requests, index, None, {}, self.registry)
        report(f"a tower, and {self.size.trees} trees that see vectors")
        space, tower = self._tower(drawn, index)
        shutil.copytree(self.folder / "index", self.folder / "index-vectors")
        space.vectors.write(self.folder / "index-vectors")
        self._fit(training_requests, space.index, space, tower, self.registry_vectors)

    def _training_requests(self, drawn: "EventDraw") -> list[TrainingRequest]:
        reader, tables = Reader(self.state, self.features), self.tables()
        rng, recent = np.random.default_rng(11), bundle_columns(self.features).sequences[0]
        chosen = np.flatnonzero(drawn.type == TYPES.index("click"))
        training_requests = []
        for event in rng.choice(chosen, SAMPLED).tolist():
            items = [
                item(number)
                for number in {int(drawn.item[event]), *rng.choice(drawn.item, DRAWN).tolist()}
            ]
            one = int(drawn.person[event])
            context_ = context(one)
            request = ReadRequest(
                person=user(one), now=START, device=context_["device"], country=context_["country"]
            )
            rows = reader.read(request, items)
            sequence = rows.sequences[recent]
            with tables.tables() as opened:
                lists = RequestLists(
                    opened, CandidateRequest(sequence.item, sequence.ts, segment_keys(context_))
                )
                live = self.live.matrix(lists, rows.sequences, hash64s(items))
            training_requests.append(
                TrainingRequest(items, rows, live, items.index(item(int(drawn.item[event]))))
            )
        reader.close()
        tables.stop()
        return training_requests

    def _fit(
        self,
        training_requests: list[TrainingRequest],
        index: Index,
        space: Space | None,
        tower: Mapping[str, bytes],
        registry: Path,
    ) -> None:
        """Write a bundle of trees to a registry of its own."""
        computed = (*COMPUTED_COLUMNS, *(VECTOR_COLUMNS if space is not None else ()))
        keys = np.concatenate([request.rows.categorical for request in training_requests])
        encoder = fit_encoder(
            bundle_columns(self.features), keys, computed=computed, candidates=self.live.candidates
        )
        parts = [
            encoder.encode_request(
                request.rows, hash64s(request.items), index, space, live=request.live
            )
            for request in training_requests
        ]
        labels = [np.arange(len(request.items)) == request.chosen for request in training_requests]
        sample = Sample(np.concatenate(parts), np.concatenate(labels).astype(np.float64))
        settings = GbdtSettings(
            trees=self.size.trees, patience=0, leaves=LEAVES, leaf_rows=20, threads=1
        )
        model = fit_gbdt(
            sample, Sample(sample.matrix[:0], sample.label[:0]), encoder.names, settings
        )
        bundle_folder = self.folder / f"bundle-{registry.name}"
        write_bundle(
            bundle_folder,
            created_at=START,
            features=self.features,
            encoder=encoder,
            models={"model/click.onnx": gbdt_to_onnx(model)},
            heads=[Head("click", "model/click.onnx")],
            index=self.folder / ("index" if space is None else "index-vectors"),
            golden=sample.matrix,
            tower=tower or None,
        )
        if space is None:
            model.booster.save_model(self.model)
        store = Registry(registry, clock=CLOCK)
        store.promote(store.add(bundle_folder), by="benchmark", why="the only one")

    def _tower(self, drawn: "EventDraw", index: Index) -> tuple[Space, dict[str, bytes]]:
        """Return barely trained vectors: their cost does not depend on training."""
        from tailorbird.training.fit.towers import TowerLearner, TowerSettings, find_sequence

        events = pa.concat_tables(drawn.tables())
        declared = find_sequence(self.features)
        assert declared is not None
        log = Log(events, IdVocabulary.of(events["person"]), IdVocabulary.of(events["item_id"]))
        learner = TowerLearner(
            log,
            *declared,
            build_content(index.attributes),
            TowerSettings(steps_max=TOWER_STEPS, steps_min=1),
            seed=3,
        )
        space = learner.add_inverted_file(learner.build_space(index, START))
        return space, learner.export_files(space)

    def bundle(self) -> Bundle:
        """Load the champion."""
        champion = Registry(self.registry, clock=CLOCK).champion_folder()
        assert champion is not None
        return Bundle.load(champion, schema_hash=self.features.schema_hash)


def user(number: int) -> str:
    return f"u{number:07}"


def item(number: int) -> str:
    return f"i{number:06}"


def context(person: int) -> dict[str, str]:
    return {"device": ("phone", "desktop")[person % 2], "country": COUNTRIES[person % 4]}


@dataclass(frozen=True)
class EventDraw:
    """The events in order of time, arrays of shape (events,)."""

    person: np.ndarray
    item: np.ndarray
    type: np.ndarray
    ts: np.ndarray
    size: Size

    @classmethod
    def of(cls, size: Size, seed: int = 20261126) -> "EventDraw":
        rng = np.random.default_rng(seed)
        person = cls.people_of(rng, size.events, size.people)
        liked = rng.integers(0, CATEGORIES, (size.people, 3))
        likes_category = rng.random(size.events) < 0.7
        category = np.where(
            likes_category,
            liked[person, rng.integers(0, 3, size.events)],
            rng.integers(0, CATEGORIES, size.events),
        )
        item = category + CATEGORIES * (
            size.items // CATEGORIES * rng.random(size.events) ** 3
        ).astype(np.int64)
        type = rng.choice(len(TYPES), size.events, p=[0.45, 0.3, 0.22, 0.03])
        return cls(
            person, item, type, START - SPAN + np.sort(rng.integers(0, SPAN, size.events)), size
        )

    @staticmethod
    def people_of(rng: np.random.Generator, count: int, people: int) -> np.ndarray:
        """Draw people with a skew: some come far more often than others."""
        return (people * rng.random(count) ** 2).astype(np.int64)

    @property
    def last_p(self) -> int:
        return self.size.people + self.size.items + self.size.events

    def history(self) -> Iterator[pa.Table]:
        """Yield all events as the router would have written them, profiles first."""
        people, items = self.size.people, self.size.items
        for start in range(0, people, CHUNK_ROWS):
            chunk = range(start, min(start + CHUNK_ROWS, people))
            attributes = [
                json.dumps(
                    {
                        "plan": ("free", "paid")[number % 2],
                        "age": 18 + number % 70,
                        "segment": f"g{number % 12}",
                    }
                )
                for number in chunk
            ]
            yield _profiles(
                "user", "user_id", [user(number) for number in chunk], attributes, start
            )
        for start in range(0, items, CHUNK_ROWS):
            chunk = range(start, min(start + CHUNK_ROWS, items))
            yield _profiles(
                "item",
                "item_id",
                [item(number) for number in chunk],
                [profile(number) for number in chunk],
                people + start,
            )
        yield from self.tables()

    def tables(self) -> Iterator[pa.Table]:
        profiles = pa.array([profile(one) for one in range(self.size.items)])
        before = self.size.people + self.size.items
        for start in range(0, len(self.ts), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            person, number, ts = self.person[chunk], self.item[chunk], self.ts[chunk]
            user_ids = [user(one) for one in person.tolist()]
            yield _routed(
                {
                    "p": pa.array(before + start + 1 + np.arange(len(ts))),
                    "event_id": pa.array(
                        np.char.add("e", (start + np.arange(len(ts))).astype(str))
                    ),
                    "type": pa.array(TYPES).take(pa.array(self.type[chunk])),
                    "ts": pa.array(ts).cast(ROUTED.field("ts").type),
                    "user_id": pa.array(user_ids),
                    "person": pa.array(user_ids),
                    "session_id": pa.array(
                        [
                            f"s{one}-{at // (20 * MINUTE)}"
                            for one, at in zip(person.tolist(), ts.tolist(), strict=True)
                        ]
                    ),
                    "item_id": pa.array([item(one) for one in number.tolist()]),
                    "device": pa.array(("phone", "desktop")).take(pa.array(person % 2)),
                    "country": pa.array(COUNTRIES).take(pa.array(person % 4)),
                    "price": pa.array(1.0 + number % 97),
                    "item_profile": profiles.take(pa.array(number)),
                }
            )

    def catalogue(self) -> pa.Table:
        """Return the items as the lake's table has them."""
        items = range(self.size.items)
        since = pa.array(np.full(self.size.items, START - SPAN - DAY)).cast(ROUTED.field("ts").type)
        return pa.table(
            {
                "id": [item(one) for one in items],
                "valid_from": since,
                "attributes": [profile(one) for one in items],
            }
        )


def profile(number: int) -> str:
    category, brand = number % CATEGORIES, number * 7 % BRANDS
    attributes = {
        "category": f"c{category}",
        "brand": f"b{brand}",
        "price": 1 + number % 97,
        "title": f"thing {number} of c{category} by b{brand}",
    }
    return json.dumps(attributes)


def _profiles(
    type: str, column: str, ids: list[str], properties: list[str], before: int
) -> pa.Table:
    ts = pa.array(np.full(len(ids), START - SPAN - DAY)).cast(ROUTED.field("ts").type)
    columns = {
        "p": pa.array(before + 1 + np.arange(len(ids))),
        "event_id": pa.array([f"profile-{row_id}" for row_id in ids]),
        "type": pa.array([type] * len(ids)),
        "ts": ts,
        column: pa.array(ids),
        "properties": pa.array(properties),
    }
    return _routed(columns | ({"person": pa.array(ids)} if type == "user" else {}))


def _routed(columns: dict[str, pa.Array]) -> pa.Table:
    rows = len(columns["p"])
    columns |= {"received_at": columns["ts"], "counts": pa.array(np.ones(rows, np.bool_))}
    return pa.table(
        [
            columns[column_type.name].cast(column_type.type)
            if column_type.name in columns
            else pa.nulls(rows, column_type.type)
            for column_type in ROUTED
        ],
        schema=ROUTED,
    )
