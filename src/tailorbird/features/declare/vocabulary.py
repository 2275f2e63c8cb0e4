"""The vocabulary of `features.py`: each call declares one feature and is checked immediately.

    user = entity("user"); item = entity("item"); category = entity("item.category")
    count("item_clicks_7d", item, "click", window="7d", where="agent != 'bot'")
    ratio("item_ctr_7d", item, "click", "impression", window="7d", prior=category, weight=20)

This module has entities and aggregates over windows. `features.declare.single_events` has single
events, `features.declare.sequences` last events and sessions, `features.declare.profiles` profiles
and the request. `features.declare.declarations` defines windows and the returned values.
"""

from collections.abc import Sequence

from tailorbird.events.clock import SECOND
from tailorbird.features.declare.checks import (
    bucket_conditions,
    check_event_feature,
    declaration_error,
    format_duration,
    format_types,
    format_window,
    is_profile_field,
    parse_amount,
    parse_duration,
    parse_edges,
    parse_expression,
    parse_filter,
    parse_window,
    register_feature,
)
from tailorbird.features.declare.declarations import (
    Count,
    Decayed,
    Distinct,
    Entity,
    Extreme,
    Mean,
    Quantile,
    Total,
    Variance,
    Window,
)
from tailorbird.features.declare.fields import ENTITY_FIELDS
from tailorbird.features.declare.limits import (
    DECAY_HALF_LIVES,
    HALF_LIFE_TILES,
    LOOK_BACK_MAX,
    PRECISION_MAX,
    PRECISION_MIN,
    SQUARE_BITS,
)


