"""Declarations change under traffic, without a response that lacks features or has a wrong value.

Responses switch at one moment.
"""

import http.client
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow.compute as pc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.roles import Up, make_project, until
from tests.support.shops.evolving_shop import (
    CLOCK,
    change_features,
    make_item_events,
    make_visitor_events,
    promote,
)

from tailorbird.config import Project, open_project
from tailorbird.config.schemas import active_schemas, apply_declared, champion_features
from tailorbird.features import FeatureSet
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.parity.recompute import compute_parity
from tailorbird.features.schemas import apply_schema, read_applied, revert_schema
from tailorbird.lake import Lake
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.platform.runtime.supervisor import STABLE_S
from tailorbird.registry import Registry
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery
from tailorbird.stream import open_reader, read_released_positions

pytestmark = pytest.mark.slow


def require_equal(project: Project, schemas: dict[str, FeatureSet]) -> dict[str, int]:
    """Recompute every logged response with its schema; return the number of each model's."""
    lake = Lake(project.paths.lake)
    logged = lake.table("answers")
    assert Counter(logged["schema_hash"].to_pylist()).keys() == {
        features.schema_hash for features in schemas.values()
    }
    for version, features in schemas.items():
        answers_of_schema = logged.filter(pc.equal(logged["schema_hash"], features.schema_hash))
        assert set(answers_of_schema["model"].to_pylist()) == {version}
        report = compute_parity(features, JoinedEvents(lake, features).table(), answers_of_schema)
        assert (report.unequal, report.pending, report.skipped) == (0, 0, 0), report.examples[:3]
        assert report.answers == answers_of_schema.num_rows > 0
    return dict(Counter(logged["model"].to_pylist()))


LOAD_EVERY_S = 1.0


class Live:
    """The parts of `up` in threads of this process, with clients that send all the time."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.collector = EventCollector(project.paths.stream, "serve-1", project.plan, CLOCK)
        assert all(
            one.accepted for one in self.collector.submit(msgspec.json.encode(make_item_events()))
        )
        self.roles = InProcessRoles(project, CLOCK)
        self.roles.step()
        self.parts = InProcessServer(project, CLOCK, collector=self.collector, seed=0)
        self.answers: list[tuple[str, tuple[str, ...]]] = []
        self.failures: list[BaseException] = []
        self._jobs: queue.Queue[tuple[Callable[[], object], threading.Event]] = queue.Queue()
        self._paused, self._quiet, self._stop = (
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )
        self._numbers = itertools.count()
        self._load_at = time.monotonic() + LOAD_EVERY_S
        loops = (self._keep_roles, self._refresh_parts, self._ask, self._ask)
        self._threads = [threading.Thread(target=self._guarded, args=(loop,)) for loop in loops]
        for thread in self._threads:
            thread.start()

    def in_roles(self, job: Callable[[], object]) -> None:
        """Run a job in the thread of the roles, which own their files."""
        done = threading.Event()
        self._jobs.put((job, done))
        assert done.wait(30)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Pause the clients, so that the lake can catch up."""
        self._quiet.set()
        yield
        self._quiet.clear()

    def pause(self) -> None:
        self._paused.set()

    def resume(self) -> None:
        self._paused.clear()

    def wait_for_answers(self, count: int = 150) -> None:
        """Wait for so many more responses."""
        target = len(self.answers) + count
        until(lambda: len(self.answers) >= target or bool(self.failures), 60, "no more answers")

    def until_answered_by(self, version: str) -> None:
        until(
            lambda: self.answers[-1][0] == version or bool(self.failures),
            60,
            f"{version} does not answer: {self.parts.rollout.champion.problem}",
        )

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self.collector.close()
        self.roles.drain()
        self.roles.close()
        self.parts.close()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                loop()
        except BaseException as error:
            self.failures.append(error)

    def _keep_roles(self) -> None:
        if not self._paused.is_set():
            self.roles.step()
            if (
                time.monotonic() >= self._load_at
            ):  # the new state reads from the lake the attributes that the log lacks
                self.roles.lake.step()
                self._load_at = time.monotonic() + LOAD_EVERY_S
        try:
            job, done = self._jobs.get(timeout=0.005)
        except queue.Empty:
            return
        job()
        done.set()

    def _refresh_parts(self) -> None:
        self.parts.refresh()
        time.sleep(0.01)

    def _ask(self) -> None:
        time.sleep(0.01)
        if self._quiet.is_set():
            return
        number = next(self._numbers)
        assert all(
            one.accepted
            for one in self.collector.submit(msgspec.json.encode(make_visitor_events(number)))
        )
        answer = self.parts.pipeline.answer(RecommendQuery(slot="home", user_id=f"u{number % 7}"))
        self.answers.append((answer.model, tuple(answer.degraded)))


