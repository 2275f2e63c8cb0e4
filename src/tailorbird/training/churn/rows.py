"""Features of people at moments: what a reader would have been told of each of them then, and the
check that nothing of it is later.

A column takes part if it is about the person alone: an entity of the user or of the user's
attributes, or derived of such. Two ways to ask, both by the backfill:

    at(moments)         each at its own moment, as known then: rows to learn from
    ahead(origin, …)    at later moments, with what was known at the origin: as if nothing happened since. What a hazard is read at

The second is what `value(entity, t, p)` gives for t after p; here events from the origin on are
taken away before anything is computed, so that no order in which history was imported can bring
them back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import LeakError
from tailorbird.features import FeatureSet
from tailorbird.features.backfill import History, Requests, event_columns
from tailorbird.ranking.churn_bundle import with_vectors
from tailorbird.ranking.tower import Space
from tailorbird.registry import Columns
from tailorbird.training.churn.labels import Activity, Ints
from tailorbird.training.dated_back import LOOKED_AT, dated_back, without

Matrix = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_OF_ROWS = (
    "p",
    "event_id",
    "person",
    "session_id",
    "agent",
    "price",
    "quantity",
    "counts",
    *LOOKED_AT,
)
EVER = 1 << 62  # a p that knows everything
# people of a moment whose columns are computed a second time, without what must not matter
CHECKED = 1_000
WITHOUT_TIME = "have a value from a profile without a time, which may know what came later"
DATED_BACK = (
    "have a value from the one profile that was imported of them, which may know what "
    "came after the time that it is dated to"
)


@dataclass(frozen=True)
class Table:
    """Columns of n rows: numeric (n, F), NaN missing, and categorical (n, C), 0 missing; named by
    `columns`.
    """

    columns: Columns
    numeric: Matrix
    categorical: Keys

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: npt.NDArray[np.generic]) -> "Table":
        return Table(self.columns, self.numeric[rows], self.categorical[rows])

    def only(self, columns: Columns) -> "Table":
        """Without the numeric columns behind those of `columns`."""
        return Table(
            columns, np.ascontiguousarray(self.numeric[:, : len(columns.numeric)]), self.categorical
        )


def needed_columns(*features: FeatureSet) -> list[str]:
    """The columns of `events` that labels and rows look at, for columns by any of some
    declarations.
    """
    return list(
        dict.fromkeys((*_OF_ROWS, *(name for each in features for name in event_columns(each))))
    )


class People:
    """Answers with the columns of people at moments.

    Args:
        events: of the lake, all that features may look at: `needed_columns`.
        activity: whose codes name the people.
        columns: to be read.
        space: by which they have vectors, whose columns come behind the numeric ones; None for
            none.
    """

    def __init__(
        self,
        features: FeatureSet,
        events: pa.Table,
        activity: Activity,
        columns: Columns,
        space: Space | None = None,
    ) -> None:
        self._read, self.space = columns, space
        self.columns = columns if space is None else with_vectors(columns, space.tower.plan)
        self.activity = activity
        self.features, self._people = features, activity.people
        self._only = [
            *columns.numeric,
            *columns.categorical,
            *((space.tower.plan.sequence,) if space is not None else ()),
        ]
        self._ts = _times(events["ts"])
        self._received = _times(pc.coalesce(events["received_at"], events["ts"]))
        self._timeless = pc.fill_null(events["timeless"], False).to_numpy()
        self._dated_back, self._undated = dated_back(events)
        # Positions by when events came in, not by where they stand in the log: an import stands
        # there in order of time, what was late too. A profile without a time is valid from the
        # beginning, whenever it was loaded.
        arrived = np.where(self._timeless, 0, self._received)
        order = np.lexsort((events["p"].to_numpy(), arrived))
        self._arrived = arrived[order]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(1, len(order) + 1)
        self._events = events.set_column(
            events.schema.get_field_index("p"), events.schema.field("p"), pa.array(place)
        )
        self._all: History | None = None

    def reading(
        self, columns: Columns, space: Space | None, features: FeatureSet | None = None
    ) -> "People":
        """The same people with other columns; by other declarations, where `features` has some."""
        return People(
            self.features if features is None else features,
            self._events,
            self.activity,
            columns,
            space,
        )

    def at(self, person: Ints, moment: Ints) -> Table:
        """Each person at a moment, as known then; shape (n,) each."""
        if self._all is None:
            self._all = History(self.features, self._events, only=self._only)
        return self._answer(
            self._all, person, moment, np.searchsorted(self._arrived, moment, side="right")
        )

    def ahead(self, origin: int, person: Ints, moments: Sequence[int]) -> list[Table]:
        """All people at each of some moments from the origin on, with what was known at the origin.

        Raises:
            LeakError: a moment lies before the origin.
        """
        if min(moments, default=origin) < origin:
            raise LeakError("features were asked for at a moment before their origin")
        return self._ahead(self._events, self._before(origin), person, moments)

    def leaks(
        self, origins: Sequence[int], person: Sequence[Ints], *, seed: int = 0
    ) -> dict[str, str]:
        """Columns that say something else once what came later is taken away, by name, with why.

        Taken away are, for what is computed `at` an origin, all events that happened or came in
        after it; then profiles without a time, which are valid from the beginning and may know
        everything; then those of which only the time that they are dated to is known, see
        `training.dated_back`.
        """
        rng = np.random.default_rng(seed)
        found: dict[str, str] = {}
        for origin, people in zip(origins, person, strict=True):
            some = np.sort(rng.choice(people, min(len(people), CHECKED), replace=False))
            told = self.at(some, np.full(len(some), origin, np.int64))
            before = self._before(origin)
            cut = self._ahead(self._events, before, some, [origin])[0]
            for name, count in _differences(told, cut).items():
                found.setdefault(
                    name,
                    f"of {len(some):,} people {count:,} have another value once later events "
                    "are taken away",
                )
            for events, kept, why in self._untold(before):
                untold = self._ahead(events, kept, some, [origin])[0]
                for name, count in _differences(cut, untold).items():
                    found.setdefault(name, f"of {len(some):,} people {count:,} {why}")
        return found

    def _untold(self, before: Mask) -> Iterator[tuple[pa.Table, Mask, str]]:
        """The events without what nobody knows when it was known, with which of them to look at,
        and why it is left out.
        """
        if self._timeless.any():
            yield (
                self._without_profiles(self._timeless, None),
                before & ~self._timeless,
                WITHOUT_TIME,
            )
        if self._dated_back.any():
            yield self._without_profiles(self._dated_back, self._undated), before, DATED_BACK

    def _without_profiles(self, profiles: Mask, names: frozenset[str] | None) -> pa.Table:
        """The events without some attributes of these profiles, or any, where they stand and where
        they were kept with other events.
        """
        events, whose = self._events, pc.unique(self._events["person"].filter(pa.array(profiles)))
        theirs = pc.fill_null(pc.is_in(events["person"], whose), False).to_numpy()
        for column, rows in (("properties", profiles), ("user_profile", theirs)):
            if column in events.column_names and (column != "properties" or names is not None):
                place, texts = events.column_names.index(column), events[column]
                kept = (
                    without(texts, rows, names)
                    if names is not None
                    else pc.if_else(pa.array(rows), pa.scalar(None, pa.string()), texts)
                )
                events = events.set_column(place, column, kept)
        return events

    def _before(self, origin: int) -> Mask:
        return self._timeless | ((self._ts < origin) & (self._received <= origin))

    def _ahead(
        self, events: pa.Table, kept: Mask, person: Ints, moments: Sequence[int]
    ) -> list[Table]:
        history = History(self.features, events.filter(pa.array(kept)), only=self._only)
        t = np.repeat(np.array(moments, np.int64), len(person))
        every = self._answer(history, np.tile(person, len(moments)), t, np.full(len(t), EVER))
        return [
            every.take(np.arange(k * len(person), (k + 1) * len(person)))
            for k in range(len(moments))
        ]

    def _answer(self, history: History, person: Ints, moment: Ints, p: Ints) -> Table:
        count = len(person)
        texts = self._people.values.take(pa.array(person))
        rows = history.rows(
            Requests(moment, p, texts, np.arange(count), pa.nulls(count, pa.string()))
        )
        numeric = rows.numeric[:, [rows.numeric_names.index(name) for name in self._read.numeric]]
        categorical = [rows.categorical_names.index(name) for name in self._read.categorical]
        if self.space is not None:
            numeric = np.concatenate(
                [numeric, self.space.users(rows.sequences[self.space.tower.plan.sequence], count)],
                axis=1,
            )
        return Table(self.columns, numeric, rows.categorical[:, categorical])


def _times(column: pa.ChunkedArray) -> Ints:
    return pc.fill_null(column.cast(pa.int64()), 0).to_numpy()


def _differences(told: Table, other: Table) -> dict[str, int]:
    """Column → rows that differ in any bit; two missing values are equal."""
    found = {}
    for place, name in enumerate(told.columns.numeric):
        a, b = told.numeric[:, place], other.numeric[:, place]
        found[name] = int(np.count_nonzero(~((a == b) | (np.isnan(a) & np.isnan(b)))))
    for place, name in enumerate(told.columns.categorical):
        found[name] = int(
            np.count_nonzero(told.categorical[:, place] != other.categorical[:, place])
        )
    return {name: count for name, count in found.items() if count}