def entity(*fields: str) -> Entity:
    """Declare what features are about.

    Args:
        fields: none (everyone together) or some of user, item, session, device, country, query,
            local_hour, weekday, position, `item.NAME`, `user.NAME`. `query` is the search query, in
            lower case and with single spaces: an event's own, else that of the answer that it
            follows. `weekday` is 0 (Monday) to 6, local if the local hour is known, else in UTC.
            `position` is where the item was shown, from 1; of a request 1, as if it were to be
            shown first.
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
    """Count events: `count("item_clicks_7d", item, "click", window="7d")`."""
    common_fields = check_event_feature(name, entity, type)
    window_spec = parse_window(window, hop)
    return register_feature(
        Count(
            *common_fields,
            f"{format_types(type)} of the {entity.name} in {format_window(window_spec)}",
            entity,
            *parse_filter(type, where),
            window_spec,
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
    """Sum a number over the events that have it.

    Args:
        of: a number of the event, or an expression over several: `price * quantity`.
        unit: the resolution; sums are integer multiples of it, so that order does not matter.
        max: larger values count as this one.
    """
    common_fields = check_event_feature(name, entity, type)
    window_spec = parse_window(window, hop)
    amount = parse_amount(of, unit, max)
    text = f"sum of {of} over {format_types(type)} of the {entity.name} in {format_window(window_spec)}"
    return register_feature(
        Total(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            window=window_spec,
            amount=amount,
        )
    )


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
    """Average a number over its events; missing without any. Arguments as for `total`."""
    common_fields = check_event_feature(name, entity, type)
    window_spec = parse_window(window, hop)
    amount = parse_amount(of, unit, max)
    text = f"mean of {of} over {format_types(type)} of the {entity.name} in {format_window(window_spec)}"
    return register_feature(
        Mean(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            window=window_spec,
            amount=amount,
        )
    )


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
    """Compute the variance of a number over the events that have it; missing without any.

    It is the mean of squares − square of the mean, 0 for one event; its root is `derived("x",
    "sqrt(variance)")`. Arguments as for `total`, with max / unit below 2^31.
    """
    common_fields = check_event_feature(name, entity, type)
    window_spec = parse_window(window, hop)
    amount = parse_amount(of, unit, max)
    if amount.units_max >= 1 << SQUARE_BITS:
        finest_unit = amount.max / ((1 << SQUARE_BITS) - 1)
        raise declaration_error(
            f"max / unit = {amount.units_max:,} is too fine: its square does not fit",
            fix=f"unit={finest_unit:.3g} or coarser",
        )
    text = f"variance of {of} over {format_types(type)} of the {entity.name} in {format_window(window_spec)}"
    return register_feature(
        Variance(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            window=window_spec,
            amount=amount,
        )
    )


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
    """Return the smallest value of a number over the events that have it, in whole units.

    Missing without any. Arguments as for `total`.
    """
    common_fields = check_event_feature(name, entity, type)
    window_spec = parse_window(window, hop)
    amount = parse_amount(of, unit, max)
    text = f"smallest {of} over {format_types(type)} of the {entity.name} in {format_window(window_spec)}"
    return register_feature(
        Extreme(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            window=window_spec,
            amount=amount,
            largest=False,
        )
    )


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
    """Return the largest value of a number over the events that have it, in whole units.

    Missing without any. Arguments as for `total`.
    """
    common_fields = check_event_feature(name, entity, type)
    window_spec = parse_window(window, hop)
    amount = parse_amount(of, unit, max)
    text = f"largest {of} over {format_types(type)} of the {entity.name} in {format_window(window_spec)}"
    return register_feature(
        Extreme(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            window=window_spec,
            amount=amount,
            largest=True,
        )
    )


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
    """Estimate the q-quantile of a number over the events that have it; missing without any.

    The median: `quantile("usual_price", user, "purchase", of="price", edges=[5, 10, 20, 50, 100],
    window="90d")`. Events are counted in buckets between the edges, and the quantile is
    interpolated linearly within its bucket. Below the first edge it is that edge, above the last
    the last. Quantiles over the same buckets share their counts.

    Args:
        of: a number of the event, or an expression over several.
        edges: 2 to 32, ascending; the value is as fine as they are.
    """
    common_fields = check_event_feature(name, entity, type)
    if not (isinstance(q, float) and 0 < q < 1):
        raise declaration_error(f"q: expected a number between 0 and 1, got {q!r}")
    edge_values = parse_edges(edges)
    window_spec = parse_window(window, hop)
    expression = parse_expression(of, "number")
    text = (
        f"{q:g}-quantile of {of} over {format_types(type)} of the {entity.name} in "
        f"{format_window(window_spec)}"
    )
    buckets = tuple(
        parse_expression(condition, "truth")
        for condition in bucket_conditions(of, edge_values, where)
    )
    return register_feature(
        Quantile(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            of=expression,
            window=window_spec,
            q=q,
            edges=edge_values,
            buckets=buckets,
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
    """Estimate the number of distinct values of a text, by HyperLogLog.

    `distinct("reach", item, "view", of="user", window="7d")`. The result is an integer. With
    precision 6, of 3 different values 96 % of the answers are right, of 6 79 %, of 12 41 %; they
    are off by 7 to 9 % (standard deviation) up to two dozen, by 13 % from a hundred on. With 8: 99
    %, 95 %, 77 %; off by 4 %, and by 5 to 6.5 % from a hundred on.

    Args:
        of: a text of the event: `user`, `item`, `query`, `item.category` …; events without it are
            left out.
        precision: 4 to 8; the state takes up to 2^precision bytes a tile.
    """
    common_fields = check_event_feature(name, entity, type)
    if not isinstance(precision, int) or not PRECISION_MIN <= precision <= PRECISION_MAX:
        raise declaration_error(
            f"precision: expected {PRECISION_MIN} to {PRECISION_MAX}, got {precision!r}"
        )
    window_spec = parse_window(window, hop)
    expression = parse_expression(of, "text")
    text = f"different {of} over {format_types(type)} of the {entity.name} in {format_window(window_spec)}"
    return register_feature(
        Distinct(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            of=expression,
            window=window_spec,
            precision=precision,
        )
    )


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
    """Count events, or sum a number of them, with weights that halve every half-life.

    Time is divided into quarters of a half-life: an event in the k-th quarter before the current
    one counts 2^(−k/4); events older than 8 half-lives (1/256) are dropped.

    Args:
        half_life: 15s to 50d.
        of, unit, max: a number to be summed instead, as for `total`.
    """
    common_fields = check_event_feature(name, entity, type)
    half_life_us = parse_duration(half_life)
    amount = None if of is None else parse_amount(of, unit, max)
    if not 15 * SECOND <= half_life_us <= LOOK_BACK_MAX // DECAY_HALF_LIVES:
        raise declaration_error(f"half_life: expected 15s to 50d, got {half_life}")
    text = (
        f"{format_types(type)} of the {entity.name}, "
        f"worth half after each {format_duration(half_life_us)}"
    )
    if of is not None:
        text = f"sum of {of} over {text}"
    window_spec = Window(DECAY_HALF_LIVES * half_life_us, half_life_us // HALF_LIFE_TILES)
    return register_feature(
        Decayed(
            *common_fields,
            text,
            entity,
            *parse_filter(type, where),
            window=window_spec,
            amount=amount,
        )
    )
