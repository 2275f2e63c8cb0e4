"""Conversions of JSON values, texts and times, one by one."""

import math
import re
import struct
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any

from tailorbird.events.clock import HOUR
from tailorbird.events.keys import hash64
from tailorbird.features.declare.fields import INTEGER_FIELDS
from tailorbird.features.declare.limits import WORDS_MAX
from tailorbird.features.request import ReadRequest


def text_of(value: object) -> str | None:
    """Return a profile's value as a category; a list's first element; else None."""
    if isinstance(value, list):
        return text_of(value[0]) if value else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return value if isinstance(value, str) else None


def number_of(value: object) -> float:
    """Return a profile's value as a number; the first element of a list; 1 or 0 for a truth.

    Other values, including a text of digits, are NaN.
    """
    if isinstance(value, list):
        return number_of(value[0]) if value else math.nan
    return float(value) if isinstance(value, int | float) and abs(value) <= 1.7e308 else math.nan


def element_of(value: object, element: int) -> object:
    """Return the element of a list, counted from 1; a scalar is its own first element."""
    if not isinstance(value, list):
        return value if element == 1 else None
    return value[element - 1] if len(value) >= element else None


def words_of(value: object) -> list[str]:
    """Return the first distinct words of a text, or of a list of texts: case-folded letters and
    digits.
    """
    texts = [
        text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
    ]
    words = _WORD_PATTERN.findall(unicodedata.normalize("NFKC", " ".join(texts)).casefold())
    return list(dict.fromkeys(words))[:WORDS_MAX]


def time_of(value: object) -> float:
    """Return a profile's value as a time in microseconds; NaN if it is none.

    A text is ISO 8601, UTC unless it says otherwise. A number is in seconds below 1e11, in
    milliseconds below 1e14, else in microseconds.
    """
    if isinstance(value, str):
        try:
            parsed_time = datetime.fromisoformat(value)
            return float(
                ((parsed_time if parsed_time.tzinfo else parsed_time.replace(tzinfo=UTC)) - _EPOCH)
                // timedelta(microseconds=1)
            )
        except (ValueError, OverflowError):
            return math.nan
    number = math.nan if isinstance(value, bool) else number_of(value)
    scale = 1e6 if abs(number) < 1e11 else 1e3 if abs(number) < 1e14 else 1.0
    return number * scale if abs(number) < 1e17 else math.nan


_WORD_PATTERN = re.compile(r"[^\W_]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def query_text(text: str | None) -> str | None:
    """Return a query normalised for entities: NFKC, case folded, single spaces; None if empty."""
    return (
        None
        if text is None
        else " ".join(unicodedata.normalize("NFKC", text).casefold().split()) or None
    )


def local_weekday(ts: int, local_hour: int | None) -> int:
    """Return 0 (Monday) to 6 where it is `local_hour`, at most 12 hours behind UTC or 11 ahead.

    The weekday is that of UTC where the hour is unknown.
    """
    hours = ts // HOUR  # Hour 0 is on a Thursday.
    utc_offset = 0 if local_hour is None else (local_hour - hours + 12) % 24 - 12
    return ((hours + utc_offset) // 24 + 3) % 7


def request_text(request: ReadRequest, name: str, t: int) -> str | None:
    """Return a request's value, read at t, of an entity's field, except items and profiles."""
    if name == "query":
        return query_text(request.query)
    if name in INTEGER_FIELDS:
        number = (
            local_weekday(t, request.local_hour) if name == "weekday" else getattr(request, name)
        )
        return None if number is None else str(number)
    return getattr(request, {"user": "person", "session": "session_id"}.get(name, name))


def float32(number: Any) -> float:
    """Round to the nearest float32; a number that is too large is infinite."""
    try:
        return struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)


def category_hash(text: str | None) -> int:
    return 0 if text is None else hash64(text)
