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
from tailorbird.features.layout.layout import PEAK_MEASURES, DistinctValues, EntityLayout, Sketch

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
        filled_indexes = np.flatnonzero(states != 0)  # twice as fast as on the numbers themselves
        row = np.repeat(
            np.arange(count), np.diff(np.searchsorted(filled_indexes, np.arange(count + 1) * width))
        )
        return cls(count, row, filled_indexes - row * width, states.reshape(-1)[filled_indexes])

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
class _WindowPass:
    """At most one window or decay per ring: by lane, its length in tiles (−1: none) and reading
    lane.
    """

    tiles: Int64s
    reading_lane: Intps


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
        self._is_tile = np.zeros(width, np.bool_)
        self._hop_index = np.zeros(width, np.intp)
        self._slot_of_lane = np.zeros(width, np.int64)
        self._slot_count = np.ones(width, np.int64)
        for start, lane_count, hop, slots, lanes_per_slot in tile_spans:
            lane_slice = slice(start, start + lane_count)
            self._is_tile[lane_slice] = True
            self._slot_count[lane_slice] = slots
            self._hop_index[lane_slice] = np.searchsorted(self._hops, hop)
            self._slot_of_lane[lane_slice] = np.arange(lane_count) // lanes_per_slot
        self._is_peak = np.zeros(width, np.bool_)
        self._sketch_index = np.full(width, -1)
        for ring in layout.rings:
            self._is_peak[ring.lane : ring.lane + ring.lanes] = ring.measure in PEAK_MEASURES
        for sketch_index, sketch in enumerate(layout.sketches):
            self._sketch_index[sketch.lane : sketch.lane + sketch.lanes] = sketch_index
        self._window_passes = self._plan_passes(
            [(window.ring, window.tiles, window.reading_lane) for window in layout.windows]
        )
        self._decay_passes = self._plan_passes(
            [(decay.ring, decay.tiles, decay.reading_lane) for decay in layout.decays]
        )
        self._weights = np.array(DECAY_WEIGHTS)
        # The readings without any event.
        self._empty_distincts = [
            (
                window,
                summarise_registers(
                    np.zeros((1, layout.sketches[window.sketch].registers), np.uint8)
                ),
            )
            for window in layout.distincts
        ]

    def _plan_passes(self, windows: list[tuple[int, int, int]]) -> list[_WindowPass]:
        passes: list[_WindowPass] = []
        passes_by_ring: dict[int, int] = {}
        for ring_index, tiles, reading_lane in windows:
            pass_index = passes_by_ring[ring_index] = passes_by_ring.get(ring_index, -1) + 1
            if pass_index == len(passes):
                width = self._layout.state_lanes
                passes.append(_WindowPass(np.full(width, -1, np.int64), np.zeros(width, np.intp)))
            ring = self._layout.rings[ring_index]
            lane_slice = slice(ring.lane, ring.lane + ring.lanes)
            passes[pass_index].tiles[lane_slice] = tiles
            passes[pass_index].reading_lane[lane_slice] = reading_lane
        return passes

    def clear_expired(
        self, states: Int64s, filled_lanes: FilledLanes, previous_ts: Int64s, newest_ts: Int64s
    ) -> None:
        """Clear, in place, the tiles that expire as the newest ts of each state moves from
        `previous_ts` to `newest_ts`.
        """
        if not len(self._hops):
            return
        tile_lanes = filled_lanes.select(self._is_tile[filled_lanes.lane])
        is_expired = (
            self._tile_ages(tile_lanes, previous_ts, newest_ts)[0]
            >= self._slot_count[tile_lanes.lane]
        )
        states[tile_lanes.row[is_expired], tile_lanes.lane[is_expired]] = 0

    def write_readings(
        self, filled_lanes: FilledLanes, newest_ts: Int64s, t: Int64s, readings: Int64s
    ) -> Int64s:
        """Write the readings at t (n,), and return when they next change without an event."""
        next_change = np.full(filled_lanes.count, NEVER_TS)
        for window, empty_summary in self._empty_distincts:
            readings[:, window.reading_lane], readings[:, window.reading_lane + 1] = empty_summary
        if not len(self._hops):
            return next_change
        tile_lanes = filled_lanes.select(self._is_tile[filled_lanes.lane])
        age, current_tile = self._tile_ages(tile_lanes, newest_ts, t)
        for window_pass in self._window_passes:
            self._read_windows(
                window_pass,
                tile_lanes=tile_lanes,
                age=age,
                current_tile=current_tile,
                readings=readings,
                next_change=next_change,
            )
        for window_pass in self._decay_passes:
            self._read_decays(
                window_pass,
                tile_lanes=tile_lanes,
                age=age,
                current_tile=current_tile,
                readings=readings,
                next_change=next_change,
            )
        for sketch_index, sketch in enumerate(self._layout.sketches):
            own_lanes = np.flatnonzero(self._sketch_index[tile_lanes.lane] == sketch_index)
            if len(own_lanes):
                filled_registers = _FilledRegisters.from_lanes(
                    sketch, tile_lanes, own_lanes, age, current_tile
                )
                for window in self._layout.distincts:
                    if window.sketch == sketch_index:
                        filled_registers.read(window, readings, next_change)
        return next_change

    def _tile_ages(self, lanes: FilledLanes, newest_ts: Int64s, t: Int64s) -> tuple[Int64s, Int64s]:
        """Return how many tiles each filled lane lies before the tile of t, and the number of that
        tile. A head is the tile of the newest event.
        """
        heads = newest_ts[:, None] // self._hops
        current_tile = t[:, None] // self._hops
        row_hop_index = lanes.row * len(self._hops) + self._hop_index[lanes.lane]
        head = heads.reshape(-1)[row_hop_index]
        tile = current_tile.reshape(-1)[row_hop_index]
        return (head - self._slot_of_lane[lanes.lane]) % self._slot_count[
            lanes.lane
        ] + tile - head, tile

    def _read_windows(
        self,
        window_pass: _WindowPass,
        tile_lanes: FilledLanes,
        age: Int64s,
        current_tile: Int64s,
        readings: Int64s,
        next_change: Int64s,
    ) -> None:
        tiles = window_pass.tiles[tile_lanes.lane]
        in_window = np.flatnonzero(age <= tiles)
        if not len(in_window):
            return
        row = tile_lanes.row[in_window]
        lane = tile_lanes.lane[in_window]
        value = tile_lanes.value[in_window]
        age = age[in_window]
        run_starts = _run_starts(row * readings.shape[1] + window_pass.reading_lane[lane])
        if faults.is_disabled("features.tile"):
            value = np.where(age < tiles[in_window], value, 0)
        # For sums, the oldest tile decides.
        sums = np.add.reduceat(value, run_starts)
        deciding_age = np.maximum.reduceat(age, run_starts)
        is_peak_ring = self._is_peak[lane[run_starts]]
        if is_peak_ring.any():
            peak = np.maximum.reduceat(value, run_starts)
            # The peak changes when the youngest tile that contains it expires.
            is_peak = value == np.repeat(peak, np.diff(np.append(run_starts, len(value))))
            sums = np.where(is_peak_ring, peak, sums)
            deciding_age = np.where(
                is_peak_ring,
                np.minimum.reduceat(np.where(is_peak, age, NEVER_TS), run_starts),
                deciding_age,
            )
        row = row[run_starts]
        lane = lane[run_starts]
        readings[row, window_pass.reading_lane[lane]] = sums
        # A tile leaves when t reaches the tile that is `tiles` + 1 after it.
        change_ts = (
            current_tile[in_window[run_starts]] - deciding_age + window_pass.tiles[lane] + 1
        ) * self._hops[self._hop_index[lane]]
        np.minimum.at(next_change, row, change_ts)

    def _read_decays(
        self,
        decay_pass: _WindowPass,
        tile_lanes: FilledLanes,
        age: Int64s,
        current_tile: Int64s,
        readings: Int64s,
        next_change: Int64s,
    ) -> None:
        in_window = np.flatnonzero(age <= decay_pass.tiles[tile_lanes.lane])
        if not len(in_window):
            return
        row = tile_lanes.row[in_window]
        lane = tile_lanes.lane[in_window]
        age = age[in_window]
        run_starts = _run_starts(row * readings.shape[1] + decay_pass.reading_lane[lane])
        group = np.repeat(np.arange(len(run_starts)), np.diff(np.append(run_starts, len(row))))
        # Add tile by tile from the oldest, since the order decides the last bit; bincount adds in
        # order.
        order = np.argsort(group * 1_024 - age, kind="stable")
        weighted_values = tile_lanes.value[in_window].astype(np.float64) * self._weights[age]
        readings[row[run_starts], decay_pass.reading_lane[lane[run_starts]]] = np.bincount(
            group, weighted_values[order], len(run_starts)
        ).view(np.int64)
        np.minimum.at(
            next_change,
            row[run_starts],
            (current_tile[in_window[run_starts]] + 1)
            * self._hops[self._hop_index[lane[run_starts]]],
        )


