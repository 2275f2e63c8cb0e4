"""A role without HTTP tells whether it goes on: `/healthz`, `/readyz` and `/metrics` on a port of
its own, where one is asked for.

    /healthz   200 as long as the role's loop comes round; 503 once it has not for `stalled_after_s`, so that it is started again
    /readyz    200 once it has come round for the first time
    /metrics   what the role says of itself, for Prometheus

The loop is followed by the event that each role asks whether to stop: asking is coming round. Only
the thread that made it counts.
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

TEXT = "text/plain; charset=utf-8"
log = logging.getLogger(__name__)


class ProgressEvent(threading.Event):
    """The event that tells a role to stop, which notes when the role asked last.

    Attributes:
        rounds: how often its own thread asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self._owner = threading.get_ident()
        self.rounds = 0
        self._asked_at = time.monotonic()

    def on_signals(self, *numbers: int) -> None:
        """Be set by these signals, by a thread of its own.

        A handler runs in the midst of what the main thread does, which may be `wait`: to set the
        event there would wait for a lock that the main thread holds, for ever.
        """
        told, tell = os.pipe()
        os.set_blocking(tell, False)
        for number in numbers:
            signal.signal(number, lambda *_: os.write(tell, b"\0"))

        def listen() -> None:
            os.read(told, 1)
            self.set()

        threading.Thread(target=listen, name="told to stop", daemon=True).start()

    def is_set(self) -> bool:
        self._note()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        self._note()
        told = super().wait(timeout)
        self._note()
        return told

    def age_s(self) -> float:
        """How long ago the role came round."""
        return time.monotonic() - self._asked_at

    def _note(self) -> None:
        if threading.get_ident() == self._owner:
            self.rounds += 1
            self._asked_at = time.monotonic()


class Health:
    """What a role is asked.

    Args:
        stalled_after_s: after how long without coming round it counts as stalled; 0: never, for one
            whose steps may take hours.
        metrics: the text of `/metrics`.
    """

    def __init__(
        self, stop: ProgressEvent, *, stalled_after_s: float, metrics: Callable[[], bytes]
    ) -> None:
        self._stop, self._stalled_after_s, self.metrics = stop, stalled_after_s, metrics

    def alive(self) -> bool:
        return not self._stalled_after_s or self._stop.age_s() < self._stalled_after_s

    def ready(self) -> bool:
        return self._stop.rounds > 0 and self.alive()


@contextmanager
def answering(health: Health, host: str, port: int) -> Iterator[int]:
    """Answer in a thread as long as the block lasts; on which port. Raises UsageError where it is
    taken, or the address is not ours.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # of a connection that says nothing
        server_version, sys_version = "tailorbird", ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._answer(
                    200 if health.alive() else 503, b"ok\n" if health.alive() else b"stalled\n"
                )
            elif path == "/readyz":
                self._answer(
                    200 if health.ready() else 503, b"ready\n" if health.ready() else b"not ready\n"
                )
            elif path == "/metrics":
                try:
                    self._answer(200, health.metrics())
                except (
                    Exception
                ):  # a figure that cannot be had is no reason to say nothing in the log
                    log.exception("the metrics could not be told")
                    self._answer(500, b"failed\n")
            else:
                self._answer(404, b"/healthz, /readyz and /metrics are here\n")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", TEXT)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: probes ask every few seconds."""

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