@pytest.mark.parametrize(
    "pruned",
    [
        pytest.param(False, id="from the log"),
        pytest.param(True, id="from the lake", marks=pytest.mark.nightly),
    ],
)
def test_declarations_change_under_traffic_and_back(tmp_path, pruned):
    project = make_project(tmp_path / "shop")
    old = promote(project, project.features, "old")
    live = Live(project)
    try:
        live.wait_for_answers()
        if pruned:
            with live.quiet():
                live.in_roles(live.roles.lake.drain)
            end = read_released_positions(project.paths.lake).routed_position()
            assert end > 100
            live.in_roles(lambda: live.roles.router.prune(end))
            with open_reader(project.paths.routed) as log:
                assert log.start() > 1, "the log alone cannot build the new state"
        live.pause()
        changed = change_features(project)
        apply_schema(project.paths.state, changed.features, at=CLOCK.now())
        new = promote(project, changed.features, "new")
        until(
            lambda: "waits until the state" in live.parts.rollout.champion.problem,
            30,
            "the new model does not wait for its features",
        )
        live.wait_for_answers(60)
        assert {model for model, _ in live.answers} == {old}, (
            "answered on while the new state was not there"
        )
        live.resume()
        live.until_answered_by(new)
        live.wait_for_answers()
        Registry(project.paths.registry, clock=CLOCK).rollback(by="test", why="to see it go back")
        live.until_answered_by(old)
        live.wait_for_answers()
    finally:
        live.stop()
    assert not live.failures
    assert set(live.answers) == {(old, ()), (new, ())}, "an answer was degraded"
    changes = sum(before[0] != after[0] for before, after in itertools.pairwise(live.answers))
    assert changes <= 2 + 2 * 2, "two people ask: each swap is one moment for each"
    assert (
        min(require_equal(project, {old: project.features, new: changed.features}).values()) > 100
    )
    assert champion_features(changed).schema_hash == project.features.schema_hash, (
        "what is held against the lake all the time"
    )
    assert [one.schema_hash for one in active_schemas(changed)] == [
        changed.features.schema_hash,
        project.features.schema_hash,
    ]


class Clients:
    """Clients that send requests until stopped, each on one connection after another."""

    def __init__(self, port: int, people: int = 2) -> None:
        self.port = port
        self.answers: list[tuple[str, tuple[str, ...]]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._run) for _ in range(people)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for_answers(self, count: int = 80) -> None:
        target = len(self.answers) + count
        until(lambda: len(self.answers) >= target or bool(self.failures), 60, "no more answers")

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self._stop.is_set():
            number = next(self._numbers)
            try:
                self.post(connection, "/v1/events", make_visitor_events(number))
                answer = self.post(
                    connection, "/v1/recommend", {"slot": "home", "user_id": f"u{number % 7}"}
                )
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                return
            self.answers.append((answer["model"], tuple(answer["degraded"])))
            time.sleep(0.01)
        connection.close()

    @staticmethod
    def post(connection: http.client.HTTPConnection, path: str, body: object) -> dict:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        assert response.status == 200, data
        return json.loads(data)


def servers_with_tables(up: Up) -> set[str]:
    """Return the processes that follow the candidate tables; one request reaches one of them."""
    return {
        sample.labels["process"]
        for family in text_string_to_metric_families(up.metrics())
        for sample in family.samples
        if sample.name == "tailorbird_candidates_age_seconds"
    }


def command(project: Project, *words: str) -> subprocess.Popen:
    line = [sys.executable, "-m", "tailorbird", "-C", str(project.root), *words]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
    )


