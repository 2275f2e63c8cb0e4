"""The tiles of many states at once: clears expired ones, and reads windows, decays and distinct
counts.

A state has many tiles of which few are filled, so everything here works on the filled lanes, of all
rings together:

    FilledLanes   row   0  0  0  1 …      states' lanes that are not 0, by row, then by lane
                  lane  0  7  9  0 …      a ring's lanes are adjacent, so a window is a run of them
                  value

`features.state.rings` adds events to tiles; `features.layout.layout` assigns the lanes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird import faults
from tailorbird.features.arithmetic.finish import DECAY_WEIGHTS
from tailorbird.features.arithmetic.sketch import Registers, summarise_registers
from tailorbird.features.layout.layout import PEAKS, DistinctValues, EntityLayout, Sketch

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

NEVER_TS = np.iinfo(np.int64).max


@dataclass(frozen=True)
class FilledLanes:
    """The lanes of `count` states that are not 0."""

    count: int
    row: Intps
    lane: Intps
    value: Int64s

    @classmethod
    def from_states(cls, states: Int64s) -> "FilledLanes":
        count, width = states.shape
        flat = np.flatnonzero(states != 0)  # twice as fast as on the numbers themselves
        row = np.repeat(
            np.arange(count), np.diff(np.searchsorted(flat, np.arange(count + 1) * width))
        )
        return cls(count, row, flat - row * width, states.reshape(-1)[flat])

    @classmethod
    def empty(cls, count: int) -> "FilledLanes":
        return cls(count, np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.int64))

    def states(self, width: int) -> Int64s:
        """Return the states, with their zeros."""
        states = np.zeros((self.count, width), np.int64)
        states.reshape(-1)[self.row * width + self.lane] = self.value
        return states

    def select(self, mask: Bools) -> "FilledLanes":
        return FilledLanes(self.count, self.row[mask], self.lane[mask], self.value[mask])


@dataclass(frozen=True)
class _Windows:
    """At most one window or decay per ring: by lane, its length in tiles (−1: none) and reading
    lane.
    """

    tiles: Int64s
    reading: Intps


class Tiles:
    """The tiles of one entity's states."""

    def __init__(self, layout: EntityLayout) -> None:
        self._layout = layout
        tile_spans = [(ring.lane, ring.lanes, ring.hop, ring.lanes, 1) for ring in layout.rings]
        tile_spans += [
            (sketch.lane, sketch.lanes, sketch.hop, sketch.slots, sketch.registers // 8)
            for sketch in layout.sketches
        ]
        self._hops = np.array(sorted({hop for _, _, hop, _, _ in tile_spans}), np.int64)
        width = layout.state_lanes
        self._tiled = np.zeros(width, np.bool_)
        self._clock, self._slot, self._slots = (
            np.zeros(width, np.intp),
            np.zeros(width, np.int64),
            np.ones(width, np.int64),
        )
        for lane, lanes, hop, slots, lanes_a_slot in tile_spans:
            lanes_ = slice(lane, lane + lanes)
            self._tiled[lanes_], self._slots[lanes_] = True, slots
            self._clock[lanes_] = np.searchsorted(self._hops, hop)
            self._slot[lanes_] = np.arange(lanes) // lanes_a_slot
        self._peak, self._sketch = np.zeros(width, np.bool_), np.full(width, -1)
        for ring in layout.rings:
            self._peak[ring.lane : ring.lane + ring.lanes] = ring.measure in PEAKS
        for number, sketch in enumerate(layout.sketches):
            self._sketch[sketch.lane : sketch.lane + sketch.lanes] = number
        self._windows = self._plan_passes(
            [(window.ring, window.tiles, window.reading_lane) for window in layout.windows]
        )
        self._decays = self._plan_passes(
            [(decay.ring, decay.tiles, decay.reading_lane) for decay in layout.decays]
        )
        self._weights = np.array(DECAY_WEIGHTS)
        # The readings without any event.
        self._none = [
            (
                window,
                summarise_registers(
                    np.zeros((1, layout.sketches[window.sketch].registers), np.uint8)
                ),
            )
            for window in layout.distincts
        ]

    def _plan_passes(self, windows: list[tuple[int, int, int]]) -> list[_Windows]:
        passes: list[_Windows] = []
        passes_by_ring: dict[int, int] = {}
        for number, tiles, reading in windows:
            pass_index = passes_by_ring[number] = passes_by_ring.get(number, -1) + 1
            if pass_index == len(passes):
                width = self._layout.state_lanes
                passes.append(_Windows(np.full(width, -1, np.int64), np.zeros(width, np.intp)))
            ring = self._layout.rings[number]
            lanes_ = slice(ring.lane, ring.lane + ring.lanes)
            passes[pass_index].tiles[lanes_], passes[pass_index].reading[lanes_] = tiles, reading
        return passes

    def advance(self, states: Int64s, filled: FilledLanes, old: Int64s, new: Int64s) -> None:
        """Clear, in place, the tiles that expire as the newest ts of each state moves from `old` to
        `new`.
        """
        if not len(self._hops):
            return
        tile_lanes = filled.select(self._tiled[filled.lane])
        is_expired = self._tile_ages(tile_lanes, old, new)[0] >= self._slots[tile_lanes.lane]
        states[tile_lanes.row[is_expired], tile_lanes.lane[is_expired]] = 0

    def finish(self, filled: FilledLanes, newest: Int64s, t: Int64s, readings: Int64s) -> Int64s:
        """Write the readings at t (n,), and return when they next change without an event."""
        next_change = np.full(filled.count, NEVER_TS)
        for window, none in self._none:
            readings[:, window.reading_lane], readings[:, window.reading_lane + 1] = none
        if not len(self._hops):
            return next_change
        tile_lanes = filled.select(self._tiled[filled.lane])
        age, now = self._tile_ages(tile_lanes, newest, t)
        for windows in self._windows:
            self._read_windows(windows, tile_lanes, age, now, readings, next_change)
        for windows in self._decays:
            self._read_decays(windows, tile_lanes, age, now, readings, next_change)
        for number, sketch in enumerate(self._layout.sketches):
            own_lanes = np.flatnonzero(self._sketch[tile_lanes.lane] == number)
            if len(own_lanes):
                entries = _Entries.from_lanes(sketch, tile_lanes, own_lanes, age, now)
                for window in self._layout.distincts:
                    if window.sketch == number:
                        entries.read(window, readings, next_change)
        return next_change

    def _tile_ages(self, lanes: FilledLanes, newest: Int64s, t: Int64s) -> tuple[Int64s, Int64s]:
        """Return how many tiles each filled lane lies before the tile of t, and the number of that
        tile.
        """
        heads, now = newest[:, None] // self._hops, t[:, None] // self._hops
        clock_index = lanes.row * len(self._hops) + self._clock[lanes.lane]
        head, tile = heads.reshape(-1)[clock_index], now.reshape(-1)[clock_index]
        return (head - self._slot[lanes.lane]) % self._slots[lanes.lane] + tile - head, tile

    def _read_windows(
        self,
        windows: _Windows,
        tile_lanes: FilledLanes,
        age: Int64s,
        now: Int64s,
        readings: Int64s,
        next_change: Int64s,
    ) -> None:
        tiles = windows.tiles[tile_lanes.lane]
        in_window = np.flatnonzero(age <= tiles)
        if not len(in_window):
            return
        row, lane, value, age = (
            tile_lanes.row[in_window],
            tile_lanes.lane[in_window],
            tile_lanes.value[in_window],
            age[in_window],
        )
        starts = _run_starts(row * readings.shape[1] + windows.reading[lane])
        if faults.is_disabled("features.tile"):
            value = np.where(age < tiles[in_window], value, 0)
        sums, deciding_age = (
            np.add.reduceat(value, starts),
            np.maximum.reduceat(age, starts),
        )  # For sums, the oldest tile decides.
        peaks = self._peak[lane[starts]]
        if peaks.any():
            peak = np.maximum.reduceat(value, starts)
            # The peak changes when the youngest tile that contains it expires.
            is_peak = value == np.repeat(peak, np.diff(np.append(starts, len(value))))
            sums = np.where(peaks, peak, sums)
            deciding_age = np.where(
                peaks, np.minimum.reduceat(np.where(is_peak, age, NEVER_TS), starts), deciding_age
            )
        row, lane = row[starts], lane[starts]
        readings[row, windows.reading[lane]] = sums
        # A tile leaves when t reaches the tile that is `tiles` + 1 after it.
        leaves_at = (now[in_window[starts]] - deciding_age + windows.tiles[lane] + 1) * self._hops[
            self._clock[lane]
        ]
        np.minimum.at(next_change, row, leaves_at)

    def _read_decays(
        self,
        decays: _Windows,
        tile_lanes: FilledLanes,
        age: Int64s,
        now: Int64s,
        readings: Int64s,
        next_change: Int64s,
    ) -> None:
        in_window = np.flatnonzero(age <= decays.tiles[tile_lanes.lane])
        if not len(in_window):
            return
        row, lane, age = tile_lanes.row[in_window], tile_lanes.lane[in_window], age[in_window]
        starts = _run_starts(row * readings.shape[1] + decays.reading[lane])
        group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(row))))
        # Add tile by tile from the oldest, since the order decides the last bit; bincount adds in
        # order.
        order = np.argsort(group * 1_024 - age, kind="stable")
        weighted = tile_lanes.value[in_window].astype(np.float64) * self._weights[age]
        readings[row[starts], decays.reading[lane[starts]]] = np.bincount(
            group, weighted[order], len(starts)
        ).view(np.int64)
        np.minimum.at(
            next_change,
            row[starts],
            (now[in_window[starts]] + 1) * self._hops[self._clock[lane[starts]]],
        )


