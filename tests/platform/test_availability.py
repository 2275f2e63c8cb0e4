"""Answers go on while servers, `up` and versions change; what hangs is found."""

import http.client
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from tests.support.roles import Up, make_project, until

from tailorbird.platform.diagnostics.diagnose import diagnose
from tailorbird.platform.runtime.watching import QUIET_S, ProgressWatch
from tailorbird.probes import HEARTBEAT_VARIABLE
from tailorbird.serving.families import encode_families, merge_families
from tailorbird.serving.handover import HandoverSocket, request_listener, request_metrics
from tailorbird.serving.sockets import bind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
HUNG_S = QUIET_S + 0.5
LOOP = """
import sys, threading, time
from tailorbird.probes import ProgressEvent
stop = ProgressEvent()
for _ in range(5):
    stop.wait(0.2)
print("begun", flush=True)
{then}
"""


@contextmanager
def watched(then: str, *, counts_work: bool = True) -> Iterator[tuple[int, ProgressWatch]]:
    """Yield the process and the watch of a role whose main loop goes on as `then` says."""
    read_end, write_end = os.pipe()
    role = subprocess.Popen(
        [sys.executable, "-c", LOOP.format(then=then)],
        env={**os.environ, HEARTBEAT_VARIABLE: str(write_end)},
        pass_fds=[write_end],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(write_end)
    watch = ProgressWatch(read_end, role.pid, hung_s=HUNG_S, counts_work=counts_work)
    try:
        assert role.stdout is not None
        role.stdout.readline()
        yield role.pid, watch
    finally:
        role.kill()
        role.communicate()
        watch.close()


def hangs_within(watch: ProgressWatch, seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if watch.is_hung():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_stopped_role_and_one_in_a_deadlock_are_found_and_named():
    with watched("while True: stop.wait(0.1)") as (pid, watch):
        assert not hangs_within(watch, HUNG_S + 0.5)
        os.kill(pid, signal.SIGSTOP)
        assert hangs_within(watch, 10)
        assert "(stopped)" in watch.describe()
    # Another thread goes on, and proves nothing.
    beside = "threading.Thread(target=lambda: [stop.wait(0.1) for _ in range(999)]).start()"
    deadlock = f"{beside}\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()"
    with watched(deadlock) as (_, watch):
        assert hangs_within(watch, 10)
        assert "waiting for something" in watch.describe()


@pytest.mark.slow
def test_a_role_that_computes_between_two_beats_is_left_alone_but_not_a_server():
    with watched("while True: pass") as (_, watch):
        assert not hangs_within(watch, 2 * HUNG_S)
    with watched("while True: pass", counts_work=False) as (_, watch):
        assert hangs_within(watch, 10)


def test_a_server_hands_over_its_listener_and_its_counts(tmp_path: Path):
    run = tmp_path / ("deep" * 40) / "run"  # Longer than the address of a socket may be.
    registry = CollectorRegistry()
    Counter("asked", "Questions.", registry=registry).inc(3)
    with bind("127.0.0.1", 0, is_explicit=False) as listener:
        address = listener.getsockname()
        handover = HandoverSocket(
            run / "serve-1.sock", listener, lambda: encode_families(registry.collect(), "serve-1")
        )
        handover.start()
        try:
            other = request_listener(run)
            parts = list(request_metrics(run, "serve-2"))
            assert list(request_metrics(run, "serve-1")) == []
        finally:
            handover.stop()
    assert other is not None
    with other, socket.create_connection(address, timeout=5):  # It outlives the first holder.
        other.accept()[0].close()
    own = encode_families(registry.collect(), "serve-2")
    text = merge_families([own, *parts]).decode()
    assert text.count("# TYPE asked_total counter") == 1
    assert 'asked_total{process="serve-1"} 3.0' in text
    assert 'asked_total{process="serve-2"} 3.0' in text
    assert request_listener(run) is None


def test_a_socket_of_systemd_is_taken_and_not_passed_on():
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); "
        "from tailorbird.serving.sockets import inherited_listener; "
        "print(inherited_listener().getsockname()[1], inherited_listener())"
    )
    with bind("127.0.0.1", 0, is_explicit=False) as listener:
        number = listener.fileno()
        command = [sys.executable, "-c", code, str(number)]
        done = subprocess.run(
            command, pass_fds=[number], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.split() == [str(listener.getsockname()[1]), "None"]


def test_too_few_descriptors_and_too_little_memory_are_told_with_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tailorbird.platform.runtime import resources

    project = make_project(tmp_path / "shop")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard >= resources.DESCRIPTORS_PER_SERVER:
        assert not [line for line in resources.resource_warnings(project) if "descript" in line]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1_024))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(resources, "SERVER_MB", 10_000_000)
    few, little = resources.resource_warnings(project)
    assert "needs 4,352, and 1,024 are allowed" in few
    assert f"the roles need about {resources.needed_memory_mb(project):,} MB" in little
    (tmp_path / "memory.limit_in_bytes").write_text(f"{300 << 20}\n")
    (tmp_path / "memory.usage_in_bytes").write_text(f"{270 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {20 << 20}\n")
    _, *file_names = resources.CGROUP_MEMORY_FILES[1]
    monkeypatch.setattr(resources, "CGROUP_MEMORY_FILES", [(tmp_path, *file_names)])
    assert "and 50 MB are free" in resources.resource_warnings(project)[1]


