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

from tailorbird.candidates.batch import EVENT_COLUMNS, to_event_batch
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.protocol import CandidateTables
from tailorbird.candidates.query import CandidateColumns
from tailorbird.events import DAY, hash64, hash64s
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.features import Sequence as EventSequence
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.tower import VECTOR_COLUMNS, Tower, TowerPlan
from tailorbird.registry import ColumnNames, Head
from tailorbird.retrieval import Index, build_index
from tailorbird.retrieval.arrays import array_bytes
from tailorbird.retrieval.sequences import recent_windows
from tailorbird.retrieval.vectors import ItemVectors, build_content

__all__ = ["feature_set", "slots"]

NOW = 1_800_000_000_000_000
FIRST_SEEN = NOW - 10 * DAY  # the items: new enough for `new_items`
ITEM_COUNT = 40
CATEGORIES = ("coats", "hats", "shoes", "bags")


def item_id(number: int) -> str:
    return f"i{number}"


def item_profile(number: int) -> dict:
    return {
        "title": f"{'Rain' if number % 2 else 'Sun'} {CATEGORIES[number % 4]} {number}",
        "category": CATEGORIES[number % 4],
        "price": float(number),
        "stock": 0 if number % 10 == 3 else 5,
    }


def to_timestamps(microseconds: Sequence[int]) -> pa.Array:
    return pa.array(microseconds, pa.int64()).cast(TIME_TYPE)


def build_shop_index(folder: Path) -> Index:
    items = pa.table(
        {
            "id": [item_id(number) for number in range(ITEM_COUNT)],
            "valid_from": to_timestamps([FIRST_SEEN + number for number in range(ITEM_COUNT)]),
            "attributes": [json.dumps(item_profile(number)) for number in range(ITEM_COUNT)],
        }
    )
    events = make_routed_log(countries=False).select(["type", "ts", "item_id"])
    build_index(folder, events.filter(pa.compute.equal(events["type"], "click")), items, as_of=NOW)
    return Index.open(folder)


def make_routed_log(further_rows: Iterable[dict] = (), *, countries: bool = True) -> pa.Table:
    """The routed log. Item 0 is the most popular, item 1 the next, and so on, an hour ago and a day
    ago; with `countries` the even ones in Norway, the odd ones in Spain. `further_rows` comes after it,
    see `routed.event`.
    """
    rows = [
        routed.event(
            "item",
            FIRST_SEEN + number,
            None,
            item_id(number),
            properties=json.dumps(item_profile(number)),
        )
        for number in range(ITEM_COUNT)
    ]
    clicks = [number for number in range(ITEM_COUNT) for _ in range(2 * (ITEM_COUNT - number))]
    timestamps = [NOW - DAY - 1_000 * place for place in range(len(clicks))]
    for place, (number, ts) in enumerate(
        sorted(zip(clicks, timestamps, strict=True), key=lambda pair: pair[1])
    ):
        country = ("ES" if number % 2 else "NO") if countries else None
        rows.append(routed.event("click", ts, f"p{place % 50}", item_id(number), country=country))
    return routed.table(*rows, *further_rows)


class LiveTables:
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
        self.take_in(make_routed_log() if events is None else events)

    def take_in(self, events: pa.Table) -> None:
        """Take in more of the log."""
        self.fold.update(
            to_event_batch(
                events.select(list(EVENT_COLUMNS)), self.fold.contract, events["p"][-1].as_py()
            )
        )

    def append(self, events: pa.Table) -> None:
        """Take in what comes behind it, of a log that counts from the beginning."""
        log_positions = pa.array(
            range(self.fold.position + 1, self.fold.position + 1 + len(events)), pa.int64()
        )
        self.take_in(events.set_column(events.column_names.index("p"), "p", log_positions))

    @contextmanager
    def tables(self) -> Iterator[CandidateTables]:
        yield self.fold.tables()

    def ages(self) -> Mapping[str, int]:
        return dict.fromkeys(("boards", "neighbours", "sessions"), self._age_us)


def make_linear_model(names: Sequence[str], weights: Mapping[str, float]) -> bytes:
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


WINDOW_LENGTH, VECTOR_WIDTH = 5, len(CATEGORIES)


def write_tower(index: Index, folder: Path) -> dict[str, bytes]:
    """Vectors that are a category and little else, and a net that gives the newest item's; a
    beginning is all for coats.
    """
    content = build_content(index.attributes)
    tokens = np.zeros((content.size, VECTOR_WIDTH), np.float32)
    first_code_by_category = {name: index.category.values.index(name) for name in CATEGORIES}
    rows = np.array(
        [
            int(np.flatnonzero(index.category.codes == first_code_by_category[name])[0])
            for name in CATEGORIES
        ]
    )
    category_part = [part.attribute for part in content.parts].index("category")
    first_column = sum(part.width for part in content.parts[:category_part])
    tokens[content.tokens(index.attributes, rows)[:, first_column]] = 3.0 * np.eye(VECTOR_WIDTH)
    content_vectors = ItemVectors(
        np.zeros((len(index), VECTOR_WIDTH), np.float32),
        tokens,
        np.zeros(VECTOR_WIDTH, np.float32),
        content,
    )
    id_vectors = np.array(
        [[int(each[1:]) / 1_000] * VECTOR_WIDTH for each in index.ids], np.float32
    )
    vectors = replace(
        content_vectors,
        vectors=content_vectors.content_vectors(index.attributes, np.arange(len(index)))
        + id_vectors,
    )
    vectors.write(folder)
    edges = np.stack(
        [
            np.zeros(VECTOR_WIDTH, np.float32),
            tokens.max(axis=0) * np.eye(VECTOR_WIDTH, dtype=np.float32)[0],
        ]
    )
    row, gap = recent_windows(np.array([0, 0, 3]), np.array([1, 5, 7]), np.arange(3), WINDOW_LENGTH)
    plan = TowerPlan(
        "recent", WINDOW_LENGTH, VECTOR_WIDTH, repeats=False, trained_until=NOW, share=1 / 3
    )
    newest_vectors = Tower(plan, edges, lambda vectors, there, gap: vectors[:, -1]).encode_windows(
        vectors, row, gap
    )
    arrays = {"edges": edges, "golden_row": row, "golden_gap": gap, "golden_user": newest_vectors}
    files = {f"{name}.npy": array_bytes(array) for name, array in arrays.items()}
    return {"plan.json": msgspec.json.encode(plan), "user.onnx": make_newest_net(), **files}


