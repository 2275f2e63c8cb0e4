"""A tiny shop: a feature set, slots, an index and a bundle whose scores are known, and features
read from a table in memory.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from tests.support import routed
from tests.support.shops.shop_plan import contract, feature_set, slots

from tailorbird.candidates.batch import COLUMNS, to_event_batch
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.protocol import CandidateTables
from tailorbird.candidates.query import CandidateColumns
from tailorbird.events import DAY, hash64, hash64s
from tailorbird.events.contract.schema import TIME
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.features import Sequence as Recent
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.tower import VECTOR_COLUMNS, Tower, TowerPlan
from tailorbird.registry import Columns, Head
from tailorbird.retrieval import Index, build_index
from tailorbird.retrieval.arrays import array_bytes
from tailorbird.retrieval.sequences import recent_windows
from tailorbird.retrieval.vectors import ItemVectors, content_of

__all__ = ["feature_set", "slots"]

NOW = 1_800_000_000_000_000
FIRST_SEEN = NOW - 10 * DAY  # the items: new enough for `new_items`
ITEMS = 40
CATEGORIES = ("coats", "hats", "shoes", "bags")


def item_id(number: int) -> str:
    return f"i{number}"


def profile(number: int) -> dict:
    return {
        "title": f"{'Rain' if number % 2 else 'Sun'} {CATEGORIES[number % 4]} {number}",
        "category": CATEGORIES[number % 4],
        "price": float(number),
        "stock": 0 if number % 10 == 3 else 5,
    }


def times(values: Sequence[int]) -> pa.Array:
    return pa.array(values, pa.int64()).cast(TIME)


def build(folder: Path) -> Index:
    items = pa.table(
        {
            "id": [item_id(number) for number in range(ITEMS)],
            "valid_from": times([FIRST_SEEN + number for number in range(ITEMS)]),
            "attributes": [json.dumps(profile(number)) for number in range(ITEMS)],
        }
    )
    events = log(countries=False).select(["type", "ts", "item_id"])
    build_index(folder, events.filter(pa.compute.equal(events["type"], "click")), items, as_of=NOW)
    return Index.open(folder)


def log(further: Iterable[dict] = (), *, countries: bool = True) -> pa.Table:
    """The routed log. Item 0 is the most popular, item 1 the next, and so on, an hour ago and a day
    ago; with `countries` the even ones in Norway, the odd ones in Spain. `further` comes after it,
    see `routed.event`.
    """
    rows = [
        routed.event(
            "item",
            FIRST_SEEN + number,
            None,
            item_id(number),
            properties=json.dumps(profile(number)),
        )
        for number in range(ITEMS)
    ]
    clicks = [number for number in range(ITEMS) for _ in range(2 * (ITEMS - number))]
    stamps = [NOW - DAY - 1_000 * place for place in range(len(clicks))]
    for place, (number, ts) in enumerate(
        sorted(zip(clicks, stamps, strict=True), key=lambda pair: pair[1])
    ):
        country = ("ES" if number % 2 else "NO") if countries else None
        rows.append(routed.event("click", ts, f"p{place % 50}", item_id(number), country=country))
    return routed.table(*rows, *further)


class Live:
    """The candidate tables of the shop's log, as servers read published ones. Implements
    `serving.pipeline.protocols.Tables`.

    Args:
        sources: further sources than those of the shop's slots.
        events: the log.
        age_us: how long ago the tables were known to be the newest.
    """

    def __init__(
        self, sources: Iterable[str] = (), events: pa.Table | None = None, *, age_us: int = 0
    ) -> None:
        self.fold = CandidateFold(contract(sources))
        self._age_us = age_us
        self.take(log() if events is None else events)

    def take(self, events: pa.Table) -> None:
        """Take in more of the log."""
        self.fold.update(
            to_event_batch(
                events.select(list(COLUMNS)), self.fold.contract, events["p"][-1].as_py()
            )
        )

    def follow(self, events: pa.Table) -> None:
        """Take in what comes behind it, of a log that counts from the beginning."""
        p = pa.array(
            range(self.fold.position + 1, self.fold.position + 1 + len(events)), pa.int64()
        )
        self.take(events.set_column(events.column_names.index("p"), "p", p))

    @contextmanager
    def tables(self) -> Iterator[CandidateTables]:
        yield self.fold.tables()

    def ages(self) -> Mapping[str, int]:
        return dict.fromkeys(("boards", "neighbours", "sessions"), self._age_us)


def model(names: Sequence[str], weights: Mapping[str, float]) -> bytes:
    """An ONNX model: sigmoid of the weighted columns, missing ones as 0."""
    column = np.array([[weights.get(name, 0.0)] for name in names], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["x"], ["missing"]),
            helper.make_node("Where", ["missing", "zero", "x"], ["filled"]),
            helper.make_node("MatMul", ["filled", "w"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, len(names)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(column, "w"),
            numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
        ],
    )
    return onnx.ModelProto(
        ir_version=8, graph=graph, opset_import=[helper.make_opsetid("", 17)], producer_name="test"
    ).SerializeToString()


LENGTH, WIDTH = 5, len(CATEGORIES)


def tower(index: Index, folder: Path) -> dict[str, bytes]:
    """Vectors that are a category and little else, and a net that gives the newest item's; a
    beginning is all for coats.
    """
    content = content_of(index.attributes)
    tokens = np.zeros((content.size, WIDTH), np.float32)
    first = {name: index.category.values.index(name) for name in CATEGORIES}
    rows = np.array(
        [int(np.flatnonzero(index.category.codes == first[name])[0]) for name in CATEGORIES]
    )
    at = [part.attribute for part in content.parts].index("category")
    place = sum(part.width for part in content.parts[:at])
    tokens[content.tokens(index.attributes, rows)[:, place]] = 3.0 * np.eye(WIDTH)
    bare = ItemVectors(
        np.zeros((len(index), WIDTH), np.float32), tokens, np.zeros(WIDTH, np.float32), content
    )
    own = np.array([[int(each[1:]) / 1_000] * WIDTH for each in index.ids], np.float32)
    vectors = replace(bare, vectors=bare.of_content(index.attributes, np.arange(len(index))) + own)
    vectors.write(folder)
    edges = np.stack(
        [np.zeros(WIDTH, np.float32), tokens.max(axis=0) * np.eye(WIDTH, dtype=np.float32)[0]]
    )
    row, gap = recent_windows(np.array([0, 0, 3]), np.array([1, 5, 7]), np.arange(3), LENGTH)
    plan = TowerPlan("recent", LENGTH, WIDTH, repeats=False, trained_until=NOW, share=1 / 3)
    newest = Tower(plan, edges, lambda vectors, there, gap: vectors[:, -1]).encode_windows(
        vectors, row, gap
    )
    arrays = {"edges": edges, "golden_row": row, "golden_gap": gap, "golden_user": newest}
    files = {f"{name}.npy": array_bytes(array) for name, array in arrays.items()}
    return {"plan.json": msgspec.json.encode(plan), "user.onnx": newest_net(), **files}


def newest_net() -> bytes:
    """An ONNX model that gives the last of the vectors."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["vectors", "last"], ["vector"], axis=1)],
        "newest",
        [
            helper.make_tensor_value_info("vectors", TensorProto.FLOAT, [None, LENGTH, WIDTH]),
            helper.make_tensor_value_info("there", TensorProto.BOOL, [None, LENGTH]),
            helper.make_tensor_value_info("gap", TensorProto.INT64, [None, LENGTH]),
        ],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [None, WIDTH])],
        [numpy_helper.from_array(np.array(LENGTH - 1, np.int64), "last")],
    )
    return onnx.ModelProto(
        ir_version=8, graph=graph, opset_import=[helper.make_opsetid("", 17)], producer_name="test"
    ).SerializeToString()


