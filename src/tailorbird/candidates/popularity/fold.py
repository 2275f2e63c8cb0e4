"""Counts of items by window and segment, the basis of leaderboards.

A window of length W is twelve tiles of W / 12 and the partial one at t, as for features: an event
counts at t if its tile is among these thirteen. Counts are integers, so order and batch sizes do
not matter, and a late event is added to the tile of its time.

    everybody      a count for each item
    a segment      a count for each pair of a segment's value and an item that occurred
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.contract import Board
from tailorbird.candidates.keytable import KeyTable, grow_array
from tailorbird.candidates.protocol import ALL_USERS, BoardTable, Keys, RankedList
from tailorbird.events.keys import combine_keys

Int64s = npt.NDArray[np.int64]

TILES = 12
# items of a leaderboard
BOARD_ITEMS_MAX = 2_000
SEGMENT_ITEMS_MAX = 500
_CHUNKS_MAX = 64  # of a tile, before they are put together


@dataclass
class _Window:
    """Counts of one window: `counts` by slot, and the contribution of each tile.

    A slot is an item, or a pair of a segment's value and an item.
    """

    window_us: int
    counts: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    chunks_by_tile: dict[int, list[tuple[Int64s, Int64s]]] = field(default_factory=dict)
    newest_tile: int = 0  # the newest tile

    @property
    def tile_us(self) -> int:
        return -(-self.window_us // TILES)

    def add(self, slots: Int64s, ts: Int64s, slot_count: int) -> Int64s:
        """Count events, and return the slots whose count changed."""
        self.counts = grow_array(self.counts, slot_count)
        tiles = ts // self.tile_us
        is_in_window = tiles >= self.newest_tile - TILES
        tiles = tiles[is_in_window]
        slots = slots[is_in_window]
        for tile_number in np.unique(tiles).tolist():
            tile_slots, counts = np.unique(slots[tiles == tile_number], return_counts=True)
            self.counts[tile_slots] += counts
            chunks = self.chunks_by_tile.setdefault(tile_number, [])
            chunks.append((tile_slots, counts.astype(np.int64)))
            if len(chunks) > _CHUNKS_MAX:
                self.chunks_by_tile[tile_number] = [_sum_chunks(chunks)]
        return slots

    def advance(self, t: int) -> Int64s:
        """Drop the tiles that left the window by `t`, and return the slots whose count changed."""
        self.newest_tile = max(self.newest_tile, t // self.tile_us)
        expired_tiles = [tile for tile in self.chunks_by_tile if tile < self.newest_tile - TILES]
        changed_slots = [np.zeros(0, np.int64)]
        for tile in expired_tiles:
            for slots, counts in self.chunks_by_tile.pop(tile):
                self.counts[slots] -= counts
                changed_slots.append(slots)
        return np.concatenate(changed_slots)

    def renumber(self, slot_map: Int64s, slot_count: int) -> None:
        """Renumber slots: `slot_map` holds the new number of each old slot, −1 to drop it."""
        new_counts = np.zeros(slot_count, np.int64)
        retained_slots = np.flatnonzero(slot_map[: len(self.counts)] >= 0)
        new_counts[slot_map[retained_slots]] = self.counts[retained_slots]
        self.counts = new_counts
        for tile, chunks in self.chunks_by_tile.items():
            slots, counts = _sum_chunks(chunks)
            is_retained = slot_map[slots] >= 0
            self.chunks_by_tile[tile] = [(slot_map[slots[is_retained]], counts[is_retained])]

    def arrays(self) -> dict[str, npt.NDArray]:
        """Return the state as arrays, of which `restore` makes it again."""
        summed_tiles = [
            (tile, *_sum_chunks(self.chunks_by_tile[tile])) for tile in sorted(self.chunks_by_tile)
        ]
        tile = np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    np.full(len(slot), tile_number, np.int64)
                    for tile_number, slot, _ in summed_tiles
                ),
            ]
        )
        slots = np.concatenate([np.zeros(0, np.int64), *(slot for _, slot, _ in summed_tiles)])
        counts = np.concatenate([np.zeros(0, np.int64), *(counts for _, _, counts in summed_tiles)])
        return {
            "count": self.counts,
            "tile": tile,
            "slot": slots,
            "tile_counts": counts,
            "now": np.array([self.newest_tile]),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray]) -> None:
        self.counts = arrays["count"].copy()
        self.newest_tile = int(arrays["now"][0])
        tiles = arrays["tile"]
        self.chunks_by_tile = {}
        for tile_number in np.unique(tiles).tolist():
            is_in_tile = tiles == tile_number
            self.chunks_by_tile[tile_number] = [
                (arrays["slot"][is_in_tile], arrays["tile_counts"][is_in_tile])
            ]


def _sum_chunks(chunks: list[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
    if len(chunks) == 1:
        return chunks[0]
    slots, slot_index = np.unique(
        np.concatenate([slots for slots, _ in chunks]), return_inverse=True
    )
    return slots, np.bincount(
        slot_index, np.concatenate([counts for _, counts in chunks]), len(slots)
    ).astype(np.int64)


class PopularityFold:
    """Counts for all boards of a contract.

    `items` is the item table that all folds share. A slot of the overall counts is an item's row
    there.
    """

    def __init__(self, boards: tuple[Board, ...], item_table: KeyTable) -> None:
        self._item_table = item_table
        self._pairs_by_segment = {
            name: _SegmentPairs(name) if name else None
            for name in dict.fromkeys(board.segment for board in boards)
        }
        self._windows = {board: _Window(board.window_us) for board in boards}
        self._changed_values_by_board: dict[Board, list[Keys]] = {board: [] for board in boards}

    @property
    def boards(self) -> tuple[Board, ...]:
        return tuple(self._windows)

    def update(self, item_rows: Int64s, ts: Int64s, segment_keys: Mapping[str, Keys]) -> None:
        """Count interests: item rows, times, and the key of each segment's value (0: none)."""
        if not len(item_rows):
            return
        for name, pairs in self._pairs_by_segment.items():
            if pairs is None:
                self._add(name, item_rows, ts, self._item_table.count)
                continue
            has_segment = np.flatnonzero(segment_keys[name] != 0)
            pair_slots = pairs.assign_slots(
                segment_keys[name][has_segment],
                item_rows[has_segment],
                self._item_table.keys[item_rows[has_segment]],
            )
            self._add(name, pair_slots, ts[has_segment], pairs.pair_table.count)

    def _add(self, segment: str, slots: Int64s, ts: Int64s, slot_count: int) -> None:
        for board, window in self._windows.items():
            if board.segment == segment:
                self._mark_changed(board, window.add(slots, ts, slot_count))

    def _mark_changed(self, board: Board, slots: Int64s) -> None:
        if len(slots):
            pairs = self._pairs_by_segment[board.segment]
            self._changed_values_by_board[board].append(
                np.zeros(1, np.uint64) if pairs is None else np.unique(pairs.segment_values[slots])
            )

    def advance(self, t: int) -> None:
        """Advance the end of all windows to `t`; an earlier time changes nothing."""
        for board, window in self._windows.items():
            self._mark_changed(board, window.advance(t))

    def take_changed_segments(self) -> list[tuple[Board, int]]:
        """Return the boards and segments whose counts changed since the last call."""
        changed_segments = [
            (board, value)
            for board in self._windows
            for value in self._changed_segments(board).tolist()
        ]
        self._changed_values_by_board = {board: [] for board in self._windows}
        return changed_segments

    def all_segments(self) -> list[tuple[Board, int]]:
        """Return all boards and segments."""
        values_by_segment = {
            name: [0]
            if pairs is None
            else np.unique(pairs.segment_values[: pairs.pair_table.count]).tolist()
            for name, pairs in self._pairs_by_segment.items()
        }
        return [
            (board, value) for board in self._windows for value in values_by_segment[board.segment]
        ]

    def _changed_segments(self, board: Board) -> Keys:
        return np.unique(
            np.concatenate([np.zeros(0, np.uint64), *self._changed_values_by_board[board]])
        )

    def build_board(self, board: Board, segment: int = ALL_USERS) -> BoardTable:
        """Return a leaderboard, ordered by count, then count in the longest window, then key."""
        window = self._windows[board]
        pairs = self._pairs_by_segment[board.segment]
        if pairs is None:
            slots = np.flatnonzero(window.counts)
            item_rows = None
            limit = BOARD_ITEMS_MAX
        else:
            slots = pairs.slots_of_value(segment)
            limit = SEGMENT_ITEMS_MAX
            slots = slots[slots < len(window.counts)]
            slots = slots[window.counts[slots] > 0]
            item_rows = pairs.item_rows[slots]
        counts = window.counts[slots]
        event_count = int(counts.sum())
        if len(counts) > limit:  # Preselect all items that reach the count of the last one listed.
            best_positions = np.flatnonzero(
                counts >= np.partition(counts, len(counts) - limit)[len(counts) - limit]
            )
            slots = slots[best_positions]
            counts = counts[best_positions]
            item_rows = item_rows if item_rows is None else item_rows[best_positions]
        longest_window_counts = self._windows[
            max(other for other in self._windows if other.segment == board.segment)
        ].counts
        longest_counts = np.where(
            slots < len(longest_window_counts),
            longest_window_counts[np.minimum(slots, max(len(longest_window_counts) - 1, 0))],
            0,
        )
        keys = self._item_table.keys[slots if item_rows is None else item_rows]
        order = np.lexsort((keys, -longest_counts, -counts))[:limit]
        return BoardTable(RankedList(keys[order], counts[order].astype(np.float64)), event_count)

    def renumber_items(self, row_map: Int64s, item_count: int) -> None:
        """Renumber items: `row_map` holds the new row of each old one, −1 to drop it.

        Pairs with a count of zero are dropped too.
        """
        for board, window in self._windows.items():
            pairs = self._pairs_by_segment[board.segment]
            counted_slots = np.flatnonzero(window.counts)
            self._mark_changed(
                board,
                counted_slots[
                    row_map[counted_slots if pairs is None else pairs.item_rows[counted_slots]] < 0
                ],
            )
        for name, pairs in self._pairs_by_segment.items():
            windows = [window for board, window in self._windows.items() if board.segment == name]
            if pairs is None:
                slot_map = row_map
                slot_count = item_count
            else:
                is_live_pair = np.zeros(pairs.pair_table.count, bool)
                for window in windows:
                    is_live_pair[np.flatnonzero(window.counts[: len(is_live_pair)])] = True
                slot_map, slot_count = pairs.retain(
                    is_live_pair & (row_map[pairs.item_rows[: len(is_live_pair)]] >= 0), row_map
                )
            for window in windows:
                window.counts = grow_array(window.counts, len(slot_map))
                window.renumber(slot_map, slot_count)

    def arrays(self) -> dict[str, npt.NDArray]:
        state: dict[str, npt.NDArray] = {}
        for board, window in self._windows.items():
            state |= {f"{board.name}/{name}": array for name, array in window.arrays().items()}
            state[f"{board.name}/changed"] = self._changed_segments(board)
        for name, pairs in self._pairs_by_segment.items():
            if pairs is not None:
                count = pairs.pair_table.count
                state |= {
                    f"{name}/pairs": pairs.pair_table.keys,
                    f"{name}/value": pairs.segment_values[:count],
                    f"{name}/item": pairs.item_rows[:count],
                }
        return state

    def restore(self, arrays: Mapping[str, npt.NDArray]) -> None:
        for board, window in self._windows.items():
            window.restore(
                {
                    name: arrays[f"{board.name}/{name}"]
                    for name in ("count", "tile", "slot", "tile_counts", "now")
                }
            )
            self._changed_values_by_board[board] = [arrays[f"{board.name}/changed"]]
        for name, pairs in self._pairs_by_segment.items():
            if pairs is not None:
                pairs.restore(
                    arrays[f"{name}/pairs"], arrays[f"{name}/value"], arrays[f"{name}/item"]
                )


