"""Typed access to the fields of a foreign record.

Each function returns a value of the type that the wire format has, or raises with what is wrong.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from tailorbird.events.adapters.record import Record, UnreadableError
from tailorbird.events.contract.envelope import COUNTRY, TEXT, UTC_OFFSET_MIN, Context
from tailorbird.events.contract.plan import SERVER_TYPES, SHARED_TYPES
from tailorbird.events.contract.rules import format_value

_MICROS_MAX = 10**16  # in the year 2286
_UNITS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
_ABSENT = (None, "")
_RESERVED_TYPES = frozenset((*SHARED_TYPES, "identify", *SERVER_TYPES))
_CODE = re.compile(
    r"\d+[eE]\d+"
)  # as article numbers and postcodes are; programs write exponents with a point or a sign


def as_record(value: Any, path: str = "$") -> Record:
    """Return the value as a record; raise if it is not an object."""
    if not isinstance(value, dict):
        raise UnreadableError("wrong_type", path, f"expected an object, got {format_value(value)}")
    return value


def record_at(record: Mapping[str, Any], name: str, path: str = "$") -> Record:
    """Return the object in a field, or an empty one."""
    value = record.get(name)
    return {} if value in _ABSENT else as_record(value, f"{path}.{name}")


def records_at(record: Mapping[str, Any], name: str, path: str = "$") -> list[Record]:
    """Return the list of objects in a field, or an empty list."""
    value = record.get(name)
    if value in _ABSENT:
        return []
    if not isinstance(value, list):
        raise UnreadableError(
            "wrong_type", f"{path}.{name}", f"expected a list, got {format_value(value)}"
        )
    return [as_record(element, f"{path}.{name}[{index}]") for index, element in enumerate(value)]


def text_at(record: Mapping[str, Any], name: str, path: str = "$") -> str | None:
    """Return the text in a field, a whole number as its digits, or None."""
    value = record.get(name)
    if value in _ABSENT:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float) and isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UnreadableError(
        "wrong_type", f"{path}.{name}", f"expected text, got {format_value(value)}"
    )


def required_text(record: Mapping[str, Any], *names: str, path: str = "$") -> str:
    """Return the text of the first of these fields that has any."""
    for name in names:
        value = text_at(record, name, path)
        if value is not None:
            return value
    raise UnreadableError("missing", f"{path}.{names[0]}", f"expected {' or '.join(names)}")


def parse_number(value: Any) -> Any:
    """Parse a number written as text; return anything else unchanged, for the contract to judge."""
    if not isinstance(value, str):
        return value
    for convert in (int, float):
        try:
            number = convert(value)
        except ValueError:
            continue
        return number if "_" not in value and isfinite(number) else value
    return value


def parse_csv_value(text: str) -> Any:
    """Parse an untyped CSV value: a number unless digits would be lost, else text.

    `12E4` is a code, `1e-05` a number.
    """
    if _CODE.fullmatch(text):
        return text
    number = parse_number(text)
    return (
        number
        if isinstance(number, int | float) and (str(number) == text or isinstance(number, float))
        else text
    )


def time_since_1970(value: Any, path: str, unit: str) -> int:
    """Convert a number, or a number as text, in the given unit since 1970 to microseconds.

    `unit` is `seconds`, `milliseconds` or `microseconds`.
    """
    number = parse_number(value)
    if (
        isinstance(number, bool)
        or not isinstance(number, int | float)
        or not isfinite(number)
        or abs(number) > 1e18
    ):
        raise UnreadableError(
            "bad_time", path, f"expected {unit} since 1970, got {format_value(value)}"
        )
    micros = int(number * _UNITS[unit])
    if abs(micros) > _MICROS_MAX:
        raise UnreadableError(
            "bad_time",
            path,
            f"expected {unit} since 1970, got {format_value(value)}: is it in a smaller unit?",
        )
    return micros


def time_of_text(value: Any, path: str) -> int:
    """Convert a date and time to microseconds; UTC if it names no zone."""
    if not isinstance(value, str):
        raise UnreadableError(
            "bad_time",
            path,
            f"expected a time such as 2026-11-25T12:00:00Z, got {format_value(value)}",
        )
    try:
        moment = datetime.fromisoformat(value.strip())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UnreadableError(
            "bad_time",
            path,
            f"expected a time such as 2026-11-25T12:00:00Z, got {format_value(value)}",
        ) from None
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def context_of(
    *,
    device: Any = None,
    country: Any = None,
    page: Any = None,
    referrer: Any = None,
    user_agent: Any = None,
    utc_offset_min: int | None = None,
) -> Context | None:
    """Build a context of the usable values, or None.

    The country needs two letters, texts are cut to the contract's limit, and the offset must be
    plausible.
    """
    context = Context(
        device=_cut(device),
        country=country if isinstance(country, str) and COUNTRY.holds(country) else None,
        page=_cut(page),
        referrer=_cut(referrer),
        user_agent=_cut(user_agent),
        utc_offset_min=utc_offset_min
        if utc_offset_min is not None and UTC_OFFSET_MIN.holds(utc_offset_min)
        else None,
    )
    return None if context == Context() else context


def _cut(value: Any) -> str | None:
    return value[: TEXT.high] if isinstance(value, str) and value else None


def nonempty_fields(values: Mapping[str, Any], without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the fields that are not empty, except those named."""
    left_out = frozenset(without)
    return {
        name: value
        for name, value in values.items()
        if name not in left_out and value is not None and value != ""
    }


def safe_event_type(name: str) -> str:
    """Return an event type for a foreign name that a visitor may have chosen.

    Such a name must not change an item profile or merge two users. A reserved name becomes
    `NAME_event`, which is a type only where it is declared.
    """
    return f"{name}_event" if name.lower() in _RESERVED_TYPES else name


def slug(name: str) -> str:
    """Convert a name to an event type: `Video Played` becomes `video_played`."""
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return "_".join(words) or "unnamed"
