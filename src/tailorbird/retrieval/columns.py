"""Attributes of items as columns: float64 with NaN, or dictionary-encoded texts.

A list of texts is one text with `|` between its parts. `retrieval.build` extracts the attributes
from profiles.
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
    300  # Each attribute is a column over all items, and whoever sends items chooses the names.
)
NUMERIC_SHARE_MIN = (
    0.95  # Minimum share of numbers for a numeric attribute; a text in it counts as a mistake.
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextColumn:
    """Texts of n items: `codes` (n,) index into `values`; -1 if the attribute is missing."""

    codes: Codes
    values: tuple[str, ...]

    @cached_property
    def _code_by_value(self) -> dict[str, int]:
        return {value: code for code, value in enumerate(self.values)}

    def code(self, value: str) -> int:
        """Return the code of a value; -2 if no item has it."""
        return self._code_by_value.get(value, -2)

    def text(self, row: int) -> str:
        """Return the text of an item; "" if missing."""
        code = int(self.codes[row])
        return self.values[code] if code >= 0 else ""

    def take(self, rows: npt.NDArray[np.intp]) -> "TextColumn":
        """Return the column for some rows; the dictionary is shared."""
        selection = TextColumn(self.codes[rows], self.values)
        # Built once for the whole index and not once per request.
        selection.__dict__["_code_by_value"] = self._code_by_value
        return selection


Column = Floats | TextColumn


def build_column(values: Sequence[Any]) -> Column:
    """Return a column from JSON values: numeric if nearly all of them are numbers or booleans.

    A text among numbers counts as missing. Otherwise one item with a stock of "n/a" would make
    `item.stock > 0` false for all items.
    """
    present_count = sum(value is not None for value in values)
    number_count = sum(isinstance(value, (int, float)) for value in values)
    if number_count and number_count >= NUMERIC_SHARE_MIN * present_count:
        return np.array([_as_number(value) for value in values], np.float64)
    return build_text_column(None if value is None else _as_text(value) for value in values)


def _as_number(value: Any) -> float:
    """Return a value as a number; missing for anything else, and for integers beyond float."""
    try:
        return float(value) if isinstance(value, (int, float)) else np.nan
    except OverflowError:
        return np.nan


def build_text_column(texts: Iterable[str | None]) -> TextColumn:
    """Return a dictionary-encoded column, with codes in order of first appearance."""
    code_by_text: dict[str, int] = {}
    codes = np.array(
        [
            -1 if text is None or text == "" else code_by_text.setdefault(text, len(code_by_text))
            for text in texts
        ],
        np.int32,
    )
    return TextColumn(codes, tuple(code_by_text))


def build_columns(profiles: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Return the attributes of profiles by name: all, or the most frequent `ATTRIBUTES_MAX`."""
    names = select_attribute_names(profiles)
    columns = {}
    for name in names:
        values = [profile.get(name) for profile in profiles]
        column = columns[name] = build_column(values)
        if not isinstance(column, TextColumn) and (
            text_count := sum(isinstance(value, (str, list, dict)) for value in values)
        ):
            log.warning(
                "attribute %s is a number, and %d items have a text there: it counts as missing",
                name,
                text_count,
            )
    return columns


def select_attribute_names(
    profiles: Iterable[Mapping[str, Any]], existing_names: Collection[str] = ()
) -> list[str]:
    """Return the sorted names of attributes that become columns.

    Existing columns come first, then the most frequent names until the limit. Dropped names are
    logged.
    """
    counts = Counter(name for profile in profiles for name in profile if name not in existing_names)
    new_names = sorted(counts, key=lambda name: (-counts[name], name))
    free_column_count = max(0, ATTRIBUTES_MAX - len(existing_names))
    if dropped_names := new_names[free_column_count:]:
        summary = (
            f"items have {len(existing_names) + len(new_names)} attributes, and {ATTRIBUTES_MAX} "
            "are kept: "
            f"{len(dropped_names)} that few have are left out"
        )
        log.warning(
            "%s, such as %s", summary, ", ".join(repr(name[:40]) for name in dropped_names[:3])
        )
    return sorted([*existing_names, *new_names[:free_column_count]])


