"""Accumulators: how an entity's state takes events up in any order, and what is read out of it at a
time.

Each works on many entities at once: `states` is (entities, lanes) of int64 and is changed in place.
None depends on the order of events or on how they are cut into batches, so that a late, reordered
or repeated-after-a-crash batch leads to the same bits. Times are never asked of a clock: a state is
read at some t after the newest event in it. Those of windows are in `features.rings`, and read in
`features.tiles`; which lanes belong to what, in `features.layout`.
"""

from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from tailorbird.features.columns import Frame, Keys
from tailorbird.features.extracts import (
    PEAK_ZERO,
    Extract,
    ProfileExtract,
    extract,
    extract_profiles,
)
from tailorbird.features.layout import (
    PEAKS,
    EntityLayout,
    FirstTime,
    FirstValue,
    LastEvents,
    LastValue,
    Profile,
    missing_bits,
)
from tailorbird.features.rings import RingPeaks, RingSketches, RingSums

Int64s = npt.NDArray[np.int64]
States = npt.NDArray[np.int64]  # (entities, state lanes)
Readings = npt.NDArray[np.int64]  # (entities, reading lanes)
Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


class Additions(Protocol):
    """A micro-batch for one accumulator: which key, and when; the rest depends on the accumulator."""

    @property
    def key(self) -> Keys: ...
    @property
    def ts(self) -> Int64s: ...

    def part(self, some: Rows | slice, /) -> "Additions": ...


B = TypeVar("B", bound=Additions)


class Accumulator(Protocol[B]):
    """One kind of state within the record of an entity."""

    def take(self, frame: Frame) -> B:
        """What this accumulator adds of a block."""
        ...

    def update(self, states: States, new: Int64s, rows: Rows, batch: B) -> None:
        """Add the batch in place: its row i belongs to entity `rows[i]`.

        `new`, shape (entities,), is the newest ts of each with the batch; tiles too old for it are
        cleared (`tiles.advance`).
        """
        ...


Part = tuple[
    Accumulator[Any], Rows, Any
]  # of a batch: whose events, of which entity each, and they


@runtime_checkable
class Readable(Protocol):
    """An accumulator whose lanes are read as they are, whatever the time; tiles are read together,
    in `features.tiles`.
    """

    def finish(self, states: States, readings: Readings) -> None:
        """Write what is read into its lanes of the readings."""
        ...


class Newest:
    """The last event that has the value: ts, id, value. The newest of (ts, id) stays."""

    def __init__(self, spot: LastValue | FirstValue) -> None:
        self._spot = spot

    def take(self, frame: Frame) -> Extract:
        return extract(self._spot.source, frame)

    def update(self, states: States, new: Int64s, rows: Rows, batch: Extract) -> None:
        values = np.stack([batch.ts, batch.id.view(np.int64), batch.value], axis=1)
        _keep_newest(states[:, self._spot.lane : self._spot.lane + 3], rows, values)

    def finish(self, states: States, readings: Readings) -> None:
        readings[:, self._spot.reading_lane] = states[:, self._spot.lane]
        readings[:, self._spot.reading_lane + 1] = states[:, self._spot.lane + 2]


class Oldest:
    """When the first event was: the largest code of a time, and the code of an earlier time is
    larger.
    """

    def __init__(self, spot: FirstTime) -> None:
        self._spot = spot

    def take(self, frame: Frame) -> Extract:
        return extract(self._spot.source, frame)

    def update(self, states: States, new: Int64s, rows: Rows, batch: Extract) -> None:
        np.maximum.at(states[:, self._spot.lane], rows, PEAK_ZERO - batch.ts)

    def finish(self, states: States, readings: Readings) -> None:
        readings[:, self._spot.reading_lane] = states[:, self._spot.lane]


class Earliest(Newest):
    """The first event that has the value, as the newest of (code of ts, ~id): the code of an
    earlier time is larger.
    """

    def update(self, states: States, new: Int64s, rows: Rows, batch: Extract) -> None:
        values = np.stack([PEAK_ZERO - batch.ts, (~batch.id).view(np.int64), batch.value], axis=1)
        _keep_newest(states[:, self._spot.lane : self._spot.lane + 3], rows, values)


