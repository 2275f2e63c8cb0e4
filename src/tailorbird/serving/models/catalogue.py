"""The items as the routed log describes them since the bundle's index was built.

A new item can be shown, and one that went out of stock disappears, within a second of its event and
without a new bundle. That includes an item without a profile, which is known by interactions only.

The routed log is read from its beginning once, in the background, and then followed. Only `item`
events and the item ids of interests are read. The deleted part of the log is summarised in two
tables beside it (`router.routed_log.pruned`), or in a topic of its own
(`router.routed_log.retention`). The index itself is `retrieval.index`; a changed one is made next
to the one in use.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.candidates.contract import INTEREST_EVENT_TYPES
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import ROUTED, hash64s, micros
from tailorbird.periodic import PeriodicTask
from tailorbird.retrieval import Index, NewItem
from tailorbird.retrieval.overlay import ItemVersion, overlay_versions, update_newest
from tailorbird.stream import Address, LogReader, log_address, open_reader

POLL_S = 0.5
_COLUMNS = ("type", "ts", "received_at", "item_id", "properties", "timeless")
OVERLAYS_MAX = 8
log = logging.getLogger(__name__)


@dataclass
class _Overlay:
    """An index over its base; `is_used` records whether a request has read it."""

    base_index: Index | None
    index: Index
    is_used: bool = False


class Catalogue:
    """Follows the routed log at `routed`, and lays later changes over a bundle's index.

    `overlay_for` may be called from any thread, `refresh` by one at a time.

    Attributes:
        warm_index: called with each new index before requests get it, to compute what they will
            need of it.
        is_caught_up: whether the log, if there is one, was read to its end once.
    """

    def __init__(self, routed: Address, *, poll_s: float = POLL_S) -> None:
        self._routed = routed
        self._log_reader: LogReader | None = None
        self._position = -1
        self._items: dict[str, ItemVersion] = {}
        self._seen_items = _SeenItems()
        self.is_caught_up = False
        self._overlays: tuple[_Overlay, ...] = ()
        self.warm_index: Callable[[Index], None] = _no_warm_up
        self._overlay_lock = threading.Lock()
        self.periodic_task = PeriodicTask(
            "catalogue", self._tick, interval_s=poll_s, on_failure=self._restart
        )

    def start(self) -> None:
        """Follow the log in a thread until `stop`."""
        self.periodic_task.start()

    def stop(self) -> None:
        self.periodic_task.stop()
        self._close_log()

    def _close_log(self) -> None:
        """Close the log; the next tick opens it again and continues."""
        if self._log_reader is not None:
            self._log_reader.close()
            self._log_reader = None

    def _restart(self) -> None:
        """Start over, because it is unknown how much of a block was ingested before a failure."""
        self._close_log()
        self._position = -1

    def refresh(self, *, bytes_max: int = 8 << 20) -> int:
        """Read what is new in the log, and return the number of profiles and new items in it."""
        item_count = 0
        if self._log_reader is None:
            try:
                self._log_reader = open_reader(self._routed)
            except NotReadyError:  # there is no router yet, or it is creating its file
                return 0
        if self._position < self._log_reader.start():  # at first, or when unread rows were pruned
            item_count = self._load_pruned(self._log_reader)
        while stored_blocks := self._log_reader.read(self._position, bytes_max=bytes_max):
            for stored_block in stored_blocks:
                if stored_block.block.kind == "events":
                    item_count += self._ingest_block(
                        stored_block.block.payload, stored_block.offset
                    )
            self._position = stored_blocks[-1].end
            if self.periodic_task.is_stopping:
                break
        if item_count:  # here, so that no request has to wait for it
            self._rebuild_overlays()
        return item_count

    def _load_pruned(self, reader: LogReader) -> int:
        """Start from the summary of the deleted part of the log, and return the number of items
        in it.
        """
        items: dict[str, ItemVersion] = {}
        seen_items = _SeenItems()
        with log_address(self._routed).pruned_summary(reader.start()) as (connection, position):
            self._position = position
            if (
                connection is not None
                and connection.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = 'pruned_item'"
                ).fetchone()
            ):
                query = "SELECT item_id, properties, valid_from, known_since FROM pruned_item"
                for item_id, properties, valid_from, recorded_at in connection.execute(query):
                    items[item_id] = ItemVersion(properties, valid_from, recorded_at, position - 1)
                for type_, item_id in connection.execute(
                    "SELECT type, item_id FROM pruned_interest"
                ):
                    if type_ in INTEREST_EVENT_TYPES:
                        seen_items.add([item_id], [0])
        self._items = items
        self._seen_items = seen_items
        return len(items) + len(seen_items.ids)

    @property
    def position(self) -> int:
        """The offset behind the newest row that was ingested."""
        return self._position

    def overlay_for(self, index: Index | None) -> Index | None:
        """Return an index with the items as of the last `refresh`, or `index` itself if nothing
        changed.

        None if there is nothing. While a refresh makes the next index, requests continue with the
        current one and never wait.
        """
        overlay = self._find_overlay(index)
        if overlay is None:
            with self._overlay_lock:
                overlay = self._find_overlay(index) or self._build_overlay(index)
                if overlay is None:
                    return None
                # Champion, canary, shadow, versions of arms and, during a swap, the previous
                # champion alternate.
                other_overlays = [
                    entry for entry in self._overlays if entry.base_index is not index
                ]
                self._overlays = (overlay, *other_overlays[: OVERLAYS_MAX - 1])
        overlay.is_used = True
        return overlay.index

    def _rebuild_overlays(self) -> None:
        """Rebuild the overlays that were used since the last change.

        The others are rebuilt when they are requested again.
        """
        with self._overlay_lock:
            bases = [entry.base_index for entry in self._overlays if entry.is_used] or [
                entry.base_index for entry in self._overlays[:1]
            ]
            self._overlays = tuple(
                overlay for base in bases if (overlay := self._build_overlay(base)) is not None
            )

    def _build_overlay(self, base_index: Index | None) -> "_Overlay | None":
        overlaid_index = self._overlay_index(base_index)
        if overlaid_index is None:
            return None
        self.warm_index(overlaid_index)
        return _Overlay(base_index, overlaid_index)

    def _find_overlay(self, index: Index | None) -> "_Overlay | None":
        return next((entry for entry in self._overlays if entry.base_index is index), None)

    def _overlay_index(self, index: Index | None) -> Index | None:
        items = dict(self._items)
        base_index = _EMPTY_INDEX if index is None else index
        overlaid_index = overlay_versions(
            base_index, items, self._seen_items.missing_from(base_index)
        )
        return overlaid_index if len(overlaid_index) or index is not None else None

    def _ingest_block(self, payload: bytes, first_offset: int) -> int:
        """Ingest a block of events whose first offset is `first_offset`."""
        table = pa.ipc.open_stream(payload, options=_READ_OPTIONS).read_all()
        interests = table.filter(
            pc.and_(pc.is_in(table["type"], _INTEREST_TYPES), pc.is_valid(table["item_id"]))
        )
        first_events = interests.group_by("item_id").aggregate([("ts", "min")])
        new_item_count = self._seen_items.add(
            first_events["item_id"].to_pylist(), micros(first_events["ts_min"]).tolist()
        )
        is_profile = pc.equal(table["type"], "item")
        profiles = table.filter(is_profile)
        offsets = np.flatnonzero(is_profile.to_numpy()) + first_offset
        if not profiles.num_rows:
            return new_item_count
        ids, properties, timeless_flags = (
            profiles[name].to_pylist() for name in ("item_id", "properties", "timeless")
        )
        valid_from = micros(profiles["ts"]).tolist()
        received_times = micros(profiles["received_at"]).tolist()
        for item_id, properties_json, is_timeless, ts, received_at, offset in zip(
            ids,
            properties,
            timeless_flags,
            valid_from,
            received_times,
            offsets.tolist(),
            strict=True,
        ):
            update_newest(
                self._items,
                item_id,
                ItemVersion(
                    properties_json or "{}", 0 if is_timeless else ts, max(ts, received_at), offset
                ),
            )
        return new_item_count + profiles.num_rows

    def _tick(self) -> None:
        try:
            if self._log_reader is None or self._log_reader.has_changed():
                self.refresh()
            self.is_caught_up = True
        except TailorbirdError as error:
            log.error("the routed log cannot be followed, items stay as they are: %s", error)
            self.periodic_task.pause(10)


def _no_warm_up(index: Index) -> None:
    """Do nothing."""


_READ_OPTIONS = pa.ipc.IpcReadOptions(
    included_fields=[ROUTED.get_field_index(name) for name in _COLUMNS]
)  # other columns stay compressed
_INTEREST_TYPES = pa.array(INTEREST_EVENT_TYPES, pa.string())
_EMPTY_INDEX = Index.from_ids(())


class _SeenItems:
    """The items with any event in order of arrival, with the time of the first event of each."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._first_ts: dict[str, int] = {}
        self._key_arrays: list[npt.NDArray[np.uint64]] = []

    def add(self, ids: list[str], ts: list[int]) -> int:
        """Add items, and return how many of them are new."""
        new_items = [
            (item_id, first_ts)
            for item_id, first_ts in zip(ids, ts, strict=True)
            if item_id not in self._first_ts
        ]
        if new_items:
            self.ids += [item_id for item_id, _ in new_items]
            self._first_ts.update(new_items)
            self._key_arrays.append(hash64s([item_id for item_id, _ in new_items]))
        return len(new_items)

    def missing_from(self, index: Index) -> list[NewItem]:
        """Return the items that an index lacks, without a profile."""
        if len(self._key_arrays) > 1:
            self._key_arrays = [np.concatenate(self._key_arrays)]
        rows = index.find(self._key_arrays[0]) if self._key_arrays else np.zeros(0, np.intp)
        return [
            NewItem(self.ids[row], {}, self._first_ts[self.ids[row]])
            for row in np.flatnonzero(rows < 0).tolist()
        ]