def find_boolean_names(profiles: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the attributes whose values are all true or false; columns store them as 1 and 0."""
    names: set[str] = set()
    other_names: set[str] = set()
    for profile in profiles:
        for name, value in profile.items():
            if value is not None:
                (names if isinstance(value, bool) else other_names).add(name)
    return frozenset(names - other_names)


def from_arrow(column: pa.ChunkedArray) -> Column:
    """Return an Arrow column as a numeric or text column of an index."""
    if not pa.types.is_dictionary(column.type):
        return column.to_numpy()
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return TextColumn(
        array.indices.fill_null(-1).to_numpy().astype(np.int32), tuple(array.dictionary.to_pylist())
    )


def to_arrow(column: Column) -> pa.Array:
    """Return a column as an index file stores it, which `from_arrow` reads."""
    if not isinstance(column, TextColumn):
        return pa.array(column, pa.float64())
    return pa.DictionaryArray.from_arrays(
        pa.array(column.codes, pa.int32(), mask=column.codes < 0),
        pa.array(column.values, pa.string()),
    )


def extend_column(
    column: Column | None, old_count: int, value_by_row: Mapping[int, Any], new_count: int
) -> Column:
    """Return a copy of `column` for `new_count` items, with `value_by_row` set at their rows.

    `column` has `old_count` items; None is missing for all.
    """
    is_numeric = all(
        isinstance(value, (int, float)) for value in value_by_row.values() if value is not None
    )
    if column is None:
        column = (
            np.full(old_count, np.nan)
            if is_numeric
            else TextColumn(np.full(old_count, -1, np.int32), ())
        )
    if isinstance(column, TextColumn):
        code_by_text = column._code_by_value  # Shared with the old column until a value is new.
        codes = np.concatenate([column.codes, np.full(new_count - old_count, -1, np.int32)])
        for row, value in value_by_row.items():
            text = "" if value is None else _as_text(value)
            if text and text not in code_by_text:
                code_by_text = (
                    dict(code_by_text) if code_by_text is column._code_by_value else code_by_text
                )
                code_by_text[text] = len(code_by_text)
            codes[row] = code_by_text[text] if text else -1
        extended_column = TextColumn(
            codes, column.values if code_by_text is column._code_by_value else tuple(code_by_text)
        )
        extended_column.__dict__["_code_by_value"] = code_by_text
        return extended_column
    numbers = np.concatenate([column, np.full(new_count - old_count, np.nan)])
    for row, value in value_by_row.items():
        numbers[row] = _as_number(value)
    return numbers


def rows_with_changed_text(
    old_columns: Mapping[str, Column], new_columns: Mapping[str, Column], rows: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Return those of `rows` in which a text differs between old and new columns."""
    has_changed = np.zeros(rows.size, bool)
    for name, column in new_columns.items():
        if isinstance(column, TextColumn):
            old_column = old_columns.get(name)
            has_changed |= column.codes[rows] != (
                old_column.codes[rows] if isinstance(old_column, TextColumn) else -1
            )
    return rows[has_changed]


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(_as_text(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def is_boolean(column: Column) -> bool:
    """Return whether a column has only the values 1 and 0, which stand for true and false."""
    return not isinstance(column, TextColumn) and not np.any(
        (column != 0) & (column != 1) & ~np.isnan(column)
    )


def is_same_column(first: Column | None, second: Column | None) -> bool:
    """Return whether two columns of the same items are equal, if that is cheap to determine."""
    if isinstance(first, TextColumn) and isinstance(second, TextColumn):
        return first.values is second.values and np.array_equal(first.codes, second.codes)
    return first is second
