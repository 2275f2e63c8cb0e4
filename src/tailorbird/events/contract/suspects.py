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
    NUMBER_BOUNDS,
    PROPERTIES_BOUNDS,
    PROPERTY_COLUMNS,
    Context,
)
from tailorbird.events.contract.event_types import required_fields_of
from tailorbird.events.contract.fields import Pattern, annotations_of
from tailorbird.events.contract.plan import PROFILE_TYPES, RoutePlan
from tailorbird.events.contract.properties import (
    FLOAT_DIGITS_MAX,
    GROWTH_MAX,
    INTEGER_BOUND,
    NESTED_TYPES,
    check_properties,
)
from tailorbird.events.contract.rules import all_satisfy, find_violation

_NEWLINE_ANONYMOUS = f"\n{ANONYMOUS_PREFIX}"
_PATTERNS = annotations_of(Context, Pattern)

_encode = msgspec.json.encode


def find_suspect_rows(fields: EventColumns, plan: RoutePlan, body_bytes_max: int) -> set[int]:
    """Return the rows that the column tests do not clear, times aside.

    No body of theirs is longer than `body_bytes_max`.
    """
    suspects: set[int] = set()
    if fields.type:
        types = set(fields.type)
        suspects.update(
            _find_missing_fields(fields, types),
            _find_bad_subjects(fields, types),
            _find_bad_responses(fields, types),
        )
        suspects.update(
            _find_bad_contexts(fields.context),
            _find_bad_properties(fields.properties, body_bytes_max),
        )
        for type_ in types & plan.rules.keys():
            suspects.update(_find_rule_violations(fields, type_, plan))
    return suspects


def _find_missing_fields(fields: EventColumns, types: set[str]) -> Iterable[int]:
    # Pairs: fields of which one is needed, and an event type that needs it.
    needs = {(need.fields, type_) for type_ in types for need in required_fields_of(type_)}
    for names in {names for names, _ in needs}:
        columns = [getattr(fields, name) for name in names]
        all_null = (None,) * len(names)
        if None in columns[0] and all_null in zip(*columns, strict=True):
            yield from (
                row
                for row, values in enumerate(zip(*columns, strict=True))
                if values == all_null and (names, fields.type[row]) in needs
            )


def _find_bad_subjects(fields: EventColumns, types: set[str]) -> Iterable[int]:
    user_ids = fields.user_id
    if "merge" in types:  # Merges are rare, and name their target among the properties.
        yield from (row for row, type_ in enumerate(fields.type) if type_ == "merge")
    known_user_ids: Any = (
        [user for user in user_ids if user is not None] if None in user_ids else user_ids
    )
    if _NEWLINE_ANONYMOUS in "\n" + "\n".join(
        known_user_ids
    ):  # One search over all ids is cheaper than a test per id.
        yield from (
            row for row, user in enumerate(user_ids) if user and user.startswith(ANONYMOUS_PREFIX)
        )
    if True in fields.timeless:
        yield from (
            row
            for row, timeless in enumerate(fields.timeless)
            if timeless and fields.type[row] not in PROFILE_TYPES
        )


def _find_bad_responses(fields: EventColumns, types: set[str]) -> Iterable[int]:
    if "answer" not in types:
        return
    for row, (type_, response, items) in enumerate(
        zip(fields.type, fields.answer, fields.items, strict=True)
    ):
        propensities = () if type_ != "answer" or response is None else response.propensities
        if propensities and not (
            len(propensities) == len(items or ())
            and 0.0 < min(propensities) <= max(propensities) <= 1.0
        ):
            yield row


def _find_bad_contexts(contexts: Sequence[Any]) -> Iterable[int]:
    for name, pattern in _PATTERNS.items():
        get_value = attrgetter(name)
        values = set(map(get_value, filter(None, contexts))) - {None}
        bad_values = {value for value in values if not pattern.holds(value)}
        if bad_values:
            yield from (
                row
                for row, context in enumerate(contexts)
                if context is not None and get_value(context) in bad_values
            )


def _find_bad_properties(
    properties_column: Sequence[dict[str, Any] | None], body_bytes_max: int
) -> Iterable[int]:
    nonempty_properties = [properties for properties in properties_column if properties]
    if not nonempty_properties:
        return
    names = set(chain.from_iterable(nonempty_properties))
    types = set(map(type, chain.from_iterable(map(dict.values, nonempty_properties))))
    # Nested values are looked at first, since they may be too deep to encode.
    needs_row_check = not types.isdisjoint(NESTED_TYPES) or (
        body_bytes_max * GROWTH_MAX > PROPERTIES_BOUNDS.high
        and len(_encode(nonempty_properties)) > PROPERTIES_BOUNDS.high
    )
    if body_bytes_max > FLOAT_DIGITS_MAX and int in types:
        integers = [
            value
            for value in chain.from_iterable(map(dict.values, nonempty_properties))
            if type(value) is int
        ]
        needs_row_check = (
            needs_row_check or not -INTEGER_BOUND < min(integers) <= max(integers) < INTEGER_BOUND
        )
    for name in names.intersection(PROPERTY_COLUMNS):
        values = [
            value
            for properties in nonempty_properties
            if (value := properties.get(name)) is not None
        ]
        needs_row_check = needs_row_check or (
            bool(values) and not _satisfy_column_type(name, values)
        )
    if needs_row_check:
        yield from (
            row
            for row, properties in enumerate(properties_column)
            if properties and _violates_contract(properties)
        )


def _satisfy_column_type(name: str, values: Sequence[Any]) -> bool:
    types = set(map(type, values))
    if (bounds := NUMBER_BOUNDS.get(name)) is None:
        return types == {str}
    return types <= {int, float} and bounds.low <= min(values) and max(values) <= bounds.high


def _violates_contract(properties: dict[str, Any]) -> bool:
    try:
        check_properties(properties, PROPERTIES_BOUNDS.high)
    except ContractViolation:
        return True
    return False


def _find_rule_violations(fields: EventColumns, type_: str, plan: RoutePlan) -> Iterable[int]:
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
