"""Gorse's REST API over a real pipeline, collector and router, called as its clients call it."""

import json
from datetime import UTC, datetime
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests.support.shops import serving_shop

from tailorbird.errors import NotReadyError
from tailorbird.events import RoutePlan, SystemClock
from tailorbird.router import Router, to_table
from tailorbird.serving.auth.keyfile import OPEN, SCOPES
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.auth.limits import Limiter, ServerLimits
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.gorse import gorse_routes, with_hidden_rule
from tailorbird.serving.http.gorse_lists import RecentResponses
from tailorbird.serving.http.handling import Service
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle
from tailorbird.stream import open_reader, routed_path
from tailorbird.stream.importer import import_files

KEY = "key-of-gorse-0123456789"
STAR = {"FeedbackType": "star", "UserId": "bob", "ItemId": "i5", "Timestamp": "2025-02-24"}


class Site:
    """A server that speaks Gorse's API too, and what the router makes of what came in."""

    def __init__(self, folder, features, bundle, keys: Keys) -> None:
        self.folder = folder
        self.collector = EventCollector(folder, "serve-1", RoutePlan(), SystemClock())
        pipeline = Pipeline(
            slots=with_hidden_rule(serving_shop.slots(), "home"),
            bundle_selector=FixedBundle(bundle),
            feature_provider=SingleSchema(features, serving_shop.FakeReader(features, None)),
            response_log=self.collector,
            clock=SystemClock(),
            rng=np.random.default_rng(1),
            table_provider=serving_shop.LiveTables(["popular:7d:category"]),
        )
        self.service = Service(pipeline, self.collector, keys)
        app = create_app(self.service, gorse_routes(self.service, "home"))
        self.client = TestClient(app, base_url="http://127.0.0.1:8642")

    def events(self) -> list[dict]:
        """Return the accepted events as the router has them, in order; closes the collector."""
        self.collector.close()
        with Router(self.folder, RoutePlan(), clock=SystemClock()) as router:
            while router.step().rows:
                pass
        with open_reader(routed_path(self.folder)) as reader:
            return [
                row
                for stored in reader.read(0)
                if stored.block.kind == "events"
                for row in to_table(stored.block).to_pylist()
            ]

    def close(self) -> None:
        self.collector.close()
        self.service.pool.shutdown()


@pytest.fixture
def make(tmp_path, features, bundle):
    made = []

    def make(keys: Keys | None = None) -> Site:
        made.append(Site(tmp_path, features, bundle, keys or Keys()))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture(scope="module")
def anything(tmp_path_factory, features, bundle):
    site = Site(tmp_path_factory.mktemp("gorse"), features, bundle, Keys())
    yield site
    site.close()


def test_feedback_is_taken_and_counted_once(make):
    site = make()
    for _ in range(2):
        answer = site.client.post(
            "/api/feedback", json=[STAR, {**STAR, "ItemId": "i6", "FeedbackType": "read"}]
        )
        assert (answer.status_code, answer.json()) == (200, {"RowAffected": 2})
    assert site.client.put("/api/feedback", json=[STAR]).json() == {"RowAffected": 1}
    assert [(event["type"], event["user_id"], event["item_id"]) for event in site.events()] == [
        ("like", "bob", "i5"),
        ("view", "bob", "i6"),
    ]


def test_feedback_that_also_comes_in_a_file_counts_once(make):
    site = make()
    now = datetime.now(UTC).isoformat()
    star = {**STAR, "Timestamp": now}
    assert site.client.post("/api/feedback", json=[star]).json() == {"RowAffected": 1}
    file = site.folder / "feedback.jsonl"
    file.write_text(json.dumps(dict(reversed(star.items()))))
    import_files(site.folder, "gorse", file, plan=RoutePlan(), clock=SystemClock())
    assert [(event["user_id"], event["item_id"]) for event in site.events()] == [("bob", "i5")]


