"""Facts about the columns of a table: what each holds, and what determines what.

Each is computed once, on rows from all over the file.
"""

import re
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.guess.words import NameFacts, read_name
from tailorbird.events.tables.times import detect_time_formats, parse_iso_time, parse_times

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]+", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{8}-?[0-9a-f-]{8,}", re.IGNORECASE)
_EXAMPLES = 200  # values whose form is looked at
_EPOCH_S_MIN = 3e8  # 1979 in seconds: a smaller number is a year, a week or a written date
_PLAUSIBLE_S = (8e8, 2.05e9)  # 1995 to 2034


@dataclass(frozen=True)
class ColumnFacts:
    """Type, shares and examples of the values of a column.

    Attributes:
        name_facts: what its name says.
        kind: `integer`, `decimal`, `text`, `time`, `nested`, `boolean` or `empty`.
        distinct: how many different values it has.
        rows_per_value: of the rows that have a value.
        mean_words: of a text.
        email_share, hash_share: how many texts look like an address, or a UUID or digest.
        is_time: whether its values can be read as times since 1979.
        is_plausible_time: whether they lie between 1995 and 2034.
        is_row_number: whether it counts the rows.
        examples: some of its values.
    """

    name: str
    name_facts: NameFacts
    kind: str
    null_share: float
    distinct: int
    rows_per_value: float
    mean_words: float
    email_share: float
    hash_share: float
    is_time: bool
    is_plausible_time: bool
    is_row_number: bool
    examples: tuple[str, ...]


