"""A tiny shop with an index, a trained model and a bundle, for tests."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from tests.support import routed

from tailorbird.candidates.batch import EVENT_COLUMNS as LOGGED_COLUMNS
from tailorbird.candidates.batch import to_event_batch
from tailorbird.candidates.contract import build_contract
from tailorbird.candidates.fold import CandidateFold, FoldTables
from tailorbird.candidates.protocol import CandidateRequest
from tailorbird.candidates.query import RequestLists
from tailorbird.events import DAY, hash64, hash64s
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.calibration import Platt
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.vocabulary import Vocabulary
from tailorbird.registry import ColumnNames, Head
from tailorbird.retrieval import Index, build_index

T0 = 1_700_000_000_000_000
COLUMNS = ColumnNames(
    numeric=("clicks", "price"), categorical=("category", "device"), sequences=("recent",)
)
ITEM_COUNT = 40


@dataclass(frozen=True)
class Sequence:
    item: np.ndarray
    type: np.ndarray
    ts: np.ndarray


@dataclass(frozen=True)
class Rows:
    numeric: np.ndarray
    categorical: np.ndarray
    sequences: dict = field(default_factory=dict)
    t: int = T0 + 9 * DAY


def item_id(number: int) -> str:
    return f"i{number}"


def keys_of(numbers: Iterable[int]) -> np.ndarray:
    return hash64s(item_id(number) for number in numbers)


def to_timestamps(microseconds: Any) -> pa.Array:
    return pa.array(np.asarray(microseconds, np.int64), pa.int64()).cast(TIME_TYPE)


def make_items_table(n: int = ITEM_COUNT) -> pa.Table:
    categories = ("coats", "hats", "shoes", "bags")
    profiles = [
        {
            "title": f"Thing {i} {'rain coat' if i % 4 == 0 else 'felt'}",
            "category": categories[i % 4],
            "price": i * 2.0,
            "stock": i % 3,
        }
        for i in range(n)
    ]
    return pa.table(
        {
            "id": [item_id(i) for i in range(n)],
            "valid_from": to_timestamps([T0 + i * 3_600_000_000 for i in range(n)]),
            "attributes": [json.dumps(profile) for profile in profiles],
            "timeless": [i % 10 == 0 for i in range(n)],
        }
    )


def make_events_table(
    n: int = 3000, items: int = ITEM_COUNT, people: int = 60, seed: int = 0
) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "type": rng.choice(["click", "view", "purchase", "impression"], n).tolist(),
            "ts": to_timestamps(T0 + rng.integers(0, 9 * DAY, n)),
            "person": [f"u{i}" for i in rng.integers(0, people, n)],
            "item_id": [item_id(i) for i in np.minimum(rng.geometric(0.08, n) - 1, items - 1)],
            "agent": ["person"] * n,
            "counts": [True] * n,
        }
    )


def make_index(folder: Path) -> Index:
    build_index(folder, make_events_table(), make_items_table(), as_of=T0 + 9 * DAY)
    return Index.open(folder)


def make_tables(*sources) -> FoldTables:
    """The candidate tables of the same items and events, and of what `sources` ask for."""
    profiles = [
        routed.event("item", ts, None, item, properties=text, timeless=timeless)
        for item, ts, text, timeless in zip(
            *(column.to_pylist() for column in make_items_table().columns), strict=True
        )
    ]
    kind, ts, person, item = (
        make_events_table().sort_by("ts")[name].to_pylist()
        for name in ("type", "ts", "person", "item_id")
    )
    events = [routed.event(*row) for row in zip(kind, ts, person, item, strict=True)]
    contract = build_contract(["item_knn", *sources])
    fold = CandidateFold(contract)
    fold.update(
        to_event_batch(
            routed.table(*profiles, *events).select(list(LOGGED_COLUMNS)),
            contract,
            len(profiles) + len(events),
        )
    )
    return fold.tables()


def lists_of(tables: FoldTables, recent: Iterable[int] = ()) -> RequestLists:
    """The lists of somebody with these items, oldest first."""
    return RequestLists(
        tables,
        CandidateRequest(keys_of(recent), T0 + 8 * DAY + np.arange(len(recent), dtype=np.int64)),
    )


def make_encoder(**changes: Any) -> Encoder:
    category = Vocabulary("category", [hash64("coats"), hash64("hats"), hash64("shoes")])
    settings = {
        "numeric": ("price", "clicks"),
        "vocabularies": (category,),
        "computed": tuple(COMPUTED_COLUMNS),
        "sequence": "recent",
    }
    return Encoder(COLUMNS, **(settings | changes))


def make_linear_model(
    width: int, heads: int = 2, seed: int = 0, external: str | None = None
) -> bytes:
    """An ONNX model (n, width) → logits (n, heads), NaN as 0. `external`: a file name where its
    weights are said to lie.
    """
    weights = np.random.default_rng(seed).normal(size=(width, heads)).astype(np.float32) * 0.1
    tensor = numpy_helper.from_array(weights, "w")
    if external is not None:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", external
    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["x"], ["missing"]),
            helper.make_node("Where", ["missing", "zero", "x"], ["filled"]),
            helper.make_node("MatMul", ["filled", "w"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, heads])],
        [tensor, numpy_helper.from_array(np.zeros(1, np.float32), "zero")],
    )
    return onnx.ModelProto(
        ir_version=8, graph=graph, opset_import=[helper.make_opsetid("", 17)], producer_name="test"
    ).SerializeToString()


def make_rows(numbers: list[int], recent: Iterable[int] = (), seed: int = 1) -> Rows:
    rng = np.random.default_rng(seed)
    n = len(numbers)
    numeric = rng.normal(size=(n, 2)).astype(np.float32)
    numeric[::5, 0] = np.nan
    category_hashes = np.array(
        [hash64(name) for name in ("coats", "hats", "shoes", "bags", "boats")] + [0], np.uint64
    )
    categorical = category_hashes[rng.integers(0, category_hashes.size, (n, 2))]
    recent = list(recent)
    types = np.array([hash64("click")] * len(recent), np.uint64)
    sequence = Sequence(
        keys_of(recent), types, T0 + 8 * DAY + np.arange(len(recent), dtype=np.int64)
    )
    return Rows(numeric, categorical, {"recent": sequence})


def make_bundle(folder: Path, **changes: Any) -> Any:
    """Write a bundle with two heads into `folder` and return its manifest."""
    index_folder = folder.parent / f"{folder.name}-index"
    index = make_index(index_folder)
    encoder = make_encoder()
    numbers = list(range(ITEM_COUNT))
    golden = encoder.encode_request(make_rows(numbers, recent=[1, 2, 3]), keys_of(numbers), index)
    settings = {
        "created_at": T0,
        "schema_hash": "abc123abc123",
        "encoder": encoder,
        "models": {"model/all.onnx": make_linear_model(len(encoder.names))},
        "heads": [
            Head("click", "model/all.onnx", column=0),
            Head("purchase", "model/all.onnx", column=1),
        ],
        "index": index_folder,
        "golden": golden,
        "calibration": {"click": Platt(1.0, -1.0), "purchase": Platt(1.0, -3.0)},
        "formula": {"click": 1.0, "purchase": 8.0},
        "card": "# A test",
    }
    return write_bundle(folder, **(settings | changes))
