"""The vocabulary of `features.py`: each call declares one feature, is checked on the spot, and
knows its line.

    user = entity("user"); item = entity("item"); category = entity("item.category")
    count("item_clicks_7d", item, "click", window="7d", where="agent != 'bot'")
    ratio("item_ctr_7d", item, "click", "impression", window="7d", prior=category, weight=20)

Here are entities and what is counted over windows; what is known of single events is in
`features.vocabulary_last`, of the last ones and of sessions in `features.vocabulary_run`, of
profiles and of the request in `features.vocabulary_profile`. What a window is, and the values that
come of these calls: `features.declare`.
"""

from collections.abc import Sequence

from tailorbird.events.clock import SECOND
from tailorbird.features.checks import (
    parse_amount,
    check_parent,
    check_counted,
    parse_filter,
    register,
    parse_duration,
    parse_edges,
    expression_of,
    is_profile_field,
    format_duration,
    bucket_conditions,
    format_types,
    format_window,
    parse_types,
    parse_window,
    declaration_error,
)
from tailorbird.features.declare import (
    DECAY_HALF_LIVES,
    DECAY_STEPS,
    ENTITY_FIELDS,
    HORIZON,
    PRECISION_MAX,
    PRECISION_MIN,
    SQUARE_BITS,
    Count,
    Decayed,
    Distinct,
    Entity,
    Extreme,
    Mean,
    Quantile,
    Ratio,
    Share,
    Total,
    Trend,
    Variance,
    Window,
)


def entity(*fields: str) -> Entity:
    """What features are about.

    Args:
        fields: none (everyone together) or some of user, item, session, device, country, query,
            local_hour, weekday, position, `item.NAME`, `user.NAME`. `query` is what is searched
            for, in lower case and with single spaces: of an event its own, else that of the answer
            that it follows. `weekday` is 0 (Monday) to 6, where the person is if the local hour is
            known, else in UTC. `position` is where the item was shown, from 1; of a request 1, as
            if it were to be shown first.
    """
    for name in fields:
        if name not in ENTITY_FIELDS and not is_profile_field(name):
            raise declaration_error(
                f"{name!r} is no field of an entity; expected {', '.join(ENTITY_FIELDS)}, "
                "item.NAME or user.NAME"
            )
    if len(set(fields)) != len(fields):
        raise declaration_error(f"a field is named twice: {', '.join(fields)}")
    return Entity(tuple(fields))