def write(
    folder: Path,
    features: FeatureSet,
    *,
    weights: Mapping[str, float] | None = None,
    schema_hash: str = "",
    vectors: bool = False,
    columns: Sequence[str] = (),
    damaged: Mapping[str, bytes] | None = None,
) -> Path:
    """A sealed bundle, which by default likes dear items: by price / 20.

    Args:
        vectors: with a tower, whose columns the model reads too.
        columns: live sources whose rank and score the model reads too.
        damaged: files of the tower, in place of the right ones.
    """
    index_folder = folder.with_name(f"{folder.name}-index")
    index = build(index_folder)
    read = Columns(features.numeric, features.categorical, features.sequences)
    categories = np.array(
        [[hash64(name), hash64("phone")] for name in CATEGORIES for _ in range(10)], np.uint64
    )
    files = {**tower(index, index_folder), **(damaged or {})} if vectors else None
    live = CandidateColumns(tuple(columns))
    computed = (*COMPUTED_COLUMNS, *(VECTOR_COLUMNS if vectors else ()), *live.names)
    encoder = fit_encoder(read, categories, computed=computed, candidates=live)
    rows = FakeReader(features).read(ReadRequest(person="u1", now=NOW), list(index.ids))
    write_bundle(
        folder,
        created_at=NOW,
        features=None if schema_hash else features,
        schema_hash=schema_hash,
        encoder=encoder,
        models={"model/click.onnx": model(encoder.names, weights or {"price": 0.05})},
        heads=[Head("click", "model/click.onnx")],
        index=index_folder,
        golden=encoder.encode_request(rows, index.keys, index),
        formula={"click": 1.0},
        tower=files,
    )
    return folder


