"""Diagnosis of the machine's clock, and events that are dated ahead of it."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from tailorbird.errors import TailorbirdError
from tailorbird.platform.diagnostics.external import Finding

if TYPE_CHECKING:
    from tailorbird.config import Project


def check_machine_clock() -> Finding:
    """Check that the machine's clock was set."""
    now = time.time()
    if now < 1_750_000_000:
        return (
            "clock",
            "error",
            time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)),
            "set the machine's clock; it is years behind",
        )
    return "clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)), ""


def check_future_events(project: "Project") -> Iterator[Finding]:
    """Check whether the state, of which each worker has the part of some keys, has future events.

    Reads of such users and items are answered as of the time of their events.
    """
    from tailorbird.events import SystemClock, to_iso
    from tailorbird.features.state.key_partition import ALL_KEYS, all_parts
    from tailorbird.features.state.state import read_local_position

    newest_event_us = 0
    for key_part in all_parts(project.workers) if project.workers > 1 else (ALL_KEYS,):
        with suppress(TailorbirdError):  # There is no state yet, or another check reports it.
            newest_event_us = max(
                newest_event_us,
                read_local_position(project.paths.state, project.features, key_part).newest_ts,
            )
    if newest_event_us > SystemClock().now() + project.plan.skew_us:
        text = (
            f"the state has events up to {to_iso(newest_event_us)}; people and items of such "
            "events are "
            "read as of then, and answers dated so"
        )
        fix = (
            "if the clock above is right, a server's or an import's was ahead: see F13 in "
            "docs/reliability.md; else set the clock"
        )
        yield "events ahead", "warning", text, fix