@pytest.mark.nightly
def test_a_running_service_applies_a_change_while_its_new_worker_is_killed(tmp_path, monkeypatch):
    for stage in (
        "RETRIEVAL",
        "FEATURES",
        "RANKING",
        "POLICY",
    ):  # delays of a busy machine are not under test
        monkeypatch.setenv(f"TAILORBIRD_SERVE__{stage}_MS", "5000")
    project = make_project(tmp_path / "shop")
    old = promote(project, project.features, "old")
    up = Up(project).wait()
    clients = None
    try:
        connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=20)
        Clients.post(connection, "/v1/events", make_item_events())
        until(
            lambda: (
                Clients.post(connection, "/v1/recommend", {"slot": "home", "user_id": "u1"})[
                    "degraded"
                ]
                == []
            ),
            60,
            "no features",
        )
        until(
            lambda: len(servers_with_tables(up)) == len(up.pids("serve")),
            60,
            "a server has no candidate tables",
        )
        clients = Clients(up.port)
        clients.wait_for_answers()
        serve, router = up.pids("serve"), up.pid("router")
        changed = change_features(project)
        planned = command(project, "features", "plan", "--json")
        plan = json.loads(planned.communicate(timeout=60)[0])
        assert planned.returncode == 2
        assert {(one["change"], one["name"]) for one in plan["changes"]} == {
            ("added", "brand_views"),
            ("added", "user_dear"),
            ("changed", "item_clicks_1d"),
            ("removed", "device"),
        }
        assert plan["retrain"]
        applying = command(project, "features", "apply", "--yes")
        for _ in range(2):  # as soon as it exists, in the middle of its bootstrap
            before = None
            until(
                lambda: up.pid(changed.features.schema_hash) is not None,
                60,
                "the new worker was not started",
            )
            before = up.pid(changed.features.schema_hash)
            os.kill(before, signal.SIGKILL)
            until(
                lambda before=before: up.pid(changed.features.schema_hash) not in (None, before),
                60,
                "it was not started again",
            )
        output = applying.communicate(timeout=90)[0]
        assert applying.returncode == 0, output
        assert changed.features.schema_hash in output
        clients.wait_for_answers()
        assert {model for model, _ in clients.answers} == {old}
        new = promote(project, changed.features, "new")
        until(
            lambda: clients.answers[-1][0] == new or bool(clients.failures),
            60,
            "the new model does not answer",
        )
        clients.wait_for_answers()
        rollback = command(project, "models", "rollback", "--why", "to see it go back")
        assert rollback.wait(60) == 0, rollback.communicate()[0]
        until(
            lambda: clients.answers[-1][0] == old or bool(clients.failures),
            60,
            "the old model does not answer again",
        )
        clients.wait_for_answers()
        assert up.pids("serve") == serve, "no server was ever stopped"
        assert up.pid("router") != router, "the router keeps another attribute now"
    finally:
        if clients is not None:
            clients.stop()
        up.stop()
    assert not clients.failures
    assert set(clients.answers) == {(old, ()), (new, ())}
    with InProcessRoles(open_project(project.root), CLOCK) as roles:
        roles.drain()
    answered = require_equal_but_first(project, {old: project.features, new: changed.features})
    assert min(answered.values()) > 50


def require_equal_but_first(project: Project, schemas: dict[str, FeatureSet]) -> dict[str, int]:
    """Check equality like `require_equal`, but allow early responses without features."""
    lake = Lake(project.paths.lake)
    logged = lake.table("answers")
    for features in schemas.values():
        answers_of_schema = logged.filter(pc.equal(logged["schema_hash"], features.schema_hash))
        report = compute_parity(features, JoinedEvents(lake, features).table(), answers_of_schema)
        assert (report.unequal, report.pending) == (0, 0), report.examples[:3]
        assert report.answers > 0
    return dict(Counter(logged["model"].to_pylist()))


def test_starting_roles_apply_features_py_unless_it_was_rolled_back(tmp_path):
    project = make_project(tmp_path / "shop")
    state = project.paths.state
    assert apply_declared(project, CLOCK).notice == ""
    assert read_applied(state).schema == project.features.schema_hash
    changed = change_features(project)
    assert "features.py has changed" in apply_declared(changed, CLOCK).notice
    assert read_applied(state).schema == changed.features.schema_hash
    revert_schema(state, at=CLOCK.now())
    settled = apply_declared(open_project(project.root), CLOCK)
    assert "gone back from" in settled.notice
    assert (
        settled.project.features.schema_hash
        == project.features.schema_hash
        == read_applied(state).schema
    )
    apply_schema(state, changed.features, at=CLOCK.now())
    assert apply_declared(open_project(project.root), CLOCK).notice == ""


def test_a_features_py_that_is_broken_later_stops_no_role(tmp_path):
    project = make_project(tmp_path / "shop")
    apply_declared(project, CLOCK)
    (project.root / "features.py").write_text("1 / 0")
    assert (
        open_project(project.root, use_applied=True).features.schema_hash
        == project.features.schema_hash
    )


def test_a_setting_that_breaks_while_running_stops_nothing(tmp_path):
    project = make_project(tmp_path / "shop")
    up = Up(project).wait()
    try:
        until(
            lambda: (pid := up.pid("router")) is not None and process_age_s(pid) > STABLE_S,
            60,
            "the router does not stay up",
        )
        router = up.pid("router")
        files_of_roles = (
            "lake/positions.json",
            "state/*/worker.json",
            "candidates/*/role.lock",
        )  # each role writes its file after reading the project
        until(
            lambda: all(any(project.paths.data.glob(each)) for each in files_of_roles),
            60,
            "not all roles have begun",
        )
        slots = (project.root / "slots.py").read_text()
        (project.root / "slots.py").write_text("1 / 0")
        os.kill(router, signal.SIGKILL)
        until(
            lambda: "status 2; starting it again" in up.log.read_text(),
            180,
            "the router was not refused",
        )
        assert up.answers()
        assert up.process.poll() is None
        (project.root / "slots.py").write_text(slots)
        until(
            lambda: (pid := up.pid("router")) is not None and process_age_s(pid) > STABLE_S,
            180,
            "the router did not come back",
        )
    finally:
        up.stop()
    assert up.process.returncode == 0


def process_age_s(pid: int) -> float:
    """Return how long a process has lived, in seconds."""
    try:
        started = float(
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        ) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0
    return float(Path("/proc/uptime").read_text().split()[0]) - started