def test_users_and_items_become_profiles_that_hold_from_now_on(make):
    site = make()
    item = {
        "ItemId": "new",
        "IsHidden": False,
        "Labels": {"topic": "vue"},
        "Categories": ["web"],
        "Timestamp": "2022-02-22",
        "Comment": "c",
    }
    assert site.client.post(
        "/api/user", json={"UserId": "bob", "Labels": {"company": "gorse"}}
    ).json() == {"RowAffected": 1}
    assert site.client.post("/api/item", json=item).json() == {"RowAffected": 1}
    assert site.client.post("/api/items", json=[item, {**item, "ItemId": "newer"}]).json() == {
        "RowAffected": 2
    }
    user, first, again, newer = site.events()
    assert (user["type"], user["user_id"], user["properties"], user["timeless"]) == (
        "user",
        "bob",
        '{"company":"gorse"}',
        False,
    )
    assert (first["item_id"], again["item_id"], newer["item_id"]) == ("new", "new", "newer")
    assert (
        first["properties"]
        == '{"categories":["web"],"category":"web","comment":"c","timestamp":"2022-02-22T00:00:00Z","topic":"vue"}'
    )
    assert first["ts"] == first["received_at"]


def test_recommendations_are_ids_page_by_page(make):
    site = make()
    first = site.client.get("/api/recommend/bob?n=5").json()
    assert len(first) == len(set(first)) == 5
    assert len(site.client.get("/api/recommend/bob").json()) == 10
    assert site.client.get("/api/recommend/bob?n=0").json() == []
    coats = site.client.get("/api/recommend/bob/coats?n=4").json()
    assert coats
    assert all(int(item[1:]) % 4 == 0 for item in coats)  # how the shop gives out its categories
    for same in (["coats"], ["coats", "coats"], ["", "coats"]):
        assert (
            coats == site.client.get("/api/recommend/bob", params={"category": same, "n": 4}).json()
        )


def test_newer_clients_ask_for_scores_and_end_with_a_slash(make):
    site = make()
    scored = site.client.get(
        "/api/recommend/bob/?n=5&offset=0", headers={"X-API-Version": "2"}
    ).json()
    assert [sorted(one) for one in scored] == [["Id", "Score"]] * 5
    assert [one["Score"] for one in scored] == sorted(
        (one["Score"] for one in scored), reverse=True
    )


def test_a_session_is_answered_by_what_goes_with_its_items(make):
    site = make()
    session = [{**STAR, "ItemId": item} for item in ("i3", "i4", "gone")]
    item_ids = [
        one["Id"] for one in site.client.post("/api/session/recommend?n=5", json=session).json()
    ]
    assert len(item_ids) == 5
    assert not {"i3", "i4"} & set(item_ids)
    alone = [
        one["Id"]
        for one in site.client.post("/api/session/recommend?n=200", json=session[:1]).json()
    ]
    assert alone == [one["Id"] for one in site.client.get("/api/item/i3/neighbors?n=200").json()]
    assert site.client.post("/api/session/recommend", json=[{"UserId": "u"}]).status_code == 400
    assert site.client.post("/api/session/recommend", json=[]).json() == []


def test_feedback_on_what_was_shown_is_joined_to_its_answer(make):
    site = make()
    shown = site.client.get("/api/recommend/bob?n=5&write-back-type=read").json()
    site.client.post(
        "/api/feedback",
        json=[
            {**STAR, "ItemId": shown[2]},
            {**STAR, "ItemId": "elsewhere"},
            {**STAR, "UserId": "eve"},
        ],
    )
    answer, seen, joined, other, eve = site.events()
    assert (answer["type"], answer["user_id"], answer["items"]) == ("answer", "bob", shown)
    assert (seen["type"], seen["items"], seen["request_id"]) == (
        "impression",
        shown,
        answer["request_id"],
    )
    assert (joined["request_id"], joined["position"], joined["slot"]) == (
        answer["request_id"],
        3,
        "home",
    )
    assert (other["request_id"], eve["request_id"]) == (None, None)


