"""The router as a role: step while there is something, else look again every few milliseconds,
until told to stop.

In between it deletes what nobody needs any more, once a minute, and one small transaction at a
time.
"""

import logging
import threading
import time
from collections.abc import Callable

from tailorbird.errors import TailorbirdError
from tailorbird.events import Clock, RoutePlan
from tailorbird.events.suppression import SuppressionList
from tailorbird.router.route import MEMORY_BYTES
from tailorbird.router.router import Router
from tailorbird.stream import Stream

POLL_S = 0.005
ROWS_MAX = 20_000
PRUNE_EVERY_S = 60.0
# stay in any case, some 60 MB: followers without a say, such as servers, have as much time
KEEP_ROWS = 200_000
log = logging.getLogger(__name__)


def run(
    stream: Stream,
    plan: RoutePlan,
    clock: Clock,
    stop: threading.Event,
    *,
    released: Callable[[], int] | None = None,
    keep_rows: int = KEEP_ROWS,
    prune_every_s: float = PRUNE_EVERY_S,
    stopped: SuppressionList | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Route what comes in under `stream` until `stop` is set; the step under way is finished first.

    Args:
        released: says below which row neither lake nor workers need the routed log; without it
            nothing is deleted.
        keep_rows: the newest rows, which are kept even so.
        stopped: of whom nothing old is taken again.
        memory_bytes: as of `Router`.
    Raises:
        LockedError, DamageError, StorageError: as `Router` and `Router.step`; whoever runs the role
        starts it again or tells the operator.
    """
    with Router(stream, plan, clock=clock, stopped=stopped, memory_bytes=memory_bytes) as router:
        pruning = None if released is None else _Pruning(router, released, keep_rows, prune_every_s)
        more = False
        while not stop.is_set():
            if more or router.changed():
                more = router.step(ROWS_MAX).more
            else:
                stop.wait(POLL_S)
            if pruning is not None:
                pruning.look()


class _Pruning:
    """Asks now and then what was released, and deletes it piece by piece, so that routing never
    waits long.

    It asks in a thread: the lake may be in a bucket that does not answer for a minute.
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
        self._before = 0
        self._due = time.monotonic()
        self._asking: threading.Thread | None = None
        self._told = 0

    def look(self) -> None:
        if self._before:
            if not self._router.prune_some(self._before):
                self._before = 0
        elif self._asking is not None:
            if not self._asking.is_alive():
                self._asking = None
                self._before = max(0, min(self._told, self._router.end() - self._keep_rows))
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every_s
            self._asking = threading.Thread(target=self._ask, name="released", daemon=True)
            self._asking.start()

    def _ask(self) -> None:
        try:
            self._told = self._released()
        except TailorbirdError as error:
            log.warning("nothing is pruned: %s", error)
            self._told = 0
