"""Features of single events: the last one, the first one, and the time since.

Aggregates over windows are in `features.declare.vocabulary`, measures over several last events in
`features.declare.sequences`.
"""

from collections.abc import Sequence

from tailorbird.features.declare.checks import (
    check_counted,
    format_types,
    parse_filter,
    parse_value,
    register,
)
from tailorbird.features.declare.declarations import (
    Entity,
    First,
    Kind,
    Last,
    TimeSince,
    TimeSinceFirst,
)


def last(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    kind: Kind | None = None,
    where: str | None = None,
) -> Last:
    """Return the value of the last event that has it.

    `kind` (numeric or categorical) is required where the field can be both.
    """
    base = check_counted(name, entity, type)
    expression, value_kind = parse_value(of, kind)
    text = f"{of} of the last {format_types(type)} of the {entity.name}"
    return register(Last(*base, text, entity, *parse_filter(type, where), expression, value_kind))


def first(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    kind: Kind | None = None,
    where: str | None = None,
) -> First:
    """Return the value of the first event ever that has it. Arguments as for `last`.

    `first("came_by", user, "view", of="referrer")`
    """
    base = check_counted(name, entity, type)
    expression, value_kind = parse_value(of, kind)
    text = f"{of} of the first {format_types(type)} of the {entity.name}"
    return register(First(*base, text, entity, *parse_filter(type, where), expression, value_kind))


def time_since(
    name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None
) -> TimeSince:
    """Return seconds since the last such event; missing without one in the last 400 days."""
    base = check_counted(name, entity, type)
    return register(
        TimeSince(
            *base,
            f"seconds since the last {format_types(type)} of the {entity.name}",
            entity,
            *parse_filter(type, where),
        )
    )


def time_since_first(
    name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None
) -> TimeSinceFirst:
    """Return seconds since the first such event ever, at most 400 days; missing without one."""
    base = check_counted(name, entity, type)
    text = f"seconds since the first {format_types(type)} of the {entity.name}"
    return register(TimeSinceFirst(*base, text, entity, *parse_filter(type, where)))
