"""The last events known at (t, p) and what is computed from them, for many queries at once.

Extends `features.offline.asof`. Runs are walked one query at a time
(`features.offline.kernels.runs`) and are only materialised for sequences, whose columns are
returned. For the few queries with many events in flight, `Series.last` finds the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import SESSION_GAP
from tailorbird.events.keys import hash64
from tailorbird.features.declare.limits import LOOK_BACK_MAX
from tailorbird.features.layout.layout import Step
from tailorbird.features.offline.asof import AsOfQueries
from tailorbird.features.offline.events.ragged import concatenate_ranges
from tailorbird.features.offline.events.series import Series
from tailorbird.features.offline.kernels import runs
from tailorbird.features.offline.kernels.windows import gather_parallel, run_parallel

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

_KERNEL_OPERATIONS = {
    "session": runs.SESSION,
    "length": runs.SESSION,
    "depth": runs.DEPTH,
    "duration": runs.DURATION,
    "refinements": runs.REFINEMENTS,
    "gap": runs.GAP,
}
# Those of `runs.RUN_OPERATIONS` that are computed here.
COMPILED_OPERATIONS = frozenset(_KERNEL_OPERATIONS)


class SeriesColumns:
    """Hashes of the item and type of each event of a series, and an identity of its session; 0 if
    missing.

    `rows` (m,) index the columns (n,). Each column is gathered on first use.
    """

    def __init__(
        self,
        rows: Intps,
        item: Callable[[], Keys],
        type: Callable[[], Keys],
        session: Callable[[], Keys],
    ) -> None:
        self.rows = rows
        self._item = item
        self._type = type
        self._session = session

    @cached_property
    def item(self) -> Keys:
        return gather_parallel(self._item(), self.rows)

    @cached_property
    def type(self) -> Keys:
        return gather_parallel(self._type(), self.rows)

    @cached_property
    def session(self) -> Keys:
        return gather_parallel(self._session(), self.rows)


@dataclass(frozen=True)
class ConcatenatedRuns:
    """Concatenated runs, oldest event first: the index within the series of each entry, and its
    columns.
    """

    offsets: Int64s
    indices: Intps
    ts: Int64s
    item: Keys
    type: Keys


class LastRuns:
    """The last `length` events of a series within the horizon, for each query."""

    def __init__(
        self, series: Series, columns: SeriesColumns, queries: AsOfQueries, length: int
    ) -> None:
        self._series = series
        self._columns = columns
        self._queries = queries
        self._length = length
        sorted_queries = (
            queries.order,
            queries.start,
            queries.stop.edge,
            queries.sorted_t,
            queries.log_position,
        )
        self._kernel_args = (
            *sorted_queries,
            series.events_before,
            series.ts,
            series.log_position,
            length,
            LOOK_BACK_MAX,
        )

    @property
    def rows(self) -> Intps:
        """The row of the columns of each event of the series."""
        return self._columns.rows

    def compute_columns(self, steps: Sequence[Step], candidates: Keys) -> tuple[Floats, Intps]:
        """Return the column of each step (q, steps), and the queries that were left undone."""
        candidates = gather_parallel(candidates, self._queries.order)
        columns = np.empty((len(self._queries), len(steps)))
        is_deferred = np.zeros(len(self._queries), np.bool_)
        for start in range(0, len(steps), runs.SEARCH_BIT):
            step_batch = steps[start : start + runs.SEARCH_BIT]
            operations = np.array(
                [_KERNEL_OPERATIONS[step.operation] for step in step_batch], np.int64
            )
            step_bits = self._step_bits(step_batch)
            # A gap needs times only.
            item, session = (
                (step_bits,) * 2
                if all(operation == runs.GAP for operation in operations)
                else self._item_and_session()
            )
            event_arrays = (candidates, item, session, step_bits)
            batch_columns = columns[:, start : start + len(step_batch)]
            run_parallel(
                runs.write_run_columns,
                len(self._queries),
                *self._kernel_args,
                *event_arrays,
                operations,
                SESSION_GAP,
                batch_columns,
                is_deferred,
            )
        return columns, np.flatnonzero(is_deferred)

    def _step_bits(self, steps: Sequence[Step]) -> Keys:
        """Return for each event a bit per step that uses its type, and one for searches."""
        if all(step.operation == "gap" for step in steps):
            return np.zeros(len(self._series.log_position), np.uint64)
        types = self._columns.type
        bits = (types == np.uint64(hash64("search"))).astype(np.uint64) << np.uint64(
            runs.SEARCH_BIT
        )
        mask_by_types: dict[tuple[str, ...], npt.NDArray[np.bool_]] = {}
        for index, step in enumerate(steps):
            names = step.types or (step.text,)
            if names not in mask_by_types:
                mask_by_types[names] = np.isin(
                    types, np.array([hash64(name) for name in names], np.uint64)
                )
            bits |= mask_by_types[names].astype(np.uint64) << np.uint64(index)
        return bits

    def _item_and_session(self) -> tuple[Keys, Keys]:
        return self._columns.item, self._columns.session

    def events(self) -> ConcatenatedRuns:
        """Return the runs themselves."""
        queries = self._queries
        series = self._series
        sizes = np.empty(len(queries), np.int64)
        run_parallel(runs.write_run_sizes, len(queries), *self._kernel_args, sizes)
        deferred = np.flatnonzero(sizes < 0)
        deferred_runs = (
            series.last_indices(
                queries.take(deferred), self._length, queries.t[deferred] - LOOK_BACK_MAX
            )
            if len(deferred)
            else None
        )
        if deferred_runs is not None:
            sizes[deferred] = np.diff(deferred_runs[0])
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        count = int(offsets[-1])
        indices = np.empty(count, np.intp)
        ts = np.empty(count, np.int64)
        item = np.empty(count, np.uint64)
        type_ = np.empty(count, np.uint64)
        event_arrays = (offsets, self._columns.item, self._columns.type, indices, ts, item, type_)
        run_parallel(runs.write_run_events, len(queries), *self._kernel_args, *event_arrays)
        if deferred_runs is not None:
            deferred_entries, _ = concatenate_ranges(offsets[deferred], offsets[deferred + 1])
            indices[deferred_entries] = deferred_runs[1]
            ts[deferred_entries] = series.ts[deferred_runs[1]]
            item[deferred_entries] = self._columns.item[deferred_runs[1]]
            type_[deferred_entries] = self._columns.type[deferred_runs[1]]
        return ConcatenatedRuns(offsets, indices, ts, item, type_)
