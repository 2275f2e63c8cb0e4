"""Rings of tiles within an entity's state: sums, peaks and sketches of the last tiles, and the windows over them.

    tile of ts = floor(ts / H)      slot = tile mod (tiles + 1)      the ring of 3 tiles at head 7:  slot 0 1 2 3
                                                                                                     tile 4 5 6 7

A ring's head is the tile of the entity's newest event. A tile older than head − tiles can be in no window that is read
after the newest event, and is dropped. The other accumulators, and what all of them promise, are in `features.accumulators`.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tailorbird import faults
from tailorbird.features.columns import Extract, Frame, extract, measured
from tailorbird.features.finish import DECAY_WEIGHTS
from tailorbird.features.layout import DecayedSum, DistinctValues, Ring, Sketch, WindowSum
from tailorbird.features.sketch import Registers, places, summary

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.int64]  # (entities, state lanes)
Readings = npt.NDArray[np.int64]  # (entities, reading lanes)
Rows = npt.NDArray[np.intp]

NEVER = np.iinfo(np.int64).max


def ages(hop: int, slots: int, newest: Int64s, t: Int64s) -> Int64s:
    """How many tiles each slot lies before the tile of t, shape (entities, slots); the head's slot is the youngest."""
    head = newest // hop
    behind = _behind(slots)[head % slots]
    since = t // hop - head
    return behind + since[:, None] if since.any() else behind


@lru_cache(maxsize=256)
def _behind(slots: int) -> Int64s:
    """How many tiles each slot lies before the head's, for each slot of the head; (slots, slots)."""
    return (np.arange(slots)[:, None] - np.arange(slots)) % slots


def advance(tiles: npt.NDArray, hop: int, old: Int64s, new: Int64s) -> None:
    """Clear, in tiles (entities, slots, …), the slots that those after the old head, up to the new, come to stand in."""
    slots = tiles.shape[1]
    old_head, new_head = old // hop, new // hop
    moved = np.flatnonzero(new_head > old_head)
    if len(moved):
        filled = tiles[moved].reshape(len(moved), -1).any(axis=1)
        moved = moved[filled]
        kept = _behind(slots)[new_head[moved] % slots] >= (new_head[moved] - old_head[moved])[:, None]
        tiles[moved] = np.where(kept.reshape(*kept.shape, *(1,) * (tiles.ndim - 2)), tiles[moved], 0)


