"""The loaded item index: attributes, full text, vectors and clusters, addressed by row.

A row is the number of an item within one `Index`. `find` maps ids and keys to rows. Queries return
`SearchResult`: rows and scores, best first. An `Index` is immutable. `retrieval.overlay` derives a
new one with items that appeared later. Interactions with items are not in it; they are read live,
see `candidates`.

    items.arrow    id, key, first_seen, and each attribute as `a:NAME`, marked if boolean
    text/          see `retrieval.text`
    text_vectors*  see `retrieval.meaning`; optional
    vectors*       see `retrieval.vectors`; optional
    clusters*      see `retrieval.clusters`; optional
    meta.json      format, as_of, p

`retrieval.build` builds it.
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
from tailorbird.retrieval.meaning import TextVectors
from tailorbird.retrieval.synonyms import Phrase
from tailorbird.retrieval.text import TextIndex
from tailorbird.retrieval.vectors import ItemVectors

Rows = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FORMAT = 2
BOOLEAN_MARK = b"truth"  # Marks a column of items.arrow that stores true and false as 1 and 0.
RERANKED_MIN = 1_000  # Text matches that are also ordered by meaning.
SEARCH_DEPTH_MAX = 10_000  # Text matches to examine at most if few of them are visible.
# Cached properties that depend on the set of items, and on their categories.
_ITEM_CACHE_NAMES = ("_key_order",)
_CATEGORY_CACHE_NAMES = ("category",)


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `meta.json`."""

    format: int
    as_of: int
    p: int = 0


@dataclass(frozen=True)
class SearchResult:
    """Items, best first: `rows` (n,) of the index and `scores` (n,).

    Only the order of the scores is guaranteed, not their scale.
    """

    rows: Rows
    scores: Floats


NO_RESULT = SearchResult(np.zeros(0, np.intp), np.zeros(0))


