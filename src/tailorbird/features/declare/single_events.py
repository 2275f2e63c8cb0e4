"""Features of single events: the last one, the first one, and the time since.

Aggregates over windows are in `features.declare.vocabulary`, measures over several last events in
`features.declare.sequences`.
"""

from collections.abc import Sequence

from tailorbird.features.declare.checks import (
    check_event_feature,
    format_types,
    parse_filter,
    parse_value,
    register_feature,
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
    common_fields = check_event_feature(name, entity, type)
    expression, value_kind = parse_value(of, kind)
    text = f"{of} of the last {format_types(type)} of the {entity.name}"
    return register_feature(
        Last(
            *common_fields, text, entity, *parse_filter(type, where), of=expression, kind=value_kind
        )
    )


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
    common_fields = check_event_feature(name, entity, type)
    expression, value_kind = parse_value(of, kind)
    text = f"{of} of the first {format_types(type)} of the {entity.name}"
    return register_feature(
        First(
            *common_fields, text, entity, *parse_filter(type, where), of=expression, kind=value_kind
        )
    )


def time_since(
    name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None
) -> TimeSince:
    """Return seconds since the last such event; missing without one in the last 400 days."""
    common_fields = check_event_feature(name, entity, type)
    return register_feature(
        TimeSince(
            *common_fields,
            f"seconds since the last {format_types(type)} of the {entity.name}",
            entity,
            *parse_filter(type, where),
        )
    )


def time_since_first(
    name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None
) -> TimeSinceFirst:
    """Return seconds since the first such event ever, at most 400 days; missing without one."""
    common_fields = check_event_feature(name, entity, type)
    text = f"seconds since the first {format_types(type)} of the {entity.name}"
    return register_feature(
        TimeSinceFirst(*common_fields, text, entity, *parse_filter(type, where))
    )
