"""The tiles of many states at once: what has left the rings is cleared, and windows, decays and
distinct counts are read.

A state has many tiles of which few are filled, so everything here works on the filled lanes, of all
rings together:

    Filled   row   0  0  0  1 …      states' lanes that are not 0, by row, then by lane
             lane  0  7  9  0 …      a ring's lanes lie together, so each row's tiles of a window are a run of these
             value

How events come into tiles is in `features.rings`; which lanes are whose, in `features.layout`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird import faults
from tailorbird.features.finish import DECAY_WEIGHTS
from tailorbird.features.layout import PEAKS, DistinctValues, EntityLayout, Sketch
from tailorbird.features.sketch import Registers, summary

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Filled:
    """The lanes of `count` states that are not 0."""

    count: int
    row: Intps
    lane: Intps
    value: Int64s

    @classmethod
    def of(cls, states: Int64s) -> "Filled":
        count, width = states.shape
        flat = np.flatnonzero(states != 0)  # twice as fast as of the numbers themselves
        row = np.repeat(
            np.arange(count), np.diff(np.searchsorted(flat, np.arange(count + 1) * width))
        )
        return cls(count, row, flat - row * width, states.reshape(-1)[flat])

    @classmethod
    def none(cls, count: int) -> "Filled":
        return cls(count, np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.int64))

    def states(self, width: int) -> Int64s:
        """The states, with their zeros."""
        states = np.zeros((self.count, width), np.int64)
        states.reshape(-1)[self.row * width + self.lane] = self.value
        return states

    def where(self, some: Bools) -> "Filled":
        return Filled(self.count, self.row[some], self.lane[some], self.value[some])


@dataclass(frozen=True)
class _Windows:
    """A window or decay of each ring that has one left: by lane, how many tiles it reaches back
    (−1: none) and where it is read.
    """

    tiles: Int64s
    reading: Intps


class Tiles:
    """The tiles of one entity's states."""

    def __init__(self, layout: EntityLayout) -> None:
        self._layout = layout
        tiled = [(one.lane, one.lanes, one.hop, one.lanes, 1) for one in layout.rings]
        tiled += [
            (one.lane, one.lanes, one.hop, one.slots, one.registers // 8) for one in layout.sketches
        ]
        self._hops = np.array(sorted({hop for _, _, hop, _, _ in tiled}), np.int64)
        width = layout.state_lanes
        self._tiled = np.zeros(width, np.bool_)
        self._clock, self._slot, self._slots = (
            np.zeros(width, np.intp),
            np.zeros(width, np.int64),
            np.ones(width, np.int64),
        )
        for lane, lanes, hop, slots, lanes_a_slot in tiled:
            here = slice(lane, lane + lanes)
            self._tiled[here], self._slots[here] = True, slots
            self._clock[here] = np.searchsorted(self._hops, hop)
            self._slot[here] = np.arange(lanes) // lanes_a_slot
        self._peak, self._sketch = np.zeros(width, np.bool_), np.full(width, -1)
        for ring in layout.rings:
            self._peak[ring.lane : ring.lane + ring.lanes] = ring.measure in PEAKS
        for number, sketch in enumerate(layout.sketches):
            self._sketch[sketch.lane : sketch.lane + sketch.lanes] = number
        self._windows = self._passes(
            [(one.ring, one.tiles, one.reading_lane) for one in layout.windows]
        )
        self._decays = self._passes(
            [(one.ring, one.tiles, one.reading_lane) for one in layout.decays]
        )
        self._weights = np.array(DECAY_WEIGHTS)
        # What is read of no event at all.
        self._none = [
            (window, summary(np.zeros((1, layout.sketches[window.sketch].registers), np.uint8)))
            for window in layout.distincts
        ]

    def _passes(self, wanted: list[tuple[int, int, int]]) -> list[_Windows]:
        passes: list[_Windows] = []
        taken: dict[int, int] = {}
        for number, tiles, reading in wanted:
            turn = taken[number] = taken.get(number, -1) + 1
            if turn == len(passes):
                width = self._layout.state_lanes
                passes.append(_Windows(np.full(width, -1, np.int64), np.zeros(width, np.intp)))
            ring = self._layout.rings[number]
            here = slice(ring.lane, ring.lane + ring.lanes)
            passes[turn].tiles[here], passes[turn].reading[here] = tiles, reading
        return passes

    def advance(self, states: Int64s, filled: Filled, old: Int64s, new: Int64s) -> None:
        """Clear, in place, the tiles that are too old once the newest ts of each state has gone
        from `old` to `new`.
        """
        if not len(self._hops):
            return
        some = filled.where(self._tiled[filled.lane])
        gone = self._ages(some, old, new)[0] >= self._slots[some.lane]
        states[some.row[gone], some.lane[gone]] = 0

    def finish(self, filled: Filled, newest: Int64s, t: Int64s, readings: Int64s) -> Int64s:
        """Write what is read at t (n,) into its lanes of the readings; when that next changes
        although no event comes.
        """
        soonest = np.full(filled.count, NEVER)
        for window, none in self._none:
            readings[:, window.reading_lane], readings[:, window.reading_lane + 1] = none
        if not len(self._hops):
            return soonest
        some = filled.where(self._tiled[filled.lane])
        age, now = self._ages(some, newest, t)
        for one in self._windows:
            self._read_windows(one, some, age, now, readings, soonest)
        for one in self._decays:
            self._read_decays(one, some, age, now, readings, soonest)
        for number, sketch in enumerate(self._layout.sketches):
            here = np.flatnonzero(self._sketch[some.lane] == number)
            if len(here):
                entries = _Entries.of(sketch, some, here, age, now)
                for window in self._layout.distincts:
                    if window.sketch == number:
                        entries.read(window, readings, soonest)
        return soonest

    def _ages(self, some: Filled, newest: Int64s, t: Int64s) -> tuple[Int64s, Int64s]:
        """How many tiles each filled lane lies before the tile of t, and the number of that tile."""
        heads, now = newest[:, None] // self._hops, t[:, None] // self._hops
        place = some.row * len(self._hops) + self._clock[some.lane]
        head, tile = heads.reshape(-1)[place], now.reshape(-1)[place]
        return (head - self._slot[some.lane]) % self._slots[some.lane] + tile - head, tile

    def _read_windows(
        self,
        one: _Windows,
        some: Filled,
        age: Int64s,
        now: Int64s,
        readings: Int64s,
        soonest: Int64s,
    ) -> None:
        tiles = one.tiles[some.lane]
        inside = np.flatnonzero(age <= tiles)
        if not len(inside):
            return
        row, lane, value, age = some.row[inside], some.lane[inside], some.value[inside], age[inside]
        first = _starts(row * readings.shape[1] + one.reading[lane])
        if faults.cut("features.tile"):
            value = np.where(age < tiles[inside], value, 0)
        found, decisive = (
            np.add.reduceat(value, first),
            np.maximum.reduceat(age, first),
        )  # of sums, the oldest tile
        peaks = self._peak[lane[first]]
        if peaks.any():
            peak = np.maximum.reduceat(value, first)
            # The youngest tile that holds the peak: when it goes, another is the peak.
            holds = value == np.repeat(peak, np.diff(np.append(first, len(value))))
            found = np.where(peaks, peak, found)
            decisive = np.where(
                peaks, np.minimum.reduceat(np.where(holds, age, NEVER), first), decisive
            )
        row, lane = row[first], lane[first]
        readings[row, one.reading[lane]] = found
        # A tile leaves when t reaches the tile that is `tiles` + 1 after it.
        leaves = (now[inside[first]] - decisive + one.tiles[lane] + 1) * self._hops[
            self._clock[lane]
        ]
        np.minimum.at(soonest, row, leaves)

    def _read_decays(
        self,
        one: _Windows,
        some: Filled,
        age: Int64s,
        now: Int64s,
        readings: Int64s,
        soonest: Int64s,
    ) -> None:
        inside = np.flatnonzero(age <= one.tiles[some.lane])
        if not len(inside):
            return
        row, lane, age = some.row[inside], some.lane[inside], age[inside]
        first = _starts(row * readings.shape[1] + one.reading[lane])
        group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(row))))
        # One tile after another from the oldest: the order decides the last bit. bincount adds in
        # order.
        order = np.argsort(group * 1_024 - age, kind="stable")
        weighted = some.value[inside].astype(np.float64) * self._weights[age]
        readings[row[first], one.reading[lane[first]]] = np.bincount(
            group, weighted[order], len(first)
        ).view(np.int64)
        np.minimum.at(
            soonest, row[first], (now[inside[first]] + 1) * self._hops[self._clock[lane[first]]]
        )


