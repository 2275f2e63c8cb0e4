"""Fault points: named places where a test can make the process die, fail or wait.

Production code calls `faults.fire_if_armed("router.before_commit")`, and
`faults.is_disabled("sqlite.sync")` where a mutant may switch off a safety measure. Without
`TAILORBIRD_FAULTS` in the environment both do nothing.

    TAILORBIRD_FAULTS="router.before_commit=kill@3;lake.after_data=raise;collector.before_sync=stall:0.5"

The number after `@` is the hit at which the fault fires (default 1), `2+` the second and all that
follow, `2-9` up to the ninth. Actions: `kill` (SIGKILL to this process), `raise` (OSError EIO),
`stall:SECONDS`, and `cut` (read by `is_disabled`, which is then true).
"""

import errno
import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from math import inf


@dataclass
class _Fault:
    action: str
    argument: str  # The seconds of `stall`; otherwise empty.
    first_hit: int  # The first hit at which the fault fires.
    last_hit: float  # The last one; infinite for `2+`.
    hit_count: int = 0  # How often the process came to the point.


@cache
def _load_faults() -> dict[str, _Fault]:
    text = os.environ.get("TAILORBIRD_FAULTS", "")
    fault_by_point: dict[str, _Fault] = {}
    for entry in filter(None, text.split(";")):
        point, _, trigger = entry.partition("=")
        action, _, hit_range = trigger.partition("@")
        action, _, argument = action.partition(":")
        start, _, stop = hit_range.partition("-")
        first_hit = int(start.removesuffix("+") or 1)
        fault_by_point[point] = _Fault(
            action, argument, first_hit, inf if start.endswith("+") else int(stop or first_hit)
        )
    return fault_by_point


def fire_if_armed(point: str) -> None:
    """Fire the fault that a test armed at `point`, if any."""
    fault_by_point = _load_faults()
    if not fault_by_point:
        return
    fault = fault_by_point.get(point)
    if fault is None or fault.action == "cut":
        return
    fault.hit_count += 1
    if not fault.first_hit <= fault.hit_count <= fault.last_hit:
        return
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "raise":
        raise OSError(errno.EIO, f"fault injected at {point}")
    elif fault.action == "stall":
        time.sleep(float(fault.argument))


def is_disabled(point: str) -> bool:
    """Return whether a test disabled the safety measure at `point`."""
    fault = _load_faults().get(point)
    return fault is not None and fault.action == "cut"
