"""The definition of each feature computed from events: one function per kind, for the reference.

Each gets a view of `features.reference.point_in_time`, which selects the
events. Sums of floats are evaluated in the order written, so that their last bit is defined.
"""

import math
from decimal import Context, Decimal
from itertools import pairwise

from tailorbird.features.declare.declarations import (
    Amount,
    Count,
    Decayed,
    Distinct,
    Entity,
    EventFeature,
    Extreme,
    Favourite,
    First,
    GapMean,
    GapOf,
    Last,
    Mean,
    Quantile,
    Ratio,
    Seen,
    SessionFeature,
    SessionMeasure,
    Share,
    TimeSince,
    TimeSinceFirst,
    Total,
    Trend,
    Variance,
)
from tailorbird.features.declare.limits import HALF_LIFE_TILES, LOOK_BACK_MAX, RANK_MAX, SQUARE_BITS
from tailorbird.features.declare.scalars import category_hash, float32
from tailorbird.features.expr.scalar import evaluate, evaluate_number
from tailorbird.features.reference.point_in_time import PointInTimeView, Row


def event_feature_value(view: PointInTimeView, feature: EventFeature) -> float | int:
    """Return the value, rounded to float32, or a category, of an entity that the request has."""
    if isinstance(feature, Last | First):
        return last_or_first(view, feature)
    if isinstance(feature, Favourite):
        return favourite(view, feature)
    return float32(_compute_value(view, feature))


def _compute_value(view: PointInTimeView, feature: EventFeature) -> float:
    if isinstance(feature, Count):
        return float(len(view.rows_in_window(view.rows(feature), feature.window)))
    if isinstance(feature, Total):
        return total(view, feature)
    if isinstance(feature, Mean):
        return mean(view, feature)
    if isinstance(feature, Variance):
        return variance(view, feature)
    if isinstance(feature, Extreme):
        return extreme(view, feature)
    if isinstance(feature, Quantile):
        return quantile(view, feature)
    if isinstance(feature, Seen):
        return seen(view, feature)
    if isinstance(feature, Distinct):
        return distinct(view, feature)
    if isinstance(feature, Ratio):
        return ratio(view, feature)
    if isinstance(feature, Trend):
        return trend(view, feature)
    if isinstance(feature, Share):
        return share(view, feature)
    if isinstance(feature, Decayed):
        return decayed(view, feature)
    if isinstance(feature, TimeSinceFirst):
        return time_since_first(view, feature)
    if isinstance(feature, GapOf):
        return gap_of(view, feature)
    if isinstance(feature, GapMean):
        return gap_mean(view, feature)
    assert isinstance(feature, TimeSince)
    return time_since(view, feature)


def total(view: PointInTimeView, feature: Total | Mean) -> float:
    rows = view.rows_in_window(
        view.rows(feature, value_expression=feature.amount.of), feature.window
    )
    return float(sum(to_units(row, feature.amount) for row in rows)) * feature.amount.unit


def mean(view: PointInTimeView, feature: Mean) -> float:
    rows = view.rows_in_window(
        view.rows(feature, value_expression=feature.amount.of), feature.window
    )
    return total(view, feature) / float(len(rows)) if rows else math.nan


