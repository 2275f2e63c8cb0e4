"""Replay of lake events into the folds, where the routed log no longer has them.

This happens for a new contract and after a lost snapshot.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.candidates.batch import EVENT_COLUMNS
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.role import CandidatesRole
from tailorbird.events import Clock
from tailorbird.lake import Lake
from tailorbird.stream import Address, read_history_end, read_released_positions

BATCH_ROWS = 500_000


class _StopRequested(Exception):
    """The role was stopped before the tables were built."""


def lake_is_ahead(role: CandidatesRole, lake: Lake) -> bool:
    """Return whether the lake is ahead of the folds; until then a role that needs history waits."""
    return read_released_positions(lake.path).routed_position() > role.fold.position + 1


def build_from_lake(
    role: CandidatesRole,
    lake: Lake,
    stop: threading.Event,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Build the folds of a role from the lake.

    Returns False if `stop` was set before they were complete.

    Raises:
        DamageError: the lake does not have all that the log has deleted.
    """
    end_position = read_history_end(lake.path, role.log_start())
    try:
        role.build(
            lambda after: _read_events(lake, after, end_position, stop, progress), end_position - 1
        )
    except _StopRequested:
        return False
    return True


def rebuild_tables(
    routed: Address, root: Path, contract: Contract, lake: Lake, clock: Clock
) -> int:
    """Rebuild all tables of a contract from lake and log, as after an erasure.

    Returns the position of the new tables.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    with CandidatesRole(routed, root, contract, clock=clock) as role:
        if role.needs_history():
            build_from_lake(role, lake, threading.Event())
        while role.step():
            pass
        role.publish(everything=True)
        role.save_snapshot()
        return role.fold.position


def _read_events(
    lake: Lake,
    after_position: int,
    end_position: int,
    stop: threading.Event,
    progress: Callable[[int, int], None],
) -> Iterator[pa.Table]:
    for start in range(after_position + 1, end_position, BATCH_ROWS):
        if stop.is_set():
            raise _StopRequested
        batch_end = min(start + BATCH_ROWS, end_position)
        rows = (
            lake.table(
                "events",
                EVENT_COLUMNS,
                where=(ds.field("p") >= start) & (ds.field("p") < batch_end),
            )
            if lake.exists("events")
            else None
        )
        if rows is not None and rows.num_rows:
            yield rows.sort_by("p")
        progress(batch_end - 1, end_position - 1)
