"""Property rules that a project declares for its events, as plain data, and their validation.

Pure, and identical in collector and router. `events.contract.contract` calls it for types that have
rules.

>>> find_violation((Rule("price", required=True, kind="number", low=0.0),), {"price": "12"})
('wrong_type', '$.properties.price', 'expected a number, got "12"')
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

KINDS = ("number", "integer", "text", "boolean")
_FORMATTED_LENGTH_MAX = 60


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A constraint on one property of one event type.

    Attributes:
        required: an event without it is refused; null counts as absent.
        kind: one of `KINDS`; "" takes any.
        low, high: bounds of a number, inclusive.
        one_of: the only values that it may have.
    """

    name: str
    required: bool = False
    kind: str = ""
    low: float | None = None
    high: float | None = None
    one_of: tuple[str | int | float | bool, ...] = ()


def find_violation(
    rules: Sequence[Rule], properties: Mapping[str, Any] | None
) -> tuple[str, str, str] | None:
    """Return the code, path and message of the first rule that the properties break, or None."""
    values = properties or {}
    for rule in rules:
        value = values.get(rule.name)
        if value is None:
            if rule.required:
                return (
                    "missing",
                    f"$.properties.{rule.name}",
                    f"expected {rule.name}, which this project requires",
                )
        elif not _satisfies(rule, value):
            return _describe_violation(rule, value)
    return None


def all_satisfy(rule: Rule, values: Sequence[Any]) -> bool:
    """Return whether all values of a column satisfy the rule; None is an absent value.

    False may be a false alarm.
    """
    present_values = [value for value in values if value is not None]
    if len(present_values) < len(values) and rule.required:
        return False
    if not present_values:
        return True
    types = set(map(type, present_values))
    if rule.kind and not types <= _TYPES_BY_KIND[rule.kind]:
        return False
    if (rule.low is not None or rule.high is not None) and not (
        types <= _NUMBER_TYPES
        and (rule.low is None or min(present_values) >= rule.low)
        and (rule.high is None or max(present_values) <= rule.high)
    ):
        return False
    return not rule.one_of or (
        types.isdisjoint((dict, list)) and set(present_values) <= set(rule.one_of)
    )


def _satisfies(rule: Rule, value: Any) -> bool:
    type_ = type(value)
    if (
        rule.kind
        and type_ not in _TYPES_BY_KIND[rule.kind]
        and not (rule.kind == "integer" and type_ is float and value.is_integer())
    ):
        return False
    low = rule.low
    high = rule.high
    if (low is not None or high is not None) and (
        type_ not in _NUMBER_TYPES
        or (low is not None and not value >= low)
        or (high is not None and not value <= high)
    ):
        return False
    return not rule.one_of or (type_ is not dict and type_ is not list and value in rule.one_of)


def _describe_violation(rule: Rule, value: Any) -> tuple[str, str, str]:
    """Return the code, path and message of the part of the rule that the value breaks."""
    path = f"$.properties.{rule.name}"
    if not _satisfies(Rule(rule.name, kind=rule.kind), value):
        return (
            "wrong_type",
            path,
            f"expected {_KIND_DESCRIPTIONS[rule.kind]}, got {format_value(value)}",
        )
    if not _satisfies(Rule(rule.name, low=rule.low), value):
        return (
            "number_out_of_range",
            path,
            f"expected at least {rule.low:g}, got {format_value(value)}",
        )
    if not _satisfies(Rule(rule.name, high=rule.high), value):
        return (
            "number_out_of_range",
            path,
            f"expected at most {rule.high:g}, got {format_value(value)}",
        )
    return (
        "not_allowed",
        path,
        f"expected one of {', '.join(map(str, rule.one_of))}, got {format_value(value)}",
    )


_NUMBER_TYPES = frozenset((int, float))
_TYPES_BY_KIND = {
    "number": _NUMBER_TYPES,
    "integer": frozenset((int,)),
    "text": frozenset((str,)),
    "boolean": frozenset((bool,)),
}
_KIND_DESCRIPTIONS = {
    "number": "a number",
    "integer": "a whole number",
    "text": "text",
    "boolean": "true or false",
}


def format_value(value: object) -> str:
    """Format a value for a message: JSON, cut to 60 characters."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError):
        text = repr(value)
    return text if len(text) <= _FORMATTED_LENGTH_MAX else text[: _FORMATTED_LENGTH_MAX - 3] + "…"