def write_not_finite(folder: Path, features: FeatureSet) -> Path:
    """A sealed bundle whose golden rows are as they should be, and whose scores of dear items are
    no numbers.
    """
    columns = Columns(features.numeric, features.categorical, features.sequences)
    encoder = fit_encoder(
        columns, np.array([[hash64(name), hash64("phone")] for name in CATEGORIES], np.uint64)
    )
    index_folder = folder.with_name(f"{folder.name}-index")
    index = build(index_folder)
    cheap = [item_id(number) for number in range(10)]
    rows = FakeReader(features).read(ReadRequest(person="u1", now=NOW), cheap)
    write_bundle(
        folder,
        created_at=NOW,
        features=features,
        encoder=encoder,
        models={"model/click.onnx": _square_root(encoder.names)},
        heads=[Head("click", "model/click.onnx")],
        index=index_folder,
        golden=encoder.encode_request(rows, hash64s(cheap), index),
        formula={"click": 1.0},
    )
    return folder


def _square_root(names: Sequence[str]) -> bytes:
    """An ONNX model: the square root of what a price falls short of 20."""
    place = np.array([names.index("price")], np.int64)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "place"], ["price"], axis=1),
            helper.make_node("Sub", ["dear", "price"], ["short"]),
            helper.make_node("Sqrt", ["short"], ["root"]),
            helper.make_node("Div", ["root", "dear"], ["probability"]),
        ],
        "root",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, len(names)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(place, "place"),
            numpy_helper.from_array(np.array([20.0], np.float32), "dear"),
        ],
    )
    return onnx.ModelProto(
        ir_version=8, graph=graph, opset_import=[helper.make_opsetid("", 17)], producer_name="test"
    ).SerializeToString()


class FakeReader:
    """Features by rule instead of by state: the price is the item's number; a person's recent items
    are what `recent` says.
    """

    def __init__(
        self, features: FeatureSet, recent: Mapping[str, Sequence[tuple[int, str]]] | None = None
    ) -> None:
        self.features, self.recent = features, dict(recent or {})
        self.commit = 7

    def read(self, request: ReadRequest, items: Sequence[str], item_keys: object = None) -> Rows:
        person = request.person or request.user_id or f"anon:{request.anonymous_id}"
        numbers = [float(item[1:]) if item[1:].isdecimal() else np.nan for item in items]
        events = self.recent.get(person, ())
        numeric = np.array(
            [[1.0, float(len(events)), number] for number in numbers], np.float32
        ).reshape(len(items), 3)
        categories = [CATEGORIES[int(number) % 4] if number == number else "" for number in numbers]
        device = hash64(request.device) if request.device else 0
        categorical = np.array(
            [[hash64(name) if name else 0, device] for name in categories], np.uint64
        ).reshape(len(items), 2)
        keys = hash64s([item_id(number) for number, _ in events])
        types = hash64s([kind for _, kind in events])
        stamps = np.arange(len(events), dtype=np.int64) + request.now - 1_000
        return Rows(
            numeric,
            categorical,
            {"recent": Recent(keys, types, stamps)},
            request.now,
            self.commit,
            42,
            person,
        )

    def person(self, request: ReadRequest) -> Rows:
        return self.read(request, [""])
