"""Warm-up before readiness: slow first-time work is done before a load balancer sends requests.

A bundle's model scores a matrix as large as requests need before it is swapped in, so that ONNX
Runtime allocates its memory. A server queries itself for each slot, without logging, until answers
no longer get faster. `/readyz` fails until then, and until the routed log was read to its end once.
Requests that arrive meanwhile are answered.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from tailorbird.errors import TailorbirdError
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.head_sessions import run_heads
from tailorbird.serving.messages import RecommendQuery

WARM_UP_ROWS = 512  # candidates of a large request
REQUESTS_PER_SLOT_MAX = 10  # per slot
WARM_WAIT_S = 1.0  # before a server of several accepts
WARM_UP_TIMEOUT_S = 20.0  # a cold server is better than none
log = logging.getLogger(__name__)


class QueryPipeline(Protocol):
    """The pipeline to warm up: a `pipeline.Pipeline` that logs and counts nothing."""

    def answer(self, query: RecommendQuery) -> object: ...


class LogFollower(Protocol):
    """The log follower to wait for, as `catalogue.Catalogue`."""

    @property
    def is_caught_up(self) -> bool: ...


def warm_up_model(bundle: Bundle) -> None:
    """Score as many rows as a request has, twice.

    The first run allocates memory, the second uses it.
    """
    if bundle.heads:
        for _ in range(2):
            run_heads(
                bundle.sessions,
                bundle.manifest.heads,
                np.zeros((WARM_UP_ROWS, len(bundle.encoder.names)), np.float32),
            )


def wait_until_warm(is_warming: Callable[[], bool]) -> None:
    """Wait, but not long: another server may answer meanwhile, or connections wait in the queue."""
    deadline = time.monotonic() + WARM_WAIT_S
    while is_warming() and time.monotonic() < deadline:
        time.sleep(0.01)


class WarmUp:
    """A thread that warms a server up, once."""

    def __init__(
        self,
        pipeline: QueryPipeline,
        catalogue: LogFollower,
        slots: Mapping[str, Slot],
        *,
        read_clock_s: Callable[[], float] = time.monotonic,
    ):
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._slots = slots
        self._read_clock_s = read_clock_s
        self._thread = threading.Thread(target=self._run, name="warming", daemon=True)
        self._stop_event = threading.Event()
        self._done_event = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop, warm or not."""
        self._stop_event.set()
        if self._thread.ident is not None:
            self._thread.join()

    def is_warming(self) -> bool:
        """Return whether the server is not warm yet."""
        return not self._done_event.is_set()

    def _run(self) -> None:
        deadline = self._read_clock_s() + WARM_UP_TIMEOUT_S
        try:
            while (
                not self._catalogue.is_caught_up
                and self._read_clock_s() < deadline
                and not self._stop_event.wait(0.02)
            ):
                pass
            for name in self._slots:
                fastest_s = float("inf")
                for _ in range(REQUESTS_PER_SLOT_MAX):
                    started_at = self._read_clock_s()
                    self._pipeline.answer(RecommendQuery(slot=name))
                    elapsed_s = self._read_clock_s() - started_at
                    if (
                        self._stop_event.is_set()
                        or self._read_clock_s() > deadline
                        or elapsed_s > 0.8 * fastest_s
                    ):
                        break
                    fastest_s = min(fastest_s, elapsed_s)
        except TailorbirdError as error:
            log.warning("not everything is warm: %s", error)
        finally:
            self._done_event.set()
