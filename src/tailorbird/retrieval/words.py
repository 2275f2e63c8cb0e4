"""Content of items as codes: hashed words of titles, and values of lists and other attributes.

ATTRIBUTE_word_1 … _W         0 for none, else 2 + hash; 1 is unused
"""

import re
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.events.keys import hash64s
from tailorbird.retrieval.columns import Column, TextColumn

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

MISSING = 0
WIDTH_MAX = 32
LIST_SHARE_MIN = 0.05  # Share of an attribute's values with `|` from which on it is a list.
_WORD = re.compile(r"\w+")


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Hashed words of an attribute of the candidate.

    Attributes:
        attribute: name of the attribute of the index.
        width: maximum number of words of an item.
        buckets: number of hash buckets.
        listed: whether the attribute is a list with `|` between its values, which are not split;
            else a text, which is split into words.
    """

    attribute: str
    width: int
    buckets: int
    listed: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.width <= WIDTH_MAX and 2 <= self.buckets < 1 << 22):
            raise BundleError("the encoder holds words without bounds", fix="tailorbird train")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(f"{self.attribute}_word_{number}" for number in range(1, self.width + 1))

    @property
    def size(self) -> int:
        """Return the number of codes, missing and unknown included."""
        return self.buckets + 2

    def columns(self, attributes: Mapping[str, Column], rows: Rows) -> Matrix:
        """Return the columns (n, width) of n rows of an index; −1 is an unknown item."""
        column = attributes.get(self.attribute)
        if not isinstance(column, TextColumn) or not column.codes.size:
            return np.full((rows.size, self.width), MISSING, np.float32)
        value_index = np.where(rows >= 0, column.codes[np.maximum(rows, 0)], -1)
        return self._code_table(column.values)[value_index + 1]

    def _code_table(self, values: tuple[str, ...]) -> Matrix:
        """Return codes by value, after a row for none.

        An index that grew has the old values first, so only the new ones are hashed.
        """
        hashed_values, table = self.__dict__.get(
            "_cached_table", ((), np.zeros((1, self.width), np.float32))
        )
        if hashed_values is values:
            return table
        unchanged_count = len(hashed_values) if values[: len(hashed_values)] == hashed_values else 0
        new_codes = np.zeros((len(values) - unchanged_count, self.width), np.float32)
        for row, value in enumerate(values[unchanged_count:]):
            words = self.split_value(value)[: self.width]
            if words:
                new_codes[row, : len(words)] = 2 + (
                    hash64s(words) % np.uint64(self.buckets)
                ).astype(np.float32)
        table = np.concatenate([table[: unchanged_count + 1], new_codes])
        self.__dict__["_cached_table"] = (
            values,
            table,
        )  # One assignment, as several threads may run this.
        return table

    def split_value(self, value: str) -> list[str]:
        """Return the words of a value, each once."""
        parts = (
            [part.strip() for part in value.split("|")]
            if self.listed
            else _WORD.findall(value.lower())
        )
        return list(dict.fromkeys(part for part in parts if part))

    def describe_columns(self) -> dict[str, str]:
        """Return a description of each column."""
        return dict.fromkeys(
            self.names, f"a word of the item's {self.attribute}, hashed into {self.buckets:,}"
        )


def holds_lists(column: TextColumn) -> bool:
    """Return whether the values of an attribute are lists."""
    return sum("|" in value for value in column.values) > LIST_SHARE_MIN * len(column.values)
