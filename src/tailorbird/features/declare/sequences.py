"""Features of a person's last events: sequences, favourites, gaps, and the current session.

Aggregates over windows are in `features.declare.vocabulary`; single events are in
`features.declare.single_events`.
"""

from collections.abc import Sequence

from tailorbird.features.declare.checks import (
    check_event_feature,
    check_name,
    declaration_error,
    format_types,
    is_profile_field,
    parse_expression,
    parse_filter,
    parse_types,
    register_feature,
)
from tailorbird.features.declare.declarations import (
    SESSION_TYPES,
    Entity,
    Favourite,
    GapMean,
    GapOf,
    Seen,
    SequenceOf,
    SessionCount,
    SessionMeasure,
)
from tailorbird.features.declare.limits import (
    GAP_EVENTS_DEFAULT,
    RECENT_EVENTS_DEFAULT,
    SEQUENCE_LENGTH_DEFAULT,
    SEQUENCE_LENGTH_MAX,
    SEQUENCE_VALUES_MAX,
)


def sequence(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = SEQUENCE_LENGTH_DEFAULT,
    of: str | Sequence[str] = (),
    where: str | None = None,
) -> SequenceOf:
    """Return the last events with their items, types and times, oldest first.

    Args:
        of: further texts or numbers to store of each event: `of=("dwell_ms", "item.category",
            "number(item.price)")`. An attribute is a text unless it is in `number(…)` or in
            arithmetic.
    """
    common_fields = check_event_feature(name, entity, type)
    _check_length(length, 1)
    _check_not_item("a sequence", entity)
    value_expressions = tuple(
        parse_expression(expression, "either")
        for expression in ((of,) if isinstance(of, str) else of)
    )
    if len(value_expressions) > SEQUENCE_VALUES_MAX or len(
        {value.text for value in value_expressions}
    ) < len(value_expressions):
        raise declaration_error(
            f"of: expected at most {SEQUENCE_VALUES_MAX} different values, got "
            f"{', '.join(value.text for value in value_expressions)}"
        )
    text = f"the last {length} of {format_types(type)} of the {entity.name}"
    return register_feature(
        SequenceOf(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            length=length,
            of=value_expressions,
        )
    )


def favourite(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    length: int = RECENT_EVENTS_DEFAULT,
    where: str | None = None,
) -> Favourite:
    """Return the most frequent value among the last events that have one; ties go to the latest.

    Categorical. `favourite("user_category", user, "click", of="item.category")`. Its part of these
    events is a `share`.

    Args:
        of: a text of the event: `item.category`, `item`, `device`, `query`, `properties.colour` …
        length: number of events.
    """
    common_fields = check_event_feature(name, entity, type)
    _check_length(length, 1)
    _check_not_item("a favourite", entity)
    text = f"most frequent {of} of the last {length} of {format_types(type)} of the {entity.name}"
    return register_feature(
        Favourite(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            of=parse_expression(of, "text"),
            length=length,
        )
    )


def seen(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str = "item",
    length: int = RECENT_EVENTS_DEFAULT,
    where: str | None = None,
) -> Seen:
    """Count how many of the person's last events are about the candidate: `seen("clicked", user,
    "click")`.

    Unlike `count` about `entity("user", "item")` it needs no record for each pair, and considers
    the last events, however old.

    Args:
        of: `item`, or one of its attributes: with `item.category`, how many are of the candidate's
            category (missing where it has none). Events without it are left out.
        length: number of events.
    """
    common_fields = check_event_feature(name, entity, type)
    _check_length(length, 1)
    _check_not_item("what was seen", entity)
    if of != "item" and not (is_profile_field(of) and of.startswith("item.")):
        raise declaration_error(
            f"of: expected item or an attribute of it, got {of!r}", fix='of="item.category"'
        )
    text = (
        f"how many of the last {length} of {format_types(type)} of the {entity.name} have the "
        f"candidate's {of}"
    )
    return register_feature(
        Seen(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            of=parse_expression(of, "text"),
            length=length,
        )
    )


def gap_mean(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = GAP_EVENTS_DEFAULT,
    where: str | None = None,
) -> GapMean:
    """Return the mean seconds between consecutive events among the last `length`.

    Events of the same time are one: (newest − oldest) / (different times − 1). Missing with fewer
    than two.
    """
    common_fields = check_event_feature(name, entity, type)
    _check_length(length, 2)
    _check_not_item("a gap", entity)
    text = f"mean seconds between the last {length} of {format_types(type)} of the {entity.name}"
    return register_feature(
        GapMean(*common_fields, text, entity, *parse_filter(type, where), length)
    )


