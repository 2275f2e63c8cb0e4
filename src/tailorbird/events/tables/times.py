"""Parsing of times in text of any usual format to microseconds since 1970.

ISO 8601 needs no format, nor does a zone after it (`2025-09-01 00:01:25 UTC`, `+02`). Others use
formats of `strptime`, which DuckDB reads.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import InputError

_DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d.%m.%y",
    "%d/%m/%y",
    "%m/%d/%y",
    "%d %b %Y",
    "%b %d, %Y",
    "%d %B %Y",
    "%B %d, %Y",
    "%a, %d %b %Y",
    "%d/%b/%Y",
    "%Y%m%d",
)
_TIME_FORMATS = ("", "%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M %p", "%H%M%S")
_SEPARATORS = (" ", "T", ", ", ":", "")
_ZONE_FORMATS = ("", " %z", "%z", " UTC", " GMT", "Z")
_TIME_LIKE = re.compile(r"\d.*[-/.:, ].*\d")
_FIT_SHARE_MIN = 0.98  # minimum share of values that a format must fit
_UTC_NAMES = (" UTC", " GMT", " Z")


@dataclass(frozen=True)
class TimeFormats:
    """The formats that a column of times may have.

    Attributes:
        formats: formats of `strptime`; "" is ISO 8601. Several where day and month are ambiguous.
        example: a value that reads differently by each of them.
    """

    formats: tuple[str, ...]
    example: str = ""


def detect_time_formats(column: pa.Array) -> TimeFormats | None:
    """Return the formats that the values of a text column fit, or None if they are no times.

    Among formats that differ only in day and month, the one by which the rows are in time order is
    taken, if there is exactly one.
    """
    texts = column.drop_null()
    if not len(texts) or not _TIME_LIKE.search(first_text := texts[0].as_py()):
        return None
    if (
        _share_of_true(
            [parse_iso_time(text, UTC) is not None for text in texts.slice(0, 1_000).to_pylist()]
        )
        >= _FIT_SHARE_MIN
    ):
        return TimeFormats(("",))
    matching_formats = _find_formats(first_text)
    times_by_format = {
        time_format: parse_times(texts, time_format, "UTC") for time_format in matching_formats
    }
    times_by_format = {
        time_format: times
        for time_format, times in times_by_format.items()
        if 1 - times.null_count / len(times) >= _FIT_SHARE_MIN
    }
    if not times_by_format:
        return None
    distinct_times_by_format: dict[str, pa.Array] = {}
    for time_format, times in times_by_format.items():
        if not any(times.equals(other) for other in distinct_times_by_format.values()):
            distinct_times_by_format[time_format] = times
    if len(distinct_times_by_format) > 1:
        ordered_formats = [
            time_format
            for time_format, times in distinct_times_by_format.items()
            if _is_ordered(times)
        ]
        distinct_times_by_format = (
            {ordered_formats[0]: distinct_times_by_format[ordered_formats[0]]}
            if len(ordered_formats) == 1
            else distinct_times_by_format
        )
    return TimeFormats(
        tuple(distinct_times_by_format),
        _find_ambiguous_text(texts, list(distinct_times_by_format.values())),
    )


def parse_times(column: pa.Array, time_format: str, zone: str) -> pa.Array:
    """Parse texts to microseconds since 1970, null where a text does not have the format.

    Args:
        time_format: for `strptime`.
        zone: of times that name none.
    """
    with _connect() as connection:
        connection.register("texts", pa.table({"text": column.cast(pa.string())}))
        query = f"SELECT try_strptime(trim(text), {_quote_literal(time_format)}) AS t FROM texts"
        times = connection.sql(query).to_arrow_table()["t"].combine_chunks()
    if times.type.tz is None and zone != "UTC":
        times = pc.assume_timezone(times, zone, ambiguous="earliest", nonexistent="earliest")
    return times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64())


@lru_cache(64)  # There are thousands of formats, and columns repeat.
def _find_formats(text: str) -> list[str]:
    """Return the formats that one value fits."""
    candidates = _list_candidate_formats()
    format_tests = ", ".join(
        f"try_strptime(trim(text), {_quote_literal(time_format)}) IS NOT NULL"
        for time_format in candidates
    )
    with _connect() as connection:
        fits_by_candidate = connection.execute(
            f"SELECT {format_tests} FROM (SELECT ? AS text)", [text]
        ).fetchone()
    return [
        time_format
        for time_format, fits in zip(candidates, fits_by_candidate or (), strict=False)
        if fits
    ]


def _connect() -> Any:
    try:
        import duckdb
    except ModuleNotFoundError:
        raise InputError(
            "to read times of this form, DuckDB is needed", fix="pip install 'tailorbird[files]'"
        ) from None
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _quote_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def parse_iso_time(text: str | None, zone: tzinfo) -> datetime | None:
    """Parse an ISO time, optionally followed by a name of UTC, or return None.

    `zone` applies to times that name none.
    """
    if text is None:
        return None
    for name in _UTC_NAMES:
        if text.endswith(name):
            text = text.removesuffix(name)
            zone = UTC
            break
    try:
        parsed_time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed_time if parsed_time.tzinfo else parsed_time.replace(tzinfo=zone)


def _list_candidate_formats() -> list[str]:
    date_formats = list(_DATE_FORMATS)
    time_formats = [
        date + separator + time + zone
        for date, separator, time, zone in product(
            _DATE_FORMATS, _SEPARATORS, _TIME_FORMATS[1:], _ZONE_FORMATS
        )
    ]
    return [*date_formats, *time_formats]


def _share_of_true(fits: list[bool]) -> float:
    return sum(fits) / len(fits)


def _is_ordered(times: pa.Array) -> bool:
    known_times = times.drop_null()
    steps = pc.subtract(known_times.slice(1), known_times.slice(0, max(len(known_times) - 1, 0)))
    return bool(
        pc.all(pc.greater_equal(steps, 0)).as_py() or pc.all(pc.less_equal(steps, 0)).as_py()
    )


def _find_ambiguous_text(texts: pa.Array, parsed_columns: list[pa.Array]) -> str:
    """Return a text that the first two formats read differently, or "" for one format."""
    if len(parsed_columns) < 2:
        return ""
    differs = pc.fill_null(pc.not_equal(parsed_columns[0], parsed_columns[1]), True)
    return texts.filter(differs)[0].as_py()
