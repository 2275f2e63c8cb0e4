"""The page at `/` of a project that a log of others became: what it is doing, and a list for
anybody.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.first_hour.layouts import rees46
from tests.support.commands import must, must_json
from tests.support.network.shop_server import (
    PHONE,
    find_chromium,
    find_violations,
    open_page,
    open_watched_page,
    serving,
    shown_items,
)

from tailorbird.config import Project, open_project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_chromium() is None,
        reason="no chromium here: apt-get install chromium, or set TAILORBIRD_CHROMIUM",
    ),
]
PERSON = "512000003"
KEY = "a-key-that-this-test-made-up"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop's log that ended long ago, imported and trained as `init` says."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "files").mkdir()
    rees46(folder / "files")
    made = must_json("init", "shop", "--from", folder / "files", cwd=folder)
    for step in made["next"]:
        words = shlex.split(step)[1:]
        if words[2] in ("import", "train"):
            must(*words, cwd=folder)
    shutil.copytree(folder / "shop", folder / "keyed")
    return folder / "shop"


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    with serving(project) as address:
        yield address


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    with open_watched_page(url) as page:
        yield page


def test_it_says_what_the_project_is_doing(page: Page) -> None:
    expect(page.locator("#clock")).to_contain_text("The log ended long ago")
    for role in ("router", "worker", "candidates", "lake", "serve"):
        row = page.locator("#roles tbody tr").filter(has_text=re.compile(f"^{role}"))
        row = row.first  # There are two servers.
        expect(row).to_contain_text("runs")
    expect(page.locator("#events tbody tr")).not_to_have_count(0)
    expect(page.locator("#events-note")).to_contain_text(re.compile(r"view \d+"))
    champion = page.locator("#models tbody tr").filter(has_text="champion")
    expect(champion).to_have_count(1)
    assert find_violations(page) == []


def test_a_report_opens_with_its_styles_and_pictures(page: Page) -> None:
    page.locator("#models a").first.click()
    expect(page.locator("h1")).to_contain_text("ranker of slot home")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse")
        == "collapse"
    )


def test_a_deed_of_somebody_known_changes_their_list_and_the_panel_says_why(
    page: Page, project: Path
) -> None:
    page.fill("#user", PERSON)
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#list-note")).to_contain_text(f"an event of {PERSON}")
    before = shown_items(page)
    row = page.locator("#list > li").nth(3)
    bought = row.get_attribute("data-item")
    row.get_by_role("button", name="purchase").click()
    expect(page.locator("#took")).to_have_text(re.compile(r"^\d+ ms$"))
    expect(page.locator("#event")).to_contain_text(f'"item_id": "{bought}"')
    expect(page.locator("#features tbody")).to_contain_text("user_")
    expect(page.locator("#answer")).to_contain_text("v0")
    assert shown_items(page) != before
    expect(page.locator("#events tbody tr").first).to_contain_text(PERSON)
    expect(page.locator("#clock")).to_contain_text(
        "The log ended long ago"
    )  # a click here is no event of the site's
    assert Project.clock(open_project(project)).lag_us > 0


def test_a_new_stranger_has_an_empty_panel(page: Page) -> None:
    page.locator("#list > li").nth(2).get_by_role("button", name="view").click()
    expect(page.locator("#took")).to_have_text(re.compile(r"ms$"))
    page.get_by_role("button", name="A new stranger").click()
    expect(page.locator("#took")).to_have_text("–")
    expect(page.locator("#event")).to_have_text("Nothing yet.")
    expect(page.locator("#list-note")).to_contain_text("A stranger who has done nothing yet")


def test_by_keyboard_alone(page: Page) -> None:
    page.locator("#user").focus()
    page.keyboard.type(PERSON)
    page.keyboard.press("Enter")
    expect(page.locator("#list-note")).to_contain_text(PERSON)
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("!!document.activeElement.closest('.deeds')"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#took")).to_have_text(re.compile(r"^\d+ ms$"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(url: str, scheme: str) -> None:
    with open_page(url, [], [], viewport=PHONE, color_scheme=scheme) as page:
        page.goto(url)
        expect(page.locator("#list > li").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert find_violations(page) == []


def test_where_the_server_has_keys_the_page_asks_for_one(project: Path) -> None:
    keys = {f"TAILORBIRD_SERVE__{scope}_KEYS": KEY for scope in ("READ", "WRITE", "ADMIN")}
    with serving(project.with_name("keyed"), keys) as url, open_page(url, [], []) as page:
        page.goto(url)
        expect(page.locator("#key-form")).to_be_visible()
        expect(page.locator("#list > li")).to_have_count(0)
        page.fill("#key", "a-key-that-nobody-has-made")
        page.keyboard.press("Enter")
        expect(page.locator("#problem")).to_contain_text("this key is not known")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#list > li").first).to_be_visible()
        expect(page.locator("#key-form")).to_be_hidden()
        with page.expect_download() as report:
            page.locator("#models a").first.click()
        assert report.value.suggested_filename.endswith(".html")
