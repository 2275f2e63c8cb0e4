"""Vectors of items: of those that were learned from, and of any other by what it is. They belong to
an index, row by row.

    vectors.npy            float32 (n, width)        row i is the item in row i of the index
    vectors_tokens.npy     float32 (tokens, width)   what each token of an item adds, see `Content`; row 0 is 0
    vectors_unknown.npy    float32 (width,)          in place of what was learned of the item itself
    vectors.json           `Content`

    vector of an item that nobody has met yet = unknown + mean of what its tokens add

Nearest is exact, a product with every item and of those the largest, unless there are many: then by
`retrieval.inverted`. How vectors are learned stands in `models.retrievers.transformer`, how a
person gets one in `ranking.tower`.
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
BUCKETS = 512  # of each attribute
WORDS, VALUES = 8, 4  # at most so many tokens of a title, and of another attribute
ATTRIBUTES_MAX = 8
INVERTED_ITEMS_MIN = (
    100_000  # items: where an inverted file halves the time, by `python -m benchmarks.nearest`
)
SHARED = 2.0  # items a value, at least: what hardly two items share says nothing of a third
_BLOCK = 64  # products of which a block's largest is looked at first


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an item is, as tokens: values and words of some of its attributes, hashed."""

    parts: tuple[Words, ...] = ()

    @property
    def size(self) -> int:
        """How many tokens there are, "none" included."""
        return 1 + sum(part.buckets for part in self.parts)

    def tokens(self, attributes: Mapping[str, Column], rows: Rows) -> Ints:
        """Tokens of items, shape (n, at least 1), from 1; 0 where there is less."""
        found, first = [np.zeros((rows.size, 1), np.int64)], 1
        for part in self.parts:
            code = part.columns(attributes, rows).astype(np.int64)  # 0 none, 2 … buckets + 1
            found.append(np.where(code > 0, code - 2 + first, 0))
            first += part.buckets
        return np.concatenate(found[1:] or found, axis=1)


def content_of(attributes: Mapping[str, Column]) -> Content:
    """Titles by their words, other texts by their values, as far as items share them."""
    parts = []
    for name, column in sorted(attributes.items()):
        if not isinstance(column, TextColumn) or not column.values:
            continue
        listed = is_listed(column)
        if name == "title":
            parts.append(Words(name, WORDS, BUCKETS, listed))
        elif listed or np.count_nonzero(column.codes >= 0) >= SHARED * len(column.values):
            parts.append(Words(name, VALUES if listed else 1, BUCKETS, listed=True))
    return Content(tuple(parts[:ATTRIBUTES_MAX]))


@dataclass(frozen=True)
class ItemVectors:
    """The vectors of an index's items, and what those of new ones are made of. It never changes.

    Attributes:
        vectors: float32 (n, width).
        tokens: float32 (content.size, width).
        unknown: float32 (width,).
        inverted: where to look for the nearest; None looks at all.
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
        """Lengths of the vectors, (n,)."""
        return np.sqrt(np.einsum("ij,ij->i", self.vectors, self.vectors))

    def products(self, user: Matrix) -> Matrix:
        """How near each item is to a person's vector, float32 (n,)."""
        return self.vectors @ user

    def of_content(self, attributes: Mapping[str, Column], rows: Rows) -> Matrix:
        """What items are, (n, width): their part of a vector that needs nobody to have met them.
        Tokens never seen count for nothing.
        """
        tokens = self.content.tokens(attributes, rows)
        tokens = np.where(self._heard[tokens], tokens, 0)
        count = np.maximum((tokens > 0).sum(axis=1, keepdims=True), 1).astype(np.float32)
        return self.tokens[tokens].sum(axis=1) / count

    @cached_property
    def _heard(self) -> npt.NDArray[np.bool_]:
        return np.any(self.tokens != 0, axis=1)

    def extended(
        self,
        before: Mapping[str, Column],
        attributes: Mapping[str, Column],
        changed: Rows,
        total: int,
    ) -> "ItemVectors":
        """With rows up to `total`, which are new items; `changed` ones of the old rows take on what
        they have become.
        """
        vectors = np.concatenate(
            [self.vectors, np.empty((total - len(self.vectors), self.width), np.float32)]
        )
        new = np.arange(len(self.vectors), total)
        vectors[new] = self.unknown + self.of_content(attributes, new)
        if changed.size:
            vectors[changed] += self.of_content(attributes, changed) - self.of_content(
                before, changed
            )
        inverted = self.inverted.extended(changed, total) if self.inverted is not None else None
        made = replace(self, vectors=vectors, inverted=inverted)
        made.__dict__["_heard"] = self._heard
        return made

    def indexed(self, users: Matrix) -> "ItemVectors":
        """With an inverted file, if there are `INVERTED_ITEMS_MIN` items and it helps; `users`: some
        people's vectors, to measure that by.
        """
        if len(self.vectors) < INVERTED_ITEMS_MIN:
            return self
        return replace(self, inverted=build_inverted(self.vectors, users))

    def check(self, rows: int) -> None:
        """Raise ValueError unless these are finite vectors of so many items, by as many tokens as
        the content has.
        """
        shapes = (self.vectors.shape, self.tokens.shape, self.unknown.shape)
        width = self.unknown.shape[0] if self.unknown.ndim == 1 else 0
        if not width or shapes != ((rows, width), (self.content.size, width), (width,)):
            raise ValueError("the vectors of items have another shape than the items")
        if any(
            each.dtype != np.float32 or not np.isfinite(each).all()
            for each in (self.vectors, self.tokens, self.unknown)
        ):
            raise ValueError("the vectors of items hold what is no finite float32")

    # Files of an index

    def write(self, folder: Path) -> None:
        for name, data in self.files().items():
            (folder / name).write_bytes(data)

    def files(self) -> dict[str, bytes]:
        """File → bytes."""
        arrays = zip(FILES, (self.vectors, self.tokens, self.unknown), strict=False)
        found = {name: array_bytes(np.asarray(array, np.float32)) for name, array in arrays}
        more = self.inverted.files() if self.inverted is not None else {}
        return found | {FILES[-1]: msgspec.json.encode(self.content)} | more

    @classmethod
    def read(cls, files: Mapping[str, bytes], rows: int) -> "ItemVectors | None":
        """From the files of an index, None where it has none. Raises ValueError, KeyError or
        DecodeError if they are damaged.
        """
        if not any(name in files for name in FILES):
            return None
        content = msgspec.json.decode(files[FILES[-1]], type=Content)
        vectors, tokens, unknown = (read_array(files[name]) for name in FILES[:-1])
        found = cls(vectors, tokens, unknown, content)
        found.check(rows)
        found = replace(found, inverted=Inverted.read(files, found.vectors))
        _ = found._heard, found.norms
        return found


def largest_indices(values: Matrix, n: int) -> Rows:
    """Where the `n` largest are, the largest first, ties by place. Exact.

    The n-th largest of the maxima of blocks is not above the n-th largest of all, so that only what
    reaches it needs to be sorted.
    """
    n = min(n, values.size)
    if n <= 0:
        return np.zeros(0, np.intp)
    whole = values.size // _BLOCK
    if whole > n:
        tops = values[: whole * _BLOCK].reshape(whole, _BLOCK).max(axis=1)
        least = np.partition(tops, whole - n)[whole - n]
    else:
        least = np.partition(values, values.size - n)[values.size - n]
    at = np.flatnonzero(values >= least)
    return at[np.lexsort((at, -values[at]))[:n]]
