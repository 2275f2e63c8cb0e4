"""The router as a role: step while there is something, else look again every few milliseconds, until told to stop."""

import threading
from pathlib import Path

from tailorbird.events import Clock, RoutePlan
from tailorbird.router.router import Router

POLL_S = 0.005
ROWS_MAX = 20_000


def run(stream: Path, plan: RoutePlan, clock: Clock, stop: threading.Event) -> None:
    """Route what comes in under `stream` until `stop` is set; the step under way is finished first.

    Raises:
        LockedError, DamageError, StorageError: as `Router` and `Router.step`; whoever runs the role starts it again or tells the operator.
    """
    with Router(stream, plan, clock=clock) as router:
        while not stop.is_set():
            if router.changed():
                while router.step(ROWS_MAX).rows and not stop.is_set():
                    pass
            else:
                stop.wait(POLL_S)
