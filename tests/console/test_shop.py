"""The shop page in a real browser: one click changes the list, and the panel says why. It talks to
this machine only.
"""

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
from playwright.sync_api import Page, expect
from tests.support.commands import make_shop
from tests.support.network.shop_server import (
    PHONE,
    find_chromium,
    find_violations,
    open_page,
    open_watched_page,
    serving,
    shown_items,
)

from tailorbird.cli.demo.world import FRONT_PAGE_SLOTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_chromium() is None,
        reason="no chromium here: apt-get install chromium, or set TAILORBIRD_CHROMIUM",
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    project = make_shop(tmp_path_factory.mktemp("console") / "shop")
    slots = project / "slots.py"
    slots.write_text(slots.read_text() + FRONT_PAGE_SLOTS)
    with serving(project) as address:
        yield address


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    with open_watched_page(
        url, "/shop", provoked="503"
    ) as page:  # by the test of a server that is away
        yield page


def test_cards_have_picture_title_price_and_reason(page: Page) -> None:
    card = page.locator("#list > li").first
    expect(card.locator(".title")).not_to_be_empty()
    expect(card.locator(".price")).to_have_text(re.compile(r"\d+\.\d\d"))
    expect(card.locator(".reason")).not_to_be_empty()
    page.wait_for_load_state("networkidle")
    assert page.evaluate(
        "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )


def test_one_click_changes_the_list_and_the_panel_says_why(page: Page) -> None:
    before = shown_items(page)
    card = page.locator("#list > li").nth(4)
    clicked = card.get_attribute("data-item")
    card.locator("button.open").click()
    expect(page.locator("#took")).to_have_text(re.compile(r"^\d+ ms$"))
    assert shown_items(page) != before
    assert clicked not in shown_items(page)  # the slot wants no item again that was looked at
    expect(page.locator("#event")).to_contain_text(f'"item_id": "{clicked}"')
    expect(page.locator("#steps > li")).to_have_count(3)
    moved = page.locator("#features tbody tr")
    expect(moved.filter(has_text="user_clicks_7d")).to_contain_text("1")
    expect(moved.filter(has_text="session_clicks")).to_contain_text("1")
    expect(page.locator("#scores tbody tr")).to_have_count(12)
    expect(page.locator("#scores tbody")).to_contain_text(re.compile(r"→"))
    expect(page.locator("#answer")).to_contain_text("v0")


def test_a_search_finds_and_is_followed_by_a_click(page: Page) -> None:
    word = (page.locator("#list .title").first.text_content() or "").split()[-1]
    page.fill("#query", word)
    page.press("#query", "Enter")
    expect(page.locator("#list-title")).to_have_text(f"Found for “{word}”")
    expect(page.locator("#list .title").first).to_contain_text(re.compile(word, re.IGNORECASE))
    page.locator("#list > li button.open").first.click()
    expect(page.locator("#list-title")).to_have_text("For you")
    expect(page.locator("#took")).to_have_text(re.compile(r"^\d+ ms$"))


def test_a_search_for_nothing_that_is_there_says_so(page: Page) -> None:
    page.fill("#query", "zzzzqqqq")
    page.press("#query", "Enter")
    expect(page.locator("#list-note")).to_contain_text("0 found")
    expect(page.locator("#list > li")).to_have_count(0)


def test_into_the_cart(page: Page) -> None:
    page.locator("#list > li").nth(2).get_by_role("button", name="Add to cart").click()
    expect(page.locator("#list-note")).to_contain_text("into the cart")
    expect(page.locator("#event")).to_contain_text('"type": "cart"')


def test_somebody_else_is_a_stranger_again_with_an_empty_panel(page: Page) -> None:
    first = page.locator("#visitor").text_content()
    page.locator("#list > li").nth(4).locator("button.open").click()
    expect(page.locator("#took")).to_have_text(re.compile(r"ms$"))
    page.click("#stranger")
    expect(page.locator("#visitor")).not_to_have_text(first or "")
    expect(page.locator("#list > li")).to_have_count(12)
    expect(page.locator("#took")).to_have_text("–")
    expect(page.locator("#event")).to_have_text("Nothing yet.")
    expect(page.locator("#features tbody tr")).to_have_count(0)


def test_a_click_by_keyboard_alone_changes_the_list(page: Page) -> None:
    names = page.locator("button").evaluate_all(
        "buttons => buttons.map(button => button.textContent.trim())"
    )
    assert all(names)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "query"
    before = shown_items(page)
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "open":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#took")).to_have_text(re.compile(r"^\d+ ms$"))
    assert shown_items(page) != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(url: str, scheme: str) -> None:
    with open_page(url, [], [], viewport=PHONE, color_scheme=scheme) as page:
        page.goto(f"{url}/shop")
        expect(page.locator("#list > li")).to_have_count(12)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        cut = (
            "cards => cards.filter(card => [...card.querySelectorAll('button, img')].some(part => {"
        )
        cut += "const inner = part.getBoundingClientRect(), outer = card.getBoundingClientRect();"
        cut += (
            "return inner.left < outer.left || inner.right > outer.right || inner.bottom > "
            "outer.bottom; })).length"
        )
        assert page.locator("#list > li").evaluate_all(cut) == 0
        assert find_violations(page) == []


def test_the_page_says_when_there_is_no_server(page: Page, url: str) -> None:
    page.route(
        "**/v1/events",
        lambda route: route.fulfill(
            status=503, json={"code": "storage", "message": "the disk refuses"}
        ),
    )
    page.locator("#list > li").first.locator("button.open").click()
    expect(page.locator("#list-note")).to_have_text("That did not work: the disk refuses")


def test_files_of_the_page_name_no_other_site() -> None:
    for name in (
        "home.html",
        "home.js",
        "live.js",
        "style.css",
        "shop.html",
        "shop.js",
        "shop.css",
    ):
        text = (files("tailorbird.console") / "static" / name).read_text()
        assert "http://" not in text
        assert "https://" not in text
