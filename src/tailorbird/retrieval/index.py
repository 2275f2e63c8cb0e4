"""The loaded index: items with their attributes, what is popular and fresh, item-to-item and text, asked by row.

A row is the number of an item within one `Index`; ids and keys lead to rows by `find`. Every answer is a `Found`: rows
and scores, best first. An `Index` never changes; `retrieval.overlay` makes a new one that also knows items which came later.

    items.arrow    id, key, first_seen, count_1h, count_1d, count_7d, count_all, and each attribute as `a:NAME`, marked if a truth
    i2i_indptr.npy, i2i_items.npy, i2i_weights.npy    see `retrieval.cooccurrence`
    text/          see `retrieval.text`
    vectors*       see `retrieval.vectors`; not in every index
    clusters*      see `retrieval.clusters`; not in every index
    sessions*      see `retrieval.sessions`; not in every index
    segments.arrow see `retrieval.segments`; not in every index
    meta.json      format, as_of

How it is built stands in `retrieval.build`; how sources are merged, in `retrieval.candidates`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import BundleError
from tailorbird.events.keys import hash64s
from tailorbird.retrieval.arrays import read_array
from tailorbird.retrieval.clusters import Clusters
from tailorbird.retrieval.columns import Column, TextColumn, from_arrow
from tailorbird.retrieval.cooccurrence import RECENT_DECAY, RECENT_MAX, Cooccurrence
from tailorbird.retrieval.segments import Segments
from tailorbird.retrieval.sessions import Sessions
from tailorbird.retrieval.synonyms import Words
from tailorbird.retrieval.text import TextIndex
from tailorbird.retrieval.vectors import ItemVectors

Rows = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FORMAT = 1
TRUTH = b"truth"  # what marks a column of items.arrow that is 1 for true and 0 for false
WINDOWS = ("1h", "1d", "7d", "all")
SEARCHED_MAX = 10_000  # hits that are looked at where few are shown
CATEGORY_DECAY = 0.95  # of what a person looked at, in whose categories something is looked for
# Orders that are computed once: which items there are decides of these, and of those their categories too.
_OF_ITEMS = ("_key_order", "_popular", "_trending", "_hottest", "_fresh", "popularity")
_OF_CATEGORIES = ("category", "_by_category")


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`meta.json`."""

    format: int
    as_of: int


@dataclass(frozen=True)
class Found:
    """Items, best first: `rows` (n,) of the index and `scores` (n,), of whose scale only the order is promised."""

    rows: Rows
    scores: Floats