@dataclass(frozen=True)
class _Entries:
    """The filled registers of one sketch in all its tiles: row, register, rank, and age of the
    tile.
    """

    sketch: Sketch
    count: int
    row: Intps
    register: Intps
    rank: Registers
    age: Int64s
    now: Int64s

    @classmethod
    def from_lanes(
        cls, sketch: Sketch, filled: FilledLanes, own_lanes: Intps, age: Int64s, now: Int64s
    ) -> "_Entries":
        octets = filled.value[own_lanes].view(np.uint8)
        octet_indices = np.flatnonzero(octets)
        entry = own_lanes[octet_indices >> 3]
        register = ((filled.lane[entry] - sketch.lane) * 8 + (octet_indices & 7)) % sketch.registers
        return cls(
            sketch,
            filled.count,
            filled.row[entry],
            register,
            octets[octet_indices],
            age[entry],
            now[entry],
        )

    def read(self, window: DistinctValues, readings: Int64s, next_change: Int64s) -> None:
        in_window = np.flatnonzero(self.age <= window.tiles)
        if not len(in_window):
            return
        row, rank, age = self.row[in_window], self.rank[in_window], self.age[in_window]
        starts = _run_starts(row)
        local = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(row))))
        register_index = local * self.sketch.registers + self.register[in_window]
        union = np.zeros(len(starts) * self.sketch.registers, np.uint8)
        np.maximum.at(union, register_index, rank)
        rows = row[starts]
        summaries = summarise_registers(union.reshape(-1, self.sketch.registers))
        readings[rows, window.reading_lane], readings[rows, window.reading_lane + 1] = summaries
        # A register changes when the youngest tile with its maximum expires. The first change of
        # any register counts.
        is_peak = rank == union[register_index]
        youngest = np.full(len(union), 255, np.uint8)
        np.minimum.at(youngest, register_index[is_peak], age[is_peak].astype(np.uint8))
        youngest[union == 0] = 0
        deciding_age = youngest.reshape(-1, self.sketch.registers).max(axis=1).astype(np.int64)
        leaves_at = (
            self.now[in_window[starts]] - deciding_age + window.tiles + 1
        ) * self.sketch.hop
        np.minimum.at(next_change, rows, leaves_at)


def _run_starts(group: npt.NDArray) -> Intps:
    """Return where each run of equal values begins, of at least one value."""
    return np.flatnonzero(np.append(True, group[1:] != group[:-1]))