def gap_min(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = GAP_EVENTS_DEFAULT,
    where: str | None = None,
) -> GapOf:
    """Return the shortest gap in seconds between the last `length` events. Arguments as for
    `gap_mean`.
    """
    return _declare_gap(
        name,
        entity,
        type,
        length=length,
        where=where,
        measure="min",
        label="shortest gap in seconds",
    )


def gap_max(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = GAP_EVENTS_DEFAULT,
    where: str | None = None,
) -> GapOf:
    """Return the longest gap in seconds between the last `length` events. Arguments as for
    `gap_mean`.
    """
    return _declare_gap(
        name,
        entity,
        type,
        length=length,
        where=where,
        measure="max",
        label="longest gap in seconds",
    )


def gap_deviation(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = GAP_EVENTS_DEFAULT,
    where: str | None = None,
) -> GapOf:
    """Return the standard deviation in seconds of the gaps between the last `length` events.

    0 for a single gap. Arguments as for `gap_mean`.
    """
    return _declare_gap(
        name,
        entity,
        type,
        length=length,
        where=where,
        measure="deviation",
        label="standard deviation in seconds of the gaps",
    )


def gap_last(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    where: str | None = None,
    length: int = GAP_EVENTS_DEFAULT,
) -> GapOf:
    """Return the seconds between the newest event and the one before it. Arguments as for
    `gap_mean`.
    """
    return _declare_gap(
        name,
        entity,
        type,
        length=length,
        where=where,
        measure="last",
        label="newest gap in seconds",
    )


def _declare_gap(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    length: int,
    where: str | None,
    measure: str,
    label: str,
) -> GapOf:
    common_fields = check_event_feature(name, entity, type)
    _check_length(length, 2)
    _check_not_item("a gap", entity)
    text = f"{label} between the last {length} of {format_types(type)} of the {entity.name}"
    return register_feature(
        GapOf(
            *common_fields, text, entity, *parse_filter(type, where), length=length, measure=measure
        )
    )


def session(name: str, type: str) -> SessionCount:
    """Count the events of `type` in the person's current session, among the person's last 64
    events.

    The session is the request's `session_id`; without one, the run of events that ends within 30
    minutes of now.
    """
    common_fields = check_name(name)
    types = tuple(sorted({*SESSION_TYPES, *parse_types(type)}))
    return register_feature(
        SessionCount(*common_fields, f"{type} in the current session", types, type)
    )


def session_length(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """Count the events in the person's current session so far, see `session`.

    Args:
        type: only these types; by default all that people do.
    """
    return _declare_session(name, type, "length", "events of")


def session_depth(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """Count the distinct items of the current session. Arguments as for `session_length`."""
    return _declare_session(name, type, "depth", "different items of")


def session_duration(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """Return the seconds since the first event of the person's current session; missing without
    one.

    Arguments as for `session_length`. Dwell so far is `total("dwell", entity("session"), "view",
    of="dwell_ms", unit=1, window="1d")`.
    """
    return _declare_session(name, type, "duration", "seconds since the first of")


def refinements(name: str) -> SessionMeasure:
    """Count the searches in the current session since the last click, cart or purchase."""
    return _declare_session(
        name,
        ("cart", "click", "purchase", "search"),
        "refinements",
        "searches since the last other of",
    )


def _check_length(length: int, minimum: int) -> None:
    if not isinstance(length, int) or not minimum <= length <= SEQUENCE_LENGTH_MAX:
        raise declaration_error(
            f"length: expected {minimum} to {SEQUENCE_LENGTH_MAX}, got {length!r}"
        )


def _check_not_item(label: str, entity: Entity) -> None:
    if any(name.partition(".")[0] == "item" for name in entity.fields):
        raise declaration_error(
            f"{label} belongs to who asks, not to each candidate; got {entity.name}",
            fix='entity("user")',
        )


def _declare_session(
    name: str, type: str | Sequence[str] | None, measure: str, label: str
) -> SessionMeasure:
    common_fields = check_name(name)
    measured_types = SESSION_TYPES if type is None else parse_types(type)
    types = tuple(sorted({*SESSION_TYPES, *measured_types}))
    text = (
        f"{label} the current session"
        if type is None
        else f"{label} {format_types(type)} in the current session"
    )
    return register_feature(SessionMeasure(*common_fields, text, types, measure, measured_types))
