"""Serving on the real parts: collector, router, feature worker, state and routed log, stepped by hand on
a simulated clock.
"""

import shutil
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from tests.support.serving.loop import Loop
from tests.support.shops import serving_shop

from tailorbird.events import MINUTE, hash64
from tailorbird.events.answer_record import decode_responses
from tailorbird.features import FeatureSet, ReadRequest, count, entity, sequence
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.serving.messages import RecommendQuery, SearchQuery
from tailorbird.stream import open_reader, response_log_path, routed_path

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def loop(tmp_path, features, bundle):
    loop = Loop(tmp_path, features, bundle)
    yield loop
    loop.close()


def test_a_click_is_in_the_next_answer(loop):
    query = RecommendQuery(slot="home", anonymous_id="a1", explain=True)
    loop.send("item", item_id="i7", properties=serving_shop.item_profile(7))
    loop.settle()
    before = loop.pipeline.answer(query)
    assert before.degraded == []
    assert before.items[0].explanation.features["user_clicks"] == 0
    loop.send("click", anonymous_id="a1", item_id="i7", request_id=before.request_id)
    loop.settle()
    after = loop.pipeline.answer(query)
    assert after.items[0].explanation.features["user_clicks"] == 1
    assert after.t > before.t
    assert after.commit > before.commit


def test_a_click_gets_what_its_answer_knew(loop):
    loop.settle()
    answer = loop.pipeline.answer(RecommendQuery(slot="tried", user_id="u1"))
    loop.send("click", user_id="u1", item_id=answer.items[2].item_id, request_id=answer.request_id)
    loop.settle()
    given, click = loop.routed()
    assert (given["type"], given["items"]) == ("answer", [item.item_id for item in answer.items])
    assert (click["slot"], click["arm"], click["position"]) == ("tried", answer.arm, 3)
    assert click["propensity"] == pytest.approx(answer.items[2].propensity)
    assert (given["experiment"], given["model"]) == ("home-model", answer.model)


def test_the_record_holds_what_the_state_says_at_its_time(loop, features):
    for number in (5, 6, 5):
        loop.send("item", item_id=f"i{number}", properties=serving_shop.item_profile(number))
        loop.send("click", user_id="u1", item_id=f"i{number}")
    loop.settle()
    answer = loop.pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
    loop.collector.close()
    with open_reader(response_log_path(loop.folder / "stream", "serve-1")) as reader:
        [record] = [
            record for stored in reader.read(0) for record in decode_responses(stored.block.payload)
        ]
    rows = loop.reader.read(
        ReadRequest("u1", None, None, None, None, record.local_hour, answer.t), record.items
    )
    assert record.ts == answer.t
    assert (record.commit, record.p) == (rows.commit, rows.log_position)
    assert np.array(record.numeric, np.float32).tobytes() == rows.numeric.tobytes()
    assert record.categorical == rows.categorical.ravel().tolist()
    items, types, stamps = msgspec.msgpack.decode(record.sequences)["recent"]
    assert items == [hash64(f"i{number}") for number in (5, 6, 5)]
    assert types == [hash64("click")] * 3
    assert stamps == rows.sequences["recent"].ts.tolist()


def test_an_anonymous_person_who_identified_is_the_user(loop):
    loop.send("click", user_id="u1", item_id="i7")
    loop.send("identify", user_id="u1", anonymous_id="a1")
    loop.settle()
    answer = loop.pipeline.answer(RecommendQuery(slot="home", anonymous_id="a1", explain=True))
    assert answer.items[0].explanation.features["user_clicks"] == 1


@pytest.mark.parametrize(
    ("who", "event", "queries"),
    [
        (
            "41",
            {"type_": "merge", "user_id": "41", "properties": {"merged_into": "42"}},
            {"user_id": "41"},
        ),
        (
            "anon:a1",
            {"type_": "identify", "user_id": "42", "anonymous_id": "a1"},
            {"anonymous_id": "a1"},
        ),
    ],
)
def test_who_asks_does_not_change_within_a_request(loop, monkeypatch, who, event, queries):
    for _ in range(2):
        loop.send("click", user_id="42", item_id="i7")
    loop.settle()
    ask = loop.reader.person

    def meanwhile(request):
        rows = ask(request)
        loop.send(**event)
        loop.settle()
        return rows

    monkeypatch.setattr(loop.reader, "person", meanwhile)
    answer = loop.pipeline.answer(RecommendQuery(slot="home", explain=True, **queries))
    assert answer.items[0].explanation.features["user_clicks"] == 0
    monkeypatch.undo()
    assert (
        loop.pipeline.answer(RecommendQuery(slot="home", explain=True, **queries))
        .items[0]
        .explanation.features["user_clicks"]
        == 2
    )
    loop.collector.close()
    with open_reader(response_log_path(loop.folder / "stream", "serve-1")) as reader:
        records = [
            record for stored in reader.read(0) for record in decode_responses(stored.block.payload)
        ]
    assert [record.person for record in records] == [who, "42"]