def variance(view: PointInTimeView, feature: Variance) -> float:
    """Return the mean of the squares less the square of the mean, in units, not below 0.

    Squares are summed in two limbs of 31 bits.
    """
    rows = view.rows_in_window(
        view.rows(feature, value_expression=feature.amount.of), feature.window
    )
    if not rows:
        return math.nan
    amounts = [to_units(row, feature.amount) for row in rows]
    low = float(sum(amount**2 % 2**SQUARE_BITS for amount in amounts))
    high = float(sum(amount**2 // 2**SQUARE_BITS for amount in amounts))
    average = float(sum(amounts)) / float(len(rows))
    squared_spread = (high * 2.0**SQUARE_BITS + low) / float(len(rows)) - average * average
    return max(squared_spread, 0.0) * (feature.amount.unit * feature.amount.unit)


def extreme(view: PointInTimeView, feature: Extreme) -> float:
    rows = view.rows_in_window(
        view.rows(feature, value_expression=feature.amount.of), feature.window
    )
    amounts = [to_units(row, feature.amount) for row in rows]
    return (
        float(max(amounts) if feature.largest else min(amounts)) * feature.amount.unit
        if rows
        else math.nan
    )


def quantile(view: PointInTimeView, feature: Quantile) -> float:
    """Interpolate between the edges of the first bucket with which q of all values are reached.

    Values up to 1e300 count. The first and the last bucket have only one edge.
    """
    rows = view.rows_in_window(view.rows(feature, value_expression=feature.of), feature.window)
    values = [
        value
        for value in (evaluate_number(feature.of, row.field) for row in rows)
        if abs(value) <= 1e300
    ]
    edges = [-math.inf, *feature.edges, math.inf]
    rank = feature.q * float(len(values))
    count_below = 0.0
    for low, high in pairwise(edges):
        count = float(sum(low < value <= high for value in values))
        if count and count_below + count >= rank:
            low = max(low, feature.edges[0])
            high = min(high, feature.edges[-1])
            return low + (high - low) * ((rank - count_below) / count)
        count_below += count
    return math.nan


def favourite(view: PointInTimeView, feature: Favourite) -> int:
    """Return the most frequent value among the last events that have one; ties go to the latest."""
    rows = view.last_rows(view.rows(feature, value_expression=feature.of), feature.length)
    values = [category_hash(evaluate(feature.of, row.field)) for row in rows]
    return max(reversed(values), key=values.count, default=0)


def seen(view: PointInTimeView, feature: Seen) -> float:
    """Return how many of the last events with a value have the candidate's."""
    candidate_value = view.key_field(feature.of.text)
    rows = view.last_rows(view.rows(feature, value_expression=feature.of), feature.length)
    return (
        math.nan
        if candidate_value is None
        else float(sum(evaluate(feature.of, row.field) == candidate_value for row in rows))
    )


def distinct(view: PointInTimeView, feature: Distinct) -> float:
    """Estimate by HyperLogLog: the largest rank of each register, with linear counting for few
    values.
    """
    precision = feature.precision
    registers = [0] * 2**feature.precision
    for row in view.rows_in_window(view.rows(feature, value_expression=feature.of), feature.window):
        key = category_hash(evaluate(feature.of, row.field))
        remaining_bits = key % 2 ** (64 - precision)  # its first 1, counted from the left
        rank = min(64 - precision - remaining_bits.bit_length() + 1, RANK_MAX)
        registers[key >> 64 - precision] = max(registers[key >> 64 - precision], rank)
    m = float(2**precision)
    empty_registers = registers.count(0)
    alpha = {4: 0.673, 5: 0.697, 6: 0.709}.get(precision, 0.7213 / (1 + 1.079 / m))
    estimate = (
        alpha * m * m * 2.0**RANK_MAX / float(sum(2 ** (RANK_MAX - rank) for rank in registers))
    )
    if estimate <= 2.5 * m and empty_registers:
        decimal_context = Context(prec=30)
        estimate = float(
            decimal_context.multiply(
                Decimal(m),
                decimal_context.ln(decimal_context.divide(Decimal(m), Decimal(empty_registers))),
            )
        )
    return float(round(estimate))


def ratio(view: PointInTimeView, feature: Ratio) -> float:
    numerator, denominator = rate_counts(view, feature, feature.entity)
    if feature.prior is None:
        return numerator / denominator if denominator else math.nan
    prior_rate = feature.prior
    if isinstance(prior_rate, Entity):
        prior_numerator, prior_denominator = (
            rate_counts(view, feature, prior_rate)
            if None not in view.key(prior_rate)
            else (0.0, 0.0)
        )
        prior_rate = prior_numerator / prior_denominator if prior_denominator else 0.0
    return (
        (numerator + feature.weight * prior_rate) / (denominator + feature.weight)
        if denominator + feature.weight
        else math.nan
    )


def rate_counts(view: PointInTimeView, feature: Ratio, entity: Entity) -> tuple[float, float]:
    """Return numerator and denominator of an entity."""
    counted_rows = (
        view.rows(feature, types=types, entity=entity) for types in (feature.types, feature.below)
    )
    numerator, denominator = (
        float(len(view.rows_in_window(rows, feature.window))) for rows in counted_rows
    )
    return numerator, denominator


def trend(view: PointInTimeView, feature: Trend) -> float:
    """Return the rate in the short window divided by that in the long one, missing if the latter is
    empty.
    """
    rows = view.rows(feature)
    short_count, long_count = (
        float(len(view.rows_in_window(rows, window))) for window in (feature.short, feature.long)
    )
    return (
        short_count / long_count * (feature.long.length / feature.short.length)
        if long_count
        else math.nan
    )


def share(view: PointInTimeView, feature: Share) -> float:
    """Return the own sum divided by the group's, missing where the group is unknown or its sum not
    above 0.
    """
    if None in view.key(feature.group):
        return math.nan
    value_expression = feature.amount.of if feature.amount else None
    per_item = counts_per_item(feature)
    own_sum, group_sum = (
        sum_units(
            view.rows_in_window(
                view.rows(
                    feature, entity=entity, value_expression=value_expression, per_item=per_item
                ),
                feature.window,
            ),
            feature.amount,
        )
        for entity in (feature.entity, feature.group)
    )
    return own_sum / group_sum if group_sum > 0 else math.nan


def counts_per_item(feature: Share) -> bool:
    """Return whether both sums count an event of several items once for each of them."""
    return any(
        name.partition(".")[0] == "item"
        for entity in (feature.entity, feature.group)
        for name in entity.fields
    )


def decayed(view: PointInTimeView, feature: Decayed) -> float:
    """Return the decayed sum, added from the oldest tile.

    An event counts 2^(−k/4), k quarters of a half-life before the one that contains t.
    """
    rows = view.rows(feature, value_expression=feature.amount.of if feature.amount else None)
    hop = feature.window.hop
    decayed_sum = 0.0
    for age in range(feature.window.tiles, -1, -1):
        tile_rows = [row for row in rows if row.event["ts"] // hop == view.t // hop - age]
        decayed_sum += (
            sum_units(tile_rows, feature.amount)
            * DECAY_QUARTERS[age % HALF_LIFE_TILES]
            / 2.0 ** (age // HALF_LIFE_TILES)
        )
    return decayed_sum * feature.amount.unit if feature.amount else decayed_sum


# 2^(−k/4) for k = 0 to 3: numbers of the definition, which are not computed anew by each machine.
DECAY_QUARTERS = (1.0, 0.8408964152537145, 0.7071067811865476, 0.5946035575013605)


def last_or_first(view: PointInTimeView, feature: Last | First) -> float | int:
    """Return the last value within the horizon, or the first one ever."""
    rows = view.rows(feature, value_expression=feature.of)
    rows = (
        view.last_rows(rows, 1)
        if isinstance(feature, Last)
        else sorted(rows, key=lambda row: row.sort_key())[:1]
    )
    if not rows:
        return 0 if feature.kind == "categorical" else math.nan
    if feature.kind == "categorical":
        return category_hash(evaluate(feature.of, rows[0].field))
    return float32(evaluate_number(feature.of, rows[0].field))


def time_since(view: PointInTimeView, feature: TimeSince) -> float:
    rows = view.last_rows(view.rows(feature), 1)
    return float(view.t - rows[0].event["ts"]) / 1e6 if rows else math.nan


def time_since_first(view: PointInTimeView, feature: TimeSinceFirst) -> float:
    """Return the time since the first event ever, at most the horizon."""
    times = [row.event["ts"] for row in view.rows(feature)]
    return float(min(view.t - min(times), LOOK_BACK_MAX)) / 1e6 if times else math.nan


def gap_mean(view: PointInTimeView, feature: GapMean) -> float:
    """Return the mean gap over the last events; those of the same time are one."""
    times = sorted({row.event["ts"] for row in view.last_rows(view.rows(feature), feature.length)})
    return float(times[-1] - times[0]) / 1e6 / float(len(times) - 1) if len(times) > 1 else math.nan


def gap_of(view: PointInTimeView, feature: GapOf) -> float:
    """Return another measure of the same gaps.

    The deviation is the root of the mean squared difference from `gap_mean`, added from the oldest.
    """
    times = sorted({row.event["ts"] for row in view.last_rows(view.rows(feature), feature.length)})
    gaps = [float(later - earlier) / 1e6 for earlier, later in pairwise(times)]
    if not gaps:
        return math.nan
    if feature.measure == "deviation":
        average_gap = gap_mean(view, feature)
        squared_sum = 0.0
        for gap in gaps:
            squared_sum += (gap - average_gap) * (gap - average_gap)
        return math.sqrt(squared_sum / float(len(gaps)))
    return {"min": min(gaps), "max": max(gaps), "last": gaps[-1]}[feature.measure]


def session_value(view: PointInTimeView, feature: SessionFeature) -> float:
    """Return the measure over the current session's events of the measured types."""
    rows = [
        row for row in view.session_rows(feature) if row.event["type"] in feature.measured_types
    ]
    measure = feature.measure if isinstance(feature, SessionMeasure) else "length"
    if measure == "depth":
        return float(len({row.item for row in rows if row.item is not None}))
    if measure == "refinements":
        other_sort_keys = [row.sort_key() for row in rows if row.event["type"] != "search"]
        return float(
            sum(row.sort_key() > max(other_sort_keys) for row in rows)
            if other_sort_keys
            else len(rows)
        )
    if measure == "duration":
        return float(view.t - min(row.event["ts"] for row in rows)) / 1e6 if rows else math.nan
    return float(len(rows))


def sum_units(rows: "list[Row]", amount: Amount | None) -> float:
    """Return the sum in whole units, or the number of events."""
    return float(len(rows) if amount is None else sum(to_units(row, amount) for row in rows))


def to_units(row: Row, amount: Amount) -> int:
    """Return whole units, rounded half to even, clipped at the declared maximum."""
    limit = float(amount.units_max)
    return round(min(max(evaluate_number(amount.of, row.field) / amount.unit, -limit), limit))