class Asking:
    """Asks all the time, each time on a new connection, and notes what failed."""

    def __init__(self, port: int) -> None:
        self._port, self.answers, self.failures = port, 0, list[str]()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.02):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                body = b'{"slot": "home", "user_id": "u1"}'
                headers = {"content-type": "application/json"}
                connection.request("POST", "/v1/recommend", body, headers)
                status = connection.getresponse().status
            except OSError as error:
                self.failures.append(repr(error))
            else:
                self.answers += status == 200
                if status not in (200, 503):  # 503: refused for load, on a busy machine.
                    self.failures.append(str(status))
            finally:
                connection.close()

    def go_on(self) -> None:
        """Return after more answers."""
        seen = self.answers
        until(lambda: self.answers > seen + 5, 60, lambda: f"no answers: {self.failures}")


@contextmanager
def busy_core() -> Iterator[None]:
    """Run another process that takes a core."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.slow
def test_nobody_is_refused_while_a_server_up_and_the_version_change(tmp_path: Path):
    project = make_project(tmp_path / "shop")
    first = Up(project).wait()
    ups = [first]
    try:
        until(lambda: len(first.pids("serve")) == 2, 60, "two servers")
        until(lambda: "Open http" in first.log.read_text(), 60, "not started")
        with Asking(first.port) as asking:
            asking.go_on()
            first.process.kill()  # The servers go on without it.
            first.process.wait()
            orphans = first.pids("serve")
            asking.go_on()
            assert len(orphans) == 2
            second = Up(project, port=first.port)
            ups.append(second)
            until(lambda: not set(second.pids("serve")) & set(orphans), 90, "no takeover")
            until(lambda: len(second.pids("lake")) == 1, 60, "the other roles do not run")
            asking.go_on()
            third = Up(project, port=first.port, options=["--replace"])
            ups.append(third)
            assert second.process.wait(120) == 0
            until(lambda: len(third.pids("lake")) == 1, 60, "the other roles do not run")
            asking.go_on()
        assert asking.failures == []
        with busy_core(), Asking(first.port) as asking:
            asking.go_on()
        assert asking.failures == []
        router = third.pid("router")
        assert router is not None
        os.kill(router, signal.SIGSTOP)
        with Asking(first.port) as asking:
            third.kill("serve")
            asking.go_on()
        # Only what was under way in the server at the moment of the kill may fail.
        assert len(asking.failures) <= 1, asking.failures
        until(lambda: third.pid("router") not in (None, router), 30, "it hangs unnoticed")
        assert "made no progress" in third.log.read_text()
        hung = 'tailorbird_role_restarts_total{reason="hung",role="router"} 1.0'
        until(lambda: hung in third.metrics(), 30, "no metric")
        restarts = {what: text for what, _, text, _ in diagnose(project.root).findings}
        assert "1 × made no progress" in restarts["restarts of router"]
        assert any("1 × ended with signal SIGKILL" in text for text in restarts.values())
        assert 'tailorbird_requests_total{process="serve-' in third.metrics()
        hung_servers = third.pids("serve")
        third.process.send_signal(signal.SIGSTOP)
        fourth = Up(project, port=first.port, options=["--replace"])
        ups.append(fourth)
        assert third.process.wait(120) == -signal.SIGKILL
        until(lambda: not set(fourth.pids("serve")) & set(hung_servers), 90, "servers stay")
        lines = fourth.log.read_text().splitlines()
        assert any("hung and was killed" in line for line in lines)
        assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \w", line) for line in lines), lines
    finally:
        for up in reversed(ups):
            up.stop()
        first.kill_all()
    assert not first.pids("serve")
