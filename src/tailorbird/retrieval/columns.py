"""Attributes of items as columns: numbers as float64 with NaN, texts as codes into a dictionary of distinct values.

A list of texts is one text with `|` between its parts. How attributes are found in profiles stands in `retrieval.build`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]


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
        taken.__dict__["_code_of"] = self._code_of  # built once for the whole index, not once a request
        return taken


Column = Floats | TextColumn


def column_of(values: Sequence[Any]) -> Column:
    """A column from values as JSON gave them: numbers if all present ones are numbers or booleans, else texts."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, (int, float)) for value in present):
        return np.array([np.nan if value is None else float(value) for value in values], np.float64)
    return text_column(None if value is None else _as_text(value) for value in values)


def text_column(texts: Iterable[str | None]) -> TextColumn:
    """A dictionary-encoded column; codes in order of first appearance."""
    known: dict[str, int] = {}
    codes = np.array([-1 if text is None or text == "" else known.setdefault(text, len(known)) for text in texts], np.int32)
    return TextColumn(codes, tuple(known))


def columns_of(profiles: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """All attributes that any of the profiles has, by name."""
    names = sorted({name for profile in profiles for name in profile})
    return {name: column_of([profile.get(name) for profile in profiles]) for name in names}


def extended(column: Column | None, length: int, values: Mapping[int, Any], total: int) -> Column:
    """A copy of `column` (`length` items, or None: missing for all) for `total` items, with `values` set at their rows."""
    numeric = all(isinstance(value, (int, float)) for value in values.values() if value is not None)
    if column is None:
        column = np.full(length, np.nan) if numeric else TextColumn(np.full(length, -1, np.int32), ())
    if isinstance(column, TextColumn):
        known = {value: code for code, value in enumerate(column.values)}
        codes = np.concatenate([column.codes, np.full(total - length, -1, np.int32)])
        for row, value in values.items():
            codes[row] = -1 if value is None else known.setdefault(_as_text(value), len(known))
        return TextColumn(codes, tuple(known))
    numbers = np.concatenate([column, np.full(total - length, np.nan)])
    for row, value in values.items():
        numbers[row] = float(value) if isinstance(value, (int, float)) else np.nan
    return numbers


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(_as_text(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
