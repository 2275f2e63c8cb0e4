"""What an item is, as codes: hashed words of its title, values of its lists and of other
attributes.

ATTRIBUTE_word_1 … _W         0 where there is none, else 2 + hash; 1 is not used
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
LISTED_SHARE = 0.05  # of an attribute's values that hold `|`: it is a list
_WORD = re.compile(r"\w+")


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Hashed words of an attribute of the candidate.

    Attributes:
        attribute: of the index.
        width: at most so many of an item.
        buckets: that they are hashed into.
        listed: whether the attribute is a list with `|` between its values, which are taken whole;
            else a text, which is cut into words.
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
        return tuple(f"{self.attribute}_word_{place}" for place in range(1, self.width + 1))

    @property
    def size(self) -> int:
        """How many codes there are, missing and unknown included."""
        return self.buckets + 2

    def columns(self, attributes: Mapping[str, Column], rows: Rows) -> Matrix:
        """The columns (n, width) of n rows of an index; −1 is an item that it does not know."""
        column = attributes.get(self.attribute)
        if not isinstance(column, TextColumn) or not column.codes.size:
            return np.full((rows.size, self.width), MISSING, np.float32)
        code = np.where(rows >= 0, column.codes[np.maximum(rows, 0)], -1)
        return self._table(column.values)[code + 1]

    def _table(self, values: tuple[str, ...]) -> Matrix:
        """Codes by value, after a row for none: an index that grew has the old values first, so
        only new ones are read.
        """
        known, table = self.__dict__.get("_read", ((), np.zeros((1, self.width), np.float32)))
        if known is values:
            return table
        same = len(known) if values[: len(known)] == known else 0
        fresh = np.zeros((len(values) - same, self.width), np.float32)
        for place, value in enumerate(values[same:]):
            words = self.cut(value)[: self.width]
            if words:
                fresh[place, : len(words)] = 2 + (hash64s(words) % np.uint64(self.buckets)).astype(
                    np.float32
                )
        table = np.concatenate([table[: same + 1], fresh])
        self.__dict__["_read"] = values, table  # one assignment, as several threads may be here
        return table

    def cut(self, value: str) -> list[str]:
        """The words of a value, each once."""
        parts = (
            [part.strip() for part in value.split("|")]
            if self.listed
            else _WORD.findall(value.lower())
        )
        return list(dict.fromkeys(part for part in parts if part))

    def told(self) -> dict[str, str]:
        """What each column is, in words."""
        return dict.fromkeys(
            self.names, f"a word of the item's {self.attribute}, hashed into {self.buckets:,}"
        )


def is_listed(column: TextColumn) -> bool:
    """Whether the values of an attribute are lists."""
    return sum("|" in value for value in column.values) > LISTED_SHARE * len(column.values)
