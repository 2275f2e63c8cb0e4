"""`tailorbird.js` in a real browser, on a page of another web origin, against a real collector: what
people do arrives, once.
"""

import gzip
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, sync_playwright
from tests.support.network.servers import RunningServer, serving
from tests.support.network.shop_server import find_chromium, launch_browser
from tests.support.network.waiting import until

from tailorbird.serving.auth.keyfile import create_key
from tailorbird.serving.auth.keys import Keys

pytestmark = pytest.mark.slow

browser_only = pytest.mark.skipif(
    find_chromium() is None,
    reason="no chromium here: apt-get install chromium, or set TAILORBIRD_CHROMIUM",
)

# A list of twelve, four of which are in sight of a window of 800 × 600, and a page for each item.
LIST = """<!doctype html><title>Shop</title><link rel=icon href=data:,>
<script defer src="{server}/tailorbird.js" data-key="{key}" {more}></script>
<form data-tb-search="q" onsubmit="return false"><input name=q></form>
<ul data-tb-request="r55" style="list-style:none;margin:0;padding:0">{items}</ul>"""
ITEM = '<li data-tb-item="i{0}" style="height:130px"><a href="/item/i{0}">item {0}</a></li>'
VIEW = """<!doctype html><title>Item</title><link rel=icon href=data:,>
<script defer src="{server}/tailorbird.js" data-key="{key}" {more}></script>
<main data-tb-view="{item}">An item</main>"""
QUICK = "data-seen-ms=100 data-gather-ms=50"


class Site(BaseHTTPRequestHandler):
    """Pages of a shop that is not Tailorbird's server."""

    def __init__(self, fill: dict[str, str], *args: Any) -> None:
        self._fill = fill
        super().__init__(*args)

    def do_GET(self) -> None:
        name, _, query = self.path.partition("?")
        fill = {
            **self._fill,
            "more": QUICK + (' data-consent="required"' if "consent" in query else ""),
        }
        if name.startswith("/item/"):
            page = VIEW.format(item=name.removeprefix("/item/"), **fill)
        else:
            page = LIST.format(
                items="".join(ITEM.format(number) for number in range(1, 13)), **fill
            )
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