def test_a_new_item_is_found_and_one_that_sold_out_disappears(loop):
    loop.settle()
    first = loop.pipeline.answer(RecommendQuery(slot="home", user_id="u1")).items[0].item_id
    loop.send(
        "item", item_id=first, properties=serving_shop.item_profile(int(first[1:])) | {"stock": 0}
    )
    loop.send(
        "item",
        item_id="brand-new",
        properties={"title": "Umbrella", "category": "bags", "price": 500.0, "stock": 3},
    )
    loop.settle()
    shown = [
        item.item_id
        for item in loop.pipeline.answer(RecommendQuery(slot="home", user_id="u1")).items
    ]
    assert first not in shown
    assert shown[0] == "brand-new", "the newest, and by far the dearest"
    item = loop.pipeline.item("brand-new")
    assert item is not None
    assert item.attributes["title"] == "Umbrella"


def test_without_a_bundle_the_items_seen_so_far_are_shown_by_popularity(loop):
    loop.live_tables = serving_shop.LiveTables(events=serving_shop.make_routed_log().slice(0, 1))
    loop.pipeline = loop.make_pipeline(None)
    for number in (3, 1, 1, 2, 1, 2):
        loop.send("click", user_id=f"u{number}", item_id=f"i{number}")
    loop.settle()
    answer = loop.pipeline.answer(RecommendQuery(slot="tried", user_id="u9", size=3))
    assert {item.item_id for item in answer.items} <= {"i1", "i2", "i3"}
    assert answer.items[0].item_id == "i1"
    assert answer.degraded == ["model"]


def test_the_state_may_go_and_come_back(loop):
    loop.settle()
    query = RecommendQuery(slot="home", user_id="u1")
    before = loop.pipeline.answer(query)
    assert before.degraded == []
    assert loop.pipeline.missing_parts() == []
    loop.worker.close()
    shutil.rmtree(loop.folder / "state")
    recalled = loop.pipeline.answer(query)
    assert (recalled.degraded, recalled.model) == (["last_known"], before.model)
    assert [item.item_id for item in recalled.items] == [item.item_id for item in before.items], (
        "scored by what was read last"
    )
    stranger = loop.pipeline.answer(RecommendQuery(slot="home", user_id="u2"))
    assert stranger.items
    assert stranger.degraded == ["features"]
    assert loop.pipeline.missing_parts() == ["features"]
    loop.worker = FeatureWorker(
        routed_path(loop.folder / "stream"), loop.folder / "state", loop.features, clock=loop.clock
    )
    loop.settle()
    assert loop.pipeline.answer(query).degraded == []


def test_an_answers_time_is_after_all_that_it_read(loop):
    ahead = loop.clock.now() + 2 * MINUTE  # within the skew that is allowed
    loop.send("click", user_id="u1", item_id="i7")
    loop.collector.submit(
        msgspec.json.encode(
            {"event_id": "ahead", "type": "click", "user_id": "u1", "item_id": "i8", "ts": ahead}
        )
    )
    loop.settle()
    answer = loop.pipeline.answer(RecommendQuery(slot="home", user_id="u1"))
    assert answer.t == ahead + 1
    loop.send("click", user_id="u2", item_id="i1")  # whose commit takes the answer along
    loop.settle()
    [row] = [row for row in loop.routed() if row["type"] == "answer"]
    assert row["ts"] == EPOCH + timedelta(microseconds=answer.t)


def test_what_was_searched_for_is_known_to_features(tmp_path, bundle):
    query_clicks = count("query_item_clicks", entity("query", "item"), "click", window="7d")
    loop = Loop(
        tmp_path,
        FeatureSet.from_declarations(
            [query_clicks, sequence("recent", entity("user"), ["click"], length=16)]
        ),
        bundle,
    )
    try:
        loop.settle()
        first = loop.pipeline.search(SearchQuery(query="Rain", user_id="u1"))
        clicked = first.items[-1].item_id
        loop.send("click", user_id="u1", item_id=clicked, request_id=first.request_id)
        loop.settle()
        again = loop.pipeline.search(SearchQuery(query=" RAIN", user_id="u2", explain=True))
        clicks = {
            item.item_id: item.explanation.features["query_item_clicks"] for item in again.items
        }
        assert clicks.pop(clicked) == 1
        assert set(clicks.values()) == {0}
    finally:
        loop.close()
