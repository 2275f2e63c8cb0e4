"""Accumulators: how an entity's state absorbs events in any order, and what is read from it at a
time.

Each works on many entities at once: `states` is (entities, lanes) of int64 and is changed in place.
None depends on the order of events or on how they are cut into batches, so that a late, reordered
or repeated-after-a-crash batch leads to the same bits. Times are never asked of a clock: a state is
read at some t after the newest event in it. Those of windows are in `features.state.rings`, and
read in `features.state.tiles`; which lanes belong to what, in `features.layout.layout`: an
accumulator's `entry` there has its source and its first lanes.
"""

from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from tailorbird.features.event_columns.columns import Frame, Keys
from tailorbird.features.event_columns.extracts import (
    PEAK_ZERO,
    Extract,
    ProfileExtract,
    extract,
    extract_profiles,
)
from tailorbird.features.layout.layout import (
    PEAK_MEASURES,
    EntityLayout,
    FirstTime,
    FirstValue,
    LastEvents,
    LastValue,
    Profile,
    missing_bits,
)
from tailorbird.features.state.rings import RingPeaks, RingSketches, RingSums

Int64s = npt.NDArray[np.int64]
States = npt.NDArray[np.int64]  # (entities, state lanes)
Readings = npt.NDArray[np.int64]  # (entities, reading lanes)
Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


class Additions(Protocol):
    """A micro-batch for one accumulator: the key and time of each event, and accumulator-specific
    values.
    """

    @property
    def key(self) -> Keys: ...
    @property
    def ts(self) -> Int64s: ...

    def take(self, rows: Rows | slice, /) -> "Additions": ...


B = TypeVar("B", bound=Additions)


class Accumulator(Protocol[B]):
    """One kind of state within the record of an entity."""

    def extract_additions(self, frame: Frame) -> B:
        """Extract from a block what this accumulator adds."""
        ...

    def update(self, states: States, newest_ts: Int64s, rows: Rows, batch: B) -> None:
        """Add the batch in place: its row i belongs to entity `rows[i]`.

        `newest_ts`, shape (entities,), is the newest ts of each with the batch; tiles too old for
        it are cleared (`tiles.clear_expired`).
        """
        ...


AccumulatorUpdate = tuple[
    Accumulator[Any], Rows, Any
]  # accumulator, entity row of each event, events


@runtime_checkable
class Readable(Protocol):
    """An accumulator whose lanes can be read at any time without further computation.

    Tiles are read together, in `features.state.tiles`.
    """

    def write_readings(self, states: States, readings: Readings) -> None:
        """Write the values that are read into their lanes of the readings."""
        ...


class NewestEvent:
    """The last event that has the value: ts, id, value. The newest of (ts, id) stays."""

    def __init__(self, entry: LastValue | FirstValue) -> None:
        self._entry = entry

    def extract_additions(self, frame: Frame) -> Extract:
        return extract(self._entry.source, frame)

    def update(self, states: States, newest_ts: Int64s, rows: Rows, batch: Extract) -> None:
        values = np.stack([batch.ts, batch.id.view(np.int64), batch.value], axis=1)
        _keep_newest(states[:, self._entry.lane : self._entry.lane + 3], rows, values)

    def write_readings(self, states: States, readings: Readings) -> None:
        readings[:, self._entry.reading_lane] = states[:, self._entry.lane]
        readings[:, self._entry.reading_lane + 1] = states[:, self._entry.lane + 2]


class OldestTime:
    """The time of the first event, stored as a code that is larger for earlier times."""

    def __init__(self, entry: FirstTime) -> None:
        self._entry = entry

    def extract_additions(self, frame: Frame) -> Extract:
        return extract(self._entry.source, frame)

    def update(self, states: States, newest_ts: Int64s, rows: Rows, batch: Extract) -> None:
        np.maximum.at(states[:, self._entry.lane], rows, PEAK_ZERO - batch.ts)

    def write_readings(self, states: States, readings: Readings) -> None:
        readings[:, self._entry.reading_lane] = states[:, self._entry.lane]


class OldestEvent(NewestEvent):
    """The first event that has the value, as the newest of (code of ts, ~id).

    The code of an earlier time is larger.
    """

    def update(self, states: States, newest_ts: Int64s, rows: Rows, batch: Extract) -> None:
        values = np.stack([PEAK_ZERO - batch.ts, (~batch.id).view(np.int64), batch.value], axis=1)
        _keep_newest(states[:, self._entry.lane : self._entry.lane + 3], rows, values)


