"""One read from a snapshot: records, their lanes (64-bit numbers) and sequences of a person and
many items.
"""

from collections.abc import Sequence as IdSequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.keys import hash64
from tailorbird.features.arithmetic import finish
from tailorbird.features.arithmetic.runs import Runs, SingleRun
from tailorbird.features.arithmetic.stacks import (
    ColumnStacks,
    EntityReadings,
    find_one_row_entities,
)
from tailorbird.features.declare.scalars import local_weekday, request_text
from tailorbird.features.event_columns.columns import entity_key
from tailorbird.features.event_columns.fields import query_words
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import (
    COMMIT_LANE,
    NEWEST_LANE,
    NEXT_CHANGE_LANE,
    SEQUENCE_READING_COLUMNS,
    VALID_FROM_LANE,
    RecordLane,
    Step,
)
from tailorbird.features.request import ReadRequest, Rows, Sequence
from tailorbird.features.state.state import Position, all_records
from tailorbird.features.state.tiles import NEVER_TS
from tailorbird.store import Snapshot

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class ReadPlan:
    """The data that all requests of a layout share, computed once per reader."""

    def __init__(self, features: FeatureSet) -> None:
        layout = self.layout = features.layout
        self.records = all_records(layout)
        self.key_part_lanes = features.key_part_lanes
        composite_entities = {entity for entity, _ in self.key_part_lanes}
        self.weekday_entities = [
            entity.index for entity in layout.entities if "weekday" in entity.entity.fields
        ]
        fetch_order = sorted(
            set(range(len(layout.entities))).difference(self.weekday_entities),
            key=lambda index: index in composite_entities,
        )
        # Entities whose keys need no record come before those whose keys do.
        self.fetch_order = fetch_order
        # Of each entity, whether all rows of a request share it.
        self.is_one_row = find_one_row_entities(layout, self.key_part_lanes)
        self.stacks = ColumnStacks(layout, self.is_one_row)
        self.sequences = [step for step in layout.steps if step.kind == "sequence"]
        self.empty_readings = [
            EntityReadings(
                np.zeros((0, entity.reading_lanes), np.int64), None, np.ones(1, np.bool_), True
            )
            for entity in layout.entities
        ]
        self.unknown_readings = [
            _unknown_reading(entity.reading_lanes) for entity in layout.entities
        ]


def _unknown_reading(lanes: int) -> EntityReadings:
    """Return the single row of an unknown entity, which never goes out of date."""
    readings = np.zeros((1, lanes), np.int64)
    readings[:, NEXT_CHANGE_LANE] = NEVER_TS
    return EntityReadings(readings, None, np.zeros(1, np.bool_), False)


