"""Checks of an event's properties: size, depth and numbers."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tailorbird.events.contract.codes import ContractViolation
from tailorbird.events.contract.envelope import NUMBER_BOUNDS, PROPERTIES_BOUNDS, TEXT_PROPERTIES
from tailorbird.events.contract.rules import format_value

DEPTH_MAX = 32

FLOAT_DIGITS_MAX = 308  # digits of the first integer beyond float range; shorter input has none
INTEGER_BOUND = 1 << 1023
NESTED_TYPES = frozenset((dict, list))
# Re-encoding grows a value by less than this factor: 1e15 becomes 1000000000000000.0.
GROWTH_MAX = 8


def check_properties(properties: dict[str, Any] | None, encoded_bytes: int) -> None:
    """Check the properties of an event whose encoding took `encoded_bytes` bytes."""
    if not properties:
        return
    for name in TEXT_PROPERTIES:
        value = properties.get(name)
        if value is not None and type(value) is not str:
            raise _wrong_type(name, "text", value)
    for name, bounds in NUMBER_BOUNDS.items():
        value = properties.get(name)
        if value is None:
            continue
        if type(value) is not int and type(value) is not float:
            raise _wrong_type(name, "a number", value)
        if not bounds.low <= value <= bounds.high:
            raise bounds.violation(value, f"$.properties.{name}")
    if (
        not NESTED_TYPES.isdisjoint(map(type, properties.values()))
        and (path := find_too_deep_path(properties)) is not None
    ):
        raise ContractViolation("too_large", path, f"nested more than {DEPTH_MAX} levels deep")
    if (
        encoded_bytes > FLOAT_DIGITS_MAX
        and (path := find_oversized_integer_path(properties)) is not None
    ):
        raise ContractViolation("number_out_of_range", path, "expected a number below 1e308")
    if encoded_bytes * GROWTH_MAX > PROPERTIES_BOUNDS.high:
        encoded = msgspec.json.encode(properties)
        if not PROPERTIES_BOUNDS.holds(encoded):
            raise PROPERTIES_BOUNDS.violation(encoded, "$.properties")


def _wrong_type(name: str, expected: str, value: object) -> ContractViolation:
    return ContractViolation(
        "wrong_type", f"$.properties.{name}", f"expected {expected}, got {format_value(value)}"
    )


def find_too_deep_path(properties: dict) -> str | None:
    """Return the path at which properties are nested too deeply, or None."""
    return next((path for path, depth in _iterate_depths(properties) if depth > DEPTH_MAX), None)


def find_oversized_integer_path(properties: dict) -> str | None:
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
                (path, nested_value)
                for nested_value in (value.values() if isinstance(value, dict) else value)
            )
    return None


def _iterate_depths(properties: dict) -> Iterator[tuple[str, int]]:
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
            (path, nested_value, depth + 1)
            for nested_value in children
            if isinstance(nested_value, dict | list)
        )
