"""Reading the fields of a foreign record: each function gives a value of the type that the wire
format has, or says what is wrong.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from tailorbird.events.adapters.record import Record, UnreadableError
from tailorbird.events.contract import TEXT_LENGTH_MAX, show
from tailorbird.events.envelope import Context
from tailorbird.events.plan import SHARED_TYPES

_MICROS_MAX = 10**16  # in the year 2286
_UNITS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
_ABSENT = (None, "")
_RESERVED_TYPES = frozenset((*SHARED_TYPES, "identify", "answer"))
_CODE = re.compile(
    r"\d+[eE]\d+"
)  # as article numbers and postcodes are; programs write exponents with a point or a sign


def as_record(value: Any, path: str = "$") -> Record:
    """An object."""
    if not isinstance(value, dict):
        raise UnreadableError("wrong_type", path, f"expected an object, got {show(value)}")
    return value


def record_at(record: Mapping[str, Any], name: str, path: str = "$") -> Record:
    """The object in a field; an empty one where there is none."""
    value = record.get(name)
    return {} if value in _ABSENT else as_record(value, f"{path}.{name}")


def records_at(record: Mapping[str, Any], name: str, path: str = "$") -> list[Record]:
    """The list of objects in a field; an empty one where there is none."""
    value = record.get(name)
    if value in _ABSENT:
        return []
    if not isinstance(value, list):
        raise UnreadableError("wrong_type", f"{path}.{name}", f"expected a list, got {show(value)}")
    return [as_record(each, f"{path}.{name}[{index}]") for index, each in enumerate(value)]


def text_at(record: Mapping[str, Any], name: str, path: str = "$") -> str | None:
    """The text in a field, a whole number as its digits; None where there is none."""
    value = record.get(name)
    if value in _ABSENT:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float) and isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UnreadableError("wrong_type", f"{path}.{name}", f"expected text, got {show(value)}")


def needed_text(record: Mapping[str, Any], *names: str, path: str = "$") -> str:
    """The text in the first of these fields that has any."""
    for name in names:
        value = text_at(record, name, path)
        if value is not None:
            return value
    raise UnreadableError("missing", f"{path}.{names[0]}", f"expected {' or '.join(names)}")


def number_of(value: Any) -> Any:
    """A number that was written as text, as one; anything else as it is, for the contract to judge."""
    if not isinstance(value, str):
        return value
    for convert in (int, float):
        try:
            number = convert(value)
        except ValueError:
            continue
        return number if "_" not in value and isfinite(number) else value
    return value


def typed(text: str) -> Any:
    """What stands in a CSV field without a type: a number, unless digits would be lost, or text.
    `12E4` is a code, `1e-05` a number.
    """
    if _CODE.fullmatch(text):
        return text
    number = number_of(text)
    return (
        number
        if isinstance(number, int | float) and (str(number) == text or isinstance(number, float))
        else text
    )


def time_since_1970(value: Any, path: str, unit: str) -> int:
    """Microseconds from a number, or a number as text, in `seconds`, `milliseconds` or
    `microseconds` since 1970.
    """
    number = number_of(value)
    if (
        isinstance(number, bool)
        or not isinstance(number, int | float)
        or not isfinite(number)
        or abs(number) > 1e18
    ):
        raise UnreadableError("bad_time", path, f"expected {unit} since 1970, got {show(value)}")
    micros = int(number * _UNITS[unit])
    if abs(micros) > _MICROS_MAX:
        raise UnreadableError(
            "bad_time",
            path,
            f"expected {unit} since 1970, got {show(value)}: is it in a smaller unit?",
        )
    return micros


def time_of_text(value: Any, path: str) -> int:
    """Microseconds from a date and time; one that names no zone is in UTC."""
    if not isinstance(value, str):
        raise UnreadableError(
            "bad_time", path, f"expected a time such as 2026-11-25T12:00:00Z, got {show(value)}"
        )
    try:
        moment = datetime.fromisoformat(value.strip())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UnreadableError(
            "bad_time", path, f"expected a time such as 2026-11-25T12:00:00Z, got {show(value)}"
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
    """A context of what is usable: a country in two letters, texts cut to what the contract takes,
    an offset of this world.
    """
    context = Context(
        device=_cut(device),
        country=country
        if isinstance(country, str)
        and len(country) == 2
        and country.isascii()
        and country.isalpha()
        else None,
        page=_cut(page),
        referrer=_cut(referrer),
        user_agent=_cut(user_agent),
        utc_offset_min=utc_offset_min
        if utc_offset_min is not None and abs(utc_offset_min) <= 14 * 60
        else None,
    )
    return None if context == Context() else context


def _cut(value: Any) -> str | None:
    return value[:TEXT_LENGTH_MAX] if isinstance(value, str) and value else None


def kept(values: Mapping[str, Any], without: Iterable[str] = ()) -> dict[str, Any]:
    """The fields that say something, but for those that stand elsewhere."""
    left_out = frozenset(without)
    return {
        name: value
        for name, value in values.items()
        if name not in left_out and value is not None and value != ""
    }


def done_type(name: str) -> str:
    """The type of something that somebody did, by the name that another system has for it.

    Whoever may name an event as they like, as visitors of a page may, must not change an item's
    profile by it, or merge two users: such a name gets another, `item_event`, which is a type only
    where it is declared.
    """
    return f"{name}_event" if name.lower() in _RESERVED_TYPES else name


def slug(name: str) -> str:
    """A name as a type of events is written: `Video Played` is `video_played`."""
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return "_".join(words) or "unnamed"