def test_neighbors_popular_latest_and_an_item(make):
    site = make()
    near = site.client.get("/api/item/i3/neighbors?n=3").json()
    assert [sorted(one) for one in near] == [["Id", "Score"]] * 3
    assert site.client.get("/api/item/i3/neighbors/?n=3").json() == near
    popular = [one["Id"] for one in site.client.get("/api/popular?n=4").json()]
    assert popular == [
        "i0",
        "i1",
        "i2",
        "i4",
    ]  # as the shop counts its clicks; i3 is sold out, of which the slot has a rule
    assert [one["Id"] for one in site.client.get("/api/popular?n=2&offset=2").json()] == [
        "i2",
        "i4",
    ]
    assert [one["Id"] for one in site.client.get("/api/popular/hats?n=2").json()] == ["i1", "i5"]
    assert (
        site.client.get("/api/popular/none").json()
        == site.client.get("/api/latest/none").json()
        == []
    )
    latest = [one["Id"] for one in site.client.get("/api/latest?n=3").json()]
    assert latest == ["i39", "i38", "i37"]
    assert [one["Id"] for one in site.client.get("/api/latest/hats?n=2").json()] == ["i37", "i29"]
    assert (
        site.client.get("/api/non-personalized/latest?n=3").json()
        == site.client.get("/api/latest?n=3").json()
    )
    item = site.client.get("/api/item/i1").json()
    assert (item["ItemId"], item["Categories"], item["IsHidden"]) == ("i1", ["hats"], False)
    assert item["Labels"]["price"] == 1.0


def test_health(make):
    site = make()
    assert site.client.get("/api/health/ready").json()["Ready"] is True
    site.collector.close()
    assert site.client.get("/api/health/ready").status_code == 503
    assert site.client.get("/api/health/live").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/api/feedback", [{"FeedbackType": "star", "UserId": "bob"}], 400, "missing"),
        ("POST", "/api/feedback", [{**STAR, "FeedbackType": "zoomed"}], 400, "unknown_type"),
        ("POST", "/api/feedback", "x", 400, "wrong_type"),
        ("POST", "/api/user", {"Labels": []}, 400, "missing"),
        ("GET", "/api/recommend/bob?n=many", None, 400, "bad_query"),
        ("GET", "/api/recommend/bob?category=coats&category=hats", None, 400, "bad_query"),
        ("GET", "/api/latest?category=coats&category=hats", None, 400, "bad_query"),
        ("GET", "/api/recommend/" + "x" * 300, None, 400, "bad_id"),
        ("GET", "/api/item/gone", None, 404, "unknown_item"),
        ("GET", "/api/item/gone/neighbors", None, 404, "unknown_item"),
        ("GET", "/api/non-personalized/odd", None, 404, "unknown_list"),
        ("DELETE", "/api/item/i1", None, 405, "method_not_allowed"),
        ("GET", "/api/users", None, 405, "method_not_allowed"),
    ],
)
def test_what_cannot_be_done_says_why(make, method, path, body, status, code):
    answer = make().client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_some_refused_feedback_does_not_cost_the_rest(make):
    site = make()
    assert (
        site.client.post("/api/feedback", json=[STAR, {**STAR, "Timestamp": "soon"}]).json()[
            "RowAffected"
        ]
        == 1
    )
    assert site.collector.figures().refused == {"bad_time": 1}
    assert site.client.post("/api/feedback", json=[]).json() == {"RowAffected": 0}


def test_the_key_of_a_gorse_client_is_asked_for(make):
    site = make(Keys(write=[KEY], read=[KEY]))
    assert site.client.get("/api/recommend/bob").status_code == 401
    assert (
        site.client.get(
            "/api/recommend/bob", headers={"X-API-Key": "another-key-0123456789"}
        ).status_code
        == 401
    )
    assert site.client.get("/api/recommend/bob", headers={"X-API-Key": KEY}).status_code == 200
    assert (
        site.client.post("/api/feedback", json=[STAR], headers={"X-API-Key": KEY}).status_code
        == 200
    )
    assert (
        site.client.get(
            "/api/recommend/bob", headers={"Authorization": f"Bearer {KEY}"}
        ).status_code
        == 200
    )
    assert (
        site.client.get("/v1/items/i1", headers={"X-API-Key": KEY}).status_code == 401
    )  # our own routes know one header only
    assert site.client.get("/api/health/live").status_code == 200


