"""Features of profiles and of the request itself, and columns derived from others.

Aggregates over windows are in `features.declare.vocabulary`; single events are in
`features.declare.single_events`.
"""

from tailorbird.features.declare.checks import (
    check_attribute,
    check_name,
    declaration_error,
    register_feature,
)
from tailorbird.features.declare.declarations import (
    Age,
    Attribute,
    ContextValue,
    Derived,
    Entity,
    Kind,
    Match,
    TimeSinceFirst,
)
from tailorbird.features.declare.fields import CONTEXT_FIELDS, ContextField
from tailorbird.features.declare.limits import ELEMENTS_MAX


def attribute(
    name: str, entity: Entity, attribute: str, *, kind: Kind, element: int | None = None
) -> Attribute:
    """Return an attribute of the newest profile of the user or the item; of a list, its first
    element.

    Args:
        kind: numeric or categorical.
        element: of a list, another one, from 1; missing where there are not as many.
    """
    if element is not None and (not isinstance(element, int) or not 1 <= element <= ELEMENTS_MAX):
        raise declaration_error(f"element: expected 1 to {ELEMENTS_MAX}, got {element!r}")
    return _declare_element(name, entity, attribute, kind, element or 0)


def attributes(
    name: str, entity: Entity, attribute: str, *, kind: Kind, length: int
) -> tuple[Attribute, ...]:
    """Declare a column for each element of a list.

    `attributes("tag", item, "tags", kind="categorical", length=4)` declares tag_1 to tag_4. A
    vector is `attributes("embedding", item, "embedding", kind="numeric", length=16)`.
    """
    if not isinstance(length, int) or not 1 <= length <= ELEMENTS_MAX:
        raise declaration_error(f"length: expected 1 to {ELEMENTS_MAX}, got {length!r}")
    return tuple(
        _declare_element(f"{name}_{number}", entity, attribute, kind, number)
        for number in range(1, length + 1)
    )


def match(name: str, entity: Entity, attribute: str) -> Match:
    """Return the share of the words of the request's query that occur in a text of the item.

    `match("title_match", item, "title")`. Words are runs of letters and digits, case-insensitive;
    the first 16 distinct ones of both are compared. Of a list of texts, all of them. Missing
    without a query, or where the item has no such text.
    """
    common_fields = _check_profile_entity(name, entity)
    return register_feature(
        Match(
            *common_fields,
            f"part of the query's words in {attribute} of the {entity.name}",
            entity,
            check_attribute(attribute),
        )
    )


def age(name: str, entity: Entity, *, of: str | None = None) -> Age | TimeSinceFirst:
    """Return the age in seconds of the user or item: since its first profile with a time, at most
    400 days.

    Args:
        of: since the time in this attribute of the newest profile instead, negative for a future
            time:
            ISO 8601 (UTC unless it says otherwise), or a number of seconds, milliseconds or
            microseconds since 1970, distinguished by its size.
    """
    common_fields = _check_profile_entity(name, entity)
    if of is None:
        text = f"seconds since the first profile of the {entity.name}"
        return register_feature(TimeSinceFirst(*common_fields, text, entity, entity.fields, None))
    return register_feature(
        Age(
            *common_fields,
            f"seconds since {of} of the {entity.name}",
            entity,
            check_attribute(of, "of"),
        )
    )


def context(field: ContextField, *, name: str | None = None) -> ContextValue:
    """Return the request's device, country, query, local_hour or weekday (0 is Monday)."""
    common_fields = check_name(name or field)
    if field not in CONTEXT_FIELDS:
        raise declaration_error(f"a request has no {field!r}; expected {', '.join(CONTEXT_FIELDS)}")
    return register_feature(
        ContextValue(*common_fields, f"{field} of the request", field, CONTEXT_FIELDS[field])
    )


def derived(name: str, expression: str) -> Derived:
    """Compute a number from other numeric columns of the same row.

    `derived("price_to_habit", "price / user_price_30d")`
    """
    common_fields = check_name(name)
    return register_feature(Derived(*common_fields, expression, expression))


def _check_profile_entity(name: str, entity: Entity) -> tuple[str, str]:
    common_fields = check_name(name)
    if not isinstance(entity, Entity) or entity.fields not in (("user",), ("item",)):
        subject = entity.name if isinstance(entity, Entity) else repr(entity)
        raise declaration_error(f"only user and item have profiles, got {subject}")
    return common_fields


def _declare_element(
    name: str, entity: Entity, attribute: str, kind: Kind, element: int
) -> Attribute:
    common_fields = _check_profile_entity(name, entity)
    if kind not in ("numeric", "categorical"):
        raise declaration_error(f"kind: expected numeric or categorical, got {kind!r}")
    text = f"element {element} of {attribute}" if element else attribute
    return register_feature(
        Attribute(
            *common_fields,
            description=f"{text} of the {entity.name}",
            entity=entity,
            attribute=check_attribute(attribute),
            kind=kind,
            element=element,
        )
    )
