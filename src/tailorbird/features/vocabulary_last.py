"""What is known of single events: the last one, the first one, and how long ago they were.

What is counted over windows is in `features.vocabulary`, what is made of several last events in
`features.vocabulary_run`.
"""

from collections.abc import Sequence

from tailorbird.features.checks import counted, counts_what, declare, told_types, value_of
from tailorbird.features.declare import Entity, First, Kind, Last, TimeSince, TimeSinceFirst


def last(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    kind: Kind | None = None,
    where: str | None = None,
) -> Last:
    """The value of the last event that has it. `kind` (numeric or categorical) is asked for where
    the field can be both.
    """
    base = counted(name, entity, type)
    expression, told = value_of(of, kind)
    text = f"{of} of the last {told_types(type)} of the {entity.name}"
    return declare(Last(*base, text, entity, *counts_what(type, where), expression, told))


def first(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    kind: Kind | None = None,
    where: str | None = None,
) -> First:
    """The value of the first event ever that has it: `first("came_by", user, "view",
    of="referrer")`. Arguments as for `last`.
    """
    base = counted(name, entity, type)
    expression, told = value_of(of, kind)
    text = f"{of} of the first {told_types(type)} of the {entity.name}"
    return declare(First(*base, text, entity, *counts_what(type, where), expression, told))


def time_since(
    name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None
) -> TimeSince:
    """Seconds since the last such event; missing without one in the last 400 days."""
    base = counted(name, entity, type)
    return declare(
        TimeSince(
            *base,
            f"seconds since the last {told_types(type)} of the {entity.name}",
            entity,
            *counts_what(type, where),
        )
    )


def time_since_first(
    name: str, entity: Entity, type: str | Sequence[str], *, where: str | None = None
) -> TimeSinceFirst:
    """Seconds since the first such event ever, at most 400 days; missing without one."""
    base = counted(name, entity, type)
    text = f"seconds since the first {told_types(type)} of the {entity.name}"
    return declare(TimeSinceFirst(*base, text, entity, *counts_what(type, where)))
