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
from tailorbird.candidates.protocol import EVERYONE, BoardTable, Keys, RankedList
from tailorbird.events.keys import combine

Int64s = npt.NDArray[np.int64]

TILES = 12
BOARD_ITEMS_MAX, SEGMENT_ITEMS_MAX = 2_000, 500  # items of a leaderboard
_CHUNKS_MAX = 64  # of a tile, before they are put together


@dataclass
class _Window:
    """Counts of one window: `count` by slot, and the contribution of each tile."""

    window_us: int
    count: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    tiles: dict[int, list[tuple[Int64s, Int64s]]] = field(default_factory=dict)
    now: int = 0  # the newest tile

    @property
    def hop_us(self) -> int:
        return -(-self.window_us // TILES)

    def add(self, slot: Int64s, ts: Int64s, slots: int) -> Int64s:
        """Count events, and return the slots whose count changed."""
        self.count = grow_array(self.count, slots)
        tile = ts // self.hop_us
        counted = tile >= self.now - TILES
        tile, slot = tile[counted], slot[counted]
        for number in np.unique(tile).tolist():
            slots_, counts = np.unique(slot[tile == number], return_counts=True)
            self.count[slots_] += counts
            chunks = self.tiles.setdefault(number, [])
            chunks.append((slots_, counts.astype(np.int64)))
            if len(chunks) > _CHUNKS_MAX:
                self.tiles[number] = [_sum_chunks(chunks)]
        return slot

    def advance(self, t: int) -> Int64s:
        """Drop the tiles that left the window by `t`, and return the slots whose count changed."""
        self.now = max(self.now, t // self.hop_us)
        expired = [tile for tile in self.tiles if tile < self.now - TILES]
        changed_slots = [np.zeros(0, np.int64)]
        for tile in expired:
            for slot, counts in self.tiles.pop(tile):
                self.count[slot] -= counts
                changed_slots.append(slot)
        return np.concatenate(changed_slots)

    def renumber(self, slot_map: Int64s, slots: int) -> None:
        """Renumber slots: `slot_map` holds the new number of each old slot, −1 to drop it."""
        count = np.zeros(slots, np.int64)
        retained_slots = np.flatnonzero(slot_map[: len(self.count)] >= 0)
        count[slot_map[retained_slots]] = self.count[retained_slots]
        self.count = count
        for tile, chunks in self.tiles.items():
            slot, counts = _sum_chunks(chunks)
            retained = slot_map[slot] >= 0
            self.tiles[tile] = [(slot_map[slot[retained]], counts[retained])]

    def arrays(self) -> dict[str, npt.NDArray]:
        """Return the state as arrays, of which `restore` makes it again."""
        parts = [(tile, *_sum_chunks(self.tiles[tile])) for tile in sorted(self.tiles)]
        tile = np.concatenate(
            [
                np.zeros(0, np.int64),
                *(np.full(len(slot), number, np.int64) for number, slot, _ in parts),
            ]
        )
        slots = np.concatenate([np.zeros(0, np.int64), *(slot for _, slot, _ in parts)])
        counts = np.concatenate([np.zeros(0, np.int64), *(counts for _, _, counts in parts)])
        return {
            "count": self.count,
            "tile": tile,
            "slot": slots,
            "tile_counts": counts,
            "now": np.array([self.now]),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray]) -> None:
        self.count, self.now = arrays["count"].copy(), int(arrays["now"][0])
        tile = arrays["tile"]
        self.tiles = {}
        for number in np.unique(tile).tolist():
            in_tile = tile == number
            self.tiles[number] = [(arrays["slot"][in_tile], arrays["tile_counts"][in_tile])]


def _sum_chunks(chunks: list[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
    if len(chunks) == 1:
        return chunks[0]
    slot, index_of_count = np.unique(
        np.concatenate([slot for slot, _ in chunks]), return_inverse=True
    )
    return slot, np.bincount(
        index_of_count, np.concatenate([counts for _, counts in chunks]), len(slot)
    ).astype(np.int64)


class PopularityFold:
    """Counts for all boards of a contract.

    `items` is the item table that all folds share. A slot of the overall counts is an item's row
    there.
    """

    def __init__(self, boards: tuple[Board, ...], items: KeyTable) -> None:
        self._items = items
        self._fields = {
            name: _SegmentPairs(name) if name else None
            for name in dict.fromkeys(board.segment for board in boards)
        }
        self._windows = {board: _Window(board.window_us) for board in boards}
        self._changed: dict[Board, list[Keys]] = {board: [] for board in boards}

    @property
    def boards(self) -> tuple[Board, ...]:
        return tuple(self._windows)

    def update(self, item: Int64s, ts: Int64s, segments: Mapping[str, Keys]) -> None:
        """Count interests: item rows, times, and the key of each segment's value (0: none)."""
        if not len(item):
            return
        for name, pairs in self._fields.items():
            if pairs is None:
                self._add(name, item, ts, self._items.count)
                continue
            has_segment = np.flatnonzero(segments[name] != 0)
            slot = pairs.slots(
                segments[name][has_segment], item[has_segment], self._items.keys[item[has_segment]]
            )
            self._add(name, slot, ts[has_segment], pairs.pairs.count)

    def _add(self, name: str, slot: Int64s, ts: Int64s, slots: int) -> None:
        for board, window in self._windows.items():
            if board.segment == name:
                self._mark_changed(board, window.add(slot, ts, slots))

    def _mark_changed(self, board: Board, slots: Int64s) -> None:
        if len(slots):
            pairs = self._fields[board.segment]
            self._changed[board].append(
                np.zeros(1, np.uint64) if pairs is None else np.unique(pairs.value[slots])
            )

    def advance(self, t: int) -> None:
        """Advance the end of all windows to `t`; an earlier time changes nothing."""
        for board, window in self._windows.items():
            self._mark_changed(board, window.advance(t))

    def changed_slots(self) -> list[tuple[Board, int]]:
        """Return the boards and segments whose counts changed since the last call."""
        changes = [
            (board, value)
            for board in self._windows
            for value in self._changed_segments(board).tolist()
        ]
        self._changed = {board: [] for board in self._windows}
        return changes

    def all_segments(self) -> list[tuple[Board, int]]:
        """Return all boards and segments."""
        fields = {
            name: [0] if pairs is None else np.unique(pairs.value[: pairs.pairs.count]).tolist()
            for name, pairs in self._fields.items()
        }
        return [(board, value) for board in self._windows for value in fields[board.segment]]

    def _changed_segments(self, board: Board) -> Keys:
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *self._changed[board]]))

    def table(self, board: Board, segment: int = EVERYONE) -> BoardTable:
        """Return a leaderboard, ordered by count, then count in the longest window, then key."""
        window, pairs = self._windows[board], self._fields[board.segment]
        if pairs is None:
            slots, rows, limit = np.flatnonzero(window.count), None, BOARD_ITEMS_MAX
        else:
            slots, limit = pairs.slots_of(segment), SEGMENT_ITEMS_MAX
            slots = slots[slots < len(window.count)]
            slots = slots[window.count[slots] > 0]
            rows = pairs.item[slots]
        count = window.count[slots]
        total = int(count.sum())
        if len(count) > limit:  # Preselect all items that reach the count of the last one listed.
            best_positions = np.flatnonzero(
                count >= np.partition(count, len(count) - limit)[len(count) - limit]
            )
            slots, count, rows = (
                slots[best_positions],
                count[best_positions],
                rows if rows is None else rows[best_positions],
            )
        longest = self._windows[
            max(other for other in self._windows if other.segment == board.segment)
        ].count
        longest_counts = np.where(
            slots < len(longest), longest[np.minimum(slots, max(len(longest) - 1, 0))], 0
        )
        keys = self._items.keys[slots if rows is None else rows]
        order = np.lexsort((keys, -longest_counts, -count))[:limit]
        return BoardTable(RankedList(keys[order], count[order].astype(np.float64)), total)

    def renumber_items(self, row_map: Int64s, items: int) -> None:
        """Renumber items: `row_map` holds the new row of each old one, −1 to drop it.

        Pairs with a count of zero are dropped too.
        """
        for board, window in self._windows.items():
            pairs, counted = self._fields[board.segment], np.flatnonzero(window.count)
            self._mark_changed(
                board, counted[row_map[counted if pairs is None else pairs.item[counted]] < 0]
            )
        for name, pairs in self._fields.items():
            windows = [window for board, window in self._windows.items() if board.segment == name]
            if pairs is None:
                slots, count = row_map, items
            else:
                is_live_pair = np.zeros(pairs.pairs.count, bool)
                for window in windows:
                    is_live_pair[np.flatnonzero(window.count[: len(is_live_pair)])] = True
                slots, count = pairs.retain(
                    is_live_pair & (row_map[pairs.item[: len(is_live_pair)]] >= 0), row_map
                )
            for window in windows:
                window.count = grow_array(window.count, len(slots))
                window.renumber(slots, count)

    def arrays(self) -> dict[str, npt.NDArray]:
        state: dict[str, npt.NDArray] = {}
        for board, window in self._windows.items():
            state |= {f"{board.name}/{name}": array for name, array in window.arrays().items()}
            state[f"{board.name}/changed"] = self._changed_segments(board)
        for name, pairs in self._fields.items():
            if pairs is not None:
                count = pairs.pairs.count
                state |= {
                    f"{name}/pairs": pairs.pairs.keys,
                    f"{name}/value": pairs.value[:count],
                    f"{name}/item": pairs.item[:count],
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
            self._changed[board] = [arrays[f"{board.name}/changed"]]
        for name, pairs in self._fields.items():
            if pairs is not None:
                pairs.restore(
                    arrays[f"{name}/pairs"], arrays[f"{name}/value"], arrays[f"{name}/item"]
                )


class _SegmentPairs:
    """Pairs of a segment's value and an item: a slot each, in order of first appearance."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.restore(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))

    def restore(self, pairs: Keys, value: Keys, item: Int64s) -> None:
        self.pairs = KeyTable(pairs)
        self.value, self.item = value.copy(), item.copy()
        self._slots_by_value: dict[int, list[Int64s]] = {}
        self._grouped_pairs = 0

    def slots(self, value: Keys, item: Int64s, key: Keys) -> Int64s:
        """Return the slot of each pair, adding new pairs."""
        slot = self.pairs.assign(combine(value, key))
        self.value, self.item = (
            grow_array(self.value, self.pairs.count),
            grow_array(self.item, self.pairs.count),
        )
        self.value[slot], self.item[slot] = value, item
        return slot

    def slots_of(self, value: int) -> Int64s:
        """Return the slots of one value."""
        count = self.pairs.count
        if self._grouped_pairs < count:
            new_slots = np.arange(self._grouped_pairs, count)
            order = new_slots[np.argsort(self.value[new_slots], kind="stable")]
            values, value_starts = np.unique(self.value[order], return_index=True)
            for value_, slots in zip(
                values.tolist(), np.split(order, value_starts[1:]), strict=True
            ):
                self._slots_by_value.setdefault(value_, []).append(slots)
            self._grouped_pairs = count
        parts = self._slots_by_value.get(value, [])
        if len(parts) > 1:
            parts = self._slots_by_value[value] = [np.concatenate(parts)]
        return parts[0] if parts else np.zeros(0, np.int64)

    def retain(self, retained: npt.NDArray[np.bool_], row_map: Int64s) -> tuple[Int64s, int]:
        """Drop all pairs but the selected ones and renumber their items.

        Returns the new slot of each old one, and the number of slots.
        """
        count = self.pairs.count
        value, item = self.value[:count][retained], row_map[self.item[:count][retained]]
        slots = self.pairs.retain(retained)
        self.value, self.item, self._slots_by_value, self._grouped_pairs = value, item, {}, 0
        return slots, self.pairs.count
