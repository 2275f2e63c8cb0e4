"""One read from a snapshot: records, lanes and sequences of a person and many items."""

from collections.abc import Sequence as Ids
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.keys import hash64
from tailorbird.features.arithmetic import finish
from tailorbird.features.arithmetic.runs import Runs, SingleRun
from tailorbird.features.arithmetic.stacks import Entries, Stacks, find_one_row_entities
from tailorbird.features.declare.scalars import request_text, weekday
from tailorbird.features.event_columns.columns import entity_key
from tailorbird.features.event_columns.fields import query_words
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import (
    COMMIT,
    NEWEST,
    NEXT_CHANGE,
    SEQUENCE_READING,
    VALID_FROM,
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
        self.composite_lanes = features.composite_lanes
        composite_entities = {entity for entity, _ in self.composite_lanes}
        self.weekday_entities = [
            entity.index for entity in layout.entities if "weekday" in entity.entity.fields
        ]
        other_entities = sorted(
            set(range(len(layout.entities))).difference(self.weekday_entities),
            key=lambda index: index in composite_entities,
        )
        # Entities whose keys need no record come before those whose keys do.
        self.fetch_order = other_entities
        self.one_row = find_one_row_entities(layout, self.composite_lanes)
        self.stacks = Stacks(layout, self.one_row)
        self.sequences = [step for step in layout.steps if step.kind == "sequence"]
        self.empty_entries = [
            Entries(np.zeros((0, entity.reading_lanes), np.int64), None, np.ones(1, np.bool_), True)
            for entity in layout.entities
        ]
        self.unknown_entries = [_unknown_entry(entity.reading_lanes) for entity in layout.entities]


def _unknown_entry(lanes: int) -> Entries:
    """Return the single row of an unknown entity, which never goes out of date."""
    readings = np.zeros((1, lanes), np.int64)
    readings[:, NEXT_CHANGE] = NEVER_TS
    return Entries(readings, None, np.zeros(1, np.bool_), False)


class ActiveRead:
    """One request being read, for items or the person alone; implements `finish.Lanes`."""

    def __init__(
        self,
        plan: ReadPlan,
        snapshot: Snapshot,
        request: ReadRequest,
        items: Keys | None,
        swept: int,
    ) -> None:
        self._plan = plan
        self._snapshot = snapshot
        self._request = request
        self._is_person_only = items is None
        self._items = items = np.zeros(1, np.uint64) if items is None else items
        self._unique_keys: list[Keys] = [items] * len(plan.records)  # distinct keys that were read
        self._entries = (
            plan.unknown_entries if self._is_person_only else plan.empty_entries
        ).copy()
        self._context: dict[str, Keys] = {}
        self._distinct_values: dict[RecordLane, tuple[Keys, npt.NDArray[np.intp]]] = {}
        self._runs: dict[RecordLane, Runs] = {}
        self._valid_interval = 0, NEVER_TS  # interval in which all records are valid
        self.rows = len(items)
        self.t: Int64s = np.full(1, swept, np.int64)

    def read_rows(self, positions: Ids[Position], alias_ts: int) -> Rows:
        plan = self._plan
        for index in plan.fetch_order:
            self._fetch_entity(index)
        t = self._advance_time(alias_ts)
        while (
            plan.weekday_entities
        ):  # The weekday selects records, and these may move t into another day.
            day = weekday(t, self._request.local_hour)
            for index in plan.weekday_entities:
                self._fetch_entity(index)
            t = self._advance_time(alias_ts)
            if weekday(t, self._request.local_hour) == day:
                break
        return Rows(
            stale=self._refresh_stale(),
            numeric=self._read_numeric(),
            categorical=finish.categorical(plan.layout, self),
            sequences={step.name: self._read_sequence(step) for step in plan.sequences},
            t=t,
            commit=max(position.commit for position in positions),
            p=max(position.p for position in positions),
            person=self._request.person,
            positions=tuple(position.p for position in positions) if len(positions) > 1 else (),
        )

    def _read_numeric(self) -> npt.NDArray[np.float32]:
        with np.errstate(all="ignore"):
            table = self._plan.stacks.table(self._entries, self.t, self.rows)
            for column, step in self._plan.stacks.unstacked:
                table[column] = finish.number(step, self)
            table = np.ascontiguousarray(table.T)
            finish.derive(self._plan.layout, table)
        return table

    def _advance_time(self, alias_ts: int) -> int:
        """Return the clock, or just after the newest event read so far; never before what has
        expired.
        """
        heads = np.concatenate(
            [
                np.zeros((0, COMMIT), np.int64),
                *(entry.readings[:, :COMMIT] for entry in self._entries),
            ]
        )
        newest = int(heads[:, NEWEST].max(initial=0))
        self._valid_interval = (
            int(heads[:, VALID_FROM].max(initial=0)),
            int(heads[:, NEXT_CHANGE].min(initial=NEVER_TS)),
        )
        t = max(self._request.now, 1 + newest, 1 + alias_ts, int(self.t[0]))
        self.t = np.full(1, t, np.int64)
        return t

    def lane(self, record_lane: RecordLane) -> Int64s:
        return self._entries[record_lane.entity].lane(record_lane.lane)

    def is_present(self, entity: int) -> Bools:
        return self._entries[entity].is_present

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
            ts, item, types, sessions, *further = finish.recent_events(
                int(self.t[0]), *self._read_last_events(step)
            )
            session_id = self._request.session_id
            request_session = np.full(1, 0 if session_id is None else hash64(session_id), np.uint64)
            item, types, sessions = (
                item.view(np.uint64),
                types.view(np.uint64),
                sessions.view(np.uint64),
            )
            value = further[0].view(np.uint64) if further else item
            run = SingleRun(
                np.array([0, len(ts)]), ts, item, types, sessions, self.t, request_session, value
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
        if not self._entries[step.record_lanes[0].entity].all_present:
            events = np.zeros_like(events)
        ts, item, types, _, *bits = finish.recent_events(int(self.t[0]), *events)
        return Sequence(
            item.view(np.uint64), types.view(np.uint64), ts, finish.further_values(step, bits)
        )

    def _read_last_events(self, step: Step) -> Int64s:
        """Return columns of the last events (columns, length): ts, item, type, session, further
        values.
        """
        record_lane, columns = step.record_lanes[0], SEQUENCE_READING + len(step.of)
        return (
            self._entries[record_lane.entity]
            .readings[0, record_lane.lane : record_lane.lane + columns * step.length]
            .reshape(columns, step.length)
        )

    def _fetch_entity(self, index: int) -> None:
        """Read the reading records of an entity, each key once."""
        if self._is_person_only and not self._plan.one_row[index]:
            return
        records = self._plan.records[index]
        entity = records.layout.entity
        parts, inverse_index = self._key_parts(index)
        key = np.atleast_1d(entity_key(entity, parts))
        present, all_present = self._plan.empty_entries[index].is_present, True
        for part in parts:
            if not part.all():
                has_part = part != 0
                present, all_present = (
                    present
                    & (
                        has_part
                        if inverse_index is None or len(part) == 1
                        else has_part[inverse_index]
                    ),
                    False,
                )
        if inverse_index is None and not self._plan.one_row[index] and "item" not in entity.fields:
            key, inverse_index = np.unique(key, return_inverse=True)
        self._unique_keys[index] = key
        self._entries[index] = Entries(
            records.readings(self._snapshot, key), inverse_index, present, all_present
        )

    def _key_parts(self, index: int) -> tuple[list[Keys], npt.NDArray[np.intp] | None]:
        """Return the fields of an entity's key, and each row's index among the distinct keys.

        Keys are deduplicated where a single attribute varies between rows.
        """
        fields = self._plan.records[index].layout.entity.fields
        record_lanes = [
            self._plan.composite_lanes.get((index, field_index))
            for field_index in range(len(fields))
        ]
        if given := self._request.given:
            keys = (
                np.full(1, hash64(given[name]), np.uint64) if name in given else None
                for name in fields
            )
            return [
                self._key_part(name, record_lane) if key is None else key
                for name, record_lane, key in zip(fields, record_lanes, keys, strict=True)
            ], None
        row_lanes = [
            record_lane
            for record_lane in record_lanes
            if record_lane is not None and not self._plan.one_row[record_lane.entity]
        ]
        if len(row_lanes) != 1 or "item" in fields:
            return [
                self._key_part(name, record_lane)
                for name, record_lane in zip(fields, record_lanes, strict=True)
            ], None
        if row_lanes[0] not in self._distinct_values:
            self._distinct_values[row_lanes[0]] = np.unique(
                self._key_part("", row_lanes[0]), return_inverse=True
            )
        unique, inverse_index = self._distinct_values[row_lanes[0]]
        return [
            unique if record_lane == row_lanes[0] else self._key_part(name, record_lane)
            for name, record_lane in zip(fields, record_lanes, strict=True)
        ], inverse_index

    def _key_part(self, name: str, record_lane: RecordLane | None) -> Keys:
        if record_lane is not None:
            return self.lane(record_lane).view(np.uint64)
        if name == "item":
            return self._items
        if name == "weekday":  # It depends on t.
            return self.context_key(name)
        if name not in self._context:
            self._context[name] = self.context_key(name)
        return self._context[name]

    def _refresh_stale(self) -> int:
        """Recompute from the state the records that are out of date, and return their number."""
        count, t = 0, self.t[0]
        valid_from, next_change = self._valid_interval
        if valid_from <= t < next_change:
            return 0
        for index, entry in enumerate(self._entries):
            readings = entry.readings
            stale_rows = np.flatnonzero(
                (t < readings[:, VALID_FROM]) | (t >= readings[:, NEXT_CHANGE])
            )
            if not len(stale_rows):
                continue
            states = self._plan.records[index].states(
                self._snapshot, self._unique_keys[index][stale_rows]
            )
            readings = readings.copy()
            readings[stale_rows] = self._plan.records[index].finish(
                states, np.full(len(stale_rows), t)
            )
            self._entries[index] = replace(entry, readings=readings)
            count += len(stale_rows)
        return count
