"""Building a state from the lake where the routed log does not reach back far enough.

That is the case after the declarations changed, or after a state was lost. The worker then
continues in the log at the exact position after the last event from the lake.

    lake: events with p in [1, P)  ─ in batches, in order of p ─►  state at P - 1  ─►  the log from
P on

The same happens where the log's next events were routed before the router knew an attribute that
the declarations name: the lake has the versions of profiles with it
(`features.offline.profile_join`), and events read from the lake equal what would have been routed.

P, the `end_position`, is what the lake has released, so every event below it is in its table,
synced and read back. In the meantime readers are told that the state is not ready, and the router
deletes nothing. An interrupted build, even by `kill -9`, continues after the last batch that it
committed.
"""

import logging
import threading
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.features.featureset import FeatureSet
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.lake import Lake
from tailorbird.stream import read_history_end, read_released_positions

BATCH_ROWS = 100_000
log = logging.getLogger(__name__)


def build_from_lake(
    worker: FeatureWorker,
    lake: Lake,
    stop: threading.Event,
    *,
    batch_rows: int = BATCH_ROWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Build the worker's state from `lake`; return False if `stop` was set before it was complete.

    Args:
        progress: called with the number of rows applied so far and in total.
    Raises:
        DamageError: the lake does not have all that the log has deleted.
    """
    end_position = read_history_end(lake.path, worker.log_start())
    log.info(
        "building the state of schema %s from %d rows of the lake",
        worker.features.schema_hash,
        end_position - 1 - worker.position.log_position,
    )
    try:
        worker.bootstrap(
            lambda after_position: _read_history(
                lake,
                worker.features,
                after_position=after_position,
                end_position=end_position,
                stop=stop,
                batch_rows=batch_rows,
                progress=progress,
            ),
            end_position - 1,
        )
    except _Stopped:
        return False
    log.info("built the state of schema %s", worker.features.schema_hash)
    return True


def build_if_needed(
    worker: FeatureWorker,
    lake: Lake,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Build the worker's state from `lake` if the log does not suffice, see `build_from_lake`."""
    if worker.needs_history() and is_lake_ahead(worker, lake):
        build_from_lake(worker, lake, threading.Event(), progress=progress)


def is_lake_ahead(worker: FeatureWorker, lake: Lake) -> bool:
    """Return whether the lake has more than the worker has applied, or the log cannot be continued.

    Until then a worker that lacks an attribute waits.
    """
    return (
        not worker.position.is_ready
        or worker.has_log_gap()
        or read_released_positions(lake.path).routed_position() > max(worker.position.offset, 1)
    )


def catch_up(
    worker: FeatureWorker,
    lake: Lake,
    *,
    progress: Callable[[str, int], None] = lambda stage, log_position: None,
) -> None:
    """Apply all of the log, and from the lake the events that lack an attribute in the log.

    Args:
        progress: called with the source and the p of the state.
    """
    while True:
        while (report := worker.step()).rows:
            progress("from the log", report.log_position)
        if not worker.waits_for_lake or not is_lake_ahead(worker, lake):
            return
        build_from_lake(
            worker,
            lake,
            threading.Event(),
            progress=lambda done, total: progress("from the lake", done),
        )


class _Stopped(Exception):
    """Raised when the role has to stop before the state is built."""


def _read_history(
    lake: Lake,
    features: FeatureSet,
    after_position: int,
    end_position: int,
    stop: threading.Event,
    batch_rows: int,
    progress: Callable[[int, int], None],
) -> Iterator[pa.Table]:
    events = JoinedEvents(lake, features)
    for start in range(after_position + 1, end_position, batch_rows):
        if stop.is_set():
            raise _Stopped
        progress(start - 1, end_position - 1)
        position_range = (ds.field("p") >= start) & (
            ds.field("p") < min(start + batch_rows, end_position)
        )
        yield events.table(where=position_range)
    progress(end_position - 1, end_position - 1)
