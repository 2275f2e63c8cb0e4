"""What is made of the last events of who asks: sequences, favourites, gaps, and the current
session.

What is counted over windows is in `features.vocabulary`; single events are in
`features.vocabulary_last`.
"""

from collections.abc import Sequence

from tailorbird.features.checks import (
    check_counted,
    parse_filter,
    register,
    expression_of,
    is_profile_field,
    check_name,
    format_types,
    parse_types,
    declaration_error,
)
from tailorbird.features.declare import (
    FURTHER_VALUES_MAX,
    GAP_LENGTH,
    RUN_LENGTH,
    SEQUENCE_LENGTH,
    SEQUENCE_LENGTH_MAX,
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
        of: what to keep of each event besides, texts or numbers: `of=("dwell_ms", "item.category",
            "number(item.price)")`. An attribute is a text unless it stands in `number(…)` or in
            arithmetic.
    """
    base = check_counted(name, entity, type)
    _check_length(length, 1)
    _of_request("a sequence", entity)
    further = tuple(expression_of(one, "either") for one in ((of,) if isinstance(of, str) else of))
    if len(further) > FURTHER_VALUES_MAX or len({one.text for one in further}) < len(further):
        raise declaration_error(
            f"of: expected at most {FURTHER_VALUES_MAX} different values, got "
            f"{', '.join(one.text for one in further)}"
        )
    text = f"the last {length} of {format_types(type)} of the {entity.name}"
    return register(SequenceOf(*base, text, entity, *parse_filter(type, where), length, further))


def favourite(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    length: int = RUN_LENGTH,
    where: str | None = None,
) -> Favourite:
    """The most frequent value among the last events that have one; of several, the one that came
    last. Categorical.

    `favourite("user_category", user, "click", of="item.category")`. Its part of these events is a
    `share`.

    Args:
        of: a text of the event: `item.category`, `item`, `device`, `query`, `properties.colour` …
        length: of how many events.
    """
    base = check_counted(name, entity, type)
    _check_length(length, 1)
    _of_request("a favourite", entity)
    text = f"most frequent {of} of the last {length} of {format_types(type)} of the {entity.name}"
    return register(
        Favourite(*base, text, entity, *parse_filter(type, where), expression_of(of, "text"), length)
    )


def seen(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str = "item",
    length: int = RUN_LENGTH,
    where: str | None = None,
) -> Seen:
    """How many of the last events of who asks are about the candidate: `seen("clicked", user,
    "click")`.

    Unlike `count` about `entity("user", "item")` it needs no record for each pair, and looks at the
    last events, however old.

    Args:
        of: `item`, or one of its attributes: with `item.category`, how many are of the candidate's
            category (missing where it has none). Events without it are left out.
        length: of how many events.
    """
    base = check_counted(name, entity, type)
    _check_length(length, 1)
    _of_request("what was seen", entity)
    if of != "item" and not (is_profile_field(of) and of.startswith("item.")):
        raise declaration_error(
            f"of: expected item or an attribute of it, got {of!r}", fix='of="item.category"'
        )
    text = (
        f"how many of the last {length} of {format_types(type)} of the {entity.name} have the "
        f"candidate's {of}"
    )
    return register(
        Seen(*base, text, entity, *parse_filter(type, where), expression_of(of, "text"), length)
    )


def gap_mean(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = GAP_LENGTH,
    where: str | None = None,
) -> GapMean:
    """Seconds between one such event and the next, on average over the last `length` of them;
    missing with fewer than two.

    Events of the same time are one: (newest − oldest) / (different times − 1).
    """
    base = check_counted(name, entity, type)
    _check_length(length, 2)
    _of_request("a gap", entity)
    text = f"mean seconds between the last {length} of {format_types(type)} of the {entity.name}"
    return register(GapMean(*base, text, entity, *parse_filter(type, where), length))


def gap_min(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = GAP_LENGTH,
    where: str | None = None,
) -> GapOf:
    """The shortest gap in seconds between the last `length` such events. Arguments and gaps as for
    `gap_mean`.
    """
    return _gap_of(name, entity, type, length, where, "min", "shortest gap in seconds")


def gap_max(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = GAP_LENGTH,
    where: str | None = None,
) -> GapOf:
    """The longest gap in seconds between the last `length` such events. Arguments and gaps as for
    `gap_mean`.
    """
    return _gap_of(name, entity, type, length, where, "max", "longest gap in seconds")


def gap_deviation(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    length: int = GAP_LENGTH,
    where: str | None = None,
) -> GapOf:
    """How far the gaps between the last `length` such events are from `gap_mean`: the standard
    deviation in seconds, 0 of one gap.
    """
    return _gap_of(
        name, entity, type, length, where, "deviation", "standard deviation in seconds of the gaps"
    )


def gap_last(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    where: str | None = None,
    length: int = GAP_LENGTH,
) -> GapOf:
    """Seconds between the newest such event and the one of another time before it. Arguments and
    gaps as for `gap_mean`.
    """
    return _gap_of(name, entity, type, length, where, "last", "newest gap in seconds")


def _gap_of(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    length: int,
    where: str | None,
    measure: str,
    told: str,
) -> GapOf:
    base = check_counted(name, entity, type)
    _check_length(length, 2)
    _of_request("a gap", entity)
    text = f"{told} between the last {length} of {format_types(type)} of the {entity.name}"
    return register(GapOf(*base, text, entity, *parse_filter(type, where), length, measure))


def session(name: str, type: str) -> SessionCount:
    """How many events of `type` the person's current session has, among the last 64 events of the
    person.

    The session is the request's `session_id`; without one, the run of events that ends within 30
    minutes of now.
    """
    base = check_name(name)
    types = tuple(sorted({*SESSION_TYPES, *parse_types(type)}))
    return register(SessionCount(*base, f"{type} in the current session", types, type))


def session_length(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """How many events the person's current session has so far: the position of what comes next,
    less one.

    Args:
        type: only these types; by default all that people do. What a session is says `session`.
    """
    return _of_session(name, type, "length", "events of")


def session_depth(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """How many different items the person's current session has seen so far. Arguments as for
    `session_length`.
    """
    return _of_session(name, type, "depth", "different items of")


def session_duration(name: str, type: str | Sequence[str] | None = None) -> SessionMeasure:
    """Seconds since the first event of the person's current session; missing without one. Arguments
    as for `session_length`.

    Dwell so far is `total("dwell", entity("session"), "view", of="dwell_ms", unit=1, window="1d")`.
    """
    return _of_session(name, type, "duration", "seconds since the first of")


def refinements(name: str) -> SessionMeasure:
    """How many times the person searched in the current session without a click, cart or purchase
    since: still looking.
    """
    return _of_session(
        name,
        ("cart", "click", "purchase", "search"),
        "refinements",
        "searches since the last other of",
    )


def _check_length(length: int, least: int) -> None:
    if not isinstance(length, int) or not least <= length <= SEQUENCE_LENGTH_MAX:
        raise declaration_error(f"length: expected {least} to {SEQUENCE_LENGTH_MAX}, got {length!r}")


def _of_request(what: str, about: Entity) -> None:
    if any(name.partition(".")[0] == "item" for name in about.fields):
        raise declaration_error(
            f"{what} belongs to who asks, not to each candidate; got {about.name}",
            fix='entity("user")',
        )


def _of_session(
    name: str, type: str | Sequence[str] | None, measure: str, told: str
) -> SessionMeasure:
    base = check_name(name)
    only = SESSION_TYPES if type is None else parse_types(type)
    types = tuple(sorted({*SESSION_TYPES, *only}))
    text = (
        f"{told} the current session"
        if type is None
        else f"{told} {format_types(type)} in the current session"
    )
    return register(SessionMeasure(*base, text, types, measure, only))
