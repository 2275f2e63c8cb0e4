"""A small shop to record: simulated, imported, trained, and served for a while by every role.

Its history ends on a fixed day, so that it is the same history whenever it is recorded.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.commands import environment, with_experiment
from tests.support.network.ports import free_port
from tests.support.shops.churn_shop import CHURN, FEATURES, MAPPING, write_purchases
from tests.support.shops.fixed_history import write_fixed_history

from tailorbird.cli.main import run

RunCommand = Callable[..., str]  # runs the words of a command and returns what it prints
_DAYS, _USERS, _ITEMS = 8, 400, 120
_WAIT_S = 120.0
_SCORES = """
from tailorbird.ranking import NextBest

next_home = NextBest("home", size=3, on=["click"], every="1s")
"""
_SLOTS = 'from tailorbird.ranking import Slot\n\nhome = Slot("home")\n'
SERVE = "serve"
# Roles that answer on a health port.
ROLES = ("router", "worker", "candidates", "lake", "score", "trainer")
_VISITORS = 40
_CLICKS = sum(bool(number % 3) for number in range(_VISITORS))  # as `_visit` sends them
_STAGES = ("RETRIEVAL", "FEATURES", "RANKING", "POLICY", "QUEUE_TIMEOUT")
_PATIENT = {f"TAILORBIRD_SERVE__{stage}_MS": "10000" for stage in _STAGES}  # no answer lacks a part


@dataclass
class RecordedShop:
    """The shop behind the recordings.

    Attributes:
        folder: for files that commands write.
        project: trained and served; not to be changed.
        trained: the version with a model.
        printed: the JSON output of the commands that made the project, by name.
        metrics: the text of `/metrics` of each role.
        openapi: the document of the server.
        user, item, moment: who clicked first, on what, and when.
        schema_hash: of the features that the project declares.
    """

    folder: Path
    project: Path
    trained: str = ""
    printed: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    openapi: Any = None
    user: str = ""
    item: str = ""
    moment: str = ""
    schema_hash: str = ""

    @property
    def new(self) -> Path:
        """Return the folder of a project without data."""
        return self.folder / "new"

    @cached_property
    def churn(self) -> Path:
        """Make a project of purchases for churn, on first use."""
        project = self.folder / "churn"
        run_json_command("init", project)
        (project / "features.py").write_text(FEATURES)
        (project / "churn.py").write_text(CHURN)
        (project / "mapping.toml").write_text(MAPPING)
        (project / "slots.py").write_text(_SLOTS)
        write_purchases(project / "purchases.parquet")
        words = ("import", "mapping", project / "purchases.parquet")
        run_json_command("-C", project, *words, "--mapping", project / "mapping.toml")
        return project


def run_command(*words: object) -> str:
    """Run a command in this process and return what it prints, whatever status it ends with."""
    printed, complaints = io.StringIO(), io.StringIO()
    before = dict(os.environ)
    try:
        with redirect_stdout(printed), redirect_stderr(complaints):
            run([str(word) for word in words])
    except SystemExit:
        pass  # the status does not matter, only the output
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert printed.getvalue(), f"{words} printed nothing: {complaints.getvalue()}"
    return printed.getvalue()


def run_json_command(*words: object) -> Any:
    """Run a command with `--json` in this process and return what it prints."""
    return json.loads(run_command(*words, "--json"))


def make_shop(folder: Path) -> RecordedShop:
    """Make the shop in an empty folder."""
    shop = RecordedShop(folder, folder / "shop")
    project = shop.project
    shop.printed["init"] = run_json_command("init", shop.new)
    run_json_command("init", project)
    slots = project / "slots.py"
    slots.write_text(with_experiment(slots.read_text()))
    (folder / "interactions.csv").write_text("USER_ID,ITEM_ID,TIMESTAMP\nu,i,1586735164\n")
    (project / "scores.py").write_text(_SCORES)
    history = folder / "history.jsonl"
    write_fixed_history(history, days=_DAYS, users=_USERS, items=_ITEMS)
    shop.printed["import"] = run_json_command("-C", project, "import", "tailorbird", history)
    report = run_json_command("-C", project, "train", "--quick", "--as-of", "latest")
    shop.printed["train"], shop.trained = report, report["version"]
    _promote(project, shop.trained)
    with _run_roles(project) as urls:
        _visit(urls[SERVE])
        _wait(lambda: _rows(project, "answers") >= _VISITORS, "no answers in the lake")
        _wait(lambda: _rows(project, "events WHERE type = 'click' AND arm <> ''"), "no clicks")
        scored = f'scores_total{{name="home"}} {_CLICKS}.0'
        _wait(lambda: scored in _get(f"{urls['score']}/metrics"), "not all who clicked are scored")
        _wait(lambda: "worker_rows" in _get(f"{urls[SERVE]}/metrics"), "no figures of the worker")
        shop.metrics = {role: _get(f"{url}/metrics") for role, url in urls.items()}
        shop.openapi = json.loads(_get(f"{urls[SERVE]}/openapi.json"))
    # The first visitor: candidate tables of the imported log expire once the site is live.
    clicks = "SELECT user_id, item_id, ts FROM events WHERE type = 'click' AND arm <> ''"
    [row] = run_json_command("-C", project, "sql", f"{clicks} ORDER BY ts LIMIT 1")["rows"]
    shop.user, shop.item, shop.moment = row["user_id"], row["item_id"], row["ts"]
    shop.schema_hash = run_json_command("-C", project, "check")["schema_hash"]
    return shop


@contextmanager
def changed_copy(project: Path, folder: Path) -> Iterator[Path]:
    """Yield a copy of a project that a command may change."""
    with TemporaryDirectory(dir=folder) as temporary_folder:
        copy = Path(temporary_folder) / project.name
        shutil.copytree(project, copy, ignore=shutil.ignore_patterns("*.lock"))
        yield copy


def _promote(project: Path, version: str) -> None:
    """Promote the version, whatever the gate decided."""
    output = run_command("-C", project, "models", "promote", version, "--why", "to be recorded")
    assert version in output


def _rows(project: Path, source: str) -> int:
    return run_json_command("-C", project, "sql", f"SELECT count(*) AS n FROM {source}")["rows"][0][
        "n"
    ]


@contextmanager
def _run_roles(project: Path) -> Iterator[dict[str, str]]:
    """Run every role and yield their addresses; all must end well afterwards."""
    ports = {role: free_port() for role in (SERVE, *ROLES)}
    env = environment(**_PATIENT, TAILORBIRD_LAKE__COMMIT_EVERY="1s")
    with ExitStack() as stack:
        for role, port in ports.items():
            option = "--port" if role == SERVE else "--health-port"
            words = ["-C", str(project), "run", role, option, str(port)]
            stack.enter_context(_role([sys.executable, "-m", "tailorbird", *words], env))
        urls = {role: f"http://127.0.0.1:{port}" for role, port in ports.items()}
        for role, url in urls.items():
            _wait(lambda url=url: _is_ready(url), f"{role} does not get ready")
        yield urls


@contextmanager
def _role(words: list[str], env: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        words,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(_WAIT_S) == 0, f"{words} did not end well"
    finally:
        process.kill()
        process.wait()


def _visit(url: str) -> None:
    """Send the traffic of several visitors, with one event and one request that are refused."""
    for number in range(_VISITORS):
        visitor = {"user_id": f"u{number:06}", "session_id": f"s{number}"}
        slate = _post(f"{url}/v1/recommend", {"slot": "home", **visitor})
        items = [each["item_id"] for each in slate["items"]]
        context = {"request_id": slate["request_id"], **visitor}
        impression = {"event_id": f"seen-{number}", "type": "impression", "items": items, **context}
        click = {"event_id": f"c-{number}", "type": "click", "item_id": items[0], **context}
        for event in (impression, click) if number % 3 else (impression,):
            assert _post(f"{url}/v1/events", event)["accepted"] == 1
    _post(f"{url}/v1/search", {"slot": "search", "query": "coat", "user_id": "u000001"})
    _post(f"{url}/v1/events", {"event_id": "refused", "type": "no such type"})
    _post(f"{url}/v1/recommend", {"slot": "no such slot"})


def _post(url: str, body: dict[str, Any]) -> Any:
    words = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), words)
    try:
        with urllib.request.urlopen(request, timeout=_WAIT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as refusal:
        return json.load(refusal)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_WAIT_S) as response:
        return response.read().decode()


def _is_ready(url: str) -> bool:
    try:
        return bool(_get(f"{url}/readyz"))
    except OSError:
        return False


def _wait(condition: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
