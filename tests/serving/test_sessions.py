"""Sessions of everybody in answers: as sources that are named, by the newest event, and as columns of the model."""

import numpy as np
import pytest
from tests.serving import shop

from tailorbird.errors import BundleError
from tailorbird.events import SimulatedClock
from tailorbird.features import ReadRequest
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.retrieval.sessions import FILES, SOURCES, Plan
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.parts import Fixed
from tailorbird.serving.pipeline import Pipeline
from tailorbird.serving.schemas import OneSchema

SLOTS = {"home": Slot("home", size=12, sources={"sessions": 5, "stan": 5, "popular": 6})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, features):
    path = tmp_path_factory.mktemp("sessions") / "bundle"
    return shop.write(path, features, sessions=Plan(), weights={"sessions_score": 0.02})


@pytest.fixture(scope="module")
def bundle(folder, features):
    return Bundle.load(folder, schema_hash=features.schema_hash)


def make(bundle, features, reader):
    return Pipeline(
        slots=SLOTS, bundles=Fixed(bundle), readings=OneSchema(features, reader), answers=None, clock=SimulatedClock(shop.NOW),
        rng=np.random.default_rng(0),
    )  # fmt: skip


def test_answers_name_them_as_sources_and_follow_the_newest_click(bundle, features):
    reader = shop.FakeReader(features)
    pipeline = make(bundle, features, reader)
    query = RecommendQuery(slot="home", user_id="u1")
    assert {item.source for item in pipeline.answer(query).items} == {"popular"}  # nothing was done yet
    lists = []
    for item in (3, 30):
        reader.recent["u1"] = [(item, "click")]
        answer = pipeline.answer(query)
        assert {"sessions", "popular"} <= {item.source for item in answer.items}
        assert not answer.degraded
        lists.append([each.item_id for each in answer.items if each.source in SOURCES])
    assert lists[0] != lists[1]


def test_a_server_lists_and_scores_what_the_index_of_the_bundle_says(bundle, features):
    reader = shop.FakeReader(features, {"u1": [(3, "click"), (8, "click")]})
    rows = reader.read(ReadRequest(person="u1", now=shop.NOW), list(bundle.index.ids))
    recent = rows.sequences["recent"]
    listed = bundle.index.like_sessions("sessions", recent.item, recent.ts, 5)
    answer = make(bundle, features, reader).answer(RecommendQuery(slot="home", user_id="u1"))
    assert {each.item_id for each in answer.items if each.source == "sessions"} == {bundle.index.ids[row] for row in listed.rows}
    matrix = bundle.encoder.encode_request(rows, bundle.index.keys, bundle.index)
    column = matrix[:, bundle.encoder.names.index("sessions_score")]
    assert np.array_equal(column[listed.rows], listed.scores.astype(np.float32))
    scores = bundle.score(rows, bundle.index.keys)
    assert np.argmax(scores.value) == listed.rows[0]


@pytest.mark.parametrize("name", FILES)
def test_a_bundle_with_a_damaged_file_of_sessions_is_refused(folder, features, name):
    path = folder / "index" / name
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(BundleError, match="does not match its checksum"):
            Bundle.load(folder, schema_hash=features.schema_hash)
    finally:
        path.write_bytes(before)
