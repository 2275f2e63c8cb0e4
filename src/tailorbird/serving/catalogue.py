"""Items as they are now: what the routed log says of them since the bundle's index was built.

A new item can be shown, and one that went out of stock disappears, within a second of its event, without a new bundle.
Without any bundle the items seen so far, ordered by how often people took interest in them, are what is left to show.

The routed log is read from its beginning once, in the background, and then followed; only `item` events and the item
ids of interests are looked at. What stood in the part that the router has deleted, it has summed up in two tables beside
the log (`router.pruned`). The index itself is `retrieval.index`; a changed one is made beside the one in use.
"""

import logging
import threading
from collections import Counter
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import ROUTED, micros
from tailorbird.retrieval import Cooccurrence, Index, NewItem
from tailorbird.retrieval.build import INTERESTS
from tailorbird.stream import Address, EmbeddedReader, LogReader, open_reader

POLL_S = 0.5
_COLUMNS = ("type", "ts", "received_at", "item_id", "properties", "timeless")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Version:
    """The newest profile of an item: its attributes as JSON, when it came to be, and when we got it."""

    attributes: str
    valid_from: int
    known_since: int


@dataclass(frozen=True)
class _Overlaid:
    """An index over its base, as of one version of the catalogue."""

    base: Index | None
    version: int
    index: Index


class Catalogue:
    """Follows the routed log at `routed`, and lays what came later over a bundle's index.

    `over` may be called from any thread; `refresh` by one at a time.
    """

    def __init__(self, routed: Address, *, poll_s: float = POLL_S) -> None:
        self._routed, self._poll_s = routed, poll_s
        self._log: LogReader | None = None
        self._position = -1
        self._items: dict[str, _Version] = {}
        self._interests: Counter[str] = Counter()
        self._version = 0
        self._overlaid: tuple[_Overlaid, ...] = ()
        self._base: Index | None = None
        self._changed = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow the log in a thread until `stop`."""
        self._thread = threading.Thread(target=self._follow, name="catalogue", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._log is not None:
            self._log.close()

    def refresh(self, *, bytes_max: int = 8 << 20) -> int:
        """Read what is new in the log; how many item events were among it."""
        found = 0
        if self._log is None:
            try:
                self._log = open_reader(self._routed)
            except NotReadyError:  # there is no router yet, or it is just making its file
                return 0
        if self._position < self._log.start():  # at first, or when the router deleted what was not read yet
            found = self._begin(self._log)
        while stored := self._log.read(self._position, bytes_max=bytes_max):
            for each in stored:
                if each.block.kind == "events":
                    found += self._take(each.block.payload)
            self._position = stored[-1].end
            if self._stop.is_set():
                break
        if found:
            self._version += 1
        if found and self._base is not None:
            self.over(self._base)  # here, rather than in the next request
        return found

    def _begin(self, reader: LogReader) -> int:
        """Start from what the deleted part of the log said; how many items that was."""
        items: dict[str, _Version] = {}
        interests: Counter[str] = Counter()
        if not isinstance(reader, EmbeddedReader):  # a topic is never pruned
            self._items, self._interests, self._position = items, interests, reader.start()
            return 0
        with reader.snapshot() as connection:
            self._position = reader.start()
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'pruned_item'").fetchone():
                for item_id, *version in connection.execute("SELECT item_id, properties, valid_from, known_since FROM pruned_item"):
                    items[item_id] = _Version(*version)
                for type_, item_id, events in connection.execute("SELECT type, item_id, events FROM pruned_interest"):
                    if type_ in INTERESTS:
                        interests[item_id] += events
        self._items, self._interests = items, interests
        return len(items)

    def over(self, index: Index | None) -> Index | None:
        """An index that knows the items as they are now; `index` itself if nothing changed, None if there is nothing."""
        made = self._made(index)
        if made is not None:
            return made.index
        with self._changed:
            made = self._made(index)
            if made is not None:
                return made.index
            version = self._version
            overlay = self._overlay(index)
            if overlay is None:
                return None
            # Two are kept: during a swap, requests ask for the old bundle's and the new one's in turn.
            others = [one for one in self._overlaid if one.base is not index]
            self._base = index
            self._overlaid = (_Overlaid(index, version, overlay), *others[:1])
            return overlay

    def _made(self, index: Index | None) -> "_Overlaid | None":
        return next((one for one in self._overlaid if one.base is index and one.version == self._version), None)

    def _overlay(self, index: Index | None) -> Index | None:
        items = list(self._items.items())
        if index is None:
            if not items and not self._interests:
                return None
            known = {item_id for item_id, _ in items}
            bare = [NewItem(item_id, {}, 0) for item_id in list(self._interests) if item_id not in known]
            return _counted(_EMPTY.with_items([*map(_new_item, items), *bare]), self._interests)
        rows = index.find_ids([item_id for item_id, _ in items])
        later = [item for item, row in zip(items, rows.tolist(), strict=True) if row < 0 or item[1].known_since >= index.as_of]
        return index.with_items([_new_item(item) for item in later]) if later else index

    def _take(self, payload: bytes) -> int:
        table = pa.ipc.open_stream(payload, options=_ONLY).read_all()
        interests = table["item_id"].filter(pc.is_in(table["type"], _INTERESTS))
        for counted in pc.value_counts(interests.drop_null()).to_pylist():
            self._interests[counted["values"]] += counted["counts"]
        profiles = table.filter(pc.equal(table["type"], "item"))
        if not profiles.num_rows:
            return 0
        ids, texts, timeless = (profiles[name].to_pylist() for name in ("item_id", "properties", "timeless"))
        valid_from = micros(profiles["ts"]).tolist()
        received = micros(profiles["received_at"]).tolist()
        for item_id, text, always, ts, at in zip(ids, texts, timeless, valid_from, received, strict=True):
            version = _Version(text or "{}", 0 if always else ts, max(ts, at))
            before = self._items.get(item_id)
            if before is None or (version.valid_from, version.known_since) >= (before.valid_from, before.known_since):
                self._items[item_id] = version
        return profiles.num_rows

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                if self._log is None or self._log.changed():
                    self.refresh()
            except TailorbirdError as error:
                log.error("the routed log cannot be followed, items stay as they are: %s", error)
                self._stop.wait(10)
            self._stop.wait(self._poll_s)


_ONLY = pa.ipc.IpcReadOptions(included_fields=[ROUTED.get_field_index(name) for name in _COLUMNS])  # the rest stays packed
_INTERESTS = pa.array(INTERESTS, pa.string())
_NONE = np.zeros(0, np.int64)
_EMPTY = Index(
    as_of=0,
    ids=(),
    keys=np.zeros(0, np.uint64),
    first_seen=_NONE,
    counts={"1d": _NONE, "7d": _NONE, "all": _NONE},
    attributes={},
    item_item=Cooccurrence(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)),
)


def _new_item(item: tuple[str, _Version]) -> NewItem:
    item_id, version = item
    attributes = msgspec.json.decode(version.attributes)
    return NewItem(item_id, attributes if isinstance(attributes, dict) else {}, version.valid_from)


def _counted(index: Index, interests: Counter[str]) -> Index:
    counts = np.array([interests[item_id] for item_id in index.ids], np.int64)
    return replace(index, counts=dict.fromkeys(index.counts, counts))
