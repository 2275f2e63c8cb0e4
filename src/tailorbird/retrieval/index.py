"""The loaded index: items with their attributes, full text, vectors and clusters, asked by row.

A row is the number of an item within one `Index`; ids and keys lead to rows by `find`. Every answer
is a `Found`: rows and scores, best first. An `Index` never changes; `retrieval.overlay` makes a new
one that also knows items which came later. What people do with items is not in it: that is read
live, see `candidates`.

    items.arrow    id, key, first_seen, and each attribute as `a:NAME`, marked if a truth
    text/          see `retrieval.text`
    text_vectors*  see `retrieval.meaning`; not in every index
    vectors*       see `retrieval.vectors`; not in every index
    clusters*      see `retrieval.clusters`; not in every index
    meta.json      format, as_of, p

How it is built stands in `retrieval.build`.
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
from tailorbird.retrieval.clusters import Clusters
from tailorbird.retrieval.columns import Column, TextColumn, from_arrow
from tailorbird.retrieval.meaning import Meaning
from tailorbird.retrieval.synonyms import Phrase
from tailorbird.retrieval.text import TextIndex
from tailorbird.retrieval.vectors import ItemVectors

Rows = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FORMAT = 2
TRUTH = b"truth"  # what marks a column of items.arrow that is 1 for true and 0 for false
RERANKED_MIN = 1_000  # hits of words that are ordered by meaning too
SEARCHED_MAX = 10_000  # hits that are looked at where few are shown
# Computed once: the first by which items there are, the second by their categories too.
_OF_ITEMS, _OF_CATEGORIES = ("_key_order",), ("category",)


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`meta.json`."""

    format: int
    as_of: int
    p: int = 0


@dataclass(frozen=True)
class Found:
    """Items, best first: `rows` (n,) of the index and `scores` (n,), of whose scale only the order
    is promised.
    """

    rows: Rows
    scores: Floats


NOTHING = Found(np.zeros(0, np.intp), np.zeros(0))


