"""Calls that declare a comparison of two counts or sums: ratio, trend and share."""

from collections.abc import Sequence

from tailorbird.features.declare.checks import (
    check_event_feature,
    check_parent,
    declaration_error,
    format_types,
    format_window,
    parse_amount,
    parse_filter,
    parse_types,
    parse_window,
    register_feature,
)
from tailorbird.features.declare.declarations import Entity, Ratio, Share, Trend


def ratio(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    below: str | Sequence[str],
    *,
    window: str | None = None,
    hop: str | None = None,
    prior: Entity | float | None = None,
    weight: float = 20,
    where: str | None = None,
) -> Ratio:
    """Divide events of `type` by those of `below`, smoothed: (a + weight·rate)/(b + weight).

    Args:
        prior: the rate: that of an entity that this one belongs to (as for `share`), read at the
            same time (0 where it has no events), or a number. Without one the ratio is a/b, missing
            where b is 0.
    """
    common_fields = check_event_feature(name, entity, type)
    if not (isinstance(weight, int | float) and 0 <= weight <= 1e9):
        raise declaration_error(f"weight: expected a number from 0 to 1e9, got {weight!r}")
    if isinstance(prior, int | float) and not 0 <= prior <= 1e9:
        raise declaration_error(f"prior: expected an entity or a rate of at least 0, got {prior!r}")
    if prior is not None and not isinstance(prior, int | float):
        check_parent("prior", entity, prior)
    window_spec = parse_window(window, hop)
    prior_rate = float(prior) if isinstance(prior, int | float) else prior
    text = (
        f"{format_types(type)} for each of {format_types(below)} of the {entity.name} in "
        f"{format_window(window_spec)}"
    )
    if prior is not None:
        text += f", smoothed by {prior_rate if not isinstance(prior_rate, Entity) else prior_rate.name} × {weight:g}"
    types, condition = parse_filter(type, where)
    return register_feature(
        Ratio(
            *common_fields,
            description=text,
            entity=entity,
            types=types,
            where=condition,
            below=parse_types(below),
            window=window_spec,
            prior=prior_rate,
            weight=float(weight),
        )
    )


def trend(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    short: str = "1d",
    long: str = "7d",
    hop: str | None = None,
    where: str | None = None,
) -> Trend:
    """Divide the event rate in the short window by that in the long one: 1 is steady, 2 is doubled.

    (events in short / events in long) · (long / short), with the lengths of the windows as
    declared. Missing without any events in the long window.

    Args:
        hop: of both windows; by default a twelfth of each.
    """
    common_fields = check_event_feature(name, entity, type)
    short_window = parse_window(short, hop)
    long_window = parse_window(long, hop)
    if short_window.length >= long_window.length:
        raise declaration_error(f"short: expected less than long, {long}, got {short}")
    text = (
        f"{format_types(type)} of the {entity.name}: rate in {format_window(short_window)} "
        "for that in "
        f"{format_window(long_window)}"
    )
    return register_feature(
        Trend(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            short=short_window,
            long=long_window,
        )
    )


def share(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    within: Entity,
    of: str | None = None,
    unit: float = 0.01,
    max: float = 1e6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Share:
    """Divide the entity's events by those of its group: an item's clicks among its category's.

    Missing where the group has none. An event of several items counts once for each of them in
    both, if either is about the item.

    Args:
        within: the group that the entity belongs to: some of its own fields, an attribute of its
            user or item, the person of a session, or everyone. An item is in that of its newest
            profile, an event in that of the profile that it came with.
        of, unit, max: a number to be summed instead, as for `total`.
    """
    common_fields = check_event_feature(name, entity, type)
    check_parent("within", entity, within)
    window_spec = parse_window(window, hop)
    amount = None if of is None else parse_amount(of, unit, max)
    text = (
        f"{format_types(type)} of the {entity.name} among those of its {within.name} in "
        f"{format_window(window_spec)}"
    )
    if of is not None:
        text = f"{of} over {text}"
    return register_feature(
        Share(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            group=within,
            window=window_spec,
            amount=amount,
        )
    )
