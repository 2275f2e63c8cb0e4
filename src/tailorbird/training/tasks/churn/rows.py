"""Historical features of people, and the check that none of them looks past its moment.

A column takes part if it is about the person alone: it belongs to the user or to the user's
attributes, or is derived from such columns. Both reads go through the backfill:

    read_historical(moments)     each person at its own moment, as known then: training rows
    read_projected(origin, …)    at later moments, with what was known at the origin, as if
                                 nothing had happened since: the input of hazard models

The second is `value(entity, t, p)` for t after p. Here, events from the origin on are removed
before anything is computed, so no import order can bring them back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import LeakError
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import History, Requests, event_columns
from tailorbird.ranking.churn.bundle import with_vectors
from tailorbird.ranking.tower import Space
from tailorbird.registry import ColumnNames
from tailorbird.training.leakage.backdated import (
    PROFILE_COLUMNS,
    drop_attributes,
    find_backdated_profiles,
)
from tailorbird.training.leakage.columns import count_changes
from tailorbird.training.tasks.churn.labels import Activity, Ints

Matrix = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_ROW_COLUMNS = (
    "p",
    "event_id",
    "person",
    "session_id",
    "agent",
    "price",
    "quantity",
    "counts",
    *PROFILE_COLUMNS,
)
AFTER_ALL_EVENTS = 1 << 62  # a p after every event
# people per origin whose features are recomputed without later events
LEAK_CHECK_ROWS = 1_000
TIMELESS_NOTE = "have a value from a profile without a time, which may know what came later"
BACKDATED_NOTE = (
    "have a value from the one profile that was imported of them, which may know what "
    "came after the time that it is dated to"
)


@dataclass(frozen=True)
class FeatureTable:
    """Feature columns of n rows.

    `numeric` is (n, F) with NaN for missing, `categorical` is (n, C) with 0 for missing; `columns`
    names them.
    """

    columns: ColumnNames
    numeric: Matrix
    categorical: Keys

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: npt.NDArray[np.generic]) -> "FeatureTable":
        return FeatureTable(self.columns, self.numeric[rows], self.categorical[rows])

    def select(self, columns: ColumnNames) -> "FeatureTable":
        """Return the table without the numeric columns that follow those of `columns`."""
        return FeatureTable(
            columns, np.ascontiguousarray(self.numeric[:, : len(columns.numeric)]), self.categorical
        )


def needed_columns(*features: FeatureSet) -> list[str]:
    """Return the `events` columns that labels and features need, over several declarations."""
    return list(
        dict.fromkeys(
            (*_ROW_COLUMNS, *(name for feature in features for name in event_columns(feature)))
        )
    )


class PeopleFeatures:
    """Reads the features of people at moments.

    Args:
        events: of the lake, with `needed_columns`.
        activity: its codes identify the people.
        columns: the columns to read.
        space: embedding space of people; its dimensions follow the numeric columns. None for
            no vectors.
    """

    def __init__(
        self,
        features: FeatureSet,
        events: pa.Table,
        activity: Activity,
        columns: ColumnNames,
        space: Space | None = None,
    ) -> None:
        self._requested_columns = columns
        self.space = space
        self.columns = columns if space is None else with_vectors(columns, space.tower.plan)
        self.activity = activity
        self.features = features
        self._people = activity.people
        self._feature_names = [
            *columns.numeric,
            *columns.categorical,
            *((space.tower.plan.sequence,) if space is not None else ()),
        ]
        self._ts = _to_micros(events["ts"])
        self._received = _to_micros(pc.coalesce(events["received_at"], events["ts"]))
        self._timeless = pc.fill_null(events["timeless"], False).to_numpy()
        self._is_backdated, self._backdated_attributes = find_backdated_profiles(events)
        # Positions follow arrival, not log order: an import is written in order of event time,
        # including its late events. A profile without a time is valid from the beginning, whenever
        # it was loaded.
        arrival_times = np.where(self._timeless, 0, self._received)
        order = np.lexsort((events["p"].to_numpy(), arrival_times))
        self._arrival_times = arrival_times[order]
        arrival_position = np.empty(len(order), np.int64)
        arrival_position[order] = np.arange(1, len(order) + 1)
        self._events = events.set_column(
            events.schema.get_field_index("p"), events.schema.field("p"), pa.array(arrival_position)
        )
        self._full_history: History | None = None

    def with_columns(
        self, columns: ColumnNames, space: Space | None, features: FeatureSet | None = None
    ) -> "PeopleFeatures":
        """Return the same people with other columns, and with other declarations if given."""
        return PeopleFeatures(
            self.features if features is None else features,
            self._events,
            self.activity,
            columns,
            space,
        )

    def read_historical(self, person: Ints, moment: Ints) -> FeatureTable:
        """Return the features of each person at a moment, as known then; shape (n,) each."""
        if self._full_history is None:
            self._full_history = History(
                self.features, self._events, only_columns=self._feature_names
            )
        return self._read_rows(
            self._full_history,
            person,
            moment,
            np.searchsorted(self._arrival_times, moment, side="right"),
        )

    def read_projected(
        self, origin: int, person: Ints, moments: Sequence[int]
    ) -> list[FeatureTable]:
        """Return features at moments from the origin on, with what was known at the origin.

        Raises:
            LeakError: a moment lies before the origin.
        """
        if min(moments, default=origin) < origin:
            raise LeakError("features were asked for at a moment before their origin")
        return self._project(self._events, self._known_before(origin), person, moments)

    def find_leaks(
        self, origins: Sequence[int], person: Sequence[Ints], *, seed: int = 0
    ) -> dict[str, str]:
        """Return columns whose values change once later information is removed, each with a reason.

        Removed are, for features at an origin: all events that happened or arrived after it; then
        profiles without a time, which are valid from the beginning and may know the future; then
        backdated profiles, see `training.leakage.backdated`.
        """
        rng = np.random.default_rng(seed)
        reasons: dict[str, str] = {}
        for origin, people_at_origin in zip(origins, person, strict=True):
            sample = np.sort(
                rng.choice(
                    people_at_origin, min(len(people_at_origin), LEAK_CHECK_ROWS), replace=False
                )
            )
            historical_table = self.read_historical(sample, np.full(len(sample), origin, np.int64))
            known_before = self._known_before(origin)
            table_without_later = self._project(self._events, known_before, sample, [origin])[0]
            for name, count in _count_differences(historical_table, table_without_later).items():
                reasons.setdefault(
                    name,
                    f"of {len(sample):,} people {count:,} have another value once later events "
                    "are taken away",
                )
            for events, visible_mask, reason in self._reduced_events(known_before):
                table_without_profiles = self._project(events, visible_mask, sample, [origin])[0]
                for name, count in _count_differences(
                    table_without_later, table_without_profiles
                ).items():
                    reasons.setdefault(name, f"of {len(sample):,} people {count:,} {reason}")
        return reasons

    def _reduced_events(self, known_before: Mask) -> Iterator[tuple[pa.Table, Mask, str]]:
        """Yield events without profiles of unknown age, each with a mask and the reason."""
        if self._timeless.any():
            yield (
                self._drop_profile_attributes(self._timeless, None),
                known_before & ~self._timeless,
                TIMELESS_NOTE,
            )
        if self._is_backdated.any():
            yield (
                self._drop_profile_attributes(self._is_backdated, self._backdated_attributes),
                known_before,
                BACKDATED_NOTE,
            )

    def _drop_profile_attributes(
        self, profile_mask: Mask, attribute_names: frozenset[str] | None
    ) -> pa.Table:
        """Return the events without some or all attributes of these profiles.

        They are removed from the profiles and from other events that carry a copy.
        """
        events = self._events
        people_with_profiles = pc.unique(self._events["person"].filter(pa.array(profile_mask)))
        has_profile = pc.fill_null(
            pc.is_in(events["person"], people_with_profiles), False
        ).to_numpy()
        for column, affected_mask in (("properties", profile_mask), ("user_profile", has_profile)):
            if column in events.column_names and (
                column != "properties" or attribute_names is not None
            ):
                column_index = events.column_names.index(column)
                texts = events[column]
                replacement = (
                    drop_attributes(texts, affected_mask, attribute_names)
                    if attribute_names is not None
                    else pc.if_else(pa.array(affected_mask), pa.scalar(None, pa.string()), texts)
                )
                events = events.set_column(column_index, column, replacement)
        return events

    def _known_before(self, origin: int) -> Mask:
        return self._timeless | ((self._ts < origin) & (self._received <= origin))

    def _project(
        self, events: pa.Table, visible_mask: Mask, person: Ints, moments: Sequence[int]
    ) -> list[FeatureTable]:
        history = History(
            self.features, events.filter(pa.array(visible_mask)), only_columns=self._feature_names
        )
        row_ts = np.repeat(np.array(moments, np.int64), len(person))
        all_rows = self._read_rows(
            history, np.tile(person, len(moments)), row_ts, np.full(len(row_ts), AFTER_ALL_EVENTS)
        )
        return [
            all_rows.take(np.arange(k * len(person), (k + 1) * len(person)))
            for k in range(len(moments))
        ]

    def _read_rows(
        self, history: History, person: Ints, moment: Ints, log_position: Ints
    ) -> FeatureTable:
        row_count = len(person)
        person_ids = self._people.values.take(pa.array(person))
        rows = history.rows(
            Requests(
                moment,
                log_position,
                person_ids,
                np.arange(row_count),
                pa.nulls(row_count, pa.string()),
            )
        )
        numeric = rows.numeric[
            :, [rows.numeric_names.index(name) for name in self._requested_columns.numeric]
        ]
        categorical_indexes = [
            rows.categorical_names.index(name) for name in self._requested_columns.categorical
        ]
        if self.space is not None:
            numeric = np.concatenate(
                [
                    numeric,
                    self.space.user_vectors(
                        rows.sequences[self.space.tower.plan.sequence], row_count
                    ),
                ],
                axis=1,
            )
        return FeatureTable(self.columns, numeric, rows.categorical[:, categorical_indexes])


def _to_micros(column: pa.ChunkedArray) -> Ints:
    return pc.fill_null(column.cast(pa.int64()), 0).to_numpy()


def _count_differences(expected: FeatureTable, actual: FeatureTable) -> dict[str, int]:
    columns = expected.columns
    counts = count_changes(columns.numeric, expected.numeric, actual.numeric)
    return counts | count_changes(columns.categorical, expected.categorical, actual.categorical)
