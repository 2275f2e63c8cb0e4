"""Health probes and metrics of roles that have no HTTP server of their own.

    /healthz   200 while the role's main loop advances; 503 once it has not for
               `stalled_after_s`, so that an orchestrator restarts it
    /readyz    200 once the loop has completed its first round
    /metrics   Prometheus metrics of the role

Progress is observed through the stop event that the main loop polls. Only polls by the thread that
created the event count. Under `up` each poll also goes down a pipe, the heartbeat, and `up` ends a
role that has stopped: see `platform.runtime.watching`.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tailorbird.errors import UsageError

HEARTBEAT_VARIABLE = "TAILORBIRD_HEARTBEAT"  # descriptor of the pipe to `up`
BEAT_INTERVAL_S = 0.5  # Between two beats.
WAIT_STEP_S = 1.0  # A longer wait is divided, since a role that waits is alive.
TEXT_CONTENT_TYPE = "text/plain; charset=utf-8"
log = logging.getLogger(__name__)


class Heartbeat:
    """Tells `up` by a pipe that the main loop of this process advances; does nothing without `up`.

    Call `beat` from the main loop itself: a thread would go on while the loop hangs.
    """

    def __init__(self) -> None:
        self._descriptor = int(os.environ.pop(HEARTBEAT_VARIABLE, "-1"))
        self._next_beat_at = 0.0
        if self._descriptor >= 0:
            os.set_inheritable(self._descriptor, False)
            os.set_blocking(self._descriptor, False)

    def beat(self) -> None:
        now = time.monotonic()
        if self._descriptor < 0 or now < self._next_beat_at:
            return
        self._next_beat_at = now + BEAT_INTERVAL_S
        try:
            os.write(self._descriptor, b".")
        except BlockingIOError:  # `up` reads late, and finds enough beats.
            pass
        except OSError:  # `up` has ended.
            os.close(self._descriptor)
            self._descriptor = -1


class ProgressEvent(threading.Event):
    """A stop event that records when the role's main thread last polled it.

    Attributes:
        rounds: how often its own thread polled it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._owner_thread_id = threading.get_ident()
        self.rounds = 0
        self._polled_at = time.monotonic()
        self._heartbeat = Heartbeat()

    def set_on_signals(self, *signal_numbers: int) -> None:
        """Set the event when one of these signals arrives, from a thread of its own.

        A signal handler interrupts the main thread, which may be inside `wait`. Setting the event
        there would deadlock on a lock that the main thread holds.
        """
        read_fd, write_fd = os.pipe()
        os.set_blocking(write_fd, False)
        for signal_number in signal_numbers:
            signal.signal(signal_number, lambda *_: os.write(write_fd, b"\0"))

        def listen() -> None:
            os.read(read_fd, 1)
            self.set()

        threading.Thread(target=listen, name="stop listener", daemon=True).start()

    def is_set(self) -> bool:
        self._record_poll()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, and record a poll every second of it."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._record_poll()
            remaining_s = (
                WAIT_STEP_S if deadline is None else min(WAIT_STEP_S, deadline - time.monotonic())
            )
            if super().wait(max(0.0, remaining_s)) or remaining_s < WAIT_STEP_S:
                self._record_poll()
                return super().is_set()

    def age_s(self) -> float:
        """Return the seconds since the role last polled the event."""
        return time.monotonic() - self._polled_at

    def _record_poll(self) -> None:
        if threading.get_ident() == self._owner_thread_id:
            self.rounds += 1
            self._polled_at = time.monotonic()
            self._heartbeat.beat()


class Health:
    """Liveness, readiness and metrics of a role.

    Args:
        stalled_after_s: seconds without a poll after which the role counts as stalled; 0: never,
            for a role whose steps can take hours.
        metrics: returns the text of `/metrics`.
    """

    def __init__(
        self, progress_event: ProgressEvent, *, stalled_after_s: float, metrics: Callable[[], bytes]
    ) -> None:
        self._progress_event = progress_event
        self._stalled_after_s = stalled_after_s
        self.metrics = metrics

    def is_alive(self) -> bool:
        return not self._stalled_after_s or self._progress_event.age_s() < self._stalled_after_s

    def is_ready(self) -> bool:
        return self._progress_event.rounds > 0 and self.is_alive()


@contextmanager
def serve_health(health: Health, host: str, port: int) -> Iterator[int]:
    """Serve the probes from a thread for the duration of the block and yield the port.

    Raises UsageError if the port is taken or the address is not local.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # Seconds for an idle connection.
        server_version = "tailorbird"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._respond(
                    200 if health.is_alive() else 503,
                    b"ok\n" if health.is_alive() else b"stalled\n",
                )
            elif path == "/readyz":
                self._respond(
                    200 if health.is_ready() else 503,
                    b"ready\n" if health.is_ready() else b"not ready\n",
                )
            elif path == "/metrics":
                try:
                    self._respond(200, health.metrics())
                except Exception:  # A failing metric must not take the probe down.
                    log.exception("the metrics cannot be collected")
                    self._respond(500, b"failed\n")
            else:
                self._respond(404, b"/healthz, /readyz and /metrics are here\n")

        def _respond(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", TEXT_CONTENT_TYPE)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Skip the request log, because probes arrive every few seconds."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        where = f"{host}:{port}"
        raise UsageError(
            f"cannot answer probes at {where}: {error.strerror}",
            where="--health-port",
            fix="choose another port",
        ) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
