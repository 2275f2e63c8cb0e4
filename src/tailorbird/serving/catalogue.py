"""Items as they are now: what the routed log says of them since the bundle's index was built.

A new item can be shown, and one that went out of stock disappears, within a second of its event,
without a new bundle: also one that has no profile, and of which only what people do says that it is
there.

The routed log is read from its beginning once, in the background, and then followed; only `item`
events and the item ids of interests are looked at. What stood in the part that was deleted is
summed up in two tables beside the log (`router.pruned`), or in a topic of their own
(`router.retention`). The index itself is `retrieval.index`; a changed one is made beside the one in
use.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.candidates.contract import INTERESTS
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import ROUTED, hash64s, micros
from tailorbird.loops import Loop
from tailorbird.retrieval import Index, NewItem
from tailorbird.retrieval.overlay import ItemVersion, laid_over, take_version
from tailorbird.stream import Address, EmbeddedReader, LogReader, open_reader

POLL_S = 0.5
_COLUMNS = ("type", "ts", "received_at", "item_id", "properties", "timeless")
log = logging.getLogger(__name__)


@dataclass
class _Overlaid:
    """An index over its base; `asked` is whether a request wanted it."""

    base: Index | None
    index: Index
    asked: bool = False


class Catalogue:
    """Follows the routed log at `routed`, and lays what came later over a bundle's index.

    `over` may be called from any thread; `refresh` by one at a time. `loop` is the thread.

    Attributes:
        ready: told of each index that is made, before requests get it: to compute what they will
            need of it.
        caught_up: whether the log, if there is one, was read to its end once.
    """

    def __init__(self, routed: Address, *, poll_s: float = POLL_S) -> None:
        self._routed = routed
        self._log: LogReader | None = None
        self._position = -1
        self._items: dict[str, ItemVersion] = {}
        self._seen = _Seen()
        self.caught_up = False
        self._overlaid: tuple[_Overlaid, ...] = ()
        self.ready: Callable[[Index], None] = _nothing_to_do
        self._changed = threading.Lock()
        self.loop = Loop("catalogue", self._follow, every_s=poll_s, failed=self._forget)

    def start(self) -> None:
        """Follow the log in a thread until `stop`."""
        self.loop.start()

    def stop(self) -> None:
        self.loop.stop()
        self._let_go()

    def _let_go(self) -> None:
        """Close the log: it is opened anew, and gone on with, at the next look."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _forget(self) -> None:
        """Begin anew: how much of a block was taken before a failure is not known."""
        self._let_go()
        self._position = -1

    def refresh(self, *, bytes_max: int = 8 << 20) -> int:
        """Read what is new in the log; how many profiles and new items were among it."""
        found = 0
        if self._log is None:
            try:
                self._log = open_reader(self._routed)
            except NotReadyError:  # there is no router yet, or it is just making its file
                return 0
        if (
            self._position < self._log.start()
        ):  # at first, or when the router deleted what was not read yet
            found = self._begin(self._log)
        while stored := self._log.read(self._position, bytes_max=bytes_max):
            for each in stored:
                if each.block.kind == "events":
                    found += self._take(each.block.payload, each.offset)
            self._position = stored[-1].end
            if self.loop.stopping:
                break
        if (
            found
        ):  # here, rather than in the next requests: over what they asked for since the last change
            self._renew()
        return found

    def _begin(self, reader: LogReader) -> int:
        """Start from what the deleted part of the log said; how many items that was."""
        items: dict[str, ItemVersion] = {}
        seen = _Seen()
        with self._summary(reader) as (connection, position):
            self._position = position
            if (
                connection is not None
                and connection.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = 'pruned_item'"
                ).fetchone()
            ):
                chosen = "SELECT item_id, properties, valid_from, known_since FROM pruned_item"
                for item_id, text, valid_from, known_since in connection.execute(chosen):
                    items[item_id] = ItemVersion(text, valid_from, known_since, position - 1)
                for type_, item_id in connection.execute(
                    "SELECT type, item_id FROM pruned_interest"
                ):
                    if type_ in INTERESTS:
                        seen.take([item_id], [0])
        self._items, self._seen = items, seen
        return len(items) + len(seen.ids)

    @contextmanager
    def _summary(self, reader: LogReader) -> Iterator[tuple[apsw.Connection | None, int]]:
        """The tables that say what was deleted, and from where on the log has what they do not say."""
        if isinstance(self._routed, Path):
            assert isinstance(reader, EmbeddedReader)
            with reader.snapshot() as connection:
                yield connection, reader.start()
            return
        from tailorbird.stream.kafka.logs import items_of
        from tailorbird.stream.kafka.snapshots import Newest, load

        address, start = items_of(self._routed), reader.start()
        newest = Newest(address).look()
        if newest is None or newest.position < start:
            if start > 1:
                log.error(
                    "what was deleted is not summed up in %s: items that stood there alone "
                    "are not known",
                    address,
                )
            yield None, start
            return
        with closing(load(address, newest)) as connection:
            yield connection, newest.position

    @property
    def position(self) -> int:
        """Behind the newest row of the log that was taken."""
        return self._position

    def over(self, index: Index | None) -> Index | None:
        """An index that knows the items as they were at the last `refresh`; `index` itself if
        nothing changed, None if there is nothing.

        While a refresh makes the next one, requests go on with the one before: none waits for it.
        """
        made = self._made(index)
        if made is None:
            with self._changed:
                made = self._made(index) or self._laid(index)
                if made is None:
                    return None
                # Four are kept: champion, canary, shadow, and during a swap the one before are
                # asked for in turn.
                others = [one for one in self._overlaid if one.base is not index]
                self._overlaid = (made, *others[:3])
        made.asked = True
        return made.index

    def _renew(self) -> None:
        """Lay the items anew over what was asked for since the last change; what was not is made
        when it is asked for again.
        """
        with self._changed:
            bases = [one.base for one in self._overlaid if one.asked] or [
                one.base for one in self._overlaid[:1]
            ]
            self._overlaid = tuple(made for base in bases if (made := self._laid(base)) is not None)

    def _laid(self, base: Index | None) -> "_Overlaid | None":
        overlay = self._overlay(base)
        if overlay is None:
            return None
        self.ready(overlay)
        return _Overlaid(base, overlay)

    def _made(self, index: Index | None) -> "_Overlaid | None":
        return next((one for one in self._overlaid if one.base is index), None)

    def _overlay(self, index: Index | None) -> Index | None:
        items, base = dict(self._items), _EMPTY if index is None else index
        laid = laid_over(base, items, self._seen.unknown_to(base))
        return laid if len(laid) or index is not None else None

    def _take(self, payload: bytes, p: int) -> int:
        """Take in a block of events, whose first position is `p`."""
        table = pa.ipc.open_stream(payload, options=_ONLY).read_all()
        interests = table.filter(
            pc.and_(pc.is_in(table["type"], _INTERESTS), pc.is_valid(table["item_id"]))
        )
        first = interests.group_by("item_id").aggregate([("ts", "min")])
        found = self._seen.take(first["item_id"].to_pylist(), micros(first["ts_min"]).tolist())
        is_profile = pc.equal(table["type"], "item")
        profiles, places = table.filter(is_profile), np.flatnonzero(is_profile.to_numpy()) + p
        if not profiles.num_rows:
            return found
        ids, texts, timeless = (
            profiles[name].to_pylist() for name in ("item_id", "properties", "timeless")
        )
        valid_from = micros(profiles["ts"]).tolist()
        received = micros(profiles["received_at"]).tolist()
        for item_id, text, always, ts, at, place in zip(
            ids, texts, timeless, valid_from, received, places.tolist(), strict=True
        ):
            take_version(
                self._items,
                item_id,
                ItemVersion(text or "{}", 0 if always else ts, max(ts, at), place),
            )
        return found + profiles.num_rows

    def _follow(self) -> None:
        try:
            if self._log is None or self._log.changed():
                self.refresh()
            self.caught_up = True
        except TailorbirdError as error:
            log.error("the routed log cannot be followed, items stay as they are: %s", error)
            self.loop.rest(10)


