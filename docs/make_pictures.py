"""Makes the pictures of the documentation: serves a small trained shop and captures a browser.

python docs/make_pictures.py    needs chromium; writes docs/images/shop.png, page.png and
                                signals.png
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.commands import must, must_json  # noqa: E402
from tests.support.network.shop_server import launch_browser, serving  # noqa: E402

from tailorbird.cli.demo.world import FRONT_PAGE_SLOTS  # noqa: E402

IMAGES = ROOT / "docs" / "images"


def shop(folder: Path) -> Path:
    """Make a shop with a history that is long enough for a meaningful model."""
    project = folder / "shop"
    must("init", project)
    must(
        "-C",
        project,
        "simulate",
        "--days",
        14,
        "--users",
        1500,
        "--items",
        400,
        "--seed",
        3,
        "--out",
        project / "history.jsonl",
    )
    must("-C", project, "import", "tailorbird", project / "history.jsonl")
    version = must_json("-C", project, "train")["version"]
    must("-C", project, "models", "promote", version, "--why", "for the picture")
    slots = project / "slots.py"
    slots.write_text(slots.read_text() + FRONT_PAGE_SLOTS)
    return project


def click(page: Page, place: int) -> None:
    """Click the card at a place, and wait until the list has changed."""
    note = page.locator("#list-note").text_content() or ""
    page.locator("#list > li").nth(place).locator("button.open").click()
    expect(page.locator("#list-note")).not_to_have_text(note)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        project = shop(Path(folder))
        must(
            "-C",
            project,
            "features",
            "rank",
            "--as-of",
            "latest",
            "--out",
            Path(folder) / "signals",
        )
        shutil.copy(Path(folder) / "signals" / "signals.png", IMAGES / "signals.png")
        photograph(project)


def photograph(project: Path) -> None:
    """Capture the demo shop after two clicks, and the project's page after one."""
    with serving(project) as url, sync_playwright() as playwright:
        browser = launch_browser(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.goto(f"{url}/shop")
        page.wait_for_selector("#list > li")
        for place in (5, 1):
            click(page, place)
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1_600)  # the flash of what moved has faded
        page.screenshot(path=IMAGES / "shop.png")
        page.goto(url)
        page.fill("#user", "u000001")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#list-note")).to_contain_text("u000001")
        page.locator("#list > li").nth(4).get_by_role("button", name="click").click()
        expect(page.locator("#list-note")).to_contain_text("made anew")
        page.wait_for_timeout(1_600)
        page.screenshot(path=IMAGES / "page.png")
        browser.close()


if __name__ == "__main__":
    main()
