"""Conditions on columns that find the rows to check one by one."""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec

from tailorbird.events.contract.checked_batch import EventColumns
from tailorbird.events.contract.codes import ContractViolation
from tailorbird.events.contract.envelope import (
    ANONYMOUS_PREFIX,
    NUMBERS,
    PROPERTIES,
    PROPERTY_COLUMNS,
    Context,
)
from tailorbird.events.contract.event_types import needs_of
from tailorbird.events.contract.fields import Pattern, annotations_of
from tailorbird.events.contract.plan import PROFILE_TYPES, RoutePlan
from tailorbird.events.contract.properties import (
    FLOAT_DIGITS_MAX,
    GROWTH_MAX,
    INTEGER_BOUND,
    NESTED,
    check_properties,
)
from tailorbird.events.contract.rules import all_satisfy, find_violation

_NEWLINE_ANONYMOUS = f"\n{ANONYMOUS_PREFIX}"
_PATTERNS = annotations_of(Context, Pattern)

_encode = msgspec.json.encode


def suspect_rows(fields: EventColumns, plan: RoutePlan, body_bytes_max: int) -> set[int]:
    """Return the rows that the column tests do not clear, times aside.

    No body of theirs is longer than `body_bytes_max`.
    """
    suspects: set[int] = set()
    if fields.type:
        types = set(fields.type)
        suspects.update(
            _without_needed(fields, types),
            _bad_subjects(fields, types),
            _bad_responses(fields, types),
        )
        suspects.update(
            _bad_contexts(fields.context), _bad_properties(fields.properties, body_bytes_max)
        )
        for type_ in types & plan.rules.keys():
            suspects.update(_rule_breakers(fields, type_, plan))
    return suspects


def _without_needed(fields: EventColumns, types: set[str]) -> Iterable[int]:
    needs = {(need.fields, type_) for type_ in types for need in needs_of(type_)}
    for names in {names for names, _ in needs}:
        columns = [getattr(fields, name) for name in names]
        nothing = (None,) * len(names)
        if None in columns[0] and nothing in zip(*columns, strict=True):
            yield from (
                row
                for row, values in enumerate(zip(*columns, strict=True))
                if values == nothing and (names, fields.type[row]) in needs
            )


def _bad_subjects(fields: EventColumns, types: set[str]) -> Iterable[int]:
    users = fields.user_id
    if "merge" in types:  # Merges are rare, and name their target among the properties.
        yield from (row for row, type_ in enumerate(fields.type) if type_ == "merge")
    names: Any = [user for user in users if user is not None] if None in users else users
    if _NEWLINE_ANONYMOUS in "\n" + "\n".join(
        names
    ):  # One search over all ids is cheaper than a test per id.
        yield from (
            row for row, user in enumerate(users) if user and user.startswith(ANONYMOUS_PREFIX)
        )
    if True in fields.timeless:
        yield from (
            row
            for row, timeless in enumerate(fields.timeless)
            if timeless and fields.type[row] not in PROFILE_TYPES
        )


def _bad_responses(fields: EventColumns, types: set[str]) -> Iterable[int]:
    if "answer" not in types:
        return
    for row, (type_, response, items) in enumerate(
        zip(fields.type, fields.answer, fields.items, strict=True)
    ):
        shares = () if type_ != "answer" or response is None else response.propensities
        if shares and not (
            len(shares) == len(items or ()) and 0.0 < min(shares) <= max(shares) <= 1.0
        ):
            yield row


def _bad_contexts(contexts: Sequence[Any]) -> Iterable[int]:
    for name, pattern in _PATTERNS.items():
        value_of = attrgetter(name)
        values = set(map(value_of, filter(None, contexts))) - {None}
        bad = {value for value in values if not pattern.holds(value)}
        if bad:
            yield from (
                row
                for row, context in enumerate(contexts)
                if context is not None and value_of(context) in bad
            )


def _bad_properties(column: Sequence[dict[str, Any] | None], body_bytes_max: int) -> Iterable[int]:
    nonempty = [properties for properties in column if properties]
    if not nonempty:
        return
    names = set(chain.from_iterable(nonempty))
    types = set(map(type, chain.from_iterable(map(dict.values, nonempty))))
    # Nested values are looked at first, since they may be too deep to encode.
    alarm = not types.isdisjoint(NESTED) or (
        body_bytes_max * GROWTH_MAX > PROPERTIES.high and len(_encode(nonempty)) > PROPERTIES.high
    )
    if body_bytes_max > FLOAT_DIGITS_MAX and int in types:
        integers = [
            value for value in chain.from_iterable(map(dict.values, nonempty)) if type(value) is int
        ]
        alarm = alarm or not -INTEGER_BOUND < min(integers) <= max(integers) < INTEGER_BOUND
    for name in names.intersection(PROPERTY_COLUMNS):
        values = [value for properties in nonempty if (value := properties.get(name)) is not None]
        alarm = alarm or (bool(values) and not _fits(name, values))
    if alarm:
        yield from (
            row for row, properties in enumerate(column) if properties and _is_bad(properties)
        )


def _fits(name: str, values: Sequence[Any]) -> bool:
    types = set(map(type, values))
    if (bounds := NUMBERS.get(name)) is None:
        return types == {str}
    return types <= {int, float} and bounds.low <= min(values) and max(values) <= bounds.high


def _is_bad(properties: dict[str, Any]) -> bool:
    try:
        check_properties(properties, PROPERTIES.high)
    except ContractViolation:
        return True
    return False


def _rule_breakers(fields: EventColumns, type_: str, plan: RoutePlan) -> Iterable[int]:
    rules = plan.rules[type_]
    rows = [row for row, event_type in enumerate(fields.type) if event_type == type_]
    property_rows = [fields.properties[row] or {} for row in rows]
    if not all(
        all_satisfy(rule, [properties.get(rule.name) for properties in property_rows])
        for rule in rules
    ):
        yield from (
            row
            for row, properties in zip(rows, property_rows, strict=True)
            if find_violation(rules, properties) is not None
        )