def _nothing_to_do(index: Index) -> None:
    """Nobody needs anything of it beforehand."""


_ONLY = pa.ipc.IpcReadOptions(
    included_fields=[ROUTED.get_field_index(name) for name in _COLUMNS]
)  # the rest stays packed
_INTERESTS = pa.array(INTERESTS, pa.string())
_EMPTY = Index.bare(())


class _Seen:
    """The items of which any event was seen, in the order in which they came, and when each was
    seen first.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._first: dict[str, int] = {}
        self._keys: list[npt.NDArray[np.uint64]] = []

    def take(self, ids: list[str], ts: list[int]) -> int:
        """Note items; how many of them are new."""
        fresh = [
            (item_id, at) for item_id, at in zip(ids, ts, strict=True) if item_id not in self._first
        ]
        if fresh:
            self.ids += [item_id for item_id, _ in fresh]
            self._first.update(fresh)
            self._keys.append(hash64s([item_id for item_id, _ in fresh]))
        return len(fresh)

    def unknown_to(self, index: Index) -> list[NewItem]:
        """The items that an index does not know, without a profile."""
        if len(self._keys) > 1:
            self._keys = [np.concatenate(self._keys)]
        rows = index.find(self._keys[0]) if self._keys else np.zeros(0, np.intp)
        return [
            NewItem(self.ids[at], {}, self._first[self.ids[at]])
            for at in np.flatnonzero(rows < 0).tolist()
        ]