def test_every_route_has_a_scope_and_a_read_key_cannot_write(make):
    site = make(Keys(read=[KEY]))
    for each in gorse_routes(site.service, "home"):
        assert each.endpoint.scope in (OPEN, *SCOPES)
        for method in each.methods - {"HEAD"}:
            path = (
                each.path.replace("{user}", "bob")
                .replace("{category}", "hats")
                .replace("{id}", "i1")
                .replace("{name}", "popular")
            )
            status = site.client.request(
                method, path, json=[STAR] if method != "GET" else None, headers={"X-API-Key": KEY}
            ).status_code
            assert status == (403 if each.endpoint.scope == "write" else 200), path


def test_only_the_newest_answers_of_the_newest_people_are_remembered():
    remembered = RecentResponses(users_max=2)
    for number in range(5):
        remembered.record("u", f"r{number}", ["i", f"i{number}"])
    assert (
        remembered.find_request_id("u", "i"),
        remembered.find_request_id("u", "i2"),
        remembered.find_request_id("u", "i1"),
    ) == ("r4", "r2", None)
    remembered.record("v", "r", ["i"])
    remembered.record("w", "r", ["i"])
    assert (remembered.find_request_id("u", "i"), remembered.find_request_id("v", "i")) == (
        None,
        "r",
    )


FIELD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.lists(st.text(max_size=4), max_size=2)
    | st.just("2022-02-24")
)
NAMES = st.sampled_from(
    [
        "FeedbackType",
        "UserId",
        "ItemId",
        "Timestamp",
        "Value",
        "Labels",
        "Categories",
        "IsHidden",
        "Comment",
    ]
)
RECORD = st.dictionaries(NAMES, FIELD, max_size=6)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    path=st.sampled_from(["feedback", "user", "items", "session/recommend"]),
    body=st.binary(max_size=60) | (st.lists(RECORD, max_size=3) | RECORD).map(json.dumps),
)
def test_whatever_comes_in_is_taken_or_refused(anything, path, body):
    assert anything.client.post(f"/api/{path}", content=body).status_code in (200, 400)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    path=st.sampled_from(
        [
            "recommend/{}",
            "recommend/u/{}",
            "item/{}",
            "item/{}/neighbors",
            "popular/{}",
            "latest/{}",
        ]
    ),
    text=st.text(min_size=1, max_size=12),
    n=st.integers(-1, 999) | st.text(max_size=5),
)
def test_whatever_is_asked_for_is_answered_or_refused(anything, path, text, n):
    answer = anything.client.get("/api/" + path.format(quote(text, safe="")), params={"n": n})
    assert answer.status_code in (200, 400, 404, 405)


def test_without_the_setting_nothing_answers_there(make):
    site = make()
    client = TestClient(create_app(site.service), base_url="http://127.0.0.1:8642")
    assert client.get("/api/recommend/bob").status_code == 404


def test_noting_what_was_shown_is_a_write(make):
    site = make(Keys(read=["read-key-0123456789"], write=["write-key-0123456789"]))
    reads = {"X-API-Key": "read-key-0123456789"}
    assert site.client.get("/api/recommend/bob?n=3", headers=reads).status_code == 200
    refused = site.client.get("/api/recommend/bob?n=3&write-back-type=read", headers=reads)
    assert (refused.status_code, refused.json()["code"]) == (403, "key_scope")
    assert [event["type"] for event in site.events()] == ["answer"]


@pytest.mark.parametrize(
    "keys", [Keys(), Keys(read=[KEY], write=[KEY])], ids=["open", "with a key"]
)
def test_no_foreign_page_notes_what_was_shown(make, keys):
    site = make(keys)
    headers, arguments = (
        {"X-API-Key": KEY, "origin": "https://evil.example"},
        "/api/recommend/bob?n=3&write-back-type=read",
    )
    written = site.client.post("/api/feedback", json=[STAR], headers=headers)
    refused = site.client.get(arguments, headers=headers)
    assert (refused.status_code, refused.json()["code"], refused.json()["message"]) == (
        written.status_code,
        written.json()["code"],
        written.json()["message"],
    )
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong_origin")
    own = {**headers, "origin": "http://127.0.0.1:8642"}
    assert site.client.get("/api/recommend/bob?n=3", headers=headers).status_code == 200
    assert len(site.client.get(arguments, headers=own).json()) == 3
    assert [event["type"] for event in site.events()] == ["answer", "answer", "impression"]


