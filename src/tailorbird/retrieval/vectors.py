"""Vectors of the items of an index, learned or computed from content.

    vectors.npy            float32 (n, width)        row i is the item in row i of the index
    vectors_tokens.npy     float32 (tokens, width)   vectors of content tokens, see `Content`;
                                                     row 0 is 0
    vectors_unknown.npy    float32 (width,)          for items without a learned vector
    vectors.json           `Content`

    vector of an item without interactions = unknown + mean of its tokens' vectors

Nearest neighbours are exact, by a product with every item. Large indexes use `retrieval.inverted`.
`models.retrievers.transformer` learns the vectors, and `ranking.tower` computes those of people.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.retrieval.arrays import array_bytes, read_array
from tailorbird.retrieval.columns import Column, TextColumn
from tailorbird.retrieval.inverted import Inverted, build_inverted
from tailorbird.retrieval.words import Words, is_listed

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
Ints = npt.NDArray[np.int64]

FILES = ("vectors.npy", "vectors_tokens.npy", "vectors_unknown.npy", "vectors.json")
BUCKETS = 512  # Of each attribute.
TITLE_TOKENS_MAX, VALUE_TOKENS_MAX = 8, 4  # Maximum tokens of a title, and of another attribute.
ATTRIBUTES_MAX = 8
INVERTED_ITEMS_MIN = (
    100_000  # An inverted file halves the time from here on, by `python -m benchmarks.nearest`.
)
# Minimum; a value that hardly two items share says nothing about a third.
ITEMS_PER_VALUE_MIN = 2.0
_BLOCK = 64  # Products per block, whose maximum is examined first.


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of an item as tokens: hashed values and words of some of its attributes."""

    parts: tuple[Words, ...] = ()

    @property
    def size(self) -> int:
        """Return the number of tokens, "none" included."""
        return 1 + sum(part.buckets for part in self.parts)

    def tokens(self, attributes: Mapping[str, Column], rows: Rows) -> Ints:
        """Return the tokens of items, shape (n, at least 1), from 1; padded with 0."""
        columns, offset = [np.zeros((rows.size, 1), np.int64)], 1
        for part in self.parts:
            # 0 is none, then 2 … buckets + 1.
            code = part.columns(attributes, rows).astype(np.int64)
            columns.append(np.where(code > 0, code - 2 + offset, 0))
            offset += part.buckets
        return np.concatenate(columns[1:] or columns, axis=1)


def content_of(attributes: Mapping[str, Column]) -> Content:
    """Return titles as words and other texts as values, as far as items share them."""
    parts = []
    for name, column in sorted(attributes.items()):
        if not isinstance(column, TextColumn) or not column.values:
            continue
        is_list = is_listed(column)
        if name == "title":
            parts.append(Words(name, TITLE_TOKENS_MAX, BUCKETS, is_list))
        elif is_list or np.count_nonzero(column.codes >= 0) >= ITEMS_PER_VALUE_MIN * len(
            column.values
        ):
            parts.append(Words(name, VALUE_TOKENS_MAX if is_list else 1, BUCKETS, listed=True))
    return Content(tuple(parts[:ATTRIBUTES_MAX]))