class Shop:
    """A shop's page, the server that its tracker sends to, and a browser that looks at it."""

    def __init__(self, served: RunningServer, origin: str, context: BrowserContext) -> None:
        self.served, self.origin, self.context = served, origin, context
        self.faults: list[str] = []
        self.page = self.new_page()

    def new_page(self) -> Page:
        page = self.context.new_page()
        page.on("console", self._record_message)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        return page

    def _record_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def events(self, type_: str) -> list[dict[str, Any]]:
        """Events of a type in the log, each once."""
        return list(
            {
                event["event_id"]: event for event in self.served.events() if event["type"] == type_
            }.values()
        )

    def wait_for(self, type_: str, number: int = 1) -> list[dict[str, Any]]:
        until(lambda: len(self.events(type_)) >= number)
        return self.events(type_)

    def storage(self) -> dict[str, str]:
        return self.page.evaluate("({...localStorage, ...sessionStorage})")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    fill: dict[str, str] = {}
    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, fill))
    threading.Thread(target=site.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{site.server_port}"
    key, _ = create_key(tmp_path / "keys.json", "page", ["write"], 1, origins=[origin])
    try:
        with (
            serving(tmp_path / "stream", keys=Keys(file=tmp_path / "keys.json")) as served,
            sync_playwright() as playwright,
        ):
            fill |= {"server": served.url, "key": key}
            browser = launch_browser(playwright)
            yield Shop(served, origin, browser.new_context(viewport={"width": 800, "height": 600}))
            browser.close()
    finally:
        site.shutdown()
        site.server_close()


@browser_only
def test_what_is_in_sight_is_an_impression_once(shop: Shop) -> None:
    shop.page.goto(shop.origin)
    until(lambda: sum(len(event["items"]) for event in shop.events("impression")) == 4)
    shop.page.evaluate("window.scrollTo(0, 100000)")
    until(lambda: sum(len(event["items"]) for event in shop.events("impression")) >= 8)
    shop.page.evaluate("window.scrollTo(0, 0)")
    shop.page.locator("li").first.evaluate(
        "element => { element.dataset.tbItem = 'i99' }"
    )  # the page shows another item in its place
    until(lambda: any("i99" in event["items"] for event in shop.events("impression")))
    impressions = shop.events("impression")
    items = Counter(item for event in impressions for item in event["items"])
    assert {"i1", "i2", "i12", "i99"} <= set(items)
    assert set(items.values()) == {1}
    assert {event["request_id"] for event in impressions} == {"r55"}
    assert not shop.faults


@browser_only
def test_a_click_and_the_view_that_follows_carry_the_answers_id(shop: Shop) -> None:
    shop.page.goto(shop.origin + "/?secret=token#part")
    shop.page.locator("a").nth(1).click()
    shop.page.wait_for_url("**/item/i2")
    [click] = shop.wait_for("click")
    assert (click["item_id"], click["request_id"]) == ("i2", "r55")
    assert click["context"]["page"] == shop.origin + "/"  # nothing of what stands behind the path
    shop.page.wait_for_timeout(300)
    shop.page.goto(shop.origin)
    views = shop.wait_for("view", 2)
    item = next(view for view in views if view.get("item_id"))
    assert (item["item_id"], item["request_id"]) == ("i2", "r55")
    assert 250 <= item["properties"]["dwell_ms"] < 60_000
    people = {(event["anonymous_id"], event["session_id"]) for event in shop.served.events()}
    assert len(people) == 1
    assert not shop.faults


@browser_only
def test_a_lost_network_and_a_reload_lose_nothing(shop: Shop) -> None:
    shop.page.goto(shop.origin)
    shop.wait_for("impression")
    shop.context.set_offline(True)
    ids = [
        shop.page.evaluate(f"tailorbird.track('cart', {{item_id: 'i{number}'}})")
        for number in range(5)
    ]
    until(lambda: shop.page.evaluate("tailorbird.waiting") >= 5)
    assert len(ids) == 5
    assert not shop.events("cart")
    shop.page.close()  # its tab is gone with what waited in it
    shop.context.set_offline(False)
    shop.page = shop.new_page()
    shop.page.goto(shop.origin)
    assert sorted(event["item_id"] for event in shop.wait_for("cart", 5)) == [
        f"i{number}" for number in range(5)
    ]
    # What comes into sight on the new page waits in the queue for a moment, too.
    until(lambda: not [name for name in shop.storage() if "queue" in name])


@browser_only
def test_a_server_that_is_busy_is_asked_again(shop: Shop) -> None:
    shop.page.goto(shop.origin)
    shop.wait_for("impression")
    shop.served.trouble.next = ["busy", "lost"] * 2  # preflights count too
    shop.page.evaluate("tailorbird.track('like', {item_id: 'i1'})")
    assert shop.wait_for("like")
    until(lambda: shop.page.evaluate("tailorbird.waiting") == 0)
    assert len(shop.events("like")) == 1


@browser_only
def test_before_consent_nothing_is_stored_or_sent(shop: Shop) -> None:
    shop.page.goto(shop.origin + "/?consent")
    shop.page.locator("input").fill("rain coat")
    shop.page.locator("input").press("Enter")
    until(lambda: shop.page.evaluate("tailorbird.waiting") >= 2)  # the search and what was in sight
    assert shop.storage() == {}
    assert shop.page.evaluate("tailorbird.anonymousId") is None
    assert shop.served.bodies() == []
    shop.page.evaluate("tailorbird.consent(true)")
    [search] = shop.wait_for("search")
    assert search["properties"] == {"query": "rain coat"}
    assert search["anonymous_id"] == shop.page.evaluate("tailorbird.anonymousId")
    shop.wait_for("impression")
    shop.page.evaluate("tailorbird.consent(false)")
    assert shop.storage() == {"tailorbird.consent": "false"}
    before = len(shop.served.bodies())
    shop.page.evaluate("tailorbird.track('like', {item_id: 'i1'}); tailorbird.flush()")
    shop.page.goto(shop.origin)
    shop.page.wait_for_timeout(400)
    assert len(shop.served.bodies()) == before
    assert shop.storage() == {"tailorbird.consent": "false"}


@browser_only
def test_a_click_before_consent_leaves_nothing_in_the_browser(shop: Shop) -> None:
    shop.page.goto(shop.origin + "/?consent")
    stay = "document.addEventListener('click', event => event.preventDefault())"
    shop.page.evaluate(stay)
    shop.page.locator("a").nth(1).click()
    until(lambda: shop.page.evaluate("tailorbird.waiting") >= 1)
    assert shop.storage() == {}
    shop.page.evaluate("tailorbird.consent(true); tailorbird.page('i2')")
    shop.page.evaluate("tailorbird.page()")
    assert (
        next(view for view in shop.wait_for("view", 2) if view.get("item_id"))["request_id"]
        == "r55"
    )
    assert "tailorbird.came" in shop.storage(), "for the page that the click leads to"
    shop.page.evaluate("tailorbird.consent(false)")
    assert shop.storage() == {"tailorbird.consent": "false"}


@browser_only
def test_consent_that_is_withdrawn_in_one_tab_is_withdrawn_in_all(shop: Shop) -> None:
    shop.page.goto(shop.origin)
    shop.wait_for("impression")
    other = shop.new_page()
    other.goto(shop.origin)
    other.evaluate("tailorbird.consent(false)")
    until(lambda: shop.page.evaluate("tailorbird.anonymousId") is None)
    shop.page.evaluate("tailorbird.track('like', {item_id: 'i1'}); tailorbird.flush()")
    assert shop.page.evaluate("tailorbird.waiting") == 0
    assert shop.storage() == {"tailorbird.consent": "false"}


@browser_only
def test_who_logs_in_is_named_from_then_on(shop: Shop) -> None:
    shop.page.goto(shop.origin)
    shop.page.evaluate(
        "tailorbird.track('like', {item_id: 'i1'}); tailorbird.identify(42); "
        "tailorbird.track('like', {item_id: 'i2'})"
    )
    likes = {event["item_id"]: event.get("user_id") for event in shop.wait_for("like", 2)}
    assert likes == {"i1": None, "i2": "42"}
    shop.page.evaluate("tailorbird.identify(null); tailorbird.track('like', {item_id: 'i3'})")
    assert (
        next(event for event in shop.wait_for("like", 3) if event["item_id"] == "i3").get("user_id")
        is None
    )


@browser_only
def test_what_the_server_refuses_is_told_on_the_console_and_does_not_block(shop: Shop) -> None:
    shop.page.goto(shop.origin)
    shop.page.evaluate("tailorbird.track('item', {item_id: 'i1', properties: {title: 'free'}})")
    until(lambda: shop.page.evaluate("tailorbird.waiting") == 0)
    assert any("browser_key" in text for text in shop.faults)


@browser_only
def test_what_is_larger_than_the_server_takes_does_not_hold_up_the_rest(shop: Shop) -> None:
    """Nor the next page: it would find the same in the queue."""
    shop.page.goto(shop.origin)
    large = "tailorbird.track('like', {item_id: 'i1', properties: {text: 'x'.repeat(1_200_000)}})"
    deep = (
        "let deep = {}; for (let n = 0; n < 3000; n++) deep = {deep}; tailorbird.track('like', "
        "{item_id: 'i1', properties: deep})"
    )
    small_events = [f"tailorbird.track('like', {{item_id: 'i{number}'}})" for number in range(2, 5)]
    shop.page.evaluate(";".join([small_events[0], large, small_events[1], deep, small_events[2]]))
    assert {event["item_id"] for event in shop.wait_for("like", 3)} == {"i2", "i3", "i4"}
    until(lambda: shop.page.evaluate("tailorbird.waiting") == 0)
    assert any("larger than the server takes" in text for text in shop.faults)
    assert any("malformed_json" in text for text in shop.faults)
    shop.page.evaluate("tailorbird.track('like', {item_id: 'i5'})")
    assert len(shop.wait_for("like", 4)) == 4


@browser_only
def test_half_an_emoji_takes_no_other_event_along(shop: Shop) -> None:
    """`slice` can cut a surrogate pair, and a server cannot read a body that has half of one."""
    shop.page.goto(shop.origin)
    half = (
        "tailorbird.track('like', {item_id: 'i1', properties: {title: 'ab\U0001f600'.slice(0, "
        "3), whole: '\U0001f600'}})"
    )
    shop.page.evaluate(
        f"tailorbird.track('like', {{item_id: 'i2'}}); {half}; "
        "tailorbird.search('c'.repeat(511) + '\U0001f600')"
    )
    likes = {event["item_id"]: event.get("properties") for event in shop.wait_for("like", 2)}
    assert likes == {"i1": {"title": "ab\ufffd", "whole": "\U0001f600"}, "i2": None}
    assert shop.wait_for("search")[0]["properties"]["query"] == "c" * 511 + "\ufffd"
    assert not shop.faults


@browser_only
def test_what_is_in_sight_again_after_the_page_was_hidden_too_soon_is_an_impression(
    shop: Shop,
) -> None:
    shop.page.add_init_script(
        "let state = 'visible'; Object.defineProperty(document, 'visibilityState', {get: () "
        "=> state});"
        "window.turn = to => { state = to; document.dispatchEvent(new Event('visibilitychange')); }"
    )
    shop.page.goto(shop.origin + "/item/i7")
    shop.page.evaluate("turn('hidden')")
    shop.page.evaluate(
        "const item = document.createElement('div'); item.dataset.tbItem = 'i1'; "
        "item.textContent = 'one';"
        "document.body.append(item)"
    )
    shop.page.wait_for_timeout(500)
    assert not shop.events("impression")
    shop.page.evaluate("turn('visible')")
    assert [event["items"] for event in shop.wait_for("impression")] == [["i1"]]


@browser_only
def test_a_page_that_changes_its_address_begins_another_view(shop: Shop) -> None:
    shop.page.goto(shop.origin + "/item/i7")
    shop.page.evaluate(
        "document.querySelector('main').dataset.tbView = 'i8'; history.pushState({}, '', "
        "'/item/i8')"
    )
    [view] = shop.wait_for("view")
    assert (view["item_id"], view["context"]["page"]) == ("i7", shop.origin + "/item/i7")
    shop.page.goto(shop.origin)
    assert {view.get("item_id") for view in shop.wait_for("view", 2)} >= {"i7", "i8"}


def test_a_secret_key_is_refused_in_an_address(tmp_path: Path) -> None:
    import httpx

    secret, _ = create_key(tmp_path / "keys.json", "backend", ["write"], 1)
    page, _ = create_key(
        tmp_path / "keys.json", "page", ["write"], 1, origins=["https://shop.example"]
    )
    event = {"event_id": "e1", "type": "like", "user_id": "u1", "item_id": "i1"}
    with serving(tmp_path / "stream", keys=Keys(file=tmp_path / "keys.json")) as served:
        post = partial(httpx.post, f"{served.url}/v1/events", json=event)
        assert post(params={"key": secret}).json()["code"] == "key_in_address"
        assert post(params={"key": page}).json()["code"] == "key_origin"
        assert (
            post(params={"key": page}, headers={"origin": "https://shop.example"}).json()[
                "accepted"
            ]
            == 1
        )
        assert (
            post(params={"key": page}, headers={"authorization": f"Bearer {secret}"}).json()[
                "accepted"
            ]
            == 1
        )
        assert (
            httpx.get(f"{served.url}/metrics", params={"key": page}).json()["code"] == "key_missing"
        )


def test_it_is_small_and_needs_nothing() -> None:
    script = (files("tailorbird.serving") / "static" / "tailorbird.js").read_bytes()
    assert len(gzip.compress(script)) < 5_000
    assert b"import(" not in script
    assert b"cookie =" not in script