def test_what_cannot_be_noted_is_answered_all_the_same(make):
    site = make(Keys(read=[KEY], write=[KEY]))
    site.service.limiter = Limiter(ServerLimits(events_per_s=0.001))
    headers = {"X-API-Key": KEY}
    assert site.client.post("/api/feedback", json=[STAR] * 2, headers=headers).status_code == 200, (
        "more than may be sent"
    )
    answer = site.client.get("/api/recommend/bob?n=3&write-back-type=read", headers=headers)
    assert (answer.status_code, len(answer.json()), answer.headers["x-write-back"]) == (
        200,
        3,
        "rate",
    )
    assert [event["type"] for event in site.events()] == ["like", "answer"]


def test_too_much_feedback_is_refused_before_anything_is_made_of_it_and_charged(make):
    site = make(Keys(write=[KEY]))
    site.service.limiter = Limiter(ServerLimits(batch_max=3, events_per_s=0.1))
    statuses = [
        site.client.post("/api/feedback", json=[STAR] * count, headers={"X-API-Key": KEY})
        for count in (4, 1)
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in statuses] == [
        (413, "batch_too_long"),
        (429, "rate"),
    ]


def test_what_a_batch_lost_is_told(make):
    site = make()
    answer = site.client.post("/api/feedback", json=[STAR, {**STAR, "ItemId": ""}])
    assert answer.status_code == 200
    assert (answer.json()["RowAffected"], answer.json()["RowRefused"]) == (1, 1)
    assert answer.json()["Refused"][0]["Code"] == "missing"


@pytest.mark.parametrize(
    "path",
    [
        "item/i%2F4",
        "item/i%2f4",
        "item/i%2F4/neighbors",
        "item/i%2F4/neighbors/",
        "recommend/u%2F1",
    ],
)
def test_an_id_with_a_slash_is_not_taken_for_two(make, monkeypatch, path):
    site, item_ids = make(), []

    def note(about, *_):
        item_ids.append(getattr(about, "user_id", about))
        raise NotReadyError("noted")

    for name in ("item", "similar_items", "answer"):
        monkeypatch.setattr(site.service.pipeline, name, note)
    site.client.get(f"/api/{path}")
    assert item_ids in (["i/4"], ["u/1"])


def test_hidden_items_are_recommended_by_no_route(make):
    site = make()
    index = site.service.pipeline._opener.current_bundle_and_index()[1]
    hidden = [item for item in index.ids if int(item[1:]) % 2]
    index.attributes["is_hidden"] = np.array(
        [1.0 if item in hidden else np.nan for item in index.ids]
    )
    try:
        for path in ("popular", "latest", "item/i4/neighbors", "recommend/bob"):
            items = site.client.get(f"/api/{path}?n=20", headers={"X-API-Version": "2"}).json()
            assert items, path
            assert not {one["Id"] for one in items} & set(hidden), path
        together = site.client.post(
            "/api/session/recommend?n=9", json=[{**STAR, "ItemId": "i4"}]
        ).json()
        assert not {one["Id"] for one in together} & set(hidden)
        assert site.client.get(f"/api/item/{hidden[0]}").json()["IsHidden"] is True, (
            "as Gorse gives it to who knows its id"
        )
    finally:
        del index.attributes["is_hidden"]


@pytest.mark.parametrize(
    ("value", "hidden"), [("true", True), ("False", None), (True, True), (None, None)]
)
def test_a_text_says_hidden_too(make, value, hidden):
    site = make()
    assert (
        site.client.post("/api/item", json={"ItemId": "new", "IsHidden": value}).status_code == 200
    )
    assert json.loads(site.events()[0]["properties"] or "{}").get("is_hidden") is hidden


def test_what_is_no_truth_is_refused(make):
    answer = make().client.post("/api/item", json={"ItemId": "new", "IsHidden": "perhaps"})
    assert (answer.status_code, answer.json()["code"], answer.json()["path"]) == (
        400,
        "wrong_type",
        "$.IsHidden",
    )