def make_newest_net() -> bytes:
    """An ONNX model that gives the last of the vectors."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["vectors", "last"], ["vector"], axis=1)],
        "newest",
        [
            helper.make_tensor_value_info(
                "vectors", TensorProto.FLOAT, [None, WINDOW_LENGTH, VECTOR_WIDTH]
            ),
            helper.make_tensor_value_info("there", TensorProto.BOOL, [None, WINDOW_LENGTH]),
            helper.make_tensor_value_info("gap", TensorProto.INT64, [None, WINDOW_LENGTH]),
        ],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [None, VECTOR_WIDTH])],
        [numpy_helper.from_array(np.array(WINDOW_LENGTH - 1, np.int64), "last")],
    )
    return onnx.ModelProto(
        ir_version=8, graph=graph, opset_import=[helper.make_opsetid("", 17)], producer_name="test"
    ).SerializeToString()


def write_shop_bundle(
    folder: Path,
    features: FeatureSet,
    *,
    weights: Mapping[str, float] | None = None,
    schema_hash: str = "",
    with_tower: bool = False,
    live_sources: Sequence[str] = (),
    damaged_files: Mapping[str, bytes] | None = None,
) -> Path:
    """A sealed bundle, which by default likes dear items: by price / 20.

    Args:
        with_tower: with a tower, whose columns the model reads too.
        live_sources: live sources whose rank and score the model reads too.
        damaged_files: files of the tower, in place of the right ones.
    """
    index_folder = folder.with_name(f"{folder.name}-index")
    index = build_shop_index(index_folder)
    feature_columns = ColumnNames(features.numeric, features.categorical, features.sequences)
    categories = np.array(
        [[hash64(name), hash64("phone")] for name in CATEGORIES for _ in range(10)], np.uint64
    )
    tower_files = (
        {**write_tower(index, index_folder), **(damaged_files or {})} if with_tower else None
    )
    candidate_columns = CandidateColumns(tuple(live_sources))
    computed = (
        *COMPUTED_COLUMNS,
        *(VECTOR_COLUMNS if with_tower else ()),
        *candidate_columns.names,
    )
    encoder = fit_encoder(
        feature_columns, categories, computed=computed, candidates=candidate_columns
    )
    rows = FakeReader(features).read(ReadRequest(person="u1", now=NOW), list(index.ids))
    write_bundle(
        folder,
        created_at=NOW,
        features=None if schema_hash else features,
        schema_hash=schema_hash,
        encoder=encoder,
        models={"model/click.onnx": make_linear_model(encoder.names, weights or {"price": 0.05})},
        heads=[Head("click", "model/click.onnx")],
        index=index_folder,
        golden=encoder.encode_request(rows, index.keys, index),
        formula={"click": 1.0},
        tower=tower_files,
    )
    return folder


def write_nan_bundle(folder: Path, features: FeatureSet) -> Path:
    """A sealed bundle whose golden rows are as they should be, and whose scores of dear items are
    no numbers.
    """
    columns = ColumnNames(features.numeric, features.categorical, features.sequences)
    encoder = fit_encoder(
        columns, np.array([[hash64(name), hash64("phone")] for name in CATEGORIES], np.uint64)
    )
    index_folder = folder.with_name(f"{folder.name}-index")
    index = build_shop_index(index_folder)
    cheap_items = [item_id(number) for number in range(10)]
    rows = FakeReader(features).read(ReadRequest(person="u1", now=NOW), cheap_items)
    write_bundle(
        folder,
        created_at=NOW,
        features=features,
        encoder=encoder,
        models={"model/click.onnx": _make_square_root_model(encoder.names)},
        heads=[Head("click", "model/click.onnx")],
        index=index_folder,
        golden=encoder.encode_request(rows, hash64s(cheap_items), index),
        formula={"click": 1.0},
    )
    return folder


def _make_square_root_model(names: Sequence[str]) -> bytes:
    """An ONNX model: the square root of what a price falls short of 20."""
    price_column = np.array([names.index("price")], np.int64)
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
            numpy_helper.from_array(price_column, "place"),
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
        timestamps = np.arange(len(events), dtype=np.int64) + request.now - 1_000
        return Rows(
            numeric,
            categorical,
            {"recent": EventSequence(keys, types, timestamps)},
            request.now,
            self.commit,
            42,
            person,
        )

    def person(self, request: ReadRequest) -> Rows:
        return self.read(request, [""])
