"""Conditions on columns that find the rows to check one by one."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from tailorbird.events.contract import contract
from tailorbird.events.contract.checked_batch import EventColumns
from tailorbird.events.contract.plan import PROFILE_TYPES, RoutePlan
from tailorbird.events.contract.properties import (
    FLOAT_DIGITS_MAX,
    GROWTH_MAX,
    INTEGER_BOUND,
    NESTED,
    NUMBERS,
    PROPERTIES_BYTES_MAX,
    find_oversized_integer,
    find_too_deep,
)
from tailorbird.events.contract.rules import all_satisfy, find_violation

_NEED_ITEM = contract.NEEDS_ITEM | {"item"}
_COLUMNS = frozenset(("query", *NUMBERS))  # properties that the contract itself validates
_NEWLINE_ANONYMOUS = f"\n{contract.ANONYMOUS_PREFIX}"

_encode = msgspec.json.encode


def suspect_rows(fields: EventColumns, plan: RoutePlan, body_bytes_max: int) -> set[int]:
    """Return the rows that the column tests do not clear, times aside.

    No body of theirs is longer than `body_bytes_max`.
    """
    suspects: set[int] = set()
    if fields.type:
        types = set(fields.type)
        suspects.update(
            _without_subject(fields, types),
            _without_item(fields, types),
            _bad_answers(fields, types),
        )
        suspects.update(
            _bad_contexts(fields.context), _bad_properties(fields.properties, body_bytes_max)
        )
        for type_ in types & plan.rules.keys():
            suspects.update(_rule_breakers(fields, type_, plan))
    return suspects


def _without_subject(fields: EventColumns, types: set[str]) -> Iterable[int]:
    users = fields.user_id
    if None in users or "identify" in types:
        for row, (type_, user, visitor) in enumerate(
            zip(fields.type, users, fields.anonymous_id, strict=True)
        ):
            if type_ == "identify":
                clear = user is not None and visitor is not None
            else:
                clear = (
                    user is not None or type_ == "item" or (visitor is not None and type_ != "user")
                )
            if not clear:
                yield row
    if "merge" in types:  # Merges are rare, and name their target among the properties.
        yield from (row for row, type_ in enumerate(fields.type) if type_ == "merge")
    names: Any = [user for user in users if user is not None] if None in users else users
    if _NEWLINE_ANONYMOUS in "\n" + "\n".join(
        names
    ):  # One search over all ids is cheaper than a test per id.
        yield from (
            row
            for row, user in enumerate(users)
            if user and user.startswith(contract.ANONYMOUS_PREFIX)
        )


def _without_item(fields: EventColumns, types: set[str]) -> Iterable[int]:
    if None in fields.item_id and not types.isdisjoint(_NEED_ITEM):
        yield from (
            row
            for row, item in enumerate(fields.item_id)
            if item is None and fields.type[row] in _NEED_ITEM
        )
    if True in fields.timeless:
        yield from (
            row
            for row, timeless in enumerate(fields.timeless)
            if timeless and fields.type[row] not in PROFILE_TYPES
        )


def _bad_answers(fields: EventColumns, types: set[str]) -> Iterable[int]:
    if "answer" not in types:
        return
    for row, (type_, answer, items) in enumerate(
        zip(fields.type, fields.answer, fields.items, strict=True)
    ):
        if type_ == "answer":
            propensities = () if answer is None else answer.propensities
            is_complete = (
                answer is not None and items is not None and fields.request_id[row] is not None
            )
            if not is_complete or (
                propensities
                and not (
                    len(propensities) == len(items or ())
                    and min(propensities) > 0.0
                    and max(propensities) <= 1.0
                )
            ):
                yield row


def _bad_contexts(contexts: Sequence[Any]) -> Iterable[int]:
    countries = {context.country for context in contexts if context is not None}
    bad = {
        country
        for country in countries
        if country is not None and not contract.COUNTRY.match(country)
    }
    if bad:
        yield from (
            row
            for row, context in enumerate(contexts)
            if context is not None and context.country in bad
        )


def _bad_properties(column: Sequence[dict[str, Any] | None], body_bytes_max: int) -> Iterable[int]:
    nonempty = [properties for properties in column if properties]
    if not nonempty:
        return
    names = set(chain.from_iterable(nonempty))
    types = set(map(type, chain.from_iterable(map(dict.values, nonempty))))
    # Nested values are looked at first, since they may be too deep to encode.
    alarm = not types.isdisjoint(NESTED) or (
        body_bytes_max * GROWTH_MAX > PROPERTIES_BYTES_MAX
        and len(_encode(nonempty)) > PROPERTIES_BYTES_MAX
    )
    if body_bytes_max > FLOAT_DIGITS_MAX and int in types:
        integers = [
            value for value in chain.from_iterable(map(dict.values, nonempty)) if type(value) is int
        ]
        alarm = alarm or not -INTEGER_BOUND < min(integers) <= max(integers) < INTEGER_BOUND
    for name in names & _COLUMNS:
        values = [value for properties in nonempty if (value := properties.get(name)) is not None]
        alarm = alarm or (bool(values) and not _fits(name, values))
    if alarm:
        yield from (
            row for row, properties in enumerate(column) if properties and _is_bad(properties)
        )


def _fits(name: str, values: Sequence[Any]) -> bool:
    types = set(map(type, values))
    if name == "query":
        return types == {str}
    low, high = NUMBERS[name]
    return types <= {int, float} and low <= min(values) and max(values) <= high


def _is_bad(properties: dict[str, Any]) -> bool:
    values = ((name, properties.get(name)) for name in _COLUMNS)
    return (
        any(value is not None and not _fits(name, (value,)) for name, value in values)
        or find_too_deep(properties) is not None
        or find_oversized_integer(properties) is not None
        or len(_encode(properties)) > PROPERTIES_BYTES_MAX
    )


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
