"""What is known of profiles and of the request itself, and columns made of others.

What is counted over windows is in `features.vocabulary`; single events are in
`features.vocabulary_last`.
"""

from tailorbird.features.checks import check_attribute, register, check_name, declaration_error
from tailorbird.features.declare import (
    CONTEXT_FIELDS,
    ELEMENTS_MAX,
    Age,
    Attribute,
    ContextField,
    ContextValue,
    Derived,
    Entity,
    Kind,
    Match,
    TimeSinceFirst,
)


def attribute(
    name: str, entity: Entity, attribute: str, *, kind: Kind, element: int | None = None
) -> Attribute:
    """An attribute of the newest profile of the user or the item; of a list, its first element.

    Args:
        kind: numeric or categorical.
        element: of a list, another one, from 1; missing where there are not as many.
    """
    if element is not None and (not isinstance(element, int) or not 1 <= element <= ELEMENTS_MAX):
        raise declaration_error(f"element: expected 1 to {ELEMENTS_MAX}, got {element!r}")
    return _element(name, entity, attribute, kind, element or 0)


def attributes(
    name: str, entity: Entity, attribute: str, *, kind: Kind, length: int
) -> tuple[Attribute, ...]:
    """The elements of a list, a column each: `attributes("tag", item, "tags", kind="categorical",
    length=4)` declares tag_1 to tag_4.

    A vector is `attributes("embedding", item, "embedding", kind="numeric", length=16)`.
    """
    if not isinstance(length, int) or not 1 <= length <= ELEMENTS_MAX:
        raise declaration_error(f"length: expected 1 to {ELEMENTS_MAX}, got {length!r}")
    return tuple(
        _element(f"{name}_{place}", entity, attribute, kind, place)
        for place in range(1, length + 1)
    )


def match(name: str, entity: Entity, attribute: str) -> Match:
    """The part of the words of the request's query that are in a text of the item:
    `match("title_match", item, "title")`.

    Words are runs of letters and digits, without regard to case; the first 16 different ones of
    both are looked at. Of a list of texts, all of them. Missing without a query, or where the item
    has no such text.
    """
    base = _of_profile(name, entity)
    return register(
        Match(
            *base,
            f"part of the query's words in {attribute} of the {entity.name}",
            entity,
            check_attribute(attribute),
        )
    )


def age(name: str, entity: Entity, *, of: str | None = None) -> Age | TimeSinceFirst:
    """How many seconds old the user or the item is: since the first profile that had a time, at
    most 400 days.

    Args:
        of: since the time that this attribute of the newest profile says, negative where it is to
            come: ISO 8601 (UTC unless it says otherwise), or a number of seconds, milliseconds or
            microseconds since 1970, told apart by its size.
    """
    base = _of_profile(name, entity)
    if of is None:
        text = f"seconds since the first profile of the {entity.name}"
        return register(TimeSinceFirst(*base, text, entity, entity.fields, None))
    return register(
        Age(*base, f"seconds since {of} of the {entity.name}", entity, check_attribute(of, "of"))
    )


def context(field: ContextField, *, name: str | None = None) -> ContextValue:
    """Something of the request itself: device, country, query (as entities have it), local_hour or
    weekday (0 is Monday).
    """
    base = check_name(name or field)
    if field not in CONTEXT_FIELDS:
        raise declaration_error(f"a request has no {field!r}; expected {', '.join(CONTEXT_FIELDS)}")
    return register(ContextValue(*base, f"{field} of the request", field, CONTEXT_FIELDS[field]))


def derived(name: str, expression: str) -> Derived:
    """A number made of other numeric columns of the same row: `derived("price_to_habit", "price /
    user_price_30d")`.
    """
    base = check_name(name)
    return register(Derived(*base, expression, expression))


def _of_profile(name: str, entity: Entity) -> tuple[str, str]:
    base = check_name(name)
    if not isinstance(entity, Entity) or entity.fields not in (("user",), ("item",)):
        told = entity.name if isinstance(entity, Entity) else repr(entity)
        raise declaration_error(f"only user and item have profiles, got {told}")
    return base


def _element(name: str, entity: Entity, attribute: str, kind: Kind, element: int) -> Attribute:
    base = _of_profile(name, entity)
    if kind not in ("numeric", "categorical"):
        raise declaration_error(f"kind: expected numeric or categorical, got {kind!r}")
    text = f"element {element} of {attribute}" if element else attribute
    return register(
        Attribute(
            *base, f"{text} of the {entity.name}", entity, check_attribute(attribute), kind, element
        )
    )
