"""The rest of the vocabulary: the last and the first event, gaps, sequences, sessions, profiles, the request, derived columns.

What is counted over windows is in `features.vocabulary`.
"""

from collections.abc import Sequence

from tailorbird.features.checks import (
    counted,
    counts_what,
    declare,
    expression_of,
    named,
    told_types,
    types_of,
    value_of,
    wrong,
)
from tailorbird.features.declare import (
    CONTEXT_FIELDS,
    FURTHER_MAX,
    GAP_LENGTH,
    SEQUENCE_LENGTH,
    SEQUENCE_LENGTH_MAX,
    SESSION_TYPES,
    Attribute,
    ContextValue,
    Derived,
    Entity,
    First,
    GapMean,
    Last,
    SequenceOf,
    SessionCount,
    SessionMeasure,
    TimeSince,
    TimeSinceFirst,
)


def last(name: str, entity: Entity, type: str | Sequence[str], *, of: str, kind: str | None = None, where: str | None = None) -> Last:
    """The value of the last event that has it. `kind` (numeric or categorical) is asked for where the field can be both."""
    base = counted(name, entity, type)
    expression, told = value_of(of, kind)
    text = f"{of} of the last {told_types(type)} of the {entity.name}"
    return declare(Last(*base, text, entity, *counts_what(type, where), expression, told))


def first(name: str, entity: Entity, type: str | Sequence[str], *, of: str, kind: str | None = None, where: str | None = None) -> First:
    """The value of the first event ever that has it: `first("came_by", user, "view", of="referrer")`. Arguments as for `last`."""
    base = counted(name, entity, type)
    expression, told = value_of(of, kind)
    text = f"{of} of the first {told_types(type)} of the {entity.name}"
    return declare(First(*base, text, entity, *counts_what(type, where), expression, told))


def time_since(name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None) -> TimeSince:
    """Seconds since the last such event; missing without one in the last 400 days."""
    base = counted(name, entity, type)
    return declare(TimeSince(*base, f"seconds since the last {told_types(type)} of the {entity.name}", entity, *counts_what(type, where)))


def time_since_first(name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None) -> TimeSinceFirst:
    """Seconds since the first such event ever, at most 400 days; missing without one."""
    base = counted(name, entity, type)
    text = f"seconds since the first {told_types(type)} of the {entity.name}"
    return declare(TimeSinceFirst(*base, text, entity, *counts_what(type, where)))


def gap_mean(name: str, entity: Entity, type: str | Sequence[str], *, length: int = GAP_LENGTH, where: str | None = None) -> GapMean:
    """Seconds between one such event and the next, on average over the last `length` of them; missing with fewer than two.

    Events of the same time are one: (newest − oldest) / (different times − 1).
    """
    base = counted(name, entity, type)
    if not isinstance(length, int) or not 2 <= length <= SEQUENCE_LENGTH_MAX:
        raise wrong(f"length: expected 2 to {SEQUENCE_LENGTH_MAX}, got {length!r}")
    _of_request("a gap", entity)
    text = f"mean seconds between the last {length} of {told_types(type)} of the {entity.name}"
    return declare(GapMean(*base, text, entity, *counts_what(type, where), length))


def sequence(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = SEQUENCE_LENGTH,
    of: str | Sequence[str] = (),
    where: str | None = None,
) -> SequenceOf:
    """The last events with their items, types and times, oldest first.

    Args:
        of: what to keep of each event besides, texts or numbers: `of=("dwell_ms", "item.category", "number(item.price)")`.
            An attribute is a text unless it stands in `number(…)` or in arithmetic.
    """
    base = counted(name, entity, type)
    if not isinstance(length, int) or not 1 <= length <= SEQUENCE_LENGTH_MAX:
        raise wrong(f"length: expected 1 to {SEQUENCE_LENGTH_MAX}, got {length!r}")
    _of_request("a sequence", entity)
    further = tuple(expression_of(one, "either") for one in ((of,) if isinstance(of, str) else of))
    if len(further) > FURTHER_MAX or len({one.text for one in further}) < len(further):
        raise wrong(f"of: expected at most {FURTHER_MAX} different values, got {', '.join(one.text for one in further)}")
    text = f"the last {length} of {told_types(type)} of the {entity.name}"
    return declare(SequenceOf(*base, text, entity, *counts_what(type, where), length, further))


def session(name: str, type: str) -> SessionCount:
    """How many events of `type` the person's current session has, among the last 64 events of the person.

    The session is the request's `session_id`; without one, the run of events that ends within 30 minutes of now.
    """
    base = named(name)
    types = tuple(sorted({*SESSION_TYPES, *types_of(type)}))
    return declare(SessionCount(*base, f"{type} in the current session", types, type))


def session_length(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """How many events the person's current session has so far: the position of what comes next, less one.

    Args:
        type: only these types; by default all that people do. What a session is says `session`.
    """
    return _of_session(name, type, "length", "events of")


def session_depth(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """How many different items the person's current session has seen so far. Arguments as for `session_length`."""
    return _of_session(name, type, "depth", "different items of")


def session_duration(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """Seconds since the first event of the person's current session; missing without one. Arguments as for `session_length`.

    Dwell so far is `total("dwell", entity("session"), "view", of="dwell_ms", unit=1, window="1d")`.
    """
    return _of_session(name, type, "duration", "seconds since the first of")


def attribute(name: str, entity: Entity, attribute: str, *, kind: str) -> Attribute:
    """An attribute of the newest profile of the user or the item; of a list, its first element."""
    base = named(name)
    if entity.fields not in (("user",), ("item",)):
        raise wrong(f"only user and item have profiles, got {entity.name}")
    if kind not in ("numeric", "categorical"):
        raise wrong(f"kind: expected numeric or categorical, got {kind!r}")
    return declare(Attribute(*base, f"{attribute} of the {entity.name}", entity, attribute, kind))


def context(field: str, *, name: str | None = None) -> ContextValue:
    """Something of the request itself: device, country, query (as entities have it), local_hour or weekday (0 is Monday)."""
    base = named(name or field)
    if field not in CONTEXT_FIELDS:
        raise wrong(f"a request has no {field!r}; expected {', '.join(CONTEXT_FIELDS)}")
    return declare(ContextValue(*base, f"{field} of the request", field, CONTEXT_FIELDS[field]))


def derived(name: str, expression: str) -> Derived:
    """A number made of other numeric columns of the same row: `derived("price_to_habit", "price / user_price_30d")`."""
    base = named(name)
    return declare(Derived(*base, expression, expression))


def _of_request(what: str, about: Entity) -> None:
    if any(name.partition(".")[0] == "item" for name in about.fields):
        raise wrong(f"{what} belongs to who asks, not to each candidate; got {about.name}", fix='entity("user")')


def _of_session(name: str, type: str | Sequence[str] | None, measure: str, told: str) -> SessionMeasure:
    base = named(name)
    only = SESSION_TYPES if type is None else types_of(type)
    types = tuple(sorted({*SESSION_TYPES, *only}))
    text = f"{told} the current session" if type is None else f"{told} {told_types(type)} in the current session"
    return declare(SessionMeasure(*base, text, types, measure, only))