@dataclass(frozen=True)
class _FilledRegisters:
    """The filled registers of one sketch in all its tiles: row, register, rank, and age of the
    tile.
    """

    sketch: Sketch
    count: int
    row: Intps
    register: Intps
    rank: Registers
    age: Int64s
    current_tile: Int64s

    @classmethod
    def from_lanes(
        cls,
        sketch: Sketch,
        filled_lanes: FilledLanes,
        own_lanes: Intps,
        age: Int64s,
        current_tile: Int64s,
    ) -> "_FilledRegisters":
        octets = filled_lanes.value[own_lanes].view(np.uint8)
        octet_indices = np.flatnonzero(octets)
        lane_index = own_lanes[octet_indices >> 3]
        register = (
            (filled_lanes.lane[lane_index] - sketch.lane) * 8 + (octet_indices & 7)
        ) % sketch.registers
        return cls(
            sketch,
            filled_lanes.count,
            filled_lanes.row[lane_index],
            register,
            octets[octet_indices],
            age[lane_index],
            current_tile[lane_index],
        )

    def read(self, window: DistinctValues, readings: Int64s, next_change: Int64s) -> None:
        in_window = np.flatnonzero(self.age <= window.tiles)
        if not len(in_window):
            return
        row = self.row[in_window]
        rank = self.rank[in_window]
        age = self.age[in_window]
        starts = _run_starts(row)
        group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(row))))
        register_index = group * self.sketch.registers + self.register[in_window]
        union = np.zeros(len(starts) * self.sketch.registers, np.uint8)
        np.maximum.at(union, register_index, rank)
        rows = row[starts]
        summaries = summarise_registers(union.reshape(-1, self.sketch.registers))
        readings[rows, window.reading_lane], readings[rows, window.reading_lane + 1] = summaries
        # A register changes when the youngest tile with its maximum expires. The first change of
        # any register counts.
        is_peak = rank == union[register_index]
        youngest_age = np.full(len(union), 255, np.uint8)
        np.minimum.at(youngest_age, register_index[is_peak], age[is_peak].astype(np.uint8))
        youngest_age[union == 0] = 0
        deciding_age = youngest_age.reshape(-1, self.sketch.registers).max(axis=1).astype(np.int64)
        change_ts = (
            self.current_tile[in_window[starts]] - deciding_age + window.tiles + 1
        ) * self.sketch.hop
        np.minimum.at(next_change, rows, change_ts)


def _run_starts(group: npt.NDArray) -> Intps:
    """Return where each run of equal values begins, of at least one value."""
    return np.flatnonzero(np.append(True, group[1:] != group[:-1]))