@dataclass(frozen=True)
class _Entries:
    """The filled registers of one sketch in all its tiles: row, register, rank, and the age of
    their tile.
    """

    sketch: Sketch
    count: int
    row: Intps
    register: Intps
    rank: Registers
    age: Int64s
    now: Int64s

    @classmethod
    def of(
        cls, sketch: Sketch, filled: Filled, here: Intps, age: Int64s, now: Int64s
    ) -> "_Entries":
        octets = filled.value[here].view(np.uint8)
        places = np.flatnonzero(octets)
        entry = here[places >> 3]
        register = ((filled.lane[entry] - sketch.lane) * 8 + (places & 7)) % sketch.registers
        return cls(
            sketch,
            filled.count,
            filled.row[entry],
            register,
            octets[places],
            age[entry],
            now[entry],
        )

    def read(self, window: DistinctValues, readings: Int64s, soonest: Int64s) -> None:
        inside = np.flatnonzero(self.age <= window.tiles)
        if not len(inside):
            return
        row, rank, age = self.row[inside], self.rank[inside], self.age[inside]
        first = _starts(row)
        local = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(row))))
        place = local * self.sketch.registers + self.register[inside]
        union = np.zeros(len(first) * self.sketch.registers, np.uint8)
        np.maximum.at(union, place, rank)
        rows = row[first]
        both = summary(union.reshape(-1, self.sketch.registers))
        readings[rows, window.reading_lane], readings[rows, window.reading_lane + 1] = both
        # A register changes when the youngest tile that holds its peak leaves; the first of all
        # registers counts.
        holds = rank == union[place]
        youngest = np.full(len(union), 255, np.uint8)
        np.minimum.at(youngest, place[holds], age[holds].astype(np.uint8))
        youngest[union == 0] = 0
        decisive = youngest.reshape(-1, self.sketch.registers).max(axis=1).astype(np.int64)
        leaves = (self.now[inside[first]] - decisive + window.tiles + 1) * self.sketch.hop
        np.minimum.at(soonest, rows, leaves)


def _starts(group: npt.NDArray) -> Intps:
    """Where each run of equal values begins, of at least one value."""
    return np.flatnonzero(np.append(True, group[1:] != group[:-1]))
