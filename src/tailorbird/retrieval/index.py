"""The loaded index: items with their attributes, what is popular and fresh, item-to-item and text, asked by row.

A row is the number of an item within one `Index`; ids and keys lead to rows by `find`. Every answer is a `Found`: rows
and scores, best first. An `Index` never changes; `with_items` gives a new one that also knows items which came later.

    items.arrow    id, key, first_seen, count_1d, count_7d, count_all, and each attribute as `a:NAME`
    i2i_indptr.npy, i2i_items.npy, i2i_weights.npy    see `retrieval.cooccurrence`
    text/          see `retrieval.text`
    meta.json      format, as_of

How it is built stands in `retrieval.build`; how sources are merged, in `retrieval.candidates`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import BundleError
from tailorbird.events.keys import hash64s
from tailorbird.retrieval.arrays import read_array
from tailorbird.retrieval.columns import Column, TextColumn, extended
from tailorbird.retrieval.cooccurrence import Cooccurrence
from tailorbird.retrieval.text import TextIndex

Rows = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

FORMAT = 1
WINDOWS = ("1d", "7d", "all")
RECENT_MAX = 10
RECENT_DECAY = 0.8
_TEXT_FIELDS = ("title", "category", "brand")


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
class NewItem:
    """An item that came, or changed, after the index was built."""

    id: str
    attributes: Mapping[str, Any]
    first_seen: int


@dataclass(frozen=True)
class Index:
    """Items and how they hang together, as of one moment.

    Attributes:
        as_of: counts are of events before this, microseconds.
        ids: of n items.
        keys: uint64 (n,): `events.hash64` of the ids.
        first_seen: int64 (n,): when the item came; 0 if it has been there from the beginning.
        counts: window (`1d`, `7d`, `all`) → int64 (n,): events of persons with the item in that time before `as_of`.
        attributes: name → column of n.
        item_item: what follows what.
        text: full text, or None.
        later: text of items from `with_items`, whose rows start at `later_at`.
    """

    as_of: int
    ids: tuple[str, ...]
    keys: Keys
    first_seen: npt.NDArray[np.int64]
    counts: Mapping[str, npt.NDArray[np.int64]]
    attributes: Mapping[str, Column]
    item_item: Cooccurrence
    text: TextIndex | None = None
    later: TextIndex | None = None
    later_at: int = 0

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
            attributes = {name[2:]: _column(table[name]) for name in table.column_names if name.startswith("a:")}
            counts = {window: table[f"count_{window}"].to_numpy() for window in WINDOWS}
            ids = tuple(table["id"].to_pylist())
            keys, first_seen = table["key"].to_numpy(), table["first_seen"].to_numpy()
        except (KeyError, ValueError, OSError, pa.ArrowException, msgspec.DecodeError) as error:
            raise BundleError(f"the index cannot be read: {error}", fix="tailorbird train") from error
        index = cls(meta.as_of, ids, keys, first_seen, counts, attributes, item_item, text, None, len(ids))
        index._prepare()
        return index

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """An index from its folder, unchecked: for building and for tests."""
        return cls.load({path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()})

    def _prepare(self) -> None:
        """Compute every order now rather than during the first request."""
        _ = self._key_order, self._popular, self._by_category, self._fresh, self.popularity, self.category

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
        """The items with most events, of one category if it is told; `window` `1d` is what is trending now."""
        if category is not None:
            code = self.category.code(category)
            ordered, starts = self._by_category
            rows = ordered[starts[code] : starts[code + 1]][:n] if code >= 0 else ordered[:0]
        else:
            rows = (self._trending if window == "1d" else self._popular)[:n]
        return Found(rows, self.popularity[rows].astype(np.float64))

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
        return _best(columns.astype(np.intp), scores, n)

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

    def search(self, text: str, n: int) -> Found:
        """The items whose words match a query as typed, best first; empty without a text index.

        Raises:
            BundleError: the text index is damaged, which a checksum did not show. No query does this.
        """
        try:
            rows, scores = self.text.search(text, n) if self.text else (np.zeros(0, np.intp), np.zeros(0))
            if self.later is not None:
                more, their = self.later.search(text, n)
                rows, scores = np.concatenate([rows, more + self.later_at]), np.concatenate([scores, their])
        except (ValueError, OSError) as error:
            raise BundleError(f"cannot search: {error}", fix="tailorbird models rollback") from error
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise BundleError("the text index names an item that does not exist", fix="tailorbird models rollback")
        return _best(rows, scores, n)

    # Items that came later

    def with_items(self, items: Sequence[NewItem]) -> "Index":
        """This index with items added, or their attributes replaced where it knows them. Some ms at 100,000 items: not in a request."""
        unique = {item.id: item for item in items}
        rows = dict(zip(unique, self.find_ids(list(unique)).tolist(), strict=True))
        added = [item for item in unique.values() if rows[item.id] < 0]
        total = len(self) + len(added)
        for offset, item in enumerate(added):
            rows[item.id] = len(self) + offset
        names = set(self.attributes) | {name for item in unique.values() for name in item.attributes}
        attributes: dict[str, Column] = {}
        for name in names:
            values = {rows[item.id]: item.attributes.get(name) for item in unique.values()}
            attributes[name] = extended(self.attributes.get(name), len(self), values, total)
        first_seen = np.concatenate([self.first_seen, np.array([item.first_seen for item in added], np.int64)])
        index = dataclasses.replace(
            self,
            ids=(*self.ids, *(item.id for item in added)),
            keys=np.concatenate([self.keys, hash64s(item.id for item in added)]),
            first_seen=first_seen,
            counts={window: np.concatenate([count, np.zeros(len(added), np.int64)]) for window, count in self.counts.items()},
            attributes=attributes,
            item_item=self.item_item.widened(total),
        )
        later = documents_of(attributes, np.arange(self.later_at, total))
        index = dataclasses.replace(index, later=TextIndex.in_memory(later) if total > self.later_at else None)
        index._prepare()
        return index


def documents_of(attributes: Mapping[str, Column], rows: Rows) -> dict[str, list[str]]:
    """The texts of some items by field of the text index; attributes that are no field of their own go into `text`."""
    fields: dict[str, list[str]] = {name: _texts(attributes.get(name), rows) for name in _TEXT_FIELDS}
    rest = [
        _texts(column, rows) for name, column in sorted(attributes.items()) if name not in _TEXT_FIELDS and isinstance(column, TextColumn)
    ]
    fields["text"] = [" ".join(filter(None, parts)) for parts in zip(*rest, strict=True)] if rest else [""] * rows.size
    return fields


def _texts(column: Column | None, rows: Rows) -> list[str]:
    if not isinstance(column, TextColumn):
        return [""] * rows.size
    values = (*column.values, "")  # code -1 is the last
    return [values[code].replace("|", " ") for code in column.codes[rows].tolist()]


def _best(rows: Rows, scores: Floats, n: int) -> Found:
    """The n best with a score above 0, best first; ties by row."""
    kept = np.flatnonzero(scores > 0)
    if kept.size > n:
        kept = kept[np.argpartition(-scores[kept], n - 1)[:n]] if n > 0 else kept[:0]
    kept = kept[np.lexsort((rows[kept], -scores[kept]))]
    return Found(rows[kept], scores[kept])


def _column(column: pa.ChunkedArray) -> Column:
    if not pa.types.is_dictionary(column.type):
        return column.to_numpy()
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return TextColumn(array.indices.fill_null(-1).to_numpy().astype(np.int32), tuple(array.dictionary.to_pylist()))
