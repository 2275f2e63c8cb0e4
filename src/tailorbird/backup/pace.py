"""Leave CPU and disk to the roles of the project while a backup runs.

A request waits for the sync of its events. What delays that sync is work that a backup queues in
front of it, on the CPU and at the disk. So a backup works in small pieces and rests after each for
as long as the piece took: it slows down with the disk.
"""

import os
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def pace_calls(work: Callable[P, T]) -> Callable[P, T]:
    """Return the function with a rest after each call, as long as the call took."""

    def work_and_rest(*args: P.args, **options: P.kwargs) -> T:
        started = time.monotonic()
        try:
            return work(*args, **options)
        finally:
            time.sleep(time.monotonic() - started)

    return work_and_rest


def lower_priority() -> None:
    """Let this thread, and those that it starts, use what others leave of the CPU.

    Linux puts disk requests of such a thread behind those of others too.
    """
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)