class _SegmentPairs:
    """Pairs of a segment's value and an item: a slot each, in order of first appearance."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.restore(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))

    def restore(self, pair_keys: Keys, segment_values: Keys, item_rows: Int64s) -> None:
        self.pair_table = KeyTable(pair_keys)
        self.segment_values = segment_values.copy()
        self.item_rows = item_rows.copy()
        self._slots_by_value: dict[int, list[Int64s]] = {}
        self._grouped_pair_count = 0

    def assign_slots(self, segment_values: Keys, item_rows: Int64s, item_keys: Keys) -> Int64s:
        """Return the slot of each pair, adding new pairs."""
        slots = self.pair_table.assign(combine_keys(segment_values, item_keys))
        self.segment_values = grow_array(self.segment_values, self.pair_table.count)
        self.item_rows = grow_array(self.item_rows, self.pair_table.count)
        self.segment_values[slots] = segment_values
        self.item_rows[slots] = item_rows
        return slots

    def slots_of_value(self, value: int) -> Int64s:
        """Return the slots of one value."""
        count = self.pair_table.count
        if self._grouped_pair_count < count:
            new_slots = np.arange(self._grouped_pair_count, count)
            order = new_slots[np.argsort(self.segment_values[new_slots], kind="stable")]
            values, value_starts = np.unique(self.segment_values[order], return_index=True)
            for grouped_value, slots in zip(
                values.tolist(), np.split(order, value_starts[1:]), strict=True
            ):
                self._slots_by_value.setdefault(grouped_value, []).append(slots)
            self._grouped_pair_count = count
        slot_parts = self._slots_by_value.get(value, [])
        if len(slot_parts) > 1:
            slot_parts = self._slots_by_value[value] = [np.concatenate(slot_parts)]
        return slot_parts[0] if slot_parts else np.zeros(0, np.int64)

    def retain(self, is_retained: npt.NDArray[np.bool_], row_map: Int64s) -> tuple[Int64s, int]:
        """Drop all pairs but the selected ones and renumber their items.

        Returns the new slot of each old one, and the number of slots.
        """
        count = self.pair_table.count
        retained_values = self.segment_values[:count][is_retained]
        retained_item_rows = row_map[self.item_rows[:count][is_retained]]
        slot_map = self.pair_table.retain(is_retained)
        self.segment_values = retained_values
        self.item_rows = retained_item_rows
        self._slots_by_value = {}
        self._grouped_pair_count = 0
        return slot_map, self.pair_table.count
