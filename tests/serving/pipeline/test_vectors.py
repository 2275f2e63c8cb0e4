"""People and items as vectors in answers: from the first second, by the newest event, equal however
they are asked for.
"""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.shops import serving_shop

from tailorbird.errors import BundleError
from tailorbird.events import SimulatedClock
from tailorbird.features import ReadRequest
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.tower import (
    SKETCH_WIDTH,
    VECTOR_COLUMNS,
    add_sequence_source,
    sketch_vector,
)
from tailorbird.ranking.tower_net import TOLERANCE
from tailorbird.retrieval import NewItem, with_items
from tailorbird.retrieval.arrays import array_bytes
from tailorbird.retrieval.vectors import largest_indexes
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle

SLOTS = {"home": Slot("home", size=6, sources={"item_knn": 6, "popular": 6, "new_items": 6})}


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory, features):
    return serving_shop.write_shop_bundle(
        tmp_path_factory.mktemp("vectors") / "bundle",
        features,
        with_tower=True,
        weights={"price": 0.05, "vector_score": 0.3},
    )


@pytest.fixture(scope="module")
def bundle(bundle_folder, features):
    return Bundle.load(bundle_folder, schema_hash=features.schema_hash)


class Grown:
    """Lays some items over the bundle's index."""

    def __init__(self, *items):
        self.items = items

    def overlay_for(self, index):
        return with_items(index, self.items)


class Recorded(list):
    """Keeps the records of answers."""

    def record_response(self, event_body, record):
        self.append(record)
        return True


def make(bundle, features, reader, catalogue=None, response_log=None):
    return Pipeline(
        slots=SLOTS,
        bundle_selector=FixedBundle(bundle),
        feature_provider=SingleSchema(features, reader),
        response_log=response_log,
        clock=SimulatedClock(serving_shop.NOW),
        rng=np.random.default_rng(0),
        index_overlay=catalogue,
        table_provider=serving_shop.LiveTables(),
    )


def near(answer):
    return {item.item_id for item in answer.items if item.source == "sequence"}


def categories(ids):
    return {serving_shop.CATEGORIES[int(each[1:]) % 4] for each in ids}


def test_a_click_a_moment_ago_moves_what_is_retrieved(bundle, features):
    reader = serving_shop.FakeReader(features)
    pipeline = make(bundle, features, reader)
    query = RecommendQuery(slot="home", user_id="u1", size=18)
    assert categories(near(pipeline.answer(query))) == {
        "coats"
    }  # nothing is known: what is first done
    reader.recent["u1"] = [(9, "click"), (6, "click")]
    nearest_items = near(pipeline.answer(query))
    assert categories(nearest_items) == {"shoes"}
    assert "i6" not in nearest_items
    reader.recent["u1"].append((1, "click"))
    assert categories(near(pipeline.answer(query))) == {"hats"}


def test_the_record_of_an_answer_has_the_vector_for_drift(bundle, features):
    reader, records = serving_shop.FakeReader(features), Recorded()
    pipeline = make(bundle, features, reader, response_log=records)
    for _ in range(2):
        pipeline.answer(RecommendQuery(slot="home", user_id="u1", size=6))
        reader.recent["u1"] = [(9, "click"), (6, "click")]
    vectors = [record.user_vector for record in records]
    assert [len(vector) for vector in vectors] == [SKETCH_WIDTH, SKETCH_WIDTH]
    sequences = reader.read(ReadRequest(person="u1", now=serving_shop.NOW), ["i1"]).sequences
    user = bundle.space.query(sequences["recent"]).user_vector
    np.testing.assert_allclose(vectors[1], sketch_vector(user), atol=1e-6)
    assert vectors[0] != vectors[1]
    records.clear()
    make(bundle.without_tower(), features, reader, response_log=records).answer(
        RecommendQuery(slot="home", user_id="u1", size=6)
    )
    assert records[0].user_vector == []


def test_a_new_item_is_found_by_what_it_is(bundle, features):
    reader = serving_shop.FakeReader(features, {"u1": [(1, "click")]})
    query = RecommendQuery(slot="home", user_id="u1", size=18)
    hat, coat = (
        NewItem(f"n{name}", {"category": name, "title": "never seen before"}, serving_shop.NOW)
        for name in ("hats", "coats")
    )
    shown = near(make(bundle, features, reader, Grown(hat, coat)).answer(query))
    assert "nhats" not in shown  # six others have more of their own
    space = bundle.with_index(with_items(bundle.index, [hat, coat])).space
    user_vector = space.query(
        reader.read(ReadRequest(person="u1", now=serving_shop.NOW), ["i1"]).sequences["recent"]
    )
    rows = space.index.find_ids(["nhats", "ncoats", "i2"])
    hats, coats, shoes = user_vector.products[rows]
    assert hats > 8 > max(coats, shoes)
    changed = with_items(space.index, [NewItem("ncoats", {"category": "hats"}, serving_shop.NOW)])
    np.testing.assert_allclose(
        changed.vectors.vectors[rows[1]], space.vectors.vectors[rows[0]], atol=1e-6
    )


