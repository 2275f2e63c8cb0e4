"""Fault points: named places where a test can make the process die, fail or wait.

Production code calls `faults.at("router.before_commit")`, and `faults.is_disabled("sqlite.sync")`
where a mutant may switch off a safety measure. Without `TAILORBIRD_FAULTS` in the environment both
do nothing.

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
    argument: str
    hit: int  # The first hit at which the fault fires.
    last: float
    hits: int = 0


@cache
def _configured_faults() -> dict[str, _Fault]:
    text = os.environ.get("TAILORBIRD_FAULTS", "")
    faults: dict[str, _Fault] = {}
    for entry in filter(None, text.split(";")):
        site, _, trigger = entry.partition("=")
        action, _, hit = trigger.partition("@")
        action, _, argument = action.partition(":")
        start, _, stop = hit.partition("-")
        first_hit = int(start.removesuffix("+") or 1)
        faults[site] = _Fault(
            action, argument, first_hit, inf if start.endswith("+") else int(stop or first_hit)
        )
    return faults


def at(site: str) -> None:
    """Fire the fault that a test armed at `site`, if any."""
    faults = _configured_faults()
    if not faults:
        return
    fault = faults.get(site)
    if fault is None or fault.action == "cut":
        return
    fault.hits += 1
    if not fault.hit <= fault.hits <= fault.last:
        return
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "raise":
        raise OSError(errno.EIO, f"fault injected at {site}")
    elif fault.action == "stall":
        time.sleep(float(fault.argument))


def is_disabled(site: str) -> bool:
    """Return whether a test disabled the safety measure at `site`."""
    fault = _configured_faults().get(site)
    return fault is not None and fault.action == "cut"
