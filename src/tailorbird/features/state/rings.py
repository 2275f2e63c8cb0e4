"""Rings of tiles within an entity's state: how events update sums, peaks and sketches.

    tile of ts = floor(ts / H)     slot = tile mod (tiles + 1)
    a ring of 3 tiles at head 7:   slot 0 1 2 3
                                   tile 4 5 6 7

A ring's head is the tile of the entity's newest event. A tile older than head − tiles can be in no
window that is read after the newest event, and is dropped. `features.state.tiles` clears and reads
the tiles of all rings at once; the other accumulators are in `features.state.accumulators`.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.arithmetic.sketch import Registers, registers_and_ranks
from tailorbird.features.event_columns.columns import Frame
from tailorbird.features.event_columns.extracts import Extract, extract, tile_values
from tailorbird.features.layout.layout import Ring, Sketch

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.int64]  # (entities, state lanes)
Readings = npt.NDArray[np.int64]  # (entities, reading lanes)
Rows = npt.NDArray[np.intp]


class RingSums:
    """Tile sums. An empty tile is 0, the neutral element of `_combine`."""

    _combine: np.ufunc = np.add

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._lanes = slice(ring.lane, ring.lane + ring.lanes)

    def extract_additions(self, frame: Frame) -> Extract:
        return extract(self._ring.source, frame)

    def update(self, states: States, newest_ts: Int64s, rows: Rows, batch: Extract) -> None:
        ring = self._ring
        tile = batch.ts // ring.hop
        is_current = tile >= newest_ts[rows] // ring.hop - ring.tiles
        value = tile_values(ring.measure, batch.value)
        # states[rows, lanes] += value would apply only one of several equal indices.
        self._combine.at(
            states, (rows[is_current], ring.lane + tile[is_current] % ring.lanes), value[is_current]
        )


class RingPeaks(RingSums):
    """The largest code of each tile; see `extracts.tile_values`."""

    _combine = np.maximum


class RingSketches:
    """A sketch for each tile."""

    def __init__(self, sketch: Sketch) -> None:
        self._sketch = sketch

    def extract_additions(self, frame: Frame) -> Extract:
        return extract(self._sketch.source, frame)

    def update(self, states: States, newest_ts: Int64s, rows: Rows, batch: Extract) -> None:
        sketch = self._sketch
        tiles = self._view_tiles(states)
        tile = batch.ts // sketch.hop
        is_current = tile >= newest_ts[rows] // sketch.hop - sketch.tiles
        register, rank = registers_and_ranks(
            batch.value.view(np.uint64)[is_current], sketch.precision
        )
        np.maximum.at(tiles, (rows[is_current], tile[is_current] % sketch.slots, register), rank)

    def _view_tiles(self, states: States) -> Registers:
        """Return a view of the tiles, shape (entities, slots, registers)."""
        sketch = self._sketch
        lanes = states[:, sketch.lane : sketch.lane + sketch.lanes]
        return lanes.view(np.uint8).reshape(len(states), sketch.slots, sketch.registers)