@dataclass(frozen=True)
class Index:
    """Items and how they hang together, as of one moment.

    Attributes:
        as_of: counts are of events before this, microseconds.
        ids: of n items.
        keys: uint64 (n,): `events.hash64` of the ids.
        first_seen: int64 (n,): when the item came; 0 if it has been there from the beginning.
        counts: window (`1h`, `1d`, `7d`, `all`) → int64 (n,): events of persons with the item in that time before `as_of`.
        attributes: name → column of n.
        truths: names of those that are true or false, and no numbers.
        item_item: what follows what.
        text: full text, or None.
        later_at: the row from which on items came later than the index was built.
        shown: bool (n,): which items sources may find, see `only`; None is all.
        vectors: of the items, or None.
        together: clusters of the items, or None.
        sessions: the newest sessions of everybody, or None.
        segments: what is popular by country and device, or None.
    """

    as_of: int
    ids: tuple[str, ...]
    keys: Keys
    first_seen: npt.NDArray[np.int64]
    counts: Mapping[str, npt.NDArray[np.int64]]
    attributes: Mapping[str, Column]
    item_item: Cooccurrence
    text: TextIndex | None = None
    later_at: int = 0
    shown: npt.NDArray[np.bool_] | None = None
    vectors: ItemVectors | None = None
    together: Clusters | None = None
    sessions: Sessions | None = None
    segments: Segments | None = None
    truths: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.ids)

    # Loading

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> "Index":
        """An index from the bytes of its files, as `registry.read_sealed` gives them."""
        try:
            meta = msgspec.json.decode(files["meta.json"], type=Meta)
            if meta.format != FORMAT:
                raise BundleError(f"the index has format {meta.format}, expected {FORMAT}", fix="tailorbird train")
            table = pa.ipc.open_file(pa.BufferReader(files["items.arrow"])).read_all()
            table.validate(full=True)  # Arrow trusts offsets and codes otherwise, and reads beyond its buffers
            item_item = Cooccurrence(*(read_array(files[f"i2i_{name}.npy"]) for name in ("indptr", "items", "weights")))
            item_item.check(table.num_rows)
            texts = {name.removeprefix("text/"): data for name, data in files.items() if name.startswith("text/")}
            text = TextIndex.load(texts) if texts else None
            if text is not None and text.built.documents != table.num_rows:
                raise ValueError(f"its texts are of {text.built.documents} items, and it has {table.num_rows}")
            attributes = {name[2:]: from_arrow(table[name]) for name in table.column_names if name.startswith("a:")}
            counted = {f"count_{window}": window for window in WINDOWS if window != "1h" or "count_1h" in table.column_names}
            counts = {window: table[name].to_numpy() for name, window in counted.items()}
            counts.setdefault("1h", np.zeros(table.num_rows, np.int64))  # an index of before it was counted
            ids = tuple(table["id"].to_pylist())
            keys, first_seen = table["key"].to_numpy(), table["first_seen"].to_numpy()
            vectors, together = ItemVectors.read(files, table.num_rows), Clusters.read(files, table.num_rows)
            sessions, segments = Sessions.read(files, table.num_rows), Segments.read(files, table.num_rows)
            truths = frozenset(field.name[2:] for field in table.schema if TRUTH in (field.metadata or {}))
            more = {"vectors": vectors, "together": together, "sessions": sessions, "segments": segments, "truths": truths}
        except (KeyError, ValueError, OSError, pa.ArrowException, msgspec.DecodeError) as error:
            raise BundleError(f"the index cannot be read: {error}", fix="tailorbird train") from error
        index = cls(meta.as_of, ids, keys, first_seen, counts, attributes, item_item, text, len(ids), **more)
        index.prepare()
        return index

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """An index from its folder, unchecked: for building and for tests."""
        return cls.load({path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()})

    @classmethod
    def bare(cls, ids: Sequence[str], vectors: ItemVectors | None = None) -> "Index":
        """Items of which nothing is known but perhaps their vectors."""
        none, keys = np.zeros(len(ids), np.int64), hash64s(ids) if len(ids) else np.zeros(0, np.uint64)
        table = Cooccurrence(np.zeros(len(ids) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        return cls(0, tuple(ids), keys, none, dict.fromkeys(WINDOWS, none), {}, table, None, len(ids), vectors=vectors)

    def prepare(self, before: "Index | None" = None, *, categories: bool = False) -> None:
        """Compute every order now rather than during the first request.

        Args:
            before: an index of the same items, whose orders are the same then.
            categories: whether its items are in the same categories too.
        """
        if before is not None:
            for name in (*_OF_ITEMS, *(_OF_CATEGORIES if categories else ())):
                self.__dict__[name] = getattr(before, name)
        for name in (*_OF_ITEMS, *_OF_CATEGORIES):
            getattr(self, name)

    def only(self, shown: npt.NDArray[np.bool_]) -> "Index":
        """The same items in the same rows, of which sources find no others than `shown` (n,). What is told of an item stays as it is."""
        view = dataclasses.replace(self, shown=shown)
        for name in ("_key_order", "popularity", "category"):
            view.__dict__[name] = getattr(self, name)
        for name in ("_popular", "_trending", "_hottest", "_fresh"):
            order: Rows = getattr(self, name)
            view.__dict__[name] = order[shown[order]]
        ordered, starts = self._by_category
        kept = shown[ordered]
        view.__dict__["_by_category"] = ordered[kept], np.concatenate([[0], np.cumsum(kept)])[starts]
        return view

    # Orders, computed once

    @cached_property
    def _key_order(self) -> tuple[Keys, Rows]:
        order = np.argsort(self.keys, kind="stable")
        return self.keys[order], order

    @cached_property
    def _popular(self) -> Rows:
        """All rows, by the count of 7 days, then of all time, then by key."""
        return np.lexsort((self.keys, -self.counts["all"], -self.counts["7d"]))

    @cached_property
    def _trending(self) -> Rows:
        return np.lexsort((self.keys, -self.counts["7d"], -self.counts["1d"]))

    @cached_property
    def _hottest(self) -> Rows:
        rows = np.lexsort((self.keys, -self.counts["1d"], -self.counts["1h"]))
        return rows[self.counts["1h"][rows] > 0]

    @cached_property
    def _by_category(self) -> tuple[Rows, npt.NDArray[np.intp]]:
        """Rows ordered by (category, popularity), and where each category's run starts."""
        codes = self.category.codes[self._popular]
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(self.category.values) + 1))
        return self._popular[order], starts

    @cached_property
    def _fresh(self) -> Rows:
        rows = np.lexsort((self.keys, -self.first_seen))
        return rows[self.first_seen[rows] > 0]

    @cached_property
    def popularity(self) -> npt.NDArray[np.float32]:
        """Share of items that are less popular, float32 (n,) in [0, 1): a rank does not drift with the traffic, as a count does."""
        rank = np.empty(len(self), np.float32)
        rank[self._popular] = np.arange(len(self) - 1, -1, -1, dtype=np.float32) / max(len(self), 1)
        return np.where(self.counts["all"] > 0, rank, np.float32(0))

    @cached_property
    def category(self) -> TextColumn:
        """The attribute `category`; missing for all where no item has one."""
        column = self.attributes.get("category")
        if isinstance(column, TextColumn):
            return column
        if column is None:
            return TextColumn(np.full(len(self), -1, np.int32), ())
        texts, codes = np.unique(column, return_inverse=True)
        codes = np.where(np.isnan(column), -1, codes).astype(np.int32)
        return TextColumn(codes, tuple(f"{value:g}" for value in texts))

    # Questions

    def find(self, keys: Keys) -> Rows:
        """Rows of items by key, -1 where unknown."""
        known, order = self._key_order
        if not known.size:
            return np.full(keys.shape, -1, np.intp)
        at = np.minimum(np.searchsorted(known, keys), known.size - 1)
        return np.where(known[at] == keys, order[at], -1)

    def find_ids(self, ids: Sequence[str]) -> Rows:
        """Rows of items by id, -1 where unknown."""
        return self.find(hash64s(ids))

    def title(self, row: int) -> str:
        """What an item is called: its title, else its id."""
        column = self.attributes.get("title")
        text = column.text(row) if isinstance(column, TextColumn) else ""
        return text or self.ids[row]

    def popular(self, n: int, category: str | None = None, *, window: str = "7d") -> Found:
        """The items with most events, of one category if it is told; `1d`, `1h`: by those of that time alone."""
        if category is not None:
            code = self.category.code(category)
            ordered, starts = self._by_category
            rows = ordered[starts[code] : starts[code + 1]][:n] if code >= 0 else ordered[:0]
        else:
            rows = {"1h": self._hottest, "1d": self._trending}.get(window, self._popular)[:n]
        return Found(rows, self.popularity[rows].astype(np.float64))

    def popular_by(self, field: str, value: str | None, n: int, *, window: str = "7d") -> Found | None:
        """The items with most events of a segment, such as the country `DE`; None where it is not known, or too small to tell."""
        known = self.segments.lists.get((window, field, value)) if self.segments is not None and value is not None else None
        if known is None:
            return None
        rows, counts = known
        kept = np.flatnonzero(self.shown[rows])[:n] if self.shown is not None else slice(n)
        return Found(rows[kept].astype(np.intp), counts[kept].astype(np.float64))

    def popular_among(self, recent: Keys, n: int) -> Found:
        """The items with most events in the categories of a sequence (keys, oldest first), as many of each as it has weight.

        score = Σ over the items of the sequence that are of its category, the newest first, of 0.95 ** age
                ÷ the item's place in its category
        """
        rows = self.find(recent[::-1])
        codes, decay = self.category.codes[rows[rows >= 0]], (CATEGORY_DECAY ** np.arange(rows.size))[rows >= 0]
        weight = np.bincount(codes[codes >= 0], decay[codes >= 0])
        ordered, starts = self._by_category
        parts, scores = [ordered[:0]], [np.zeros(0)]
        for code in np.flatnonzero(weight).tolist():
            parts.append(ordered[starts[code] : starts[code + 1]][:n])
            scores.append(weight[code] / np.arange(1, parts[-1].size + 1))
        return _best(np.concatenate(parts), np.concatenate(scores), n)

    def fresh(self, n: int) -> Found:
        """The newest items; those that have been there from the beginning are not among them."""
        rows = self._fresh[:n]
        return Found(rows, self.first_seen[rows].astype(np.float64))

    def item_to_item(self, recent: Keys, n: int) -> Found:
        """What goes with the newest items of a sequence (keys, oldest first): each item's weights × 0.8 ** age, summed.

        The items of the sequence themselves are left out: whether to show something again is the slot's own question.
        """
        rows = self.find(recent[::-1][:RECENT_MAX])
        decay = RECENT_DECAY ** np.arange(rows.size)
        known = rows >= 0
        rows, decay = rows[known], decay[known]
        if not rows.size:
            return Found(np.zeros(0, np.intp), np.zeros(0))
        at, owner = self.item_item.entries(rows)
        columns, position = np.unique(self.item_item.items[at], return_inverse=True)
        scores = np.bincount(position, weights=self.item_item.weights[at] * decay[owner], minlength=columns.size).astype(np.float64)
        scores[np.isin(columns, rows)] = 0.0
        if self.shown is not None:
            scores[~self.shown[columns]] = 0.0
        return _best(columns.astype(np.intp), scores, n)

    def clusters(self, recent: Keys, n: int) -> Found:
        """Something of each cluster of items, more of those that the newest items of a sequence (keys, oldest first) are of."""
        if self.together is None:
            return Found(np.zeros(0, np.intp), np.zeros(0))
        rows = self.find(recent[::-1][:RECENT_MAX])
        known = rows >= 0
        scores = self.together.scores(self.counts["7d"], rows[known], (RECENT_DECAY ** np.arange(rows.size))[known])
        scores[rows[known]] = 0.0
        if self.shown is not None:
            scores[~self.shown] = 0.0
        return _best(np.arange(len(self)), scores, n)

    def like_sessions(self, source: str, recent: Keys, ts: Times, n: int) -> Found:
        """What sessions like the newest run of a sequence went on to.

        Args:
            source: `sessions` (V-SkNN) or `stan`.
            recent, ts: the sequence's keys, oldest first, and their times; without times it is one run.
        """
        if self.sessions is None:
            return Found(np.zeros(0, np.intp), np.zeros(0))
        near = self.sessions.near(source, np.array([0, recent.size], np.int64), self.find(recent), ts)
        return _best(near.row, near.gain if self.shown is None else np.where(self.shown[near.row], near.gain, 0.0), n)

    def similar(self, item_id: str, n: int) -> Found:
        """What goes with one item, filled up with what is popular in its category and then overall; empty if it is unknown."""
        row = int(self.find_ids([item_id])[0])
        if row < 0:
            return Found(np.zeros(0, np.intp), np.zeros(0))
        near = self.item_to_item(self.keys[row : row + 1], n)
        fill = np.concatenate([self.popular(n + 1, self.category.text(row) or None).rows, self.popular(n + 1).rows])
        _, first = np.unique(fill, return_index=True)
        fill = fill[np.sort(first)]
        fill = fill[~np.isin(fill, near.rows) & (fill != row)][: n - near.rows.size]
        return Found(np.concatenate([near.rows, fill]), np.concatenate([near.scores, np.zeros(fill.size)]))

    def search(self, text: str, n: int, beside: Sequence[Words] = ()) -> Found:
        """The items whose words match a query as typed, best first; empty without a text index.

        Args:
            beside: phrases that mean the same, see `retrieval.synonyms`.
        Raises:
            BundleError: the text index is damaged, which a checksum did not show. No query does this.
        """
        if self.shown is None:
            return self._matching(text, n, beside)
        asked = n
        while True:  # until enough of the hits are shown, or there are no more
            found = self._matching(text, asked, beside)
            kept = np.flatnonzero(self.shown[found.rows])[:n]
            if kept.size == n or found.rows.size < asked or asked >= SEARCHED_MAX:
                return Found(found.rows[kept], found.scores[kept])
            asked *= 4

    def _matching(self, text: str, n: int, beside: Sequence[Words]) -> Found:
        if self.text is None:
            return Found(np.zeros(0, np.intp), np.zeros(0))
        try:
            rows, scores = self.text.search(text, n, beside)
        except (ValueError, OSError) as error:
            raise BundleError(f"cannot search: {error}", fix="tailorbird models rollback") from error
        return _best(rows, scores, n)


def _best(rows: Rows, scores: Floats, n: int) -> Found:
    """The n best with a score above 0, best first; ties by row."""
    kept = np.flatnonzero(scores > 0)
    if kept.size > n:
        kept = kept[np.argpartition(-scores[kept], n - 1)[:n]] if n > 0 else kept[:0]
    kept = kept[np.lexsort((rows[kept], -scores[kept]))]
    return Found(rows[kept], scores[kept])
