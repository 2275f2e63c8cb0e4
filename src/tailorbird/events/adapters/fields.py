"""Typed access to the fields of a foreign record.

Each function returns a value of the type that the wire format has, or raises with what is wrong.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from tailorbird.events.adapters.record import Record, UnreadableError
from tailorbird.events.contract.envelope import (
    COUNTRY_PATTERN,
    TEXT_BOUNDS,
    UTC_OFFSET_BOUNDS,
    Context,
)
from tailorbird.events.contract.plan import SERVER_TYPES, SHARED_TYPES
from tailorbird.events.contract.rules import format_value

_MICROS_MAX = 10**16  # in the year 2286
_UNIT_US = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
_ABSENT = (None, "")
_RESERVED_TYPES = frozenset((*SHARED_TYPES, "identify", *SERVER_TYPES))
_EXPONENT_CODE = re.compile(
    r"\d+[eE]\d+"
)  # as article numbers and postcodes are; programs write exponents with a point or a sign


def as_record(value: Any, path: str = "$") -> Record:
    """Return the value as a record; raise if it is not an object."""
    if not isinstance(value, dict):
        raise UnreadableError("wrong_type", path, f"expected an object, got {format_value(value)}")
    return value


def get_record(record: Mapping[str, Any], name: str, path: str = "$") -> Record:
    """Return the object in a field, or an empty one."""
    value = record.get(name)
    return {} if value in _ABSENT else as_record(value, f"{path}.{name}")


def get_records(record: Mapping[str, Any], name: str, path: str = "$") -> list[Record]:
    """Return the list of objects in a field, or an empty list."""
    value = record.get(name)
    if value in _ABSENT:
        return []
    if not isinstance(value, list):
        raise UnreadableError(
            "wrong_type", f"{path}.{name}", f"expected a list, got {format_value(value)}"
        )
    return [as_record(element, f"{path}.{name}[{index}]") for index, element in enumerate(value)]


def get_text(record: Mapping[str, Any], name: str, path: str = "$") -> str | None:
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


def require_text(record: Mapping[str, Any], *names: str, path: str = "$") -> str:
    """Return the text of the first of these fields that has any."""
    for name in names:
        value = get_text(record, name, path)
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
    if _EXPONENT_CODE.fullmatch(text):
        return text
    number = parse_number(text)
    return (
        number
        if isinstance(number, int | float) and (str(number) == text or isinstance(number, float))
        else text
    )


def parse_epoch_time(value: Any, path: str, unit: str) -> int:
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
    micros = int(number * _UNIT_US[unit])
    if abs(micros) > _MICROS_MAX:
        raise UnreadableError(
            "bad_time",
            path,
            f"expected {unit} since 1970, got {format_value(value)}: is it in a smaller unit?",
        )
    return micros


def parse_time_text(value: Any, path: str) -> int:
    """Convert a date and time to microseconds; UTC if it names no zone."""
    if not isinstance(value, str):
        raise UnreadableError(
            "bad_time",
            path,
            f"expected a time such as 2026-11-25T12:00:00Z, got {format_value(value)}",
        )
    try:
        parsed_time = datetime.fromisoformat(value.strip())
        parsed_time = parsed_time if parsed_time.tzinfo else parsed_time.replace(tzinfo=UTC)
        elapsed = parsed_time - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UnreadableError(
            "bad_time",
            path,
            f"expected a time such as 2026-11-25T12:00:00Z, got {format_value(value)}",
        ) from None
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def build_context(
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
        device=_truncate(device),
        country=country if isinstance(country, str) and COUNTRY_PATTERN.holds(country) else None,
        page=_truncate(page),
        referrer=_truncate(referrer),
        user_agent=_truncate(user_agent),
        utc_offset_min=utc_offset_min
        if utc_offset_min is not None and UTC_OFFSET_BOUNDS.holds(utc_offset_min)
        else None,
    )
    return None if context == Context() else context


def _truncate(value: Any) -> str | None:
    return value[: TEXT_BOUNDS.high] if isinstance(value, str) and value else None


def nonempty_fields(values: Mapping[str, Any], *, excluded: Iterable[str] = ()) -> dict[str, Any]:
    """Return the fields that are not empty, except the excluded."""
    excluded_names = frozenset(excluded)
    return {
        name: value
        for name, value in values.items()
        if name not in excluded_names and value is not None and value != ""
    }


def safe_event_type(name: str) -> str:
    """Return an event type for a foreign name that a visitor may have chosen.

    Such a name must not change an item profile or merge two users. A reserved name becomes
    `NAME_event`, which is a type only where it is declared.
    """
    return f"{name}_event" if name.lower() in _RESERVED_TYPES else name


def to_slug(name: str) -> str:
    """Convert a name to an event type: `Video Played` becomes `video_played`."""
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return "_".join(words) or "unnamed"
