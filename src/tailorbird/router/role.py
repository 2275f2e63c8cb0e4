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
PRUNE_EVERY_S = 60.0
# always retained, about 60 MB: time for readers without a tracked position, such as servers
KEEP_ROWS = 200_000
log = logging.getLogger(__name__)


def run_router(
    stream: Stream,
    plan: RoutePlan,
    clock: Clock,
    stop: threading.Event,
    *,
    released: Callable[[], int] | None = None,
    keep_rows: int = KEEP_ROWS,
    prune_every_s: float = PRUNE_EVERY_S,
    suppression_list: SuppressionList | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Route the raw logs of `stream` until `stop` is set; a running step is finished first.

    Args:
        released: returns the row before which neither lake nor workers need the routed log;
            without it nothing is pruned.
        keep_rows: number of newest rows that are kept in any case.
        suppression_list, memory_bytes: see `Router`.
    Raises:
        LockedError, DamageError, StorageError: as `Router` and `Router.step`; whoever runs the role
        starts it again or tells the operator.
    """
    with Router(
        stream, plan, clock=clock, suppression_list=suppression_list, memory_bytes=memory_bytes
    ) as router:
        pruning = None if released is None else _Pruner(router, released, keep_rows, prune_every_s)
        has_more = False
        while not stop.is_set():
            if has_more or router.changed():
                has_more = router.step(ROWS_MAX).has_more
            else:
                stop.wait(POLL_S)
            if pruning is not None:
                pruning.tick()


class _Pruner:
    """Periodic pruning in small pieces, so that routing never waits long.

    A thread reads the released position, since a bucket may not answer for a minute.
    """

    def __init__(
        self, router: Router, released: Callable[[], int], keep_rows: int, every_s: float
    ) -> None:
        self._router, self._released, self._keep_rows, self._every_s = (
            router,
            released,
            keep_rows,
            every_s,
        )
        self._prune_before = 0
        self._due = time.monotonic()
        self._request: threading.Thread | None = None
        self._released_row = 0

    def tick(self) -> None:
        if self._prune_before:
            if not self._router.prune_batch(self._prune_before):
                self._prune_before = 0
        elif self._request is not None:
            if not self._request.is_alive():
                self._request = None
                self._prune_before = max(
                    0, min(self._released_row, self._router.end() - self._keep_rows)
                )
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every_s
            self._request = threading.Thread(
                target=self._request_released, name="released", daemon=True
            )
            self._request.start()

    def _request_released(self) -> None:
        try:
            self._released_row = self._released()
        except TailorbirdError as error:
            log.warning("nothing is pruned: %s", error)
            self._released_row = 0
