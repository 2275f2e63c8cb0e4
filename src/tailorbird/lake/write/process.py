"""The lake role as a process: load, and between two loads keep the lake small."""

import threading
from collections.abc import Callable

from tailorbird.events.clock import HOUR, MINUTE, SECOND, Clock
from tailorbird.lake.delta.vacuum import KEEP_US
from tailorbird.lake.write.log_pruning import IDLE_US, prune_idle
from tailorbird.lake.write.role import ROWS_MAX, LakeReport, LakeRole
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import Stream, log_set

COMMIT_EVERY_US = 1 * SECOND
PRUNE_EVERY_US = 1 * MINUTE
UPKEEP_EVERY_US = 10 * SECOND  # one small step of compaction at most
VACUUM_EVERY_US = 1 * HOUR
POLL_S = 0.05


def run(
    stream: Stream,
    lake: StoragePath,
    clock: Clock,
    stop: threading.Event,
    *,
    on_step: Callable[[LakeReport], None] | None = None,
    commit_every_us: int = COMMIT_EVERY_US,
    rows_max: int = ROWS_MAX,
    prune_every_us: int = PRUNE_EVERY_US,
    idle_us: int = IDLE_US,
    keep_us: int = KEEP_US,
    sort: str = "position",
    upkeep_every_us: int = UPKEEP_EVERY_US,
    vacuum_every_us: int = VACUUM_EVERY_US,
) -> None:
    """Run the role until `stop`, then one step more.

    It steps once a second, sooner when `rows_max` rows wait. Once a minute it prunes logs without a
    writer (`lake.write.log_pruning`). Between loads, and never while many rows wait, it compacts
    one folder at a time, and once an hour it vacuums.

    Args:
        on_step: called with the report of each step that loaded something.
        idle_us, keep_us, sort: as for `prune_idle` and `LakeRole`.
    """
    with LakeRole(stream, lake, clock=clock, keep_us=keep_us, sort=sort) as role:
        step_due = 0
        prune_due = clock.now() + prune_every_us
        upkeep_due = clock.now() + upkeep_every_us
        vacuum_due = clock.now() + vacuum_every_us
        last_now = 0
        while not stop.is_set():
            now = clock.now()
            if now < last_now:  # The clock was set back, so everything is due now.
                step_due = now
                prune_due = now
                upkeep_due = now
                vacuum_due = now
            last_now = now
            if now >= step_due or role.count_pending_rows() >= rows_max:
                report = role.step(rows_max)
                step_due = now + commit_every_us
                if on_step is not None and not report.is_idle:
                    on_step(report)
            if now >= prune_due:
                prune_idle(log_set(stream).folder, lake, clock, idle_us=idle_us)
                prune_due = now + prune_every_us
            if now >= upkeep_due and role.count_pending_rows() < rows_max:
                role.upkeep()
                upkeep_due = now + upkeep_every_us
            if now >= vacuum_due:
                role.vacuum()
                vacuum_due = now + vacuum_every_us
            stop.wait(POLL_S)
        role.step(rows_max)
