"""Roles without HTTP answer probes where they are asked to, and threads that look after something
outlive any error.
"""

import importlib
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from tests.support.commands import assert_refused, tailorbird
from tests.support.roles import make_project

from tailorbird.errors import ConfigError
from tailorbird.periodic import PeriodicTask
from tailorbird.probes import Health, ProgressEvent, serve_health
from tailorbird.serving.http.access import require_no_faults
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.stream.lag import LagWatch


def poll(there):
    until = time.monotonic() + 20
    while not there():
        assert time.monotonic() < until
        time.sleep(0.01)


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_signal_during_a_wait_stops_the_role():
    """`wait` holds the lock of its condition now and then, and a handler runs wherever the main
    thread is: here, within that lock.
    """
    program = """
import os, signal
from tailorbird.probes import ProgressEvent
stop = ProgressEvent()
stop.set_on_signals(signal.SIGTERM)
with stop._cond:
    os.kill(os.getpid(), signal.SIGTERM)
assert stop.wait(20)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60)
    assert done.returncode == 0


def test_an_advancing_loop_is_alive_and_a_stalled_one_is_not():
    stop = ProgressEvent()
    with serve_health(
        Health(stop, stalled_after_s=0.2, metrics=lambda: b"a 1\n"), "127.0.0.1", 0
    ) as port:
        assert get(port, "/readyz")[0] == 503, "it has yet to come round"
        stop.is_set()
        assert get(port, "/healthz") == (200, "ok\n")
        assert get(port, "/readyz")[0] == 200
        other_thread = threading.Thread(target=stop.wait, args=(0.5,))
        other_thread.start()
        poll(lambda: get(port, "/healthz")[0] == 503)
        other_thread.join()
        assert get(port, "/healthz") == (503, "stalled\n"), "only the role's own thread counts"
        stop.is_set()
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/metrics") == (200, "a 1\n")
        assert get(port, "/elsewhere")[0] == 404


@pytest.mark.parametrize("role", ["router", "worker", "lake", "trainer"])
def test_a_role_reports_its_progress(tmp_path, role, monkeypatch):
    from tests.support.network.ports import free_port

    module = importlib.import_module(f"tailorbird.cli.roles.{role}")
    project, port, done = make_project(tmp_path / "shop"), free_port(), {}
    monkeypatch.setenv("TAILORBIRD_PROJECT", str(project.root))
    stop = ProgressEvent()
    monkeypatch.setattr(module, "start_role", lambda: stop)
    monkeypatch.setattr(module, "exit_process", lambda status: None, raising=False)

    def play():
        stop._owner_thread_id = threading.get_ident()
        getattr(module, role)(health_port=port)
        done["ended"] = True

    thread = threading.Thread(target=play)
    thread.start()

    def is_ready():
        try:
            return get(port, "/readyz")[0] == 200
        except OSError:
            return False

    poll(is_ready)
    status, text = get(port, "/metrics")
    assert status == 200
    assert f'tailorbird_role_rounds_total{{role="{role}"}}' in text
    if role == "worker":
        poll(lambda: "tailorbird_worker_behind_rows{" in get(port, "/metrics")[1])
    if role == "lake":
        assert 'tailorbird_thread_failures_total{thread="lag"} 0.0' in text
        assert 'thread="checks"' in text
    stop.set()
    thread.join(20)
    assert done == {"ended": True}


def test_faults_are_refused_on_reachable_addresses(tmp_path, monkeypatch):
    project = make_project(tmp_path / "shop")
    env = {
        "TAILORBIRD_FAULTS": "router.before_commit=kill@99",
        "TAILORBIRD_SERVE__WRITE_KEYS": "k" * 48,
    }
    for command in (
        ["serve", "--host", "0.0.0.0", "--port", "0"],
        ["router", "--health-port", "1", "--health-host", "0.0.0.0"],
    ):
        done = tailorbird("-C", project.root, "run", *command, env=env)
        assert_refused(done, "TAILORBIRD_FAULTS", "fail on purpose")
    monkeypatch.setenv("TAILORBIRD_FAULTS", "x=kill")
    require_no_faults("127.0.0.1")
    with pytest.raises(ConfigError, match="unset it"):
        require_no_faults("::")


def test_an_unexpected_error_is_logged_and_counted_and_ends_no_thread(caplog, monkeypatch):
    monkeypatch.setattr("tailorbird.periodic.RETRY_S", 0.01)
    ticks = []

    def tick():
        ticks.append(1)
        if len(ticks) < 3:
            raise ZeroDivisionError("of a tick")

    loop = PeriodicTask("watch of nothing", tick, interval_s=0.01)
    loop.start()
    poll(lambda: len(ticks) > 4)
    loop.stop()
    assert loop.failure_count == 2
    assert "watch of nothing failed (failure 2)" in caplog.text
    assert "ZeroDivisionError: of a tick" in caplog.text


def test_the_lag_is_measured_on_after_any_error(monkeypatch):
    monkeypatch.setattr("tailorbird.periodic.RETRY_S", 0.01)

    class Meter:
        measured = closed = 0

        def measure(self):
            self.measured += 1
            if self.measured == 1:
                raise KeyError("no such partition")
            return []

        def close(self):
            self.closed += 1

    meter = Meter()
    watch = LagWatch(meter, interval_s=0.01)
    watch.start()
    poll(lambda: watch.measured_at > 0)
    assert watch.periodic_task.failure_count == meter.closed == 1
    watch.stop()


def test_the_catalogue_continues_after_any_error_and_counts_nothing_twice(tmp_path, monkeypatch):
    from tests.support.shops.pruned_shop import CLOCK, collect_bodies

    from tailorbird.router import Router
    from tailorbird.serving.collector.collector import EventCollector

    monkeypatch.setattr("tailorbird.periodic.RETRY_S", 0.01)
    project = make_project(tmp_path / "shop")
    with EventCollector(project.paths.stream, "serve-1", project.plan, CLOCK) as collector:
        collect_bodies(collector, 0)
    with Router(project.paths.stream, project.plan, clock=CLOCK) as router:
        while router.step(12).rows:
            pass
    right = Catalogue(project.paths.routed)
    right.refresh()
    right.stop()
    catalogue, take, calls = (
        Catalogue(project.paths.routed, poll_s=0.01),
        Catalogue._ingest_block,
        [],
    )

    def failing(self, payload, first_offset):
        calls.append(1)
        count = take(self, payload, first_offset)
        if len(calls) == 2:
            raise MemoryError("in the middle")
        return count

    monkeypatch.setattr(Catalogue, "_ingest_block", failing)
    catalogue.start()
    poll(
        lambda: (
            catalogue._items.keys() == right._items.keys()
            and catalogue.periodic_task.last_success_at
        )
    )
    catalogue.stop()
    assert catalogue.periodic_task.failure_count == 1
    assert catalogue._items == right._items