@dataclass(frozen=True)
class ItemVectors:
    """The vectors of an index's items, and the parts to compute those of new ones. Immutable.

    Attributes:
        vectors: float32 (n, width).
        tokens: float32 (content.size, width).
        unknown: float32 (width,).
        inverted: inverted file for the nearest items; None compares all.
    """

    vectors: Matrix
    tokens: Matrix
    unknown: Matrix
    content: Content
    inverted: Inverted | None = None

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    @cached_property
    def norms(self) -> Matrix:
        """Return the lengths of the vectors, (n,)."""
        return np.sqrt(np.einsum("ij,ij->i", self.vectors, self.vectors))

    def products(self, user: Matrix) -> Matrix:
        """Return the product of each item with a person's vector, float32 (n,)."""
        return self.vectors @ user

    def of_content(self, attributes: Mapping[str, Column], rows: Rows) -> Matrix:
        """Return the content part of the items' vectors, (n, width), by learned tokens."""
        tokens = self.content.tokens(attributes, rows)
        tokens = np.where(self._is_learned_token[tokens], tokens, 0)
        count = np.maximum((tokens > 0).sum(axis=1, keepdims=True), 1).astype(np.float32)
        return self.tokens[tokens].sum(axis=1) / count

    @cached_property
    def _is_learned_token(self) -> npt.NDArray[np.bool_]:
        return np.any(self.tokens != 0, axis=1)

    def extended(
        self,
        before: Mapping[str, Column],
        attributes: Mapping[str, Column],
        changed: Rows,
        total: int,
    ) -> "ItemVectors":
        """Return vectors of `total` rows, with new items at the end and changed rows updated."""
        vectors = np.concatenate(
            [self.vectors, np.empty((total - len(self.vectors), self.width), np.float32)]
        )
        new_rows = np.arange(len(self.vectors), total)
        vectors[new_rows] = self.unknown + self.of_content(attributes, new_rows)
        if changed.size:
            vectors[changed] += self.of_content(attributes, changed) - self.of_content(
                before, changed
            )
        inverted = self.inverted.extended(changed, total) if self.inverted is not None else None
        extended = replace(self, vectors=vectors, inverted=inverted)
        extended.__dict__["_is_learned_token"] = self._is_learned_token
        return extended

    def indexed(self, users: Matrix) -> "ItemVectors":
        """Return it with an inverted file if there are `INVERTED_ITEMS_MIN` items and it helps.

        `users` are vectors of some people to calibrate the file by.
        """
        if len(self.vectors) < INVERTED_ITEMS_MIN:
            return self
        return replace(self, inverted=build_inverted(self.vectors, users))

    def check(self, rows: int) -> None:
        """Raise ValueError unless there is a finite vector for each item and for each token."""
        shapes = (self.vectors.shape, self.tokens.shape, self.unknown.shape)
        width = self.unknown.shape[0] if self.unknown.ndim == 1 else 0
        if not width or shapes != ((rows, width), (self.content.size, width), (width,)):
            raise ValueError("the vectors of items have another shape than the items")
        if any(
            array.dtype != np.float32 or not np.isfinite(array).all()
            for array in (self.vectors, self.tokens, self.unknown)
        ):
            raise ValueError("the vectors of items hold what is no finite float32")

    # Files of an index

    def write(self, folder: Path) -> None:
        for name, data in self.files().items():
            (folder / name).write_bytes(data)

    def files(self) -> dict[str, bytes]:
        """Return file name → bytes."""
        arrays = zip(FILES, (self.vectors, self.tokens, self.unknown), strict=False)
        contents = {name: array_bytes(np.asarray(array, np.float32)) for name, array in arrays}
        inverted_contents = self.inverted.files() if self.inverted is not None else {}
        return contents | {FILES[-1]: msgspec.json.encode(self.content)} | inverted_contents

    @classmethod
    def read(cls, files: Mapping[str, bytes | memoryview], rows: int) -> "ItemVectors | None":
        """Read the vectors of an index; None if it has none.

        Raises ValueError, KeyError or DecodeError if the files are damaged.
        """
        if not any(name in files for name in FILES):
            return None
        content = msgspec.json.decode(files[FILES[-1]], type=Content)
        vectors, tokens, unknown = (read_array(files[name]) for name in FILES[:-1])
        item_vectors = cls(vectors, tokens, unknown, content)
        item_vectors.check(rows)
        item_vectors = replace(item_vectors, inverted=Inverted.read(files, item_vectors.vectors))
        _ = item_vectors._is_learned_token, item_vectors.norms
        return item_vectors


def largest_indices(values: Matrix, n: int) -> Rows:
    """Return the indices of the `n` largest values, the largest first, ties by index; exact.

    The n-th largest of the maxima of blocks is not above the n-th largest of all, so that only what
    reaches it needs to be sorted.
    """
    n = min(n, values.size)
    if n <= 0:
        return np.zeros(0, np.intp)
    blocks = values.size // _BLOCK
    if blocks > n:
        maxima = values[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
        threshold = np.partition(maxima, blocks - n)[blocks - n]
    else:
        threshold = np.partition(values, values.size - n)[values.size - n]
    indices = np.flatnonzero(values >= threshold)
    return indices[np.lexsort((indices, -values[indices]))[:n]]