class RingSums:
    """Tile sums, and the windows and decays over them. An empty tile is 0, which `_join` leaves as it is."""

    _join: np.ufunc = np.add

    def __init__(self, ring: Ring, windows: list[WindowSum], decays: list[DecayedSum]) -> None:
        self._ring = ring
        self._windows = windows
        self._decays = decays
        self._lanes = slice(ring.lane, ring.lane + ring.lanes)

    def take(self, frame: Frame) -> Extract:
        return extract(self._ring.source, frame)

    def update(self, states: States, old: Int64s, new: Int64s, rows: Rows, batch: Extract) -> None:
        ring = self._ring
        advance(states[:, self._lanes], ring.hop, old, new)
        tile = batch.ts // ring.hop
        kept = tile >= new[rows] // ring.hop - ring.tiles
        value = measured(ring.measure, batch.value)
        # Not states[rows, lanes] += value, which keeps one of several equal places.
        self._join.at(states, (rows[kept], ring.lane + tile[kept] % ring.lanes), value[kept])

    def merge(self, states: States, old: Int64s, other: States, other_newest: Int64s, new: Int64s) -> None:
        mine, theirs = states[:, self._lanes], other[:, self._lanes].copy()
        advance(mine, self._ring.hop, old, new)
        advance(theirs, self._ring.hop, other_newest, new)
        self._join(mine, theirs, out=mine)

    def finish(self, states: States, newest: Int64s, t: Int64s, readings: Readings) -> None:
        age, sums = ages(self._ring.hop, self._ring.lanes, newest, t), states[:, self._lanes]
        for window in self._windows:
            readings[:, window.reading_lane] = self._join.reduce(np.where(age <= self._reach(window), sums, 0), axis=1)
        for decay in self._decays:
            readings[:, decay.reading_lane] = self._decayed(decay, age, sums, newest).view(np.int64)

    def next_change(self, states: States, newest: Int64s, t: Int64s) -> Int64s:
        hop, age = self._ring.hop, ages(self._ring.hop, self._ring.lanes, newest, t)
        filled = states[:, self._lanes] != 0
        soonest = np.full(len(states), NEVER)
        for window in self._windows:
            # A tile leaves when t reaches the tile that is window.tiles + 1 after it.
            decisive = self._decisive(np.where(age <= window.tiles, states[:, self._lanes], 0), age)
            leaves = (t // hop - decisive + window.tiles + 1) * hop
            soonest = np.minimum(soonest, np.where(decisive < 0, NEVER, leaves))
        for decay in self._decays:
            fades = (filled & (age <= decay.tiles)).any(axis=1)
            soonest = np.where(fades, np.minimum(soonest, (t // hop + 1) * hop), soonest)
        return soonest

    def _decisive(self, inside: Int64s, age: Int64s) -> Int64s:
        """The age of the tile with whose leaving a window first changes, −1 if all are empty: of sums, the oldest filled one."""
        return np.where(inside != 0, age, -1).max(axis=1, initial=-1)

    def _decayed(self, decay: DecayedSum, age: Int64s, sums: Int64s, newest: Int64s) -> Floats:
        """The weighted sum (entities,), one tile after another from the oldest: the order decides the last bit."""
        weights = np.zeros(max(self._ring.tiles, decay.tiles) + 2)
        weights[: decay.tiles + 1] = DECAY_WEIGHTS
        head, lanes = newest // self._ring.hop, self._ring.lanes
        rows, total = np.arange(len(sums)), np.zeros(len(sums))
        for behind in range(lanes - 1, -1, -1):
            slot = (head - behind) % lanes
            weight = weights[np.minimum(age[rows, slot], len(weights) - 1)]
            total += sums[rows, slot].astype(np.float64) * weight
        return total

    def _reach(self, window: WindowSum) -> int:
        return window.tiles - 1 if faults.cut("features.tile") else window.tiles


class RingPeaks(RingSums):
    """The largest code of each tile, and the windows over them; see `columns.measured`."""

    _join = np.maximum

    def _decisive(self, inside: Int64s, age: Int64s) -> Int64s:
        """The youngest tile that holds the peak: when it goes, another is the peak."""
        peak = inside.max(axis=1, initial=0)
        youngest = np.where(inside == peak[:, None], age, NEVER).min(axis=1)
        return np.where(peak > 0, youngest, -1)


class RingSketches:
    """A sketch for each tile, and the windows over them."""

    def __init__(self, sketch: Sketch, windows: list[DistinctValues]) -> None:
        self._sketch = sketch
        self._windows = windows

    def take(self, frame: Frame) -> Extract:
        return extract(self._sketch.source, frame)

    def update(self, states: States, old: Int64s, new: Int64s, rows: Rows, batch: Extract) -> None:
        sketch, tiles = self._sketch, self._tiles(states)
        advance(tiles, sketch.hop, old, new)
        tile = batch.ts // sketch.hop
        kept = tile >= new[rows] // sketch.hop - sketch.tiles
        register, rank = places(batch.value.view(np.uint64)[kept], sketch.precision)
        np.maximum.at(tiles, (rows[kept], tile[kept] % sketch.slots, register), rank)

    def merge(self, states: States, old: Int64s, other: States, other_newest: Int64s, new: Int64s) -> None:
        mine, theirs = self._tiles(states), self._tiles(other).copy()
        advance(mine, self._sketch.hop, old, new)
        advance(theirs, self._sketch.hop, other_newest, new)
        np.maximum(mine, theirs, out=mine)

    def finish(self, states: States, newest: Int64s, t: Int64s, readings: Readings) -> None:
        age = ages(self._sketch.hop, self._sketch.slots, newest, t)
        for window in self._windows:
            union = self._inside(states, age, window).max(axis=1)
            readings[:, window.reading_lane], readings[:, window.reading_lane + 1] = summary(union)

    def next_change(self, states: States, newest: Int64s, t: Int64s) -> Int64s:
        """A register changes when the youngest tile that holds its peak leaves; the first of all registers counts."""
        hop, age = self._sketch.hop, ages(self._sketch.hop, self._sketch.slots, newest, t)
        soonest = np.full(len(states), NEVER)
        for window in self._windows:
            inside = self._inside(states, age, window)
            peak = inside.max(axis=1)
            short = np.minimum(age, window.tiles + 1).astype(np.int8)[:, :, None]
            youngest = np.where(inside == peak[:, None], short, np.int8(127)).min(axis=1)
            decisive = np.where(peak > 0, youngest, np.int8(-1)).max(axis=1).astype(np.int64)
            leaves = (t // hop - decisive + window.tiles + 1) * hop
            soonest = np.minimum(soonest, np.where(decisive < 0, NEVER, leaves))
        return soonest

    def _inside(self, states: States, age: Int64s, window: DistinctValues) -> Registers:
        return np.where((age <= window.tiles)[:, :, None], self._tiles(states), np.uint8(0))

    def _tiles(self, states: States) -> Registers:
        """(entities, slots, registers), in place."""
        sketch = self._sketch
        lanes = states[:, sketch.lane : sketch.lane + sketch.lanes]
        return lanes.view(np.uint8).reshape(len(states), sketch.slots, sketch.registers)
