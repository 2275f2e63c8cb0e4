"""Sessions of everybody in answers: as sources that are named, by the newest event, and as columns
of the model.
"""

import numpy as np
import pytest
from tests.support.serving.pipeline import ResponseRecorder
from tests.support.shops import serving_shop

from tailorbird.candidates.protocol import CandidateRequest
from tailorbird.candidates.query import RequestLists
from tailorbird.events import SimulatedClock, hash64s
from tailorbird.features import ReadRequest
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle

SOURCES = ("session_knn", "stan")
SLOTS = {"home": Slot("home", size=12, sources={"session_knn": 5, "stan": 5, "popular": 6})}
QUERY = RecommendQuery(slot="home", user_id="u1")


@pytest.fixture(scope="module")
def live():
    return serving_shop.LiveTables(SOURCES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, features):
    folder = serving_shop.write_shop_bundle(
        tmp_path_factory.mktemp("sessions") / "bundle",
        features,
        live_sources=["session_knn"],
        weights={"session_knn_score": 0.02},
    )
    return Bundle.load(folder, schema_hash=features.schema_hash)


@pytest.fixture
def make(bundle, features, live):
    def make(reader, answers=None):
        return Pipeline(
            slots=SLOTS,
            bundle_selector=FixedBundle(bundle),
            feature_provider=SingleSchema(features, reader),
            response_log=answers,
            clock=SimulatedClock(serving_shop.NOW),
            rng=np.random.default_rng(0),
            table_provider=live,
        )

    return make


def test_answers_name_them_as_sources_and_follow_the_newest_click(make, features):
    reader = serving_shop.FakeReader(features)
    pipeline = make(reader)
    assert {item.source for item in pipeline.answer(QUERY).items} == {
        "popular"
    }  # nothing was done yet
    lists = []
    for item in (3, 30):
        reader.recent["u1"] = [(item, "click")]
        answer = pipeline.answer(QUERY)
        assert {"session_knn", "popular"} <= {item.source for item in answer.items}
        assert not answer.degraded
        lists.append([each.item_id for each in answer.items if each.source in SOURCES])
    assert lists[0] != lists[1]


def test_a_server_lists_and_scores_what_the_tables_say(make, bundle, features, live):
    reader, response_log = (
        serving_shop.FakeReader(features, {"u1": [(3, "click"), (8, "click")]}),
        ResponseRecorder(),
    )
    recent = reader.person(ReadRequest(person="u1", now=serving_shop.NOW)).sequences["recent"]
    answer = make(reader, response_log).answer(QUERY)
    with live.tables() as tables:
        lists = RequestLists(tables, CandidateRequest(recent.item, recent.ts))
        listed = lists.get("session_knn")
        shown = hash64s(each.item_id for each in answer.items)
        columns = bundle.encoder.live_columns.matrix(lists, {"recent": recent}, shown)
    session_items = hash64s(each.item_id for each in answer.items if each.source == "session_knn")
    assert set(session_items.tolist()) == set(listed.keys[:5].tolist())
    assert answer.items[0].item_id == bundle.index.ids[bundle.index.find(listed.keys[:1])[0]]
    np.testing.assert_array_equal(
        np.array(response_log.records[0].live, np.float32).reshape(len(shown), 2), columns
    )
    assert (columns[:, 1] > 0).any()
