"""Checks of an event's properties: size, depth and numbers."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tailorbird.events.contract.codes import ContractViolation
from tailorbird.events.contract.envelope import NUMBERS, PROPERTIES, TEXTS
from tailorbird.events.contract.rules import format_value

DEPTH_MAX = 32

FLOAT_DIGITS_MAX = 308  # digits of the first integer beyond float range; shorter input has none
INTEGER_BOUND = 1 << 1023
NESTED = frozenset((dict, list))
# Re-encoding grows a value by less than this factor: 1e15 becomes 1000000000000000.0.
GROWTH_MAX = 8


def check_properties(properties: dict[str, Any] | None, size: int) -> None:
    """Check the properties of an event whose encoding took `size` bytes."""
    if not properties:
        return
    for name in TEXTS:
        value = properties.get(name)
        if value is not None and type(value) is not str:
            raise _wrong_type(name, "text", value)
    for name, bounds in NUMBERS.items():
        value = properties.get(name)
        if value is None:
            continue
        if type(value) is not int and type(value) is not float:
            raise _wrong_type(name, "a number", value)
        if not bounds.low <= value <= bounds.high:
            raise bounds.violation(value, f"$.properties.{name}")
    if (
        not NESTED.isdisjoint(map(type, properties.values()))
        and (path := find_too_deep(properties)) is not None
    ):
        raise ContractViolation("too_large", path, f"nested more than {DEPTH_MAX} levels deep")
    if size > FLOAT_DIGITS_MAX and (path := find_oversized_integer(properties)) is not None:
        raise ContractViolation("number_out_of_range", path, "expected a number below 1e308")
    if size * GROWTH_MAX > PROPERTIES.high:
        encoded = msgspec.json.encode(properties)
        if not PROPERTIES.holds(encoded):
            raise PROPERTIES.violation(encoded, "$.properties")


def _wrong_type(name: str, expected: str, value: object) -> ContractViolation:
    return ContractViolation(
        "wrong_type", f"$.properties.{name}", f"expected {expected}, got {format_value(value)}"
    )


def find_too_deep(properties: dict) -> str | None:
    """Return the path at which properties are nested too deeply, or None."""
    return next((path for path, depth in _depths(properties) if depth > DEPTH_MAX), None)


def find_oversized_integer(properties: dict) -> str | None:
    """Return the path of an integer that no float can represent, or None.

    Consumers that read event numbers as floats could not continue past it.
    """
    stack = [(f"$.properties.{name}", value) for name, value in properties.items()]
    while stack:
        path, value = stack.pop()
        if type(value) is int and not -INTEGER_BOUND < value < INTEGER_BOUND:
            return path
        if isinstance(value, dict | list):
            stack.extend(
                (path, inner) for inner in (value.values() if isinstance(value, dict) else value)
            )
    return None


def _depths(properties: dict) -> Iterator[tuple[str, int]]:
    """Yield the path and depth of each nested container below `properties`.

    Most events have none, so this is cheap.
    """
    stack = [
        (f"$.properties.{name}", value, 1)
        for name, value in properties.items()
        if isinstance(value, dict | list)
    ]
    while stack:
        path, value, depth = stack.pop()
        yield path, depth
        if depth > DEPTH_MAX:
            continue
        children = value.values() if isinstance(value, dict) else value
        stack.extend(
            (path, inner, depth + 1) for inner in children if isinstance(inner, dict | list)
        )
