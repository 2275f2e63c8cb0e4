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

_DATES = (
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
_TIMES = ("", "%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M %p", "%H%M%S")
_SEPARATORS = (" ", "T", ", ", ":", "")
_ZONES = ("", " %z", "%z", " UTC", " GMT", "Z")
_TIME_LIKE = re.compile(r"\d.*[-/.:, ].*\d")
_FIT_SHARE_MIN = 0.98  # minimum share of values that a format must fit
_UTC_NAMES = (" UTC", " GMT", " Z")


@dataclass(frozen=True)
class TimeForms:
    """The formats that a column of times may have.

    Attributes:
        forms: formats of `strptime`; "" is ISO 8601. Several where day and month are ambiguous.
        example: a value that reads differently by each of them.
    """

    forms: tuple[str, ...]
    example: str = ""


def detect_time_forms(column: pa.Array) -> TimeForms | None:
    """Return the formats that the values of a text column fit, or None if they are no times.

    Among formats that differ only in day and month, the one by which the rows are in time order is
    taken, if there is exactly one.
    """
    texts = column.drop_null()
    if not len(texts) or not _TIME_LIKE.search(first_text := texts[0].as_py()):
        return None
    if (
        _share(
            [parse_iso_time(text, UTC) is not None for text in texts.slice(0, 1_000).to_pylist()]
        )
        >= _FIT_SHARE_MIN
    ):
        return TimeForms(("",))
    fitting = _find_formats(first_text)
    parsed = {form: parse_times(texts, form, "UTC") for form in fitting}
    parsed = {
        form: times
        for form, times in parsed.items()
        if 1 - times.null_count / len(times) >= _FIT_SHARE_MIN
    }
    if not parsed:
        return None
    distinct: dict[str, pa.Array] = {}
    for form, times in parsed.items():
        if not any(times.equals(other) for other in distinct.values()):
            distinct[form] = times
    if len(distinct) > 1:
        in_order = [form for form, times in distinct.items() if _is_ordered(times)]
        distinct = {in_order[0]: distinct[in_order[0]]} if len(in_order) == 1 else distinct
    return TimeForms(tuple(distinct), _find_difference(texts, list(distinct.values())))


def parse_times(column: pa.Array, form: str, zone: str) -> pa.Array:
    """Parse texts to microseconds since 1970, null where a text does not have the format.

    Args:
        form: for `strptime`.
        zone: of times that name none.
    """
    with _connect() as connection:
        connection.register("texts", pa.table({"text": column.cast(pa.string())}))
        query = f"SELECT try_strptime(trim(text), {_quote_literal(form)}) AS t FROM texts"
        times = connection.sql(query).to_arrow_table()["t"].combine_chunks()
    if times.type.tz is None and zone != "UTC":
        times = pc.assume_timezone(times, zone, ambiguous="earliest", nonexistent="earliest")
    return times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64())


@lru_cache(64)  # There are thousands of formats, and columns repeat.
def _find_formats(text: str) -> list[str]:
    """Return the formats that one value fits."""
    candidates = _candidate_formats()
    format_tests = ", ".join(
        f"try_strptime(trim(text), {_quote_literal(form)}) IS NOT NULL" for form in candidates
    )
    with _connect() as connection:
        row = connection.execute(
            f"SELECT {format_tests} FROM (SELECT ? AS text)", [text]
        ).fetchone()
    return [form for form, fits in zip(candidates, row or (), strict=False) if fits]


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
            text, zone = text.removesuffix(name), UTC
            break
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _candidate_formats() -> list[str]:
    date_formats = list(_DATES)
    time_formats = [
        date + between + time + zone
        for date, between, time, zone in product(_DATES, _SEPARATORS, _TIMES[1:], _ZONES)
    ]
    return [*date_formats, *time_formats]


def _share(fits: list[bool]) -> float:
    return sum(fits) / len(fits)


def _is_ordered(times: pa.Array) -> bool:
    present = times.drop_null()
    steps = pc.subtract(present.slice(1), present.slice(0, max(len(present) - 1, 0)))
    return bool(
        pc.all(pc.greater_equal(steps, 0)).as_py() or pc.all(pc.less_equal(steps, 0)).as_py()
    )


def _find_difference(texts: pa.Array, parsed: list[pa.Array]) -> str:
    if len(parsed) < 2:
        return ""
    differs = pc.fill_null(pc.not_equal(parsed[0], parsed[1]), True)
    return texts.filter(differs)[0].as_py()
