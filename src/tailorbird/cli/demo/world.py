"""The demo's site and projects: a synthetic shop, its history, and two project folders."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np

from tailorbird.cli.demo.http import wait_until_ready
from tailorbird.cli.demo.scale import Scale
from tailorbird.cli.demo.trials import EXPERIMENTS_PY
from tailorbird.cli.output import ReportProgress
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY, EPOCH_WEEKDAY
from tailorbird.platform.runtime.leftovers import PARENT_VARIABLE
from tailorbird.simulator import History, Site

MARKER_FILE = ".tailorbird-demo"

# Without experiment and exploration, so that only the visitor's actions change the list. Items that
# they clicked on are not shown again.
FRONT_PAGE_SLOTS = """
front = Slot(  # the demo's page
    "front",
    size=12,
    sources=home.sources,
    objective=home.objective,
    rules=home.rules,
    hide_seen=("click", "cart", "purchase"),
    per_category=5,
)
"""

# So few visitors exclude a fall by a tenth in a week, and one by a fifth in a day.
SMALL_SHOP_SETTINGS = """
[rollout]
limit = "8d"

[canary]
answers_min = 200
margin = 0.2
"""
EXTRA_TEXT_BY_FILE = {"slots.py": FRONT_PAGE_SLOTS, "tailorbird.toml": SMALL_SHOP_SETTINGS}


def make_folder(folder: Path) -> None:
    """Create an empty folder for the demo; an earlier demo is replaced.

    Raises:
        UsageError: the folder has other content.
    """
    if folder.exists():
        if not (folder / MARKER_FILE).exists() and any(folder.iterdir()):
            raise UsageError(
                "not empty, and not from an earlier demo; nothing was touched",
                where=str(folder),
                fix="name another: --folder",
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER_FILE).touch()


def make_project(folder: Path) -> None:
    """Create a project from the `tailorbird init` templates, with the slot of the demo's page."""
    folder.mkdir(parents=True)
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        text = (files("tailorbird.platform") / "templates" / name).read_text()
        (folder / name).write_text(text + EXTRA_TEXT_BY_FILE.get(name, ""))
    (folder / "experiments.py").write_text(EXPERIMENTS_PY)


def make_site(scale: Scale, seed: int, now: int) -> Site:
    """Create a shop whose history ends within the last week, at a midnight, UTC.

    The seed draws the weekday on which it ends, so that the shop is the same on any day.
    """
    today = now // DAY
    end_weekday = int(np.random.default_rng([seed, 45]).integers(7))
    end = today - (today + EPOCH_WEEKDAY - end_weekday) % 7
    start = (end - scale.history_days) * DAY
    return Site(
        seed, users=scale.users, items=scale.items, start=start, days=scale.history_days + 60
    )


def write_history(
    site: Site, scale: Scale, folder: Path, progress: ReportProgress
) -> tuple[History, Path]:
    """Write the site's history as JSON lines, with SHA256SUMS next to it."""
    folder.mkdir(parents=True)
    history_file = folder / "history.jsonl"
    history = site.history(scale.history_days)
    digest = hashlib.sha256()
    line_count = 0
    with history_file.open("wb") as file:
        for line_count, arrival in enumerate(history, 1):
            line = arrival.body + b"\n"
            digest.update(line)
            file.write(line)
            if line_count % 5_000 == 0:
                progress("history", line_count, None)
    progress("history", line_count, line_count)
    (folder / "SHA256SUMS").write_text(f"{digest.hexdigest()}  {history_file.name}\n")
    return history, history_file


def copy_project(source: Path, target: Path) -> None:
    """Copy a project with its data, without locks and address files; no role may run on it."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock", "run"))


class Shop:
    """The shop's project served by real processes: `tailorbird up` with the demo page."""

    def __init__(self, project: Path, port: int | None) -> None:
        self._run_folder = project / "data" / "run"
        self._run_folder.mkdir(parents=True, exist_ok=True)
        self._log_file = self._run_folder / "up.log"
        command = [
            sys.executable,
            "-m",
            "tailorbird",
            "-C",
            str(project),
            "up",
            "--shop",
            "--no-train",
        ]
        command += [] if port is None else ["--port", str(port)]
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.url = ""

    def wait(self, timeout_s: float = 60.0) -> str:
        """Wait until the server responds with features and a model, and return its URL.

        Raises:
            NotReadyError: the server did not start; shows the last line of its log.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise NotReadyError(
                    f"the shop ended at its start: {self._last_line()}", where=str(self._log_file)
                )
            for path in self._run_folder.glob("serve*.json"):
                self.url = msgspec.json.decode(path.read_bytes())["url"]
                wait_until_ready(self.url, deadline - time.monotonic())
                return self.url
            time.sleep(0.05)
        raise NotReadyError(
            f"the shop was not up within {timeout_s:.0f} s: {self._last_line()}",
            where=str(self._log_file),
        )

    def _last_line(self) -> str:
        lines = self._log_file.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
