"""Every route that a server can have × no key, an unknown key, a key of each scope, against a table
written down apart from the code.
"""

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.support.serving.app import (
    CLICK,
    PromptChurn,
    PromptFormulas,
    PromptPipeline,
    PromptScores,
)

from tailorbird.console.home import home_routes
from tailorbird.console.shop import shop_routes
from tailorbird.events import RoutePlan, SimulatedClock, SystemClock
from tailorbird.serving.auth.keyfile import create_key
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.gorse import gorse_routes
from tailorbird.serving.http.handling import Service

# What each route needs. A route that is not here, or is here and not there, fails the first test.
MATRIX = {
    ("/v1/events", "POST"): "write",
    ("/v1/recommend", "POST"): "read",
    ("/v1/rank", "POST"): "read",
    ("/v1/search", "POST"): "read",
    ("/v1/items/{id}/similar", "GET"): "read",
    ("/v1/items/{id}", "GET"): "read",
    ("/v1/users/{id}/churn", "GET"): "read",
    ("/v1/status", "GET"): "admin",
    ("/v1/formulas", "GET"): "admin",
    ("/v1/scores", "GET"): "read",
    ("/v1/formulas/{slot}", "PUT"): "admin",
    ("/healthz", "GET"): "open",
    ("/readyz", "GET"): "open",
    ("/metrics", "GET"): "read",
    ("/openapi.json", "GET"): "read",
    ("/docs", "GET"): "read",
    ("/tailorbird.js", "GET"): "open",
    # Segment's
    **{
        (f"/v1/{kind}", "POST"): "write"
        for kind in ("batch", "import", "track", "identify", "page", "screen", "group", "alias")
    },
    # Gorse's
    ("/api/feedback", "POST"): "write",
    ("/api/feedback", "PUT"): "write",
    ("/api/user", "POST"): "write",
    ("/api/users", "POST"): "write",
    ("/api/item", "POST"): "write",
    ("/api/items", "POST"): "write",
    ("/api/recommend/{user}", "GET"): "read",
    ("/api/recommend/{user}/", "GET"): "read",
    ("/api/recommend/{user}/{category}", "GET"): "read",
    ("/api/session/recommend", "POST"): "read",
    ("/api/item/{id}/neighbors", "GET"): "read",
    ("/api/item/{id}/neighbors/", "GET"): "read",
    ("/api/popular", "GET"): "read",
    ("/api/popular/{category}", "GET"): "read",
    ("/api/latest", "GET"): "read",
    ("/api/latest/{category}", "GET"): "read",
    ("/api/non-personalized/{name}", "GET"): "read",
    ("/api/item/{id}", "GET"): "read",
    ("/api/health/live", "GET"): "open",
    ("/api/health/ready", "GET"): "open",
    # The project's page, whose files say nothing of the project, and the demo shop's
    ("/", "GET"): "open",
    **{
        (f"/console/{name}", "GET"): "open"
        for name in ("style.css", "live.js", "home.js", "icon.svg")
    },
    ("/console/person", "POST"): "read",
    ("/console/overview", "GET"): "admin",
    ("/console/reports/{name}", "GET"): "admin",
    ("/shop", "GET"): "open",
    ("/shop/shop.js", "GET"): "open",
    ("/shop/shop.css", "GET"): "open",
    ("/shop/picture/{id}.svg", "GET"): "open",
}
STAR = {"FeedbackType": "star", "UserId": "bob", "ItemId": "i5", "Timestamp": "2025-02-24"}
MESSAGE = {
    "messageId": "m1",
    "userId": "u1",
    "event": "Product Viewed",
    "properties": {"product_id": "i1"},
    "traits": {"plan": "gold"},
}
BODIES = {
    **{f"/v1/{kind}": {"batch": [{**MESSAGE, "type": "track"}]} for kind in ("batch", "import")},
    **{f"/v1/{kind}": MESSAGE for kind in ("track", "identify", "page", "screen", "group")},
    "/v1/alias": {**MESSAGE, "previousId": "u2"},
    "/v1/events": CLICK,
    "/v1/recommend": {"slot": "home"},
    "/v1/rank": {"slot": "home", "items": ["i1"]},
    "/v1/search": {"query": "coat"},
    "/v1/formulas/{slot}": {"formula": "click", "why": "a test"},
    "/api/feedback": [STAR],
    "/api/session/recommend": [STAR],
    "/api/user": {"UserId": "bob"},
    "/api/users": [{"UserId": "bob"}],
    "/api/item": {"ItemId": "i1"},
    "/api/items": [{"ItemId": "i1"}],
    "/console/person": {"anonymous_id": "a1"},
}
PROFILES = {"/api/user", "/api/users", "/api/item", "/api/items", "/v1/identify", "/v1/alias"}
HOLDERS = {
    "none": None,
    "unknown": None,
    "read": "read",
    "write": "write",
    "admin": "admin",
    "browser": "write",
    "plain": "read",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """All routes at once; who holds a key → the headers that they send."""
    folder = tmp_path_factory.mktemp("matrix")
    file, clock = folder / "keys.json", SimulatedClock(1_000)
    tokens = {
        scope: create_key(file, scope, [scope], clock.now())[0]
        for scope in ("read", "write", "admin")
    }
    tokens["browser"] = create_key(
        file, "page", ["write"], clock.now(), origins=["https://shop.example"]
    )[0]
    tokens["plain"] = "plain-key-0123456789"
    tokens["unknown"] = create_key(
        folder / "other.json", "other", ["read", "write", "admin"], clock.now()
    )[0]
    headers = {
        holder: {"authorization": f"Bearer {tokens[holder]}"} if holder in tokens else {}
        for holder in HOLDERS
    }
    headers["browser"]["origin"] = "https://shop.example"
    (folder / "v0001.html").write_text("<!doctype html>")
    with EventCollector(folder, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(
            PromptPipeline(),
            collector,
            Keys(read=[tokens["plain"]], file=file, clock=clock),
            churn=PromptChurn(),
            formulas=PromptFormulas(),
            scores=PromptScores(),
        )
        app = create_app(
            service,
            [
                *gorse_routes(service, "home"),
                *home_routes(service, lambda _: {}, folder),
                *shop_routes(service, "home"),
            ],
        )
        with TestClient(app, base_url="http://127.0.0.1", follow_redirects=False) as client:
            yield app, client, headers


def test_every_route_that_can_be_served_is_declared(site):
    routes = {
        (each.path, method) for each in site[0].app.routes for method in each.methods - {"HEAD"}
    }
    assert routes == set(MATRIX)


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize(("path", "method"), MATRIX)
def test_each_route_takes_its_own_scope_only(site, path, method, holder):
    _, client, headers = site
    needs, has = MATRIX[path, method], HOLDERS[holder]
    refused = holder == "browser" and path in PROFILES  # reached, and each of its events refused
    url = (
        path.replace("/console/reports/{name}", "/console/reports/v0001.html")
        .replace("{id}", "i1")
        .replace("{user}", "bob")
        .replace("{category}", "hats")
        .replace("{name}", "popular")
        .replace("{slot}", "home")
    )
    body = msgspec.json.encode(BODIES[path]) if path in BODIES else None
    answer = client.request(method, url, content=body, headers=headers[holder])
    if needs in ("open", has):
        assert answer.status_code == 400 if refused else answer.status_code in (200, 302), (
            answer.text
        )
        assert not refused or '"code":"browser_key"' in answer.text
        return
    assert answer.status_code == (403 if has else 401)
    assert {"code", "message"} <= set(answer.json()) <= {"code", "message", "fix", "request_id"}
    assert not any(
        value.partition(" ")[2] in answer.text
        for name, value in headers[holder].items()
        if name == "authorization"
    )


@pytest.mark.parametrize(("path", "method"), MATRIX)
@pytest.mark.parametrize("other", ["DELETE", "PATCH", "PUT", "TRACE", "CONNECT"])
def test_no_other_method_reaches_a_handler(site, path, method, other):
    """A declared method of the same path is another row of the table."""
    if (path, other) in MATRIX:
        pytest.skip("declared")
    url = (
        path.replace("/console/reports/{name}", "/console/reports/v0001.html")
        .replace("{id}", "i1")
        .replace("{user}", "bob")
        .replace("{category}", "hats")
        .replace("{name}", "popular")
        .replace("{slot}", "home")
    )
    assert site[1].request(other, url).status_code == 405