@dataclass(frozen=True)
class Index:
    """Items as of one moment.

    Attributes:
        as_of: profiles are those before this time, microseconds.
        ids: ids of the n items.
        keys: uint64 (n,): `events.hash64` of the ids.
        first_seen: int64 (n,): when the item appeared; 0 if it was there from the start.
        attributes: name → column of length n.
        boolean_names: names of boolean attributes.
        log_position: of the newest profile that it was built from; 0 if unknown.
        text: full text, or None.
        text_vectors: dense vectors of the texts, or None.
        first_added_row: first row of the items that were added after the index was built.
        visible: bool (n,): items that sources may return, see `restrict`; None is all.
        vectors: vectors of the items, or None.
        item_clusters: clusters of the items, or None.
    """

    as_of: int
    ids: tuple[str, ...]
    keys: Keys
    first_seen: npt.NDArray[np.int64]
    attributes: Mapping[str, Column]
    text: TextIndex | None = None
    first_added_row: int = 0
    visible: npt.NDArray[np.bool_] | None = None
    vectors: ItemVectors | None = None
    item_clusters: Clusters | None = None
    boolean_names: frozenset[str] = frozenset()
    log_position: int = 0
    text_vectors: TextVectors | None = None

    def __len__(self) -> int:
        return len(self.ids)

    # Loading

    @classmethod
    def load(cls, files: Mapping[str, bytes | memoryview]) -> "Index":
        """Load an index from the bytes of its files, as `registry.read_sealed` returns them."""
        try:
            meta = msgspec.json.decode(files["meta.json"], type=Meta)
            if meta.format != FORMAT:
                raise BundleError(
                    f"the index has format {meta.format}, expected {FORMAT}", fix="tailorbird train"
                )
            table = pa.ipc.open_file(pa.BufferReader(files["items.arrow"])).read_all()
            # Without validation Arrow trusts offsets and codes, and reads beyond its buffers.
            table.validate(full=True)
            text_files = {
                name.removeprefix("text/"): data
                for name, data in files.items()
                if name.startswith("text/")
            }
            text = TextIndex.load(text_files) if text_files else None
            if text is not None and text.base_index.document_count != table.num_rows:
                raise ValueError(
                    f"its texts are of {text.base_index.document_count} items, "
                    f"and it has {table.num_rows}"
                )
            attributes = {
                name[2:]: from_arrow(table[name])
                for name in table.column_names
                if name.startswith("a:")
            }
            ids = tuple(table["id"].to_pylist())
            keys = table["key"].to_numpy()
            first_seen = table["first_seen"].to_numpy()
            vectors = ItemVectors.read(files, table.num_rows)
            item_clusters = Clusters.read(files, table.num_rows)
            boolean_names = frozenset(
                field.name[2:] for field in table.schema if BOOLEAN_MARK in (field.metadata or {})
            )
            optional_fields = {
                "vectors": vectors,
                "item_clusters": item_clusters,
                "boolean_names": boolean_names,
                "log_position": meta.p,
                "text_vectors": TextVectors.read(files, table.num_rows)
                if text is not None
                else None,
            }
        except (KeyError, ValueError, OSError, pa.ArrowException, msgspec.DecodeError) as error:
            raise BundleError(
                f"the index cannot be read: {error}", fix="tailorbird train"
            ) from error
        index = cls(
            meta.as_of, ids, keys, first_seen, attributes, text, len(ids), **optional_fields
        )
        index.prepare()
        return index

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """Load an index from its folder without checksums, for building and for tests."""
        return cls.load(
            {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
        )

    @classmethod
    def from_ids(cls, ids: Sequence[str], vectors: ItemVectors | None = None) -> "Index":
        """Return an index of items without attributes, optionally with vectors."""
        keys = hash64s(ids) if len(ids) else np.zeros(0, np.uint64)
        return cls(
            0, tuple(ids), keys, np.zeros(len(ids), np.int64), {}, None, len(ids), vectors=vectors
        )

    def prepare(self, previous: "Index | None" = None, *, same_categories: bool = False) -> None:
        """Compute all cached properties now instead of during the first request.

        Args:
            previous: an index of the same items, whose properties can be reused.
            same_categories: whether its items are also in the same categories.
        """
        if previous is not None:
            for name in (*_ITEM_CACHE_NAMES, *(_CATEGORY_CACHE_NAMES if same_categories else ())):
                self.__dict__[name] = getattr(previous, name)
        for name in (*_ITEM_CACHE_NAMES, *_CATEGORY_CACHE_NAMES):
            getattr(self, name)

    def restrict(self, is_visible: npt.NDArray[np.bool_]) -> "Index":
        """Return the same items, of which sources return only `is_visible` ones (n,)."""
        view = dataclasses.replace(self, visible=is_visible)
        for name in (*_ITEM_CACHE_NAMES, *_CATEGORY_CACHE_NAMES):
            view.__dict__[name] = getattr(self, name)
        return view

    # Cached properties

    @cached_property
    def _key_order(self) -> tuple[Keys, Rows]:
        order = np.argsort(self.keys, kind="stable")
        return self.keys[order], order

    @cached_property
    def category(self) -> TextColumn:
        """Return the attribute `category`; missing for all if no item has one."""
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
        """Return the rows of items by key; -1 if unknown."""
        sorted_keys, order = self._key_order
        if not sorted_keys.size:
            return np.full(keys.shape, -1, np.intp)
        positions = np.minimum(np.searchsorted(sorted_keys, keys), sorted_keys.size - 1)
        return np.where(sorted_keys[positions] == keys, order[positions], -1)

    def find_ids(self, ids: Sequence[str]) -> Rows:
        """Return the rows of items by id; -1 if unknown."""
        return self.find(hash64s(ids))

    def title(self, row: int) -> str:
        """Return the title of an item, or its id without one."""
        column = self.attributes.get("title")
        text = column.text(row) if isinstance(column, TextColumn) else ""
        return text or self.ids[row]

    def rank_by_clusters(
        self, recent_rows: Rows, decay_weights: Floats, event_counts: npt.NDArray[np.int64], n: int
    ) -> SearchResult:
        """Return items of every cluster, with more from the clusters of a person's newest items.

        Args:
            recent_rows, decay_weights: rows of the newest items, and the weight of each.
            event_counts: popularity of each item, (n,).
        """
        if self.item_clusters is None:
            return NO_RESULT
        scores = self.item_clusters.scores(event_counts, recent_rows, decay_weights)
        scores[recent_rows] = 0.0
        if self.visible is not None:
            scores[~self.visible] = 0.0
        return _best_rows(np.arange(len(self)), scores, n)

    def search(self, text: str, n: int, synonyms: Sequence[Phrase] = ()) -> SearchResult:
        """Return the items that match a query as typed, best first; none without a text index.

        With text vectors, matches are ordered by words and meaning, and items of similar meaning
        are added, see `retrieval.meaning`.

        Args:
            synonyms: phrases with the same meaning, see `retrieval.synonyms`.
        Raises:
            BundleError: the text index is damaged, which its checksum did not detect. No query
                causes this.
        """
        if self.text_vectors is not None:
            word_matches = self._match_words(text, max(n, RERANKED_MIN), synonyms)
            rows, scores = self.text_vectors.combine_with_cosines(
                text, word_matches.rows, word_matches.scores, self.visible
            )
            return _best_rows(rows, scores, n)
        return self._match_words(text, n, synonyms)

    def _match_words(self, text: str, n: int, synonyms: Sequence[Phrase]) -> SearchResult:
        if self.visible is None:
            return self._match_all(text, n, synonyms)
        depth = n
        while True:  # Repeat until enough matches are visible or there are no more.
            matches = self._match_all(text, depth, synonyms)
            visible_matches = np.flatnonzero(self.visible[matches.rows])[:n]
            if visible_matches.size == n or matches.rows.size < depth or depth >= SEARCH_DEPTH_MAX:
                return SearchResult(matches.rows[visible_matches], matches.scores[visible_matches])
            depth *= 4

    def _match_all(self, text: str, n: int, synonyms: Sequence[Phrase]) -> SearchResult:
        """Return matches by words, visible or not."""
        if self.text is None:
            return NO_RESULT
        try:
            rows, scores = self.text.search(text, n, synonyms)
        except (ValueError, OSError) as error:
            raise BundleError(
                f"cannot search: {error}", fix="tailorbird models rollback"
            ) from error
        return _best_rows(rows, scores, n)


def _best_rows(rows: Rows, scores: Floats, n: int) -> SearchResult:
    """Return the n best with a score above 0, best first; ties by row."""
    selected = np.flatnonzero(scores > 0)
    if selected.size > n:
        selected = (
            selected[np.argpartition(-scores[selected], n - 1)[:n]] if n > 0 else selected[:0]
        )
    selected = selected[np.lexsort((rows[selected], -scores[selected]))]
    return SearchResult(rows[selected], scores[selected])
