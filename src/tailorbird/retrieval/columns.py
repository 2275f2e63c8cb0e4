"""Attributes of items as columns: numbers as float64 with NaN, texts as codes into a dictionary of
distinct values.

A list of texts is one text with `|` between its parts. How attributes are found in profiles stands
in `retrieval.build`.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]

ATTRIBUTES_MAX = (
    300  # each is a column over all items, and whoever may send items makes up their names
)
NUMBERS_SHARE = (
    0.95  # of what is there, from which on an attribute is a number, and a text among it a mistake
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextColumn:
    """Texts of n items: `codes` (n,) into `values`, -1 where the attribute is missing."""

    codes: Codes
    values: tuple[str, ...]

    @cached_property
    def _code_of(self) -> dict[str, int]:
        return {value: code for code, value in enumerate(self.values)}

    def code(self, value: str) -> int:
        """The code of a value, -2 if no item has it."""
        return self._code_of.get(value, -2)

    def text(self, row: int) -> str:
        """The text of one item, "" if missing."""
        code = int(self.codes[row])
        return self.values[code] if code >= 0 else ""

    def take(self, rows: npt.NDArray[np.intp]) -> "TextColumn":
        """The same column for some items; the dictionary is shared."""
        taken = TextColumn(self.codes[rows], self.values)
        taken.__dict__["_code_of"] = (
            self._code_of
        )  # built once for the whole index, not once a request
        return taken


Column = Floats | TextColumn


def column_of(values: Sequence[Any]) -> Column:
    """A column from values as JSON gave them: numbers if nearly all present ones are numbers or
    booleans, else texts.

    A text among numbers is missing: one item whose stock is "n/a" would else make `item.stock > 0`
    false for all.
    """
    present = sum(value is not None for value in values)
    numbers = sum(isinstance(value, (int, float)) for value in values)
    if numbers and numbers >= NUMBERS_SHARE * present:
        return np.array([_as_number(value) for value in values], np.float64)
    return text_column(None if value is None else _as_text(value) for value in values)


def _as_number(value: Any) -> float:
    """A value as a number; what is none, or an integer that no float holds, is missing."""
    try:
        return float(value) if isinstance(value, (int, float)) else np.nan
    except OverflowError:
        return np.nan


def text_column(texts: Iterable[str | None]) -> TextColumn:
    """A dictionary-encoded column; codes in order of first appearance."""
    known: dict[str, int] = {}
    codes = np.array(
        [
            -1 if text is None or text == "" else known.setdefault(text, len(known))
            for text in texts
        ],
        np.int32,
    )
    return TextColumn(codes, tuple(known))


def columns_of(profiles: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The attributes that profiles have, by name: all of them, or the most frequent
    `ATTRIBUTES_MAX`.
    """
    names = names_kept(profiles)
    columns = {}
    for name in names:
        values = [profile.get(name) for profile in profiles]
        column = columns[name] = column_of(values)
        if not isinstance(column, TextColumn) and (
            odd := sum(isinstance(value, (str, list, dict)) for value in values)
        ):
            log.warning(
                "attribute %s is a number, and %d items have a text there: it counts as missing",
                name,
                odd,
            )
    return columns


def names_kept(profiles: Iterable[Mapping[str, Any]], known: Collection[str] = ()) -> list[str]:
    """The names of attributes that become columns, in order: those that are known already, then
    what most profiles have, as long as there is room. What is left out is told in the log.
    """
    counts = Counter(name for profile in profiles for name in profile if name not in known)
    new = sorted(counts, key=lambda name: (-counts[name], name))
    room = max(0, ATTRIBUTES_MAX - len(known))
    if left_out := new[room:]:
        told = (
            f"items have {len(known) + len(new)} attributes, and {ATTRIBUTES_MAX} are kept: "
            f"{len(left_out)} that few have are left out"
        )
        log.warning("%s, such as %s", told, ", ".join(repr(name[:40]) for name in left_out[:3]))
    return sorted([*known, *new[:room]])


def truths_in(profiles: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Attributes of which every value is true or false: a column keeps them as 1 and 0."""
    names: set[str] = set()
    others: set[str] = set()
    for profile in profiles:
        for name, value in profile.items():
            if value is not None:
                (names if isinstance(value, bool) else others).add(name)
    return frozenset(names - others)


def from_arrow(column: pa.ChunkedArray) -> Column:
    """A column as an index keeps it: numbers, or dictionary-encoded texts."""
    if not pa.types.is_dictionary(column.type):
        return column.to_numpy()
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return TextColumn(
        array.indices.fill_null(-1).to_numpy().astype(np.int32), tuple(array.dictionary.to_pylist())
    )


def to_arrow(column: Column) -> pa.Array:
    """The same as an index's file keeps it: what `from_arrow` reads."""
    if not isinstance(column, TextColumn):
        return pa.array(column, pa.float64())
    return pa.DictionaryArray.from_arrays(
        pa.array(column.codes, pa.int32(), mask=column.codes < 0),
        pa.array(column.values, pa.string()),
    )


def extended(column: Column | None, length: int, values: Mapping[int, Any], total: int) -> Column:
    """A copy of `column` (`length` items, or None: missing for all) for `total` items, with
    `values` set at their rows.
    """
    numeric = all(isinstance(value, (int, float)) for value in values.values() if value is not None)
    if column is None:
        column = (
            np.full(length, np.nan) if numeric else TextColumn(np.full(length, -1, np.int32), ())
        )
    if isinstance(column, TextColumn):
        known = column._code_of  # shared with the old column as long as no value is new
        codes = np.concatenate([column.codes, np.full(total - length, -1, np.int32)])
        for row, value in values.items():
            text = "" if value is None else _as_text(value)
            if text and text not in known:
                known = dict(known) if known is column._code_of else known
                known[text] = len(known)
            codes[row] = known[text] if text else -1
        grown = TextColumn(codes, column.values if known is column._code_of else tuple(known))
        grown.__dict__["_code_of"] = known
        return grown
    numbers = np.concatenate([column, np.full(total - length, np.nan)])
    for row, value in values.items():
        numbers[row] = _as_number(value)
    return numbers


def of_other_texts(
    before: Mapping[str, Column], after: Mapping[str, Column], rows: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Those of some rows in which a text has become another; `after` is `extended` from `before`,
    by name.
    """
    other = np.zeros(rows.size, bool)
    for name, column in after.items():
        if isinstance(column, TextColumn):
            known = before.get(name)
            other |= column.codes[rows] != (
                known.codes[rows] if isinstance(known, TextColumn) else -1
            )
    return rows[other]


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(_as_text(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def is_boolean(column: Column) -> bool:
    """Whether a column has nothing but truths, which are kept as 1 and 0."""
    return not isinstance(column, TextColumn) and not np.any(
        (column != 0) & (column != 1) & ~np.isnan(column)
    )


def says_same(one: Column | None, other: Column | None) -> bool:
    """Whether two columns of as many items say the same, as far as that is cheap to see."""
    if isinstance(one, TextColumn) and isinstance(other, TextColumn):
        return one.values is other.values and np.array_equal(one.codes, other.codes)
    return one is other
