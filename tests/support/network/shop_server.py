"""A trained shop served with its page, and a browser that may go nowhere else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)
from tests.support.commands import environment

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """The browser to use: TAILORBIRD_CHROMIUM, or Debian's."""
    return os.environ.get("TAILORBIRD_CHROMIUM") or shutil.which("chromium")


def launch_browser(playwright: Playwright) -> Browser:
    """A browser with a folder of its own that is thrown away."""
    return playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)


@contextmanager
def open_page(url: str, faults: list[str], elsewhere: list[str], **context: Any) -> Iterator[Page]:
    """A page of a browser of its own. Errors on its console go into `faults`, requests that leave
    the server into `elsewhere`.
    """

    def record_message(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            faults.append(message.text)

    def record_request(request: Request) -> None:
        if not request.url.startswith((f"{url}/", "blob:")):
            elsewhere.append(request.url)

    with sync_playwright() as playwright:
        browser = launch_browser(playwright)
        page = browser.new_context(**{"viewport": WIDE, **context}).new_page()
        page.on("console", record_message)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", record_request)
        yield page
        browser.close()


@contextmanager
def open_watched_page(url: str, path: str = "/", *, provoked: str = "nothing") -> Iterator[Page]:
    """A page of a server whose list is there; at the end: no error on its console but what was
    provoked, and no request elsewhere.
    """
    faults: list[str] = []
    elsewhere: list[str] = []
    with open_page(url, faults, elsewhere) as page:
        page.goto(f"{url}{path}")
        expect(page.locator("#list > li")).to_have_count(12)
        yield page
    assert not [fault for fault in faults if provoked not in fault]
    assert not elsewhere


def find_violations(page: Page) -> list[str]:
    """Return the accessibility violations that axe finds in the page now, with the first element of
    each.
    """
    axe_violations = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in axe_violations]


def shown_items(page: Page) -> list[str]:
    """The ids of the items that the page shows, in order."""
    return page.locator("#list > li").evaluate_all("rows => rows.map(row => row.dataset.item)")


@contextmanager
def serving(project: Path, settings: dict[str, str] | None = None) -> Iterator[str]:
    """`up --shop` on a project; gives the address once features and model are there."""
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "-C",
        str(project),
        "up",
        "--shop",
        "--no-train",
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        command, env=environment(**(settings or {})), stdout=subprocess.DEVNULL
    )
    try:
        yield _wait_until_ready(project, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _wait_until_ready(project: Path, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None
        for path in (project / "data" / "run").glob("serve*.json"):
            url = json.loads(path.read_text())["url"]
            with (
                suppress(urllib.error.HTTPError),
                urllib.request.urlopen(f"{url}/readyz", timeout=10) as response,
            ):
                if response.read() == b"ready\n":
                    return url
        time.sleep(0.05)
    raise AssertionError("the shop did not get ready")