class TableFacts:
    """Facts about the columns of a sample, and about pairs of them."""

    def __init__(self, sample: pa.RecordBatch) -> None:
        self.rows = sample.num_rows
        self._sample = sample
        self._codes: dict[str, np.ndarray] = {}
        self.columns = {name: self._describe(name) for name in sample.schema.names}
        # With few rows, what values show may be chance.
        self.weight = min(1.0, self.rows / 200)
        self._determined = lru_cache(None)(self._measure_determined)

    def determines(self, name: str, other: str) -> bool:
        """Return whether each value of a column has one value of the other, seen repeatedly."""
        repeated, share = self._determined(name, other)
        return repeated >= 20 and share >= 0.98

    @lru_cache(256)  # noqa: B019 -- A table is looked at for a moment.
    def median_span(self, name: str, time: str) -> float | None:
        """Return the median time between first and last row of a value, as a share of all."""
        times = self.times(time)
        codes = self._codes[name]
        is_valid = (codes >= 0) & ~np.isnan(times)
        if times[is_valid].size < 50 or np.ptp(times[is_valid]) == 0:
            return None
        size = int(codes.max()) + 1
        first = np.full(size, np.inf)
        last = np.full(size, -np.inf)
        np.minimum.at(first, codes[is_valid], times[is_valid])
        np.maximum.at(last, codes[is_valid], times[is_valid])
        repeated = np.bincount(codes[is_valid], minlength=size) > 1
        if repeated.sum() < 20:
            return None
        return float(np.median((last - first)[repeated]) / np.ptp(times[is_valid]))

    @lru_cache(256)  # noqa: B019 -- A table is looked at for a moment.
    def stickiness(self, name: str, time: str | None) -> float:
        """Return how much more often neighbours in time share a value than by chance."""
        codes = self._codes[name]
        if time is not None:
            codes = codes[np.argsort(self.times(time), kind="stable")]
        codes = codes[codes >= 0]
        if codes.size < 50:
            return 0.0
        chance = float(((np.bincount(codes) / codes.size) ** 2).sum())
        return float((codes[1:] == codes[:-1]).mean()) - chance

    def times(self, name: str) -> np.ndarray:
        """Return a column of times as numbers."""
        return self._times_by_column[name]

    @cached_property
    def _times_by_column(self) -> dict[str, np.ndarray]:
        return {
            name: _to_numbers(self._sample.column(name))
            for name, facts in self.columns.items()
            if facts.is_time
        }

    def _measure_determined(self, name: str, other: str) -> tuple[int, float]:
        codes = self._codes[name]
        other_codes = self._codes[other]
        is_valid = (codes >= 0) & (other_codes >= 0)
        if not is_valid.any():
            return 0, 0.0
        size = int(other_codes.max()) + 1
        pairs = np.unique(codes[is_valid].astype(np.int64) * size + other_codes[is_valid])
        values_per_code = np.bincount(pairs // size)
        repeated = np.bincount(codes[is_valid], minlength=len(values_per_code)) > 1
        count = int(repeated.sum())
        return count, float((values_per_code[repeated] <= 1).mean()) if count else 0.0

    def _describe(self, name: str) -> ColumnFacts:
        column = self._sample.column(name)
        kind = _kind_of(column)
        values = (
            pa.array([None if value is None else str(value) for value in column.to_pylist()])
            if kind == "nested"
            else column
        )
        encoded = values.dictionary_encode()
        self._codes[name] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        distinct = len(encoded.dictionary)
        value_count = len(column) - column.null_count
        texts = [str(value) for value in encoded.dictionary.slice(0, _EXAMPLES).to_pylist()]
        sampled_texts = texts if kind == "text" else []
        plausible, is_time = _read_time(column, kind)
        return ColumnFacts(
            name=name,
            name_facts=read_name(name),
            kind=kind,
            null_share=column.null_count / max(len(column), 1),
            distinct=distinct,
            rows_per_value=value_count / max(distinct, 1),
            mean_words=float(np.mean([len(text.split()) for text in sampled_texts]))
            if sampled_texts
            else 1.0,
            email_share=_share(sampled_texts, _EMAIL),
            hash_share=_share(sampled_texts, _HASH),
            is_time=is_time,
            is_plausible_time=plausible,
            is_row_number=kind == "integer" and _counts_rows(column),
            examples=tuple(texts[:3]),
        )


def _kind_of(column: pa.Array) -> str:
    type_ = column.type
    if column.null_count == len(column):
        return "empty"
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_nested(type_):
        return "nested"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "time"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        numbers = column.drop_null().to_numpy()
        return "integer" if bool((numbers == np.floor(numbers)).all()) else "decimal"
    return "text"


def _read_time(column: pa.Array, kind: str) -> tuple[bool, bool]:
    """Return whether values are times of our days, and whether they may be times at all."""
    if kind == "text":
        is_time = detect_time_formats(column) is not None
        return is_time, is_time
    if kind == "time":
        return True, True
    if kind not in ("integer", "decimal"):
        return False, False
    median = pc.quantile(column, 0.5)[0].as_py() or 0
    seconds = median / (1 if median < 1e11 else 1e3 if median < 1e14 else 1e6)
    low, high = _PLAUSIBLE_S
    return low <= seconds <= high, median > _EPOCH_S_MIN


def _to_numbers(column: pa.Array) -> np.ndarray:
    if pa.types.is_string(column.type):
        formats = detect_time_formats(column)
        if formats is None:
            return np.full(len(column), np.nan)
        if formats.formats[0]:
            parsed = parse_times(column, formats.formats[0], "UTC")
            return parsed.cast(pa.float64()).to_numpy(zero_copy_only=False)
        read = [parse_iso_time(text, UTC) for text in column.to_pylist()]
        return np.array([np.nan if time is None else time.timestamp() * 1e6 for time in read])
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    # Not every integer is a float exactly, which a cast of Arrow refuses.
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _share(texts: list[str], pattern: re.Pattern[str]) -> float:
    return sum(pattern.fullmatch(text) is not None for text in texts) / max(len(texts), 1)


def _counts_rows(column: pa.Array) -> bool:
    first = column.slice(0, 1_000)
    if first.null_count or len(first) < 3:
        return False
    return bool((np.diff(first.to_numpy(zero_copy_only=False)) == 1).all())