class ActiveRead:
    """One request being read, for items or the person alone; a `finish.LaneSource`.

    Args:
        items: the hashes of the items; None for the person alone.
        swept_until: the time up to which idle entities have expired; it is read no earlier.
    """

    def __init__(
        self,
        plan: ReadPlan,
        snapshot: Snapshot,
        request: ReadRequest,
        items: Keys | None,
        swept_until: int,
    ) -> None:
        self._plan = plan
        self._snapshot = snapshot
        self._request = request
        self._is_person_only = items is None
        self._items = items = np.zeros(1, np.uint64) if items is None else items
        self._unique_keys: list[Keys] = [items] * len(plan.records)  # distinct keys that were read
        self._readings = (
            plan.unknown_readings if self._is_person_only else plan.empty_readings
        ).copy()
        self._context_keys: dict[str, Keys] = {}
        self._distinct_values: dict[RecordLane, tuple[Keys, npt.NDArray[np.intp]]] = {}
        self._runs: dict[RecordLane, Runs] = {}
        self._valid_interval = 0, NEVER_TS  # interval in which all records are valid
        self.rows = len(items)
        self.t: Int64s = np.full(1, swept_until, np.int64)

    def read_rows(self, positions: IdSequence[Position], alias_ts: int) -> Rows:
        plan = self._plan
        for index in plan.fetch_order:
            self._fetch_entity(index)
        t = self._advance_time(alias_ts)
        while (
            plan.weekday_entities
        ):  # The weekday selects records, and these may move t into another day.
            weekday = local_weekday(t, self._request.local_hour)
            for index in plan.weekday_entities:
                self._fetch_entity(index)
            t = self._advance_time(alias_ts)
            if local_weekday(t, self._request.local_hour) == weekday:
                break
        return Rows(
            stale_rows=self._refresh_stale(),
            numeric=self._read_numeric(),
            categorical=finish.compute_categorical_columns(plan.layout, self),
            sequences={step.name: self._read_sequence(step) for step in plan.sequences},
            t=t,
            commit=max(position.commit for position in positions),
            log_position=max(position.log_position for position in positions),
            person=self._request.person,
            log_positions=tuple(position.log_position for position in positions)
            if len(positions) > 1
            else (),
        )

    def _read_numeric(self) -> npt.NDArray[np.float32]:
        with np.errstate(all="ignore"):
            table = self._plan.stacks.table(self._readings, self.t, self.rows)
            for column, step in self._plan.stacks.unstacked_steps:
                table[column] = finish.compute_number(step, self)
            table = np.ascontiguousarray(table.T)
            finish.fill_derived_columns(self._plan.layout, table)
        return table

    def _advance_time(self, alias_ts: int) -> int:
        """Return the clock, or just after the newest event read so far; never before what has
        expired.
        """
        headers = np.concatenate(
            [
                np.zeros((0, COMMIT_LANE), np.int64),
                *(entity_readings.readings[:, :COMMIT_LANE] for entity_readings in self._readings),
            ]
        )
        newest_ts = int(headers[:, NEWEST_LANE].max(initial=0))
        self._valid_interval = (
            int(headers[:, VALID_FROM_LANE].max(initial=0)),
            int(headers[:, NEXT_CHANGE_LANE].min(initial=NEVER_TS)),
        )
        t = max(self._request.now, 1 + newest_ts, 1 + alias_ts, int(self.t[0]))
        self.t = np.full(1, t, np.int64)
        return t

    def lane(self, record_lane: RecordLane) -> Int64s:
        return self._readings[record_lane.entity].lane(record_lane.lane)

    def is_present(self, entity: int) -> Bools:
        return self._readings[entity].is_present

    def run_values(self, step: Step) -> npt.NDArray:
        run = self._get_run(step)
        if step.operation != "seen":
            return run.column(step)
        candidate = (
            self.lane(step.record_lanes[1]).view(np.uint64)
            if len(step.record_lanes) > 1
            else self._items
        )
        return run.seen(np.zeros(len(candidate), np.intp), candidate)

    def _get_run(self, step: Step) -> Runs:
        """Return the last events that a step uses, computed once for all steps over them."""
        run = self._runs.get(step.record_lanes[0])
        if run is None:
            ts, item, types, sessions, *further_values = finish.recent_events(
                int(self.t[0]), *self._read_last_events(step)
            )
            session_id = self._request.session_id
            request_session = np.full(1, 0 if session_id is None else hash64(session_id), np.uint64)
            item = item.view(np.uint64)
            types = types.view(np.uint64)
            sessions = sessions.view(np.uint64)
            value = further_values[0].view(np.uint64) if further_values else item
            run = SingleRun(
                np.array([0, len(ts)]),
                ts=ts,
                item=item,
                type=types,
                session=sessions,
                t=self.t,
                request_session=request_session,
                value=value,
            )
            self._runs[step.record_lanes[0]] = run
        return run

    def query_words(self) -> Keys:
        return query_words(pa.array([self._request.query], pa.string()))

    def context_number(self, field: str) -> Floats:
        value = request_text(self._request, field, int(self.t[0]))
        return np.full(1, np.nan if value is None else float(value))

    def context_key(self, field: str) -> Keys:
        value = request_text(self._request, field, int(self.t[0]))
        return np.full(1, 0 if value is None else hash64(value), np.uint64)

    def _read_sequence(self, step: Step) -> Sequence:
        events = self._read_last_events(step)
        if not self._readings[step.record_lanes[0].entity].all_present:
            events = np.zeros_like(events)
        ts, item, types, _, *bits = finish.recent_events(int(self.t[0]), *events)
        return Sequence(
            item.view(np.uint64), types.view(np.uint64), ts, finish.further_values(step, bits)
        )

    def _read_last_events(self, step: Step) -> Int64s:
        """Return columns of the last events (columns, length): ts, item, type, session, further
        values.
        """
        record_lane = step.record_lanes[0]
        columns = SEQUENCE_READING_COLUMNS + len(step.of)
        return (
            self._readings[record_lane.entity]
            .readings[0, record_lane.lane : record_lane.lane + columns * step.length]
            .reshape(columns, step.length)
        )

    def _fetch_entity(self, index: int) -> None:
        """Read the reading records of an entity, each key once."""
        if self._is_person_only and not self._plan.is_one_row[index]:
            return
        records = self._plan.records[index]
        entity = records.layout.entity
        key_parts, inverse_index = self._key_parts(index)
        key = np.atleast_1d(entity_key(entity, key_parts))
        is_present = self._plan.empty_readings[index].is_present
        all_present = True
        for key_part in key_parts:
            if not key_part.all():
                has_part = key_part != 0
                is_present = is_present & (
                    has_part
                    if inverse_index is None or len(key_part) == 1
                    else has_part[inverse_index]
                )
                all_present = False
        if (
            inverse_index is None
            and not self._plan.is_one_row[index]
            and "item" not in entity.fields
        ):
            key, inverse_index = np.unique(key, return_inverse=True)
        self._unique_keys[index] = key
        self._readings[index] = EntityReadings(
            records.readings(self._snapshot, key), inverse_index, is_present, all_present
        )

    def _key_parts(self, index: int) -> tuple[list[Keys], npt.NDArray[np.intp] | None]:
        """Return the fields of an entity's key, and each row's index among the distinct keys.

        Keys are deduplicated where a single attribute varies between rows.
        """
        fields = self._plan.records[index].layout.entity.fields
        record_lanes = [
            self._plan.key_part_lanes.get((index, field_index))
            for field_index in range(len(fields))
        ]
        if key_overrides := self._request.key_overrides:
            keys = (
                np.full(1, hash64(key_overrides[name]), np.uint64)
                if name in key_overrides
                else None
                for name in fields
            )
            return [
                self._key_part(name, record_lane) if key is None else key
                for name, record_lane, key in zip(fields, record_lanes, keys, strict=True)
            ], None
        varying_lanes = [
            record_lane
            for record_lane in record_lanes
            if record_lane is not None and not self._plan.is_one_row[record_lane.entity]
        ]
        if len(varying_lanes) != 1 or "item" in fields:
            return [
                self._key_part(name, record_lane)
                for name, record_lane in zip(fields, record_lanes, strict=True)
            ], None
        if varying_lanes[0] not in self._distinct_values:
            self._distinct_values[varying_lanes[0]] = np.unique(
                self._key_part("", varying_lanes[0]), return_inverse=True
            )
        distinct_values, inverse_index = self._distinct_values[varying_lanes[0]]
        return [
            distinct_values
            if record_lane == varying_lanes[0]
            else self._key_part(name, record_lane)
            for name, record_lane in zip(fields, record_lanes, strict=True)
        ], inverse_index

    def _key_part(self, name: str, record_lane: RecordLane | None) -> Keys:
        if record_lane is not None:
            return self.lane(record_lane).view(np.uint64)
        if name == "item":
            return self._items
        if name == "weekday":  # It depends on t.
            return self.context_key(name)
        if name not in self._context_keys:
            self._context_keys[name] = self.context_key(name)
        return self._context_keys[name]

    def _refresh_stale(self) -> int:
        """Recompute from the state the records that are out of date, and return their number."""
        count = 0
        t = self.t[0]
        valid_from, next_change = self._valid_interval
        if valid_from <= t < next_change:
            return 0
        for index, entity_readings in enumerate(self._readings):
            readings = entity_readings.readings
            stale_rows = np.flatnonzero(
                (t < readings[:, VALID_FROM_LANE]) | (t >= readings[:, NEXT_CHANGE_LANE])
            )
            if not len(stale_rows):
                continue
            states = self._plan.records[index].states(
                self._snapshot, self._unique_keys[index][stale_rows]
            )
            readings = readings.copy()
            readings[stale_rows] = self._plan.records[index].compute_readings(
                states, np.full(len(stale_rows), t)
            )
            self._readings[index] = replace(entity_readings, readings=readings)
            count += len(stale_rows)
        return count
