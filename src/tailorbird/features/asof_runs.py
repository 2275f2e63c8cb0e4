"""The last events known at (t, p) and what is made of them, for many moments at once; the rest of
`features.asof`.

Runs are walked through one moment after another (`features.kernels_runs`), never laid out as a
whole but for sequences, whose columns are wanted. Of the few moments with many events in flight,
`Series.last` finds the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.events.keys import hash64
from tailorbird.features import kernels_runs
from tailorbird.features.asof import Moments, Series, ragged
from tailorbird.features.declare import HORIZON, SESSION_GAP
from tailorbird.features.kernels import gathered, in_shares
from tailorbird.features.layout import Step

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

_OPERATIONS = {
    "session": kernels_runs.SESSION,
    "length": kernels_runs.SESSION,
    "depth": kernels_runs.DEPTH,
    "duration": kernels_runs.DURATION,
    "refinements": kernels_runs.REFINEMENTS,
    "gap": kernels_runs.GAP,
}
COMPILED = frozenset(_OPERATIONS)  # operations of `runs.OF_RUN` that are done here


class Columns:
    """Of each event of a series: hashes of its item and type, and an identity of its session; 0
    where missing.

    `rows` (m,) of the columns (n,), of which each is taken out when it is first asked for.
    """

    def __init__(
        self,
        rows: Intps,
        item: Callable[[], Keys],
        type: Callable[[], Keys],
        session: Callable[[], Keys],
    ) -> None:
        self.rows = rows
        self._item, self._type, self._session = item, type, session

    @cached_property
    def item(self) -> Keys:
        return gathered(self._item(), self.rows)

    @cached_property
    def type(self) -> Keys:
        return gathered(self._type(), self.rows)

    @cached_property
    def session(self) -> Keys:
        return gathered(self._session(), self.rows)


@dataclass(frozen=True)
class Laid:
    """Runs one after another, the oldest event first: which place of the series each entry has, and
    its columns.
    """

    offsets: Int64s
    places: Intps
    ts: Int64s
    item: Keys
    type: Keys


class LastRuns:
    """The last `length` events of a series within the horizon, of each moment."""

    def __init__(self, series: Series, columns: Columns, moments: Moments, length: int) -> None:
        self._series, self._columns, self._moments, self._length = series, columns, moments, length
        walked = (moments.order, moments.start, moments.stop.edge, moments.sorted_t, moments.p)
        self._walk = (*walked, series.before, series.ts, series.p, length, HORIZON)

    @property
    def rows(self) -> Intps:
        """Of the columns, that of each event of the series."""
        return self._columns.rows

    def made(self, steps: Sequence[Step], asked: Keys) -> tuple[Floats, Intps]:
        """The column of each step (q, steps), and the moments for which that was left undone."""
        asked = gathered(asked, self._moments.order)
        found, far = (
            np.empty((len(self._moments), len(steps))),
            np.zeros(len(self._moments), np.bool_),
        )
        for start in range(0, len(steps), kernels_runs.SEARCHES):
            some = steps[start : start + kernels_runs.SEARCHES]
            operations = np.array([_OPERATIONS[step.operation] for step in some], np.int64)
            looked_at = self._looked_at(some)
            # A gap looks at times alone.
            item, session = (
                (looked_at,) * 2
                if all(one == kernels_runs.GAP for one in operations)
                else self._of_sessions()
            )
            of_events = (asked, item, session, looked_at)
            here = found[:, start : start + len(some)]
            in_shares(
                kernels_runs.run_columns,
                len(self._moments),
                *self._walk,
                *of_events,
                operations,
                SESSION_GAP,
                here,
                far,
            )
        return found, np.flatnonzero(far)

    def _looked_at(self, steps: Sequence[Step]) -> Keys:
        """Of each event, a bit for each step that looks at its type, and one for searches."""
        if all(step.operation == "gap" for step in steps):
            return np.zeros(len(self._series.p), np.uint64)
        types = self._columns.type
        bits = (types == np.uint64(hash64("search"))).astype(np.uint64) << np.uint64(
            kernels_runs.SEARCHES
        )
        masks: dict[tuple[str, ...], npt.NDArray[np.bool_]] = {}
        for place, step in enumerate(steps):
            names = step.types or (step.text,)
            if names not in masks:
                masks[names] = np.isin(types, np.array([hash64(name) for name in names], np.uint64))
            bits |= masks[names].astype(np.uint64) << np.uint64(place)
        return bits

    def _of_sessions(self) -> tuple[Keys, Keys]:
        return self._columns.item, self._columns.session

    def laid(self) -> Laid:
        """The runs themselves."""
        moments, series = self._moments, self._series
        sizes = np.empty(len(moments), np.int64)
        in_shares(kernels_runs.run_sizes, len(moments), *self._walk, sizes)
        rest = np.flatnonzero(sizes < 0)
        late = (
            series.last_places(moments.some(rest), self._length, moments.t[rest] - HORIZON)
            if len(rest)
            else None
        )
        if late is not None:
            sizes[rest] = np.diff(late[0])
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        count = int(offsets[-1])
        places, ts = np.empty(count, np.intp), np.empty(count, np.int64)
        item, type_ = np.empty(count, np.uint64), np.empty(count, np.uint64)
        of_events = (offsets, self._columns.item, self._columns.type, places, ts, item, type_)
        in_shares(kernels_runs.run_events, len(moments), *self._walk, *of_events)
        if late is not None:
            here, _ = ragged(offsets[rest], offsets[rest + 1])
            places[here] = late[1]
            ts[here], item[here], type_[here] = (
                series.ts[late[1]],
                self._columns.item[late[1]],
                self._columns.type[late[1]],
            )
        return Laid(offsets, places, ts, item, type_)
