"""The router as a role: run steps while there is input, else poll every few milliseconds.

Once a minute it prunes rows that no reader needs, one small transaction at a time.
"""

import logging
import threading
import time
from collections.abc import Callable

from tailorbird.errors import TailorbirdError
from tailorbird.events import Clock, RoutePlan
from tailorbird.events.suppression import SuppressionList
from tailorbird.router.decide.route import MEMORY_BYTES
from tailorbird.router.router import Router
from tailorbird.stream import Stream

POLL_S = 0.005
ROWS_MAX = 20_000
PRUNE_INTERVAL_S = 60.0
# always retained, about 60 MB: time for readers without a tracked position, such as servers
RETAINED_ROWS = 200_000
log = logging.getLogger(__name__)


def run_router(
    stream: Stream,
    plan: RoutePlan,
    clock: Clock,
    stop: threading.Event,
    *,
    read_released_position: Callable[[], int] | None = None,
    retained_rows: int = RETAINED_ROWS,
    prune_interval_s: float = PRUNE_INTERVAL_S,
    suppression_list: SuppressionList | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Route the raw logs of `stream` until `stop` is set; a running step is finished first.

    Args:
        read_released_position: returns the row before which neither lake nor workers need the
            routed log; without it nothing is pruned.
        retained_rows: number of newest rows that are kept in any case.
        suppression_list, memory_bytes: see `Router`.
    Raises:
        LockedError, DamageError, StorageError: as `Router` and `Router.step`; whoever runs the role
        starts it again or tells the operator.
    """
    with Router(
        stream, plan, clock=clock, suppression_list=suppression_list, memory_bytes=memory_bytes
    ) as router:
        pruner = (
            None
            if read_released_position is None
            else _Pruner(router, read_released_position, retained_rows, prune_interval_s)
        )
        has_more = False
        while not stop.is_set():
            if has_more or router.has_changed():
                has_more = router.step(ROWS_MAX).has_more
            else:
                stop.wait(POLL_S)
            if pruner is not None:
                pruner.tick()


class _Pruner:
    """Periodic pruning in small pieces, so that routing never waits long.

    A thread reads the released position, since a bucket may not answer for a minute.
    """

    def __init__(
        self,
        router: Router,
        read_released_position: Callable[[], int],
        retained_rows: int,
        interval_s: float,
    ) -> None:
        self._router = router
        self._read_released_position = read_released_position
        self._retained_rows = retained_rows
        self._interval_s = interval_s
        self._prune_before = 0
        self._next_prune_at = time.monotonic()
        self._read_thread: threading.Thread | None = None
        self._released_position = 0

    def tick(self) -> None:
        if self._prune_before:
            if not self._router.prune_batch(self._prune_before):
                self._prune_before = 0
        elif self._read_thread is not None:
            if not self._read_thread.is_alive():
                self._read_thread = None
                self._prune_before = max(
                    0, min(self._released_position, self._router.end() - self._retained_rows)
                )
        elif time.monotonic() >= self._next_prune_at:
            self._next_prune_at = time.monotonic() + self._interval_s
            self._read_thread = threading.Thread(
                target=self._read_released, name="released", daemon=True
            )
            self._read_thread.start()

    def _read_released(self) -> None:
        try:
            self._released_position = self._read_released_position()
        except TailorbirdError as error:
            log.warning("nothing is pruned: %s", error)
            self._released_position = 0
