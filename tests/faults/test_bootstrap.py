"""A new schema, or a lost state, is built from the lake when the log no longer reaches back.

The result joins the log exactly, whatever is killed.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial

import pytest
from tests.support.roles import make_project, until

from tailorbird.config import open_project
from tailorbird.config.schemas import releasable_offset as _released
from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events import SECOND, SimulatedClock
from tailorbird.features import ReadRequest
from tailorbird.features.migration.bootstrap import build_from_lake
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.state import open_state
from tailorbird.lake import Lake, LakeRole
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.models.state import StateReader

NOW = 1_764_072_000_000_000
ROWS, LATER = 400, 60
MORE = """
from tailorbird.features import count as _count, entity as _entity
more = _count("more_views", _entity("item"), "view", window="3d")
"""


class Site:
    """A project whose routed log was pruned, and which got more events afterwards."""

    def __init__(self, folder):
        self.project = make_project(folder)
        self.clock = SimulatedClock(NOW)
        paths, plan = self.project.paths, self.project.plan
        with (
            EventCollector(paths.stream, "serve-1", plan, self.clock) as collector,
            Router(paths.stream, plan, clock=self.clock) as router,
        ):
            self.send(collector, 0, ROWS)
            while router.step(100).rows:
                pass
            self.unpruned = folder / "whole"  # a copy of the log before pruning
            with LakeRole(paths.stream, paths.lake, clock=self.clock) as lake:
                lake.drain()
            self.send(collector, ROWS, LATER)
            router.step()
        self.unpruned.mkdir()
        shutil.copy(paths.routed, self.unpruned / "routed.db")
        with Router(paths.stream, plan, clock=self.clock) as router:
            assert router.prune(ROWS + 1) > 0

    def send(self, collector, first, count):
        for start in range(first, first + count, 20):
            batch = []
            for n in range(start, start + 20):
                self.clock.advance_to(self.clock.now() + 37 * SECOND)
                identity = {"user_id": f"u{n % 7}"} if n % 3 else {"anonymous_id": f"a{n % 5}"}
                event = {
                    "event_id": f"e{n}",
                    "ts": self.clock.now() - (n % 11) * SECOND,
                    "item_id": f"i{n % 9}",
                    **identity,
                }
                if n % 20 == 0:
                    event = {
                        "event_id": f"e{n}",
                        "type": "item",
                        "item_id": f"i{n % 9}",
                        "properties": {"category": f"c{n % 3}", "price": n + 0.5},
                    }
                elif n % 20 == 7:
                    event = {
                        "event_id": f"e{n}",
                        "type": "identify",
                        "user_id": f"u{n % 7}",
                        "anonymous_id": f"a{n % 5}",
                    }
                else:
                    event |= {
                        "type": ("view", "click", "purchase", "cart")[n % 4],
                        "properties": {"price": 3.25, "quantity": 2},
                    }
                batch.append(event)
            decisions = collector.submit(json.dumps(batch).encode())
            assert all(decision.accepted for decision in decisions), decisions

    def worker(self, features, state=None):
        return FeatureWorker(
            self.project.paths.routed, state or self.project.paths.state, features, clock=self.clock
        )

    def lake(self):
        return Lake(self.project.paths.lake)

    def streamed(self, features):
        """Return the state of a worker that read the unpruned log."""
        with FeatureWorker(
            self.unpruned / "routed.db", self.unpruned / "state", features, clock=self.clock
        ) as worker:
            while worker.step(50).rows:
                pass
        return read_contents(self.unpruned / "state", features)


def read_contents(state, features):
    """Return every state record and alias by key, and the keys of reading records."""
    store = open_state(state, features)
    with store.snapshot() as snapshot:
        records = dict(snapshot.scan(b"s")) | dict(snapshot.scan(b"a"))
        readings = {key for key, _ in snapshot.scan(b"r")}
    store.close()
    return records, readings


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "shop")


def follow(worker):
    while worker.step().rows:
        pass


@pytest.mark.parametrize("batch_rows", [37, 100_000])
def test_a_state_from_the_lake_is_the_state_from_the_log(site, batch_rows):
    features = site.project.features
    with site.worker(features) as worker:
        assert worker.needs_history()
        assert build_from_lake(worker, site.lake(), threading.Event(), batch_rows=batch_rows)
        assert worker.position.offset == ROWS + 1
        assert not worker.needs_history()
        follow(worker)
        assert worker.position.log_position == ROWS + LATER
    built = read_contents(site.project.paths.state, features)
    assert built == site.streamed(features)
    assert len(built[0]) > 20


def test_an_interrupted_bootstrap_continues_after_its_last_batch(site):
    features, stop, seen = site.project.features, threading.Event(), []

    def progress(done, total):
        seen.append(done)
        if done >= 3 * 37:
            stop.set()

    with site.worker(features) as worker:
        assert not build_from_lake(worker, site.lake(), stop, batch_rows=37, progress=progress)
        reached = worker.position.log_position
    assert (reached, seen) == (4 * 37, [0, 37, 2 * 37, 3 * 37])
    with site.worker(features) as worker:
        assert worker.needs_history()
        seen.clear()
        assert build_from_lake(
            worker, site.lake(), threading.Event(), batch_rows=37, progress=progress
        )
        assert seen[0] == reached
        follow(worker)
    assert read_contents(site.project.paths.state, features) == site.streamed(features)


def test_a_new_schema_is_built_while_the_old_one_stays(site):
    file = site.project.root / "features.py"
    file.write_text(file.read_text() + MORE)
    changed = open_project(site.project.root)
    assert changed.features.schema_hash != site.project.features.schema_hash
    with site.worker(site.project.features) as old:
        assert build_from_lake(old, site.lake(), threading.Event())
    with site.worker(changed.features) as worker:
        assert worker.needs_history()
        assert build_from_lake(worker, site.lake(), threading.Event())
        follow(worker)
    assert read_contents(changed.paths.state, changed.features) == site.streamed(changed.features)
    assert (changed.paths.state / site.project.features.schema_hash).is_dir()


def test_a_worker_with_an_unpruned_log_needs_no_history(site):
    with FeatureWorker(
        site.unpruned / "routed.db",
        site.unpruned / "state",
        site.project.features,
        clock=site.clock,
    ) as worker:
        assert not worker.needs_history()
    with FeatureWorker(
        site.unpruned / "none.db", site.unpruned / "state", site.project.features, clock=site.clock
    ) as worker:
        assert not worker.needs_history(), "a log that is not there yet"


def test_stopping_in_the_middle_leaves_it_to_the_next_start(site):
    stop = threading.Event()
    stop.set()
    with site.worker(site.project.features) as worker:
        assert not build_from_lake(worker, site.lake(), stop)
        assert worker.needs_history()
        assert _released(site.project) == 0, "the router keeps everything meanwhile"


def test_a_lake_without_the_pruned_events_is_refused(site):
    (site.project.paths.lake / "positions.json").unlink()
    with (
        site.worker(site.project.features) as worker,
        pytest.raises(DamageError, match=f"begins at {ROWS + 1}"),
    ):
        build_from_lake(worker, site.lake(), threading.Event())


def test_a_server_does_without_features_until_they_are_built(site):
    features, batches = site.project.features, []
    reader = StateReader(site.project.paths.state, features, retry_s=0)
    request = ReadRequest("u1", None, None, None, None, 12, NOW)

    def checking_lake(lake):
        class CheckingLake(Lake):
            def table(self, *arguments):
                with pytest.raises(NotReadyError):
                    reader.read(request, ["i1"])
                assert not reader.ready()
                batches.append(arguments)
                return super().table(*arguments)

        return CheckingLake(lake.path)

    with site.worker(features) as worker:
        assert build_from_lake(
            worker, checking_lake(site.lake()), threading.Event(), batch_rows=100
        )
        assert len(batches) == ROWS // 100
        assert reader.read(request, ["i1"]).log_position == ROWS
        follow(worker)
        assert reader.read(request, ["i1"]).log_position == ROWS + LATER
    reader.close()


def run_role(site, faults=""):
    environment = {**os.environ, "TAILORBIRD_FAULTS": faults}
    command = [sys.executable, "-m", "tailorbird", "-C", str(site.project.root), "run", "worker"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "site_of_kill", ["worker.before_commit", "worker.after_commit", "worker.before_ready"]
)
def test_the_role_builds_again_what_a_kill_cut_short(site, site_of_kill):
    paths, features = site.project.paths, site.project.features
    killed = run_role(site, f"{site_of_kill}=kill@1")
    assert killed.wait(60) == -9
    role = run_role(site)
    try:
        until(partial(reached, paths, features, ROWS + LATER), 60, "the state was not built")
    finally:
        role.terminate()
        _, output = role.communicate(timeout=20)
    assert role.returncode == 0, output
    assert read_contents(paths.state, features) == site.streamed(features)


def reached(paths, features, p):
    reader = StateReader(paths.state, features, retry_s=0)
    try:
        return (
            reader.read(ReadRequest("u1", None, None, None, None, 12, NOW), ["i1"]).log_position
            == p
        )
    except NotReadyError:
        return False
    finally:
        reader.close()