class RecentEvents:
    """The last L events by (ts, id), oldest first, aligned to the end; ts 0 is empty."""

    def __init__(self, entry: LastEvents) -> None:
        self._entry = entry

    def extract_additions(self, frame: Frame) -> Extract:
        return extract(self._entry.source, frame)

    def update(self, states: States, newest_ts: Int64s, rows: Rows, batch: Extract) -> None:
        event_columns = (
            batch.ts,
            batch.id,
            batch.item,
            batch.type,
            batch.session,
            *(batch.value_bits(value) for value in self._entry.of),
        )
        self._add(
            states, rows, np.stack([column.view(np.int64) for column in event_columns], axis=1)
        )

    def write_readings(self, states: States, readings: Readings) -> None:
        length = self._entry.length
        reading_lane = self._entry.reading_lane
        for index, column in enumerate((0, *range(2, self._entry.state_columns))):  # without the id
            readings[:, reading_lane + index * length : reading_lane + (index + 1) * length] = (
                self._view_sequences(states)[:, column]
            )

    def _view_sequences(self, states: States) -> Int64s:
        """Return the sequences as an array of shape (entities, columns, L)."""
        lane = self._entry.lane
        length = self._entry.length
        columns = self._entry.state_columns
        return states[:, lane : lane + columns * length].reshape(len(states), columns, length)

    def _add(self, states: States, rows: Rows, events: Int64s) -> None:
        """Add events (n, columns) to the sequences of `rows` (n,).

        All events are sorted by (row, ts, id), and the last L of each row stay.
        """
        if not len(rows):
            return
        length = self._entry.length
        touched_rows, sequence_index = np.unique(rows, return_inverse=True)
        sequences = self._view_sequences(states)[touched_rows]  # a copy
        occupied_row, occupied_slot = np.nonzero(sequences[:, 0])
        sequence_of_event = np.concatenate([occupied_row, sequence_index])
        all_events = np.concatenate([sequences[occupied_row, :, occupied_slot], events])
        order = np.lexsort((all_events[:, 1].view(np.uint64), all_events[:, 0], sequence_of_event))
        sequence_of_event = sequence_of_event[order]
        all_events = all_events[order]
        # The slot counts from the end: L − 1 for a row's newest event.
        ends = np.cumsum(np.bincount(sequence_of_event, minlength=len(touched_rows)))
        slot = length - ends[sequence_of_event] + np.arange(len(sequence_of_event))
        is_recent = slot >= 0
        sequences[:] = 0
        sequences[sequence_of_event[is_recent], :, slot[is_recent]] = all_events[is_recent]
        lane = self._entry.lane
        states[touched_rows, lane : lane + self._entry.state_columns * length] = sequences.reshape(
            len(touched_rows), -1
        )


class NewestProfile:
    """The newest complete profile: ts, id, and a value for each attribute.

    An id of 0 with a ts of 0 means that there is none yet.
    """

    def __init__(self, entry: Profile) -> None:
        self._entry = entry
        self._lanes = slice(entry.lane, entry.lane + 2 + len(entry.attributes))
        self._missing_values = np.array(
            [missing_bits(kind) for _, kind in entry.attributes], np.int64
        )

    def extract_additions(self, frame: Frame) -> ProfileExtract:
        return extract_profiles(self._entry.type, self._entry.attributes, frame)

    def update(self, states: States, newest_ts: Int64s, rows: Rows, batch: ProfileExtract) -> None:
        values = np.concatenate(
            [np.stack([batch.ts, batch.id.view(np.int64)], axis=1), batch.values], axis=1
        )
        _keep_newest(states[:, self._lanes], rows, values)

    def write_readings(self, states: States, readings: Readings) -> None:
        is_empty = (states[:, self._lanes][:, :2] == 0).all(axis=1)
        values = states[:, self._entry.lane + 2 : self._lanes.stop]
        reading_lane = self._entry.reading_lane
        readings[:, reading_lane : reading_lane + len(self._missing_values)] = np.where(
            is_empty[:, None], self._missing_values, values
        )


def build_accumulators(layout: EntityLayout) -> list[Accumulator[Any]]:
    """Return all accumulators of an entity, in the order of its lanes."""
    all_accumulators: list[Accumulator[Any]] = []
    all_accumulators += [
        RingPeaks(ring) if ring.measure in PEAK_MEASURES else RingSums(ring)
        for ring in layout.rings
    ]
    all_accumulators += [RingSketches(sketch) for sketch in layout.sketches]
    all_accumulators += [NewestEvent(entry) for entry in layout.lasts]
    all_accumulators += [OldestTime(entry) for entry in layout.firsts]
    all_accumulators += [OldestEvent(entry) for entry in layout.first_values]
    all_accumulators += [RecentEvents(entry) for entry in layout.sequences]
    if layout.profile is not None:
        all_accumulators.append(NewestProfile(layout.profile))
    return all_accumulators


def _keep_newest(lanes: Int64s, rows: Rows, values: Int64s) -> None:
    """Overwrite the lanes of each row, in place, where its values are newer.

    The values, shape (n, k), begin with ts and id.
    """
    if not len(rows):
        return
    order = np.lexsort((values[:, 1].view(np.uint64), values[:, 0], rows))
    newest_events = order[np.append(rows[order][1:] != rows[order][:-1], True)]
    rows = rows[newest_events]
    values = values[newest_events]
    current_values = lanes[rows]
    is_tied_newer = (values[:, 0] == current_values[:, 0]) & (
        values[:, 1].view(np.uint64) > current_values[:, 1].view(np.uint64)
    )
    is_newer = (values[:, 0] > current_values[:, 0]) | is_tied_newer
    lanes[rows[is_newer]] = values[is_newer]