def test_columns_of_one_request_and_of_many_are_equal(bundle, features):
    reader = serving_shop.FakeReader(
        features, {"u1": [(1, "click"), (2, "cart")], "u2": [(7, "click")]}
    )
    ids, keys = list(bundle.index.ids), bundle.index.keys
    rows = [
        reader.read(ReadRequest(person=person, now=serving_shop.NOW), ids)
        for person in ("u1", "u2", "u3")
    ]
    at = [bundle.encoder.names.index(name) for name in VECTOR_COLUMNS]
    space = bundle.space
    online = [
        bundle.encoder.encode_request(
            each, keys, bundle.index, space, space.query(each.sequences["recent"])
        )
        for each in rows
    ]
    sequences = [each.sequences["recent"] for each in rows]
    offsets = np.cumsum([0, *(each.item.size for each in sequences)])
    ragged = RaggedArrays(
        offsets,
        np.concatenate([each.item for each in sequences]),
        np.concatenate([each.ts for each in sequences]),
    )
    request = np.repeat(np.arange(3), len(ids)).astype(np.intp)
    parts = (
        np.concatenate([each.numeric for each in rows]),
        np.concatenate([each.categorical for each in rows]),
    )
    times = np.array([each.t for each in rows])
    offline = bundle.encoder.encode(
        *parts, np.tile(keys, 3), request, {"recent": ragged}, times, bundle.index, space=space
    )
    np.testing.assert_allclose(np.concatenate(online)[:, at], offline[:, at], atol=TOLERANCE)
    score = online[0][:, at[0]].astype(np.float64)
    assert np.exp(score).sum() == pytest.approx(1.0, abs=1e-4)
    assert online[0][:, at[1]].max() <= 1 + 1e-6
    unknown = bundle.encoder.encode_request(
        rows[0], np.full(len(ids), 12345, np.uint64), bundle.index, space
    )
    assert np.isnan(unknown[:, at]).all()
    assert np.isnan(bundle.encoder.encode_request(rows[0], keys, bundle.index)[:, at]).all()


def test_what_retrieval_asked_of_another_sequence_or_version_is_not_taken(
    bundle, bundle_folder, features
):
    reader = serving_shop.FakeReader(features, {"u1": [(1, "click")]})
    rows = reader.read(ReadRequest(person="u1", now=serving_shop.NOW), list(bundle.index.ids))
    stale = bundle.space.query(None)
    right = bundle.score(rows, bundle.index.keys).value
    np.testing.assert_array_equal(
        bundle.score(rows, bundle.index.keys, user_query=stale).value, right
    )
    elsewhere = Bundle.load(bundle_folder, schema_hash=None).space.query(
        rows.sequences["recent"]
    )  # of another version, say
    wrong = replace(elsewhere, products=-elsewhere.products)
    np.testing.assert_array_equal(
        bundle.score(rows, bundle.index.keys, user_query=wrong).value, right
    )


def test_a_tower_that_fails_is_done_without(bundle, features):
    def broken(vectors, there, gap):
        raise BundleError("no vector")

    failing = replace(bundle, tower=replace(bundle.tower, net=broken))
    answer = make(failing, features, serving_shop.FakeReader(features)).answer(
        RecommendQuery(slot="home", user_id="u1")
    )
    assert len(answer.items) == 6
    assert not near(answer)
    assert answer.degraded == ["vectors"]
    assert answer.model == failing.version


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("golden_user.npy", array_bytes(np.ones((2, serving_shop.VECTOR_WIDTH), np.float32))),
        ("golden_row.npy", array_bytes(np.full((2, serving_shop.WINDOW_LENGTH), 10_000))),
        ("edges.npy", array_bytes(np.zeros((2, 3), np.float32))),
        ("plan.json", b"{}"),
        ("user.onnx", b"none"),
    ],
)
def test_a_damaged_tower_is_refused(tmp_path, features, name, data):
    folder = serving_shop.write_shop_bundle(
        tmp_path / "bundle", features, with_tower=True, damaged_files={name: data}
    )
    with pytest.raises(BundleError):
        Bundle.load(folder, schema_hash=None)


def test_a_share_comes_from_vectors_unless_the_slot_says_otherwise_or_asks_nothing_of_what_the_person_did():
    third = {"sequence": 60, "item_knn:2": 66, "popular": 40, "new_items": 13}
    assert add_sequence_source({"item_knn:2": 100, "popular": 60, "new_items": 20}, 1 / 3) == third
    for own in ({"sequence": 5, "item_knn": 5}, {"search": 200}, {"popular": 60, "repeat": 20}):
        assert add_sequence_source(own, 1 / 3) == own


@pytest.mark.parametrize("size", [0, 1, 63, 64, 1_000, 9_999])
def test_the_largest_are_the_largest(size):
    values = np.random.default_rng(size).integers(0, 50, size).astype(np.float32)  # many ties
    for n in (0, 1, 5, 100):
        assert (
            largest_indexes(values, n).tolist()
            == np.lexsort((np.arange(size), -values))[:n].tolist()
        )