@dataclass(frozen=True)
class Index:
    """Items, as of one moment.

    Attributes:
        as_of: profiles are those before this, microseconds.
        ids: of n items.
        keys: uint64 (n,): `events.hash64` of the ids.
        first_seen: int64 (n,): when the item came; 0 if it has been there from the beginning.
        attributes: name → column of n.
        truths: names of those that are true or false, and no numbers.
        p: position in the routed log of the newest profile that it was built from; 0 where that is
            not known.
        text: full text, or None.
        meaning: dense vectors of their texts, or None.
        later_at: the row from which on items came later than the index was built.
        shown: bool (n,): which items sources may find, see `only`; None is all.
        vectors: of the items, or None.
        together: clusters of the items, or None.
    """

    as_of: int
    ids: tuple[str, ...]
    keys: Keys
    first_seen: npt.NDArray[np.int64]
    attributes: Mapping[str, Column]
    text: TextIndex | None = None
    later_at: int = 0
    shown: npt.NDArray[np.bool_] | None = None
    vectors: ItemVectors | None = None
    together: Clusters | None = None
    truths: frozenset[str] = frozenset()
    p: int = 0
    meaning: Meaning | None = None

    def __len__(self) -> int:
        return len(self.ids)

    # Loading

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> "Index":
        """An index from the bytes of its files, as `registry.read_sealed` gives them."""
        try:
            meta = msgspec.json.decode(files["meta.json"], type=Meta)
            if meta.format != FORMAT:
                raise BundleError(
                    f"the index has format {meta.format}, expected {FORMAT}", fix="tailorbird train"
                )
            table = pa.ipc.open_file(pa.BufferReader(files["items.arrow"])).read_all()
            table.validate(
                full=True
            )  # Arrow trusts offsets and codes otherwise, and reads beyond its buffers
            texts = {
                name.removeprefix("text/"): data
                for name, data in files.items()
                if name.startswith("text/")
            }
            text = TextIndex.load(texts) if texts else None
            if text is not None and text.built.documents != table.num_rows:
                raise ValueError(
                    f"its texts are of {text.built.documents} items, and it has {table.num_rows}"
                )
            attributes = {
                name[2:]: from_arrow(table[name])
                for name in table.column_names
                if name.startswith("a:")
            }
            ids = tuple(table["id"].to_pylist())
            keys, first_seen = table["key"].to_numpy(), table["first_seen"].to_numpy()
            vectors, together = (
                ItemVectors.read(files, table.num_rows),
                Clusters.read(files, table.num_rows),
            )
            truths = frozenset(
                field.name[2:] for field in table.schema if TRUTH in (field.metadata or {})
            )
            more = {
                "vectors": vectors,
                "together": together,
                "truths": truths,
                "p": meta.p,
                "meaning": Meaning.read(files, table.num_rows) if text is not None else None,
            }
        except (KeyError, ValueError, OSError, pa.ArrowException, msgspec.DecodeError) as error:
            raise BundleError(
                f"the index cannot be read: {error}", fix="tailorbird train"
            ) from error
        index = cls(meta.as_of, ids, keys, first_seen, attributes, text, len(ids), **more)
        index.prepare()
        return index

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """An index from its folder, unchecked: for building and for tests."""
        return cls.load(
            {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
        )

    @classmethod
    def bare(cls, ids: Sequence[str], vectors: ItemVectors | None = None) -> "Index":
        """Items of which nothing is known but perhaps their vectors."""
        keys = hash64s(ids) if len(ids) else np.zeros(0, np.uint64)
        return cls(
            0, tuple(ids), keys, np.zeros(len(ids), np.int64), {}, None, len(ids), vectors=vectors
        )

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
        """The same items in the same rows, of which sources find no others than `shown` (n,). What
        is told of an item stays as it is.
        """
        view = dataclasses.replace(self, shown=shown)
        for name in (*_OF_ITEMS, *_OF_CATEGORIES):
            view.__dict__[name] = getattr(self, name)
        return view

    # Orders, computed once

    @cached_property
    def _key_order(self) -> tuple[Keys, Rows]:
        order = np.argsort(self.keys, kind="stable")
        return self.keys[order], order

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

    def clusters(self, recent: Rows, decay: Floats, counts: npt.NDArray[np.int64], n: int) -> Found:
        """Something of each cluster of items, more of those that a person's newest items are of.

        Args:
            recent, decay: rows of the newest items, and what each weighs.
            counts: of each item (n,), how much it is wanted.
        """
        if self.together is None:
            return NOTHING
        scores = self.together.scores(counts, recent, decay)
        scores[recent] = 0.0
        if self.shown is not None:
            scores[~self.shown] = 0.0
        return _best(np.arange(len(self)), scores, n)

    def search(self, text: str, n: int, beside: Sequence[Phrase] = ()) -> Found:
        """Return the items that match a query as typed, best first; empty without a text index.

        With text vectors, hits are ordered by words and meaning, and items near in meaning are
        added, see `retrieval.meaning`.

        Args:
            beside: phrases that mean the same, see `retrieval.synonyms`.
        Raises:
            BundleError: the text index is damaged, which a checksum did not show. No query does
                this.
        """
        if self.meaning is not None:
            words = self._by_words(text, max(n, RERANKED_MIN), beside)
            rows, scores = self.meaning.mix(text, words.rows, words.scores, self.shown)
            return _best(rows, scores, n)
        return self._by_words(text, n, beside)

    def _by_words(self, text: str, n: int, beside: Sequence[Phrase]) -> Found:
        if self.shown is None:
            return self._matching(text, n, beside)
        asked = n
        while True:  # until enough of the hits are shown, or there are no more
            found = self._matching(text, asked, beside)
            kept = np.flatnonzero(self.shown[found.rows])[:n]
            if kept.size == n or found.rows.size < asked or asked >= SEARCHED_MAX:
                return Found(found.rows[kept], found.scores[kept])
            asked *= 4

    def _matching(self, text: str, n: int, beside: Sequence[Phrase]) -> Found:
        if self.text is None:
            return NOTHING
        try:
            rows, scores = self.text.search(text, n, beside)
        except (ValueError, OSError) as error:
            raise BundleError(
                f"cannot search: {error}", fix="tailorbird models rollback"
            ) from error
        return _best(rows, scores, n)


def _best(rows: Rows, scores: Floats, n: int) -> Found:
    """The n best with a score above 0, best first; ties by row."""
    kept = np.flatnonzero(scores > 0)
    if kept.size > n:
        kept = kept[np.argpartition(-scores[kept], n - 1)[:n]] if n > 0 else kept[:0]
    kept = kept[np.lexsort((rows[kept], -scores[kept]))]
    return Found(rows[kept], scores[kept])