def count(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Count:
    """How many events there were: `count("item_clicks_7d", item, "click", window="7d")`."""
    base = check_counted(name, entity, type)
    span = parse_window(window, hop)
    return register(
        Count(
            *base,
            f"{format_types(type)} of the {entity.name} in {format_window(span)}",
            entity,
            *parse_filter(type, where),
            span,
        )
    )


def total(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    unit: float = 0.01,
    max: float = 1e6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Total:
    """The sum of a number of the events that have it.

    Args:
        of: a number of the event, or an expression over several: `price * quantity`.
        unit: what is told apart; sums are whole numbers of it, so that order does not matter.
        max: larger values count as this one.
    """
    base = check_counted(name, entity, type)
    span, amount = parse_window(window, hop), parse_amount(of, unit, max)
    text = f"sum of {of} over {format_types(type)} of the {entity.name} in {format_window(span)}"
    return register(Total(*base, text, entity, *parse_filter(type, where), span, amount))


def mean(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    unit: float = 0.01,
    max: float = 1e6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Mean:
    """The mean of a number over the events that have it; missing without any. Arguments as for
    `total`.
    """
    base = check_counted(name, entity, type)
    span, amount = parse_window(window, hop), parse_amount(of, unit, max)
    text = f"mean of {of} over {format_types(type)} of the {entity.name} in {format_window(span)}"
    return register(Mean(*base, text, entity, *parse_filter(type, where), span, amount))


def variance(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    unit: float = 0.01,
    max: float = 1e6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Variance:
    """The variance of a number over the events that have it (mean of squares − square of the mean);
    missing without any.

    0 for one event; its root is `derived("x", "sqrt(variance)")`. Arguments as for `total`, with
    max / unit below 2^31.
    """
    base = check_counted(name, entity, type)
    span, amount = parse_window(window, hop), parse_amount(of, unit, max)
    if amount.units_max >= 1 << SQUARE_BITS:
        finest = amount.max / ((1 << SQUARE_BITS) - 1)
        raise declaration_error(
            f"max / unit = {amount.units_max:,} is too fine: its square does not fit",
            fix=f"unit={finest:.3g} or coarser",
        )
    text = f"variance of {of} over {format_types(type)} of the {entity.name} in {format_window(span)}"
    return register(Variance(*base, text, entity, *parse_filter(type, where), span, amount))


def minimum(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    unit: float = 0.01,
    max: float = 1e6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Extreme:
    """The smallest value of a number over the events that have it, in whole units; missing without
    any. Arguments as for `total`.
    """
    base = check_counted(name, entity, type)
    span, amount = parse_window(window, hop), parse_amount(of, unit, max)
    text = f"smallest {of} over {format_types(type)} of the {entity.name} in {format_window(span)}"
    return register(Extreme(*base, text, entity, *parse_filter(type, where), span, amount, False))


def maximum(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    unit: float = 0.01,
    max: float = 1e6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Extreme:
    """The largest value of a number over the events that have it, in whole units; missing without
    any. Arguments as for `total`.
    """
    base = check_counted(name, entity, type)
    span, amount = parse_window(window, hop), parse_amount(of, unit, max)
    text = f"largest {of} over {format_types(type)} of the {entity.name} in {format_window(span)}"
    return register(Extreme(*base, text, entity, *parse_filter(type, where), span, amount, True))


def quantile(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    edges: Sequence[float],
    q: float = 0.5,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Quantile:
    """About the q-quantile of a number over the events that have it; missing without any.

    The median: `quantile("usual_price", user, "purchase", of="price", edges=[5, 10, 20, 50, 100],
    window="90d")`. Events are counted in buckets between the edges; within the bucket that the
    quantile falls into, values are taken to lie evenly. Below the first edge it is that edge, above
    the last the last. Quantiles over the same buckets share their counts.

    Args:
        of: a number of the event, or an expression over several.
        edges: 2 to 32, ascending; the value is as fine as they are.
    """
    base = check_counted(name, entity, type)
    if not (isinstance(q, float) and 0 < q < 1):
        raise declaration_error(f"q: expected a number between 0 and 1, got {q!r}")
    bounds = parse_edges(edges)
    span, expression = parse_window(window, hop), expression_of(of, "number")
    text = (
        f"{q:g}-quantile of {of} over {format_types(type)} of the {entity.name} in "
        f"{format_window(span)}"
    )
    buckets = tuple(expression_of(one, "truth") for one in bucket_conditions(of, bounds, where))
    return register(
        Quantile(
            *base, text, entity, *parse_filter(type, where), expression, span, q, bounds, buckets
        )
    )


def distinct(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    of: str,
    precision: int = 6,
    window: str | None = None,
    hop: str | None = None,
    where: str | None = None,
) -> Distinct:
    """About how many different values of a text the events have: `distinct("reach", item, "view",
    of="user", window="7d")`.

    HyperLogLog, in whole numbers. With precision 6, of 3 different values 96 % of the answers are
    right, of 6 79 %, of 12 41 %; they are off by 7 to 9 % (standard deviation) up to two dozen, by
    13 % from a hundred on. With 8: 99 %, 95 %, 77 %; off by 4 %, and by 5 to 6.5 % from a hundred
    on.

    Args:
        of: a text of the event: `user`, `item`, `query`, `item.category` …; events without it are
            left out.
        precision: 4 to 8; the state takes up to 2^precision bytes a tile.
    """
    base = check_counted(name, entity, type)
    if not isinstance(precision, int) or not PRECISION_MIN <= precision <= PRECISION_MAX:
        raise declaration_error(f"precision: expected {PRECISION_MIN} to {PRECISION_MAX}, got {precision!r}")
    span, expression = parse_window(window, hop), expression_of(of, "text")
    text = f"different {of} over {format_types(type)} of the {entity.name} in {format_window(span)}"
    return register(
        Distinct(*base, text, entity, *parse_filter(type, where), expression, span, precision)
    )


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
    """Events of `type` for each of `below`, smoothed: (a + weight·rate)/(b + weight).

    Args:
        prior: whose rate: that of an entity that this one belongs to (as for `share`), read at the
            same time (0 where it has no events), or a number. Without one the ratio is a/b, missing
            where b is 0.
    """
    base = check_counted(name, entity, type)
    if not (isinstance(weight, int | float) and 0 <= weight <= 1e9):
        raise declaration_error(f"weight: expected a number from 0 to 1e9, got {weight!r}")
    if isinstance(prior, int | float) and not 0 <= prior <= 1e9:
        raise declaration_error(f"prior: expected an entity or a rate of at least 0, got {prior!r}")
    if prior is not None and not isinstance(prior, int | float):
        check_parent("prior", entity, prior)
    span, rate = parse_window(window, hop), float(prior) if isinstance(prior, int | float) else prior
    text = (
        f"{format_types(type)} for each of {format_types(below)} of the {entity.name} in "
        f"{format_window(span)}"
    )
    if prior is not None:
        text += f", smoothed by {rate if not isinstance(rate, Entity) else rate.name} × {weight:g}"
    types, expression = parse_filter(type, where)
    return register(
        Ratio(*base, text, entity, types, expression, parse_types(below), span, rate, float(weight))
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
    """Events a day in the short window for those in the long one: 1 is steady, 2 is twice the
    usual; missing without any in the long.

    (events in short / events in long) · (long / short), with the lengths of the windows as
    declared.

    Args:
        hop: of both windows; without it each has its own, a twelfth of it.
    """
    base = check_counted(name, entity, type)
    near, far = parse_window(short, hop), parse_window(long, hop)
    if near.length >= far.length:
        raise declaration_error(f"short: expected less than long, {long}, got {short}")
    text = (
        f"{format_types(type)} of the {entity.name}: rate in {format_window(near)} for that in "
        f"{format_window(far)}"
    )
    return register(Trend(*base, text, entity, *parse_filter(type, where), near, far))


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
    """The entity's events as a part of those of its group, at the same time: an item's clicks among
    its category's.

    own / group's; missing where the group has none. An event of several items counts once for each
    of them in both, if either is about the item.

    Args:
        within: the group that the entity belongs to: some of its own fields, an attribute of its
            user or item, the person of a session, or everyone. An item is in that of its newest
            profile, an event in that of the profile that it came with.
        of, unit, max: a number to be summed instead, as for `total`.
    """
    base = check_counted(name, entity, type)
    check_parent("within", entity, within)
    span, amount = parse_window(window, hop), None if of is None else parse_amount(of, unit, max)
    text = (
        f"{format_types(type)} of the {entity.name} among those of its {within.name} in "
        f"{format_window(span)}"
    )
    if of is not None:
        text = f"{of} over {text}"
    return register(Share(*base, text, entity, *parse_filter(type, where), within, span, amount))


def decayed(
    name: str,
    entity: Entity,
    type: str | Sequence[str],
    *,
    half_life: str,
    of: str | None = None,
    unit: float = 0.01,
    max: float = 1e6,
    where: str | None = None,
) -> Decayed:
    """How many events there were, or the sum of a number of them, each worth half as much after
    every half-life.

    Time is cut into quarters of a half-life: an event in the k-th quarter before the one that now
    lies in counts 2^(−k/4); what is older than 8 half-lives (1/256) is forgotten.

    Args:
        half_life: 15s to 50d.
        of, unit, max: a number to be summed instead, as for `total`.
    """
    base = check_counted(name, entity, type)
    length, amount = parse_duration(half_life), None if of is None else parse_amount(of, unit, max)
    if not 15 * SECOND <= length <= HORIZON // DECAY_HALF_LIVES:
        raise declaration_error(f"half_life: expected 15s to 50d, got {half_life}")
    text = f"{format_types(type)} of the {entity.name}, worth half after each {format_duration(length)}"
    if of is not None:
        text = f"sum of {of} over {text}"
    span = Window(DECAY_HALF_LIVES * length, length // DECAY_STEPS)
    return register(Decayed(*base, text, entity, *parse_filter(type, where), span, amount))