class Sequences:
    """The last L events by (ts, id), oldest first, aligned to the end; a ts of 0 is an empty place."""

    def __init__(self, spot: LastEvents) -> None:
        self._spot = spot

    def take(self, frame: Frame) -> Extract:
        return extract(self._spot.source, frame)

    def update(self, states: States, new: Int64s, rows: Rows, batch: Extract) -> None:
        columns = (
            batch.ts,
            batch.id,
            batch.item,
            batch.type,
            batch.session,
            *(batch.of(one) for one in self._spot.of),
        )
        self._add(states, rows, np.stack([column.view(np.int64) for column in columns], axis=1))

    def finish(self, states: States, readings: Readings) -> None:
        length, out = self._spot.length, self._spot.reading_lane
        for place, column in enumerate((0, *range(2, self._spot.state_columns))):  # without the id
            readings[:, out + place * length : out + (place + 1) * length] = self._view(states)[
                :, column
            ]

    def _view(self, states: States) -> Int64s:
        """(entities, columns, L)"""
        lane, length, columns = self._spot.lane, self._spot.length, self._spot.state_columns
        return states[:, lane : lane + columns * length].reshape(len(states), columns, length)

    def _add(self, states: States, rows: Rows, events: Int64s) -> None:
        """Add events (n, columns) to the sequences of `rows` (n,): sort all by (row, ts, id), keep
        the last L of each row.
        """
        if not len(rows):
            return
        length = self._spot.length
        touched, local = np.unique(rows, return_inverse=True)
        view = self._view(states)[touched]  # a copy
        held, places = np.nonzero(view[:, 0])
        row = np.concatenate([held, local])
        all_events = np.concatenate([view[held, :, places], events])
        order = np.lexsort((all_events[:, 1].view(np.uint64), all_events[:, 0], row))
        row, all_events = row[order], all_events[order]
        # Place from the end: L − 1 for a row's newest event.
        ends = np.cumsum(np.bincount(row, minlength=len(touched)))
        place = length - ends[row] + np.arange(len(row))
        kept = place >= 0
        view[:] = 0
        view[row[kept], :, place[kept]] = all_events[kept]
        lane = self._spot.lane
        states[touched, lane : lane + self._spot.state_columns * length] = view.reshape(
            len(touched), -1
        )


class Profiles:
    """The newest profile, whole: ts, id, and a value for each attribute. An id of 0 with a ts of 0:
    none yet.
    """

    def __init__(self, spot: Profile) -> None:
        self._spot = spot
        self._lanes = slice(spot.lane, spot.lane + 2 + len(spot.attributes))
        self._missing = np.array([missing_bits(kind) for _, kind in spot.attributes], np.int64)

    def take(self, frame: Frame) -> ProfileExtract:
        return extract_profiles(self._spot.type, self._spot.attributes, frame)

    def update(self, states: States, new: Int64s, rows: Rows, batch: ProfileExtract) -> None:
        values = np.concatenate(
            [np.stack([batch.ts, batch.id.view(np.int64)], axis=1), batch.values], axis=1
        )
        _keep_newest(states[:, self._lanes], rows, values)

    def finish(self, states: States, readings: Readings) -> None:
        none = (states[:, self._lanes][:, :2] == 0).all(axis=1)
        values = states[:, self._spot.lane + 2 : self._lanes.stop]
        out = self._spot.reading_lane
        readings[:, out : out + len(self._missing)] = np.where(none[:, None], self._missing, values)


def accumulators(layout: EntityLayout) -> list[Accumulator[Any]]:
    """All accumulators of an entity, in the order of its lanes."""
    found: list[Accumulator[Any]] = []
    found += [RingPeaks(ring) if ring.measure in PEAKS else RingSums(ring) for ring in layout.rings]
    found += [RingSketches(sketch) for sketch in layout.sketches]
    found += [Newest(spot) for spot in layout.lasts]
    found += [Oldest(spot) for spot in layout.firsts]
    found += [Earliest(spot) for spot in layout.first_values]
    found += [Sequences(spot) for spot in layout.sequences]
    if layout.profile is not None:
        found.append(Profiles(layout.profile))
    return found


def _keep_newest(lanes: Int64s, rows: Rows, values: Int64s) -> None:
    """Where values (n, k), which begin with ts and id, are newer than the lanes of their row, put
    them there, in place.
    """
    if not len(rows):
        return
    order = np.lexsort((values[:, 1].view(np.uint64), values[:, 0], rows))
    newest = order[np.append(rows[order][1:] != rows[order][:-1], True)]
    rows, values = rows[newest], values[newest]
    held = lanes[rows]
    ties = (values[:, 0] == held[:, 0]) & (
        values[:, 1].view(np.uint64) > held[:, 1].view(np.uint64)
    )
    newer = (values[:, 0] > held[:, 0]) | ties
    lanes[rows[newer]] = values[newer]
