"""The demo's site and projects: a synthetic shop, its history as files, and two project folders
made from the same templates.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import msgspec

from tailorbird.cli.demo.http import wait_until_ready
from tailorbird.cli.demo.scale import Scale
from tailorbird.cli.output import Report
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY
from tailorbird.platform.supervisor import PARENT_VARIABLE
from tailorbird.simulator import History, Site

MARK = ".tailorbird-demo"

# Without an experiment or exploration, so that only what the visitor does changes the list. What
# they looked at is not shown again.
FRONT = """
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


def make_folder(folder: Path) -> None:
    """An empty folder for the demo; an earlier demo's is replaced.

    Raises:
        UsageError: something else is there.
    """
    if folder.exists():
        if not (folder / MARK).exists() and any(folder.iterdir()):
            raise UsageError(
                "not empty, and not from an earlier demo; nothing was touched",
                where=str(folder),
                fix="name another: --folder",
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def make_project(folder: Path) -> None:
    """A project from the templates of `tailorbird init`, and the slot of the demo's page."""
    folder.mkdir(parents=True)
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        text = (files("tailorbird.platform") / "templates" / name).read_text()
        (folder / name).write_text(with_experiment(text) + FRONT if name == "slots.py" else text)


def with_experiment(slots: str) -> str:
    """Return the template's slots with the experiment that it shows as a comment, which the demo's
    story is about.
    """
    return slots.replace("# from tailorbird.experiments", "from tailorbird.experiments").replace(
        "# experiment=", "experiment="
    )


def make_site(scale: Scale, seed: int, now: int) -> Site:
    """A shop whose history ends at the last midnight, UTC."""
    start = (now // DAY - scale.history_days) * DAY
    return Site(
        seed, users=scale.users, items=scale.items, start=start, days=scale.history_days + 60
    )


def write_history(site: Site, scale: Scale, folder: Path, progress: Report) -> tuple[History, Path]:
    """The site's past as JSON lines with a SHA256SUMS beside them."""
    folder.mkdir(parents=True)
    path = folder / "history.jsonl"
    history = site.history(scale.history_days)
    digest, lines = hashlib.sha256(), 0
    with path.open("wb") as file:
        for lines, arrival in enumerate(history, 1):
            line = arrival.body + b"\n"
            digest.update(line)
            file.write(line)
            if lines % 5_000 == 0:
                progress("history", lines, None)
    progress("history", lines, lines)
    (folder / "SHA256SUMS").write_text(f"{digest.hexdigest()}  {path.name}\n")
    return history, path


def copy_project(source: Path, target: Path) -> None:
    """The project with its data, while no role runs on it; locks and address files stay behind."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock", "run"))


class Shop:
    """The shop's project served by real processes: `tailorbird up` with the demo page."""

    def __init__(self, project: Path, port: int | None) -> None:
        self._run = project / "data" / "run"
        self._run.mkdir(parents=True, exist_ok=True)
        self._log = self._run / "up.log"
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
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.url = ""

    def wait(self, deadline_s: float = 60.0) -> str:
        """The address, once it answers with features and a model.

        Raises:
            NotReadyError: it did not come up; shows the last line of its log.
        """
        give_up = time.monotonic() + deadline_s
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise NotReadyError(
                    f"the shop ended at its start: {self._last_line()}", where=str(self._log)
                )
            for path in self._run.glob("serve*.json"):
                self.url = msgspec.json.decode(path.read_bytes())["url"]
                wait_until_ready(self.url, give_up - time.monotonic())
                return self.url
            time.sleep(0.05)
        raise NotReadyError(
            f"the shop was not up within {deadline_s:.0f} s: {self._last_line()}",
            where=str(self._log),
        )

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
