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
from tailorbird.retrieval.inverted import InvertedFile, build_inverted
from tailorbird.retrieval.words import Words, holds_lists

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
Ints = npt.NDArray[np.int64]

FILE_NAMES = ("vectors.npy", "vectors_tokens.npy", "vectors_unknown.npy", "vectors.json")
BUCKETS_PER_ATTRIBUTE = 512  # Hash buckets of the tokens of each attribute.
# Maximum tokens of a title, and of another attribute.
TITLE_TOKENS_MAX = 8
VALUE_TOKENS_MAX = 4
ATTRIBUTES_MAX = 8
INVERTED_ITEMS_MIN = (
    100_000  # An inverted file halves the time from here on, by `python -m benchmarks.nearest`.
)
# Minimum; a value that hardly two items share says nothing about a third.
ITEMS_PER_VALUE_MIN = 2.0
_BLOCK_SIZE = 64  # Products per block, whose maximum is examined first.


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of an item as tokens: hashed values and words of some of its attributes."""

    parts: tuple[Words, ...] = ()

    @property
    def size(self) -> int:
        """Return the number of tokens, "none" included."""
        return 1 + sum(part.buckets for part in self.parts)

    def tokens(self, attributes: Mapping[str, Column], rows: Rows) -> Ints:
        """Return the tokens of items, shape (n, at least 1), from 1; padded with 0."""
        columns = [np.zeros((rows.size, 1), np.int64)]
        offset = 1
        for part in self.parts:
            # 0 is none, then 2 … buckets + 1.
            code = part.columns(attributes, rows).astype(np.int64)
            columns.append(np.where(code > 0, code - 2 + offset, 0))
            offset += part.buckets
        return np.concatenate(columns[1:] or columns, axis=1)


def build_content(attributes: Mapping[str, Column]) -> Content:
    """Return titles as words and other texts as values, as far as items share them."""
    parts = []
    for name, column in sorted(attributes.items()):
        if not isinstance(column, TextColumn) or not column.values:
            continue
        is_list = holds_lists(column)
        if name == "title":
            parts.append(Words(name, TITLE_TOKENS_MAX, BUCKETS_PER_ATTRIBUTE, is_list))
        elif is_list or np.count_nonzero(column.codes >= 0) >= ITEMS_PER_VALUE_MIN * len(
            column.values
        ):
            parts.append(
                Words(name, VALUE_TOKENS_MAX if is_list else 1, BUCKETS_PER_ATTRIBUTE, listed=True)
            )
    return Content(tuple(parts[:ATTRIBUTES_MAX]))


@dataclass(frozen=True)
class ItemVectors:
    """The vectors of an index's items, and the parts to compute those of new ones. Immutable.

    Attributes:
        vectors: float32 (n, width).
        token_vectors: float32 (content.size, width).
        unknown_vector: float32 (width,).
        inverted: inverted file for the nearest items; None compares all.
    """

    vectors: Matrix
    token_vectors: Matrix
    unknown_vector: Matrix
    content: Content
    inverted: InvertedFile | None = None

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    @cached_property
    def norms(self) -> Matrix:
        """Return the lengths of the vectors, (n,)."""
        return np.sqrt(np.einsum("ij,ij->i", self.vectors, self.vectors))

    def products(self, user_vector: Matrix) -> Matrix:
        """Return the product of each item with a person's vector, float32 (n,)."""
        return self.vectors @ user_vector

    def content_vectors(self, attributes: Mapping[str, Column], rows: Rows) -> Matrix:
        """Return the content part of the items' vectors, (n, width), by learned tokens."""
        tokens = self.content.tokens(attributes, rows)
        tokens = np.where(self._is_learned_token[tokens], tokens, 0)
        token_count = np.maximum((tokens > 0).sum(axis=1, keepdims=True), 1).astype(np.float32)
        return self.token_vectors[tokens].sum(axis=1) / token_count

    @cached_property
    def _is_learned_token(self) -> npt.NDArray[np.bool_]:
        return np.any(self.token_vectors != 0, axis=1)

    def extended(
        self,
        old_attributes: Mapping[str, Column],
        new_attributes: Mapping[str, Column],
        changed_rows: Rows,
        item_count: int,
    ) -> "ItemVectors":
        """Return vectors of `item_count` rows, with new items at the end and changes applied."""
        vectors = np.concatenate(
            [self.vectors, np.empty((item_count - len(self.vectors), self.width), np.float32)]
        )
        new_rows = np.arange(len(self.vectors), item_count)
        vectors[new_rows] = self.unknown_vector + self.content_vectors(new_attributes, new_rows)
        if changed_rows.size:
            vectors[changed_rows] += self.content_vectors(
                new_attributes, changed_rows
            ) - self.content_vectors(old_attributes, changed_rows)
        inverted = (
            self.inverted.extended(changed_rows, item_count) if self.inverted is not None else None
        )
        extended_vectors = replace(self, vectors=vectors, inverted=inverted)
        extended_vectors.__dict__["_is_learned_token"] = self._is_learned_token
        return extended_vectors

    def with_inverted_file(self, user_vectors: Matrix) -> "ItemVectors":
        """Return it with an inverted file if there are `INVERTED_ITEMS_MIN` items and it helps.

        `user_vectors` are vectors of some people to calibrate the file by.
        """
        if len(self.vectors) < INVERTED_ITEMS_MIN:
            return self
        return replace(self, inverted=build_inverted(self.vectors, user_vectors))

    def check_shapes(self, item_count: int) -> None:
        """Raise ValueError unless there is a finite vector for each item and for each token."""
        shapes = (self.vectors.shape, self.token_vectors.shape, self.unknown_vector.shape)
        width = self.unknown_vector.shape[0] if self.unknown_vector.ndim == 1 else 0
        if not width or shapes != ((item_count, width), (self.content.size, width), (width,)):
            raise ValueError("the vectors of items have another shape than the items")
        if any(
            array.dtype != np.float32 or not np.isfinite(array).all()
            for array in (self.vectors, self.token_vectors, self.unknown_vector)
        ):
            raise ValueError("the vectors of items hold what is no finite float32")

    # Files of an index

    def write(self, folder: Path) -> None:
        for name, data in self.files().items():
            (folder / name).write_bytes(data)

    def files(self) -> dict[str, bytes]:
        """Return file name → bytes."""
        arrays = zip(
            FILE_NAMES, (self.vectors, self.token_vectors, self.unknown_vector), strict=False
        )
        contents = {name: array_bytes(np.asarray(array, np.float32)) for name, array in arrays}
        inverted_contents = self.inverted.files() if self.inverted is not None else {}
        return contents | {FILE_NAMES[-1]: msgspec.json.encode(self.content)} | inverted_contents

    @classmethod
    def read(cls, files: Mapping[str, bytes | memoryview], item_count: int) -> "ItemVectors | None":
        """Read the vectors of an index; None if it has none.

        Raises ValueError, KeyError or DecodeError if the files are damaged.
        """
        if not any(name in files for name in FILE_NAMES):
            return None
        content = msgspec.json.decode(files[FILE_NAMES[-1]], type=Content)
        vectors, token_vectors, unknown_vector = (
            read_array(files[name]) for name in FILE_NAMES[:-1]
        )
        item_vectors = cls(vectors, token_vectors, unknown_vector, content)
        item_vectors.check_shapes(item_count)
        item_vectors = replace(
            item_vectors, inverted=InvertedFile.read(files, item_vectors.vectors)
        )
        _ = item_vectors._is_learned_token, item_vectors.norms
        return item_vectors


def largest_indexes(values: Matrix, count: int) -> Rows:
    """Return the indices of the `count` largest values, the largest first, ties by index; exact.

    The n-th largest of the maxima of blocks is not above the n-th largest of all, so that only what
    reaches it needs to be sorted.
    """
    count = min(count, values.size)
    if count <= 0:
        return np.zeros(0, np.intp)
    block_count = values.size // _BLOCK_SIZE
    if block_count > count:
        block_maxima = (
            values[: block_count * _BLOCK_SIZE].reshape(block_count, _BLOCK_SIZE).max(axis=1)
        )
        threshold = np.partition(block_maxima, block_count - count)[block_count - count]
    else:
        threshold = np.partition(values, values.size - count)[values.size - count]
    indices = np.flatnonzero(values >= threshold)
    return indices[np.lexsort((indices, -values[indices]))[:count]]
