"""A site to be asked by the benchmark of serving: a state of many people, candidate tables, an
index, a bundle of 300 trees, in a folder that is kept.

People like three of the categories, and choose there in seven of ten cases, otherwise anywhere;
within a category a few items have most of the events. The trees learn from the final state, which
knows what they are asked for: they cost what an honest model costs, and nothing else is said of
them.
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

from benchmarks.forty import TYPES, forty
from benchmarks.site import START
from tailorbird.candidates.batch import segment_keys
from tailorbird.candidates.contract import Contract, contract_of
from tailorbird.candidates.protocol import CandidateRequest
from tailorbird.candidates.query import RequestLists, live_sources
from tailorbird.candidates.role import CandidatesRole
from tailorbird.events import DAY, MINUTE, RoutePlan, SimulatedClock
from tailorbird.events.keys import hash64s
from tailorbird.events.schema import ROUTED
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.features.read import Reader
from tailorbird.features.worker import FeatureWorker
from tailorbird.models.export import gbdt_to_onnx
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.computed import COMPUTED
from tailorbird.ranking.encoders import Matrix, fit_encoder
from tailorbird.ranking.live import LiveColumns
from tailorbird.ranking.tower import VECTOR_COLUMNS, Space
from tailorbird.registry import Head, Registry
from tailorbird.retrieval import Index, build_index
from tailorbird.retrieval.vectors import content_of
from tailorbird.serving.candidates import LiveTables
from tailorbird.stream import routed_path
from tailorbird.training.coding import Codes
from tailorbird.training.matrix import columns_of
from tailorbird.training.replaying import live_columns

SPAN = 3 * DAY
CATEGORIES, BRANDS, COUNTRIES = 500, 3_000, ("NO", "SE", "DK", "FI")
TREES, LEAVES = 300, 31
ROWS_AT_ONCE = 200_000
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
    """How large the site is; kept beside it, so that a folder of another size is made anew."""

    people: int = 1_000_000
    items: int = 100_000
    events: int = 3_000_000
    trees: int = TREES
    format: int = 4


@dataclass(frozen=True)
class Log:
    """What a tower is learned from."""

    events: pa.Table
    people: Codes
    codes: Codes


@dataclass(frozen=True)
class Asked:
    """A request that the trees learn from: items, what is known of each, and the place of the one
    that was chosen.
    """

    items: list[str]
    rows: Rows
    live: Matrix
    chosen: int


@dataclass(frozen=True)
class Site:
    """The site's files below `folder`, made on the first use."""

    folder: Path
    size: Size

    @cached_property
    def features(self) -> FeatureSet:
        return forty()

    @cached_property
    def live(self) -> LiveColumns:
        """The columns of the bundle that are read from candidate tables: those that `train` takes
        for the slot.
        """
        return live_columns(self.features, SLOTS["home"])

    @property
    def contract(self) -> Contract:
        return contract_of(live_sources([name for slot in SLOTS.values() for name in slot.sources]))

    @property
    def candidates(self) -> Path:
        return self.folder / "candidates"

    def tables(self) -> LiveTables:
        """The candidate tables, open as a server has them."""
        opened = LiveTables(self.candidates, CLOCK)
        opened.look()
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
        """The trees as LightGBM writes them, for those who serve with it."""
        return self.folder / "model.txt"

    @property
    def plan(self) -> RoutePlan:
        return RoutePlan(
            user_attributes=self.features.user_attributes,
            item_attributes=self.features.item_attributes,
        )

    @property
    def registry_vectors(self) -> Path:
        """Of the same bundle with vectors of people and items."""
        return self.folder / "registry-vectors"

    def make(self, told: Callable[[str], None] = lambda what: None) -> None:
        """Build what is not there, or is of another size."""
        done = self.folder / "done.json"
        if done.exists() and msgspec.json.decode(done.read_bytes(), type=Size) == self.size:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.stream.mkdir(parents=True)
        told(
            f"the state of {self.size.people:,} people and {self.size.items:,} items, of "
            f"{self.size.events:,} events"
        )
        drawn = Drawn.of(self.size)
        self._build_state(drawn)
        told("candidate tables")
        self._build_tables(drawn)
        self._build_bundle(drawn, told)
        done.write_bytes(msgspec.json.encode(self.size))

    def requests(self, count: int, seed: int = 7) -> list[dict]:
        """Bodies of questions by people who come as they came before."""
        rng = np.random.default_rng(seed)
        people = Drawn.people_of(rng, count, self.size.people)
        return [
            {"slot": "home", "user_id": user(one), "context": context(one)}
            for one in people.tolist()
        ]

    def _build_state(self, drawn: "Drawn") -> None:
        with FeatureWorker(
            routed_path(self.stream), self.state, self.features, clock=CLOCK
        ) as worker:
            worker.bootstrap(lambda after: drawn.history(), drawn.last_p)
            worker.refresh()  # as the role does each second

    def _build_tables(self, drawn: "Drawn") -> None:
        with CandidatesRole(
            routed_path(self.stream), self.candidates, self.contract, clock=CLOCK
        ) as role:
            role.build(lambda after: drawn.history(), drawn.last_p)
            role.publish(everything=True)

    def _build_bundle(self, drawn: "Drawn", told: Callable[[str], None]) -> None:
        told("the index")
        build_index(
            self.folder / "index", pa.concat_tables(drawn.tables()), drawn.catalogue(), as_of=START
        )
        told(f"{self.size.trees} trees")
        index = Index.open(self.folder / "index")
        asked = self._asked(drawn)
        self._fit(asked, index, None, {}, self.registry)
        told(f"a tower, and {self.size.trees} trees that see vectors")
        space, tower = self._tower(drawn, index)
        shutil.copytree(self.folder / "index", self.folder / "index-vectors")
        space.vectors.write(self.folder / "index-vectors")
        self._fit(asked, space.index, space, tower, self.registry_vectors)

    def _asked(self, drawn: "Drawn") -> list[Asked]:
        reader, tables = Reader(self.state, self.features), self.tables()
        rng, recent = np.random.default_rng(11), columns_of(self.features).sequences[0]
        chosen = np.flatnonzero(drawn.type == TYPES.index("click"))
        found = []
        for place in rng.choice(chosen, SAMPLED).tolist():
            items = [
                item(one)
                for one in {int(drawn.item[place]), *rng.choice(drawn.item, DRAWN).tolist()}
            ]
            one = int(drawn.person[place])
            where = context(one)
            request = ReadRequest(
                person=user(one), now=START, device=where["device"], country=where["country"]
            )
            rows = reader.read(request, items)
            mine = rows.sequences[recent]
            with tables.tables() as opened:
                lists = RequestLists(
                    opened, CandidateRequest(mine.item, mine.ts, segment_keys(where))
                )
                live = self.live.matrix(lists, rows.sequences, hash64s(items))
            found.append(Asked(items, rows, live, items.index(item(int(drawn.item[place])))))
        reader.close()
        tables.stop()
        return found

    def _fit(
        self,
        asked: list[Asked],
        index: Index,
        space: Space | None,
        tower: Mapping[str, bytes],
        registry: Path,
    ) -> None:
        """A bundle of trees in a registry of its own."""
        computed = (*COMPUTED, *(VECTOR_COLUMNS if space is not None else ()))
        keys = np.concatenate([one.rows.categorical for one in asked])
        encoder = fit_encoder(
            columns_of(self.features), keys, computed=computed, candidates=self.live.candidates
        )
        parts = [
            encoder.encode_request(one.rows, hash64s(one.items), index, space, live=one.live)
            for one in asked
        ]
        labels = [np.arange(len(one.items)) == one.chosen for one in asked]
        sample = Sample(np.concatenate(parts), np.concatenate(labels).astype(np.float64))
        settings = GbdtSettings(
            trees=self.size.trees, patience=0, leaves=LEAVES, leaf_rows=20, threads=1
        )
        model = fit_gbdt(
            sample, Sample(sample.matrix[:0], sample.label[:0]), encoder.names, settings
        )
        written = self.folder / f"bundle-{registry.name}"
        write_bundle(
            written,
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
        store.promote(store.add(written), by="benchmark", why="the only one")

    def _tower(self, drawn: "Drawn", index: Index) -> tuple[Space, dict[str, bytes]]:
        """Vectors that have hardly been learned: what they cost does not depend on it."""
        from tailorbird.training.towers import Learner, TowerSettings, read_by

        events = pa.concat_tables(drawn.tables())
        read = read_by(self.features)
        assert read is not None
        log = Log(events, Codes.of(events["person"]), Codes.of(events["item_id"]))
        learner = Learner(
            log,
            *read,
            content_of(index.attributes),
            TowerSettings(steps_max=TOWER_STEPS, steps_min=1),
            seed=3,
        )
        space = learner.indexed(learner.space(index, START))
        return space, learner.files(space)

    def bundle(self) -> Bundle:
        """The one that serves."""
        champion = Registry(self.registry, clock=CLOCK).champion()
        assert champion is not None
        return Bundle.load(champion, schema_hash=self.features.schema_hash)


def user(number: int) -> str:
    return f"u{number:07}"


def item(number: int) -> str:
    return f"i{number:06}"


def context(person: int) -> dict[str, str]:
    return {"device": ("phone", "desktop")[person % 2], "country": COUNTRIES[person % 4]}


@dataclass(frozen=True)
class Drawn:
    """The events in order of time, arrays of shape (events,)."""

    person: np.ndarray
    item: np.ndarray
    type: np.ndarray
    ts: np.ndarray
    size: Size

    @classmethod
    def of(cls, size: Size, seed: int = 20261126) -> "Drawn":
        rng = np.random.default_rng(seed)
        person = cls.people_of(rng, size.events, size.people)
        liked = rng.integers(0, CATEGORIES, (size.people, 3))
        there = rng.random(size.events) < 0.7
        category = np.where(
            there,
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
        """Some come far more often than others."""
        return (people * rng.random(count) ** 2).astype(np.int64)

    @property
    def last_p(self) -> int:
        return self.size.people + self.size.items + self.size.events

    def history(self) -> Iterator[pa.Table]:
        """All events as the router would have written them: profiles first."""
        people, items = self.size.people, self.size.items
        for start in range(0, people, ROWS_AT_ONCE):
            here = range(start, min(start + ROWS_AT_ONCE, people))
            told = [
                json.dumps(
                    {
                        "plan": ("free", "paid")[one % 2],
                        "age": 18 + one % 70,
                        "segment": f"g{one % 12}",
                    }
                )
                for one in here
            ]
            yield _profiles("user", "user_id", [user(one) for one in here], told, start)
        for start in range(0, items, ROWS_AT_ONCE):
            here = range(start, min(start + ROWS_AT_ONCE, items))
            yield _profiles(
                "item",
                "item_id",
                [item(one) for one in here],
                [profile(one) for one in here],
                people + start,
            )
        yield from self.tables()

    def tables(self) -> Iterator[pa.Table]:
        profiles = pa.array([profile(one) for one in range(self.size.items)])
        before = self.size.people + self.size.items
        for start in range(0, len(self.ts), ROWS_AT_ONCE):
            here = slice(start, start + ROWS_AT_ONCE)
            person, number, ts = self.person[here], self.item[here], self.ts[here]
            who = [user(one) for one in person.tolist()]
            yield _routed(
                {
                    "p": pa.array(before + start + 1 + np.arange(len(ts))),
                    "event_id": pa.array(
                        np.char.add("e", (start + np.arange(len(ts))).astype(str))
                    ),
                    "type": pa.array(TYPES).take(pa.array(self.type[here])),
                    "ts": pa.array(ts).cast(ROUTED.field("ts").type),
                    "user_id": pa.array(who),
                    "person": pa.array(who),
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
        """What the items are, as the lake has it."""
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
    told = {
        "category": f"c{category}",
        "brand": f"b{brand}",
        "price": 1 + number % 97,
        "title": f"thing {number} of c{category} by b{brand}",
    }
    return json.dumps(told)


def _profiles(type: str, column: str, ids: list[str], told: list[str], before: int) -> pa.Table:
    ts = pa.array(np.full(len(ids), START - SPAN - DAY)).cast(ROUTED.field("ts").type)
    columns = {
        "p": pa.array(before + 1 + np.arange(len(ids))),
        "event_id": pa.array([f"profile-{one}" for one in ids]),
        "type": pa.array([type] * len(ids)),
        "ts": ts,
        column: pa.array(ids),
        "properties": pa.array(told),
    }
    return _routed(columns | ({"person": pa.array(ids)} if type == "user" else {}))


def _routed(columns: dict[str, pa.Array]) -> pa.Table:
    rows = len(columns["p"])
    columns |= {"received_at": columns["ts"], "counts": pa.array(np.ones(rows, np.bool_))}
    return pa.table(
        [
            columns[one.name].cast(one.type) if one.name in columns else pa.nulls(rows, one.type)
            for one in ROUTED
        ],
        schema=ROUTED,
    )
