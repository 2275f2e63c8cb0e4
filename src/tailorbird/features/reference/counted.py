"""The definition of each feature computed from events: one function per kind, for the reference.

`counted(moment, feature)` gets a moment of `features.reference.reference`, which selects the
events. Sums of floats are evaluated in the order written, so that their last bit is defined.
"""

import math
from decimal import Context, Decimal
from itertools import pairwise

from tailorbird.features.declare.declarations import (
    Amount,
    Count,
    Counted,
    Decayed,
    Distinct,
    Entity,
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
from tailorbird.features.declare.limits import DECAY_STEPS, HORIZON, RANK_MAX, SQUARE_BITS
from tailorbird.features.declare.scalars import category, float32
from tailorbird.features.expr.scalar import evaluate, number
from tailorbird.features.reference.moments import Moment, Row


def count_value(moment: Moment, feature: Counted) -> float | int:
    """Return the value, rounded to float32, or a category, of an entity that the request has."""
    if isinstance(feature, Last | First):
        return last_or_first(moment, feature)
    if isinstance(feature, Favourite):
        return favourite(moment, feature)
    return float32(_compute_value(moment, feature))


def _compute_value(moment: Moment, feature: Counted) -> float:
    if isinstance(feature, Count):
        return float(len(moment.within(moment.rows(feature), feature.window)))
    if isinstance(feature, Total):
        return total(moment, feature)
    if isinstance(feature, Mean):
        return mean(moment, feature)
    if isinstance(feature, Variance):
        return variance(moment, feature)
    if isinstance(feature, Extreme):
        return extreme(moment, feature)
    if isinstance(feature, Quantile):
        return quantile(moment, feature)
    if isinstance(feature, Seen):
        return seen(moment, feature)
    if isinstance(feature, Distinct):
        return distinct(moment, feature)
    if isinstance(feature, Ratio):
        return ratio(moment, feature)
    if isinstance(feature, Trend):
        return trend(moment, feature)
    if isinstance(feature, Share):
        return share(moment, feature)
    if isinstance(feature, Decayed):
        return decayed(moment, feature)
    if isinstance(feature, TimeSinceFirst):
        return time_since_first(moment, feature)
    if isinstance(feature, GapOf):
        return gap_of(moment, feature)
    if isinstance(feature, GapMean):
        return gap_mean(moment, feature)
    assert isinstance(feature, TimeSince)
    return time_since(moment, feature)


def total(moment: Moment, feature: Total | Mean) -> float:
    rows = moment.within(moment.rows(feature, value=feature.amount.of), feature.window)
    return float(sum(units(row, feature.amount) for row in rows)) * feature.amount.unit


def mean(moment: Moment, feature: Mean) -> float:
    rows = moment.within(moment.rows(feature, value=feature.amount.of), feature.window)
    return total(moment, feature) / float(len(rows)) if rows else math.nan


def variance(moment: Moment, feature: Variance) -> float:
    """Return the mean of the squares less the square of the mean, in units, not below 0.

    Squares are summed in two limbs of 31 bits.
    """
    rows = moment.within(moment.rows(feature, value=feature.amount.of), feature.window)
    if not rows:
        return math.nan
    amounts = [units(row, feature.amount) for row in rows]
    low = float(sum(amount**2 % 2**SQUARE_BITS for amount in amounts))
    high = float(sum(amount**2 // 2**SQUARE_BITS for amount in amounts))
    average = float(sum(amounts)) / float(len(rows))
    spread = (high * 2.0**SQUARE_BITS + low) / float(len(rows)) - average * average
    return max(spread, 0.0) * (feature.amount.unit * feature.amount.unit)


def extreme(moment: Moment, feature: Extreme) -> float:
    rows = moment.within(moment.rows(feature, value=feature.amount.of), feature.window)
    amounts = [units(row, feature.amount) for row in rows]
    return (
        float(max(amounts) if feature.largest else min(amounts)) * feature.amount.unit
        if rows
        else math.nan
    )


def quantile(moment: Moment, feature: Quantile) -> float:
    """Interpolate between the edges of the first bucket with which q of all values are reached.

    Values up to 1e300 count. The first and the last bucket have only one edge.
    """
    rows = moment.within(moment.rows(feature, value=feature.of), feature.window)
    values = [
        value for value in (number(feature.of, row.field) for row in rows) if abs(value) <= 1e300
    ]
    edges = [-math.inf, *feature.edges, math.inf]
    rank, below = feature.q * float(len(values)), 0.0
    for low, high in pairwise(edges):
        count = float(sum(low < value <= high for value in values))
        if count and below + count >= rank:
            low, high = max(low, feature.edges[0]), min(high, feature.edges[-1])
            return low + (high - low) * ((rank - below) / count)
        below += count
    return math.nan


def favourite(moment: Moment, feature: Favourite) -> int:
    """Return the most frequent value among the last events that have one; ties go to the latest."""
    rows = moment.last_rows(moment.rows(feature, value=feature.of), feature.length)
    values = [category(evaluate(feature.of, row.field)) for row in rows]
    return max(reversed(values), key=values.count, default=0)


def seen(moment: Moment, feature: Seen) -> float:
    """Return how many of the last events with a value have the candidate's."""
    candidate = moment.key_field(feature.of.text)
    rows = moment.last_rows(moment.rows(feature, value=feature.of), feature.length)
    return (
        math.nan
        if candidate is None
        else float(sum(evaluate(feature.of, row.field) == candidate for row in rows))
    )


def distinct(moment: Moment, feature: Distinct) -> float:
    """Estimate by HyperLogLog: the largest rank of each register, with linear counting for few
    values.
    """
    bits, registers = feature.precision, [0] * 2**feature.precision
    for row in moment.within(moment.rows(feature, value=feature.of), feature.window):
        key = category(evaluate(feature.of, row.field))
        remaining_bits = key % 2 ** (64 - bits)  # its first 1, counted from the left
        rank = min(64 - bits - remaining_bits.bit_length() + 1, RANK_MAX)
        registers[key >> 64 - bits] = max(registers[key >> 64 - bits], rank)
    m, empty = float(2**bits), registers.count(0)
    alpha = {4: 0.673, 5: 0.697, 6: 0.709}.get(bits, 0.7213 / (1 + 1.079 / m))
    raw = alpha * m * m * 2.0**RANK_MAX / float(sum(2 ** (RANK_MAX - rank) for rank in registers))
    if raw <= 2.5 * m and empty:
        precise = Context(prec=30)
        raw = float(
            precise.multiply(Decimal(m), precise.ln(precise.divide(Decimal(m), Decimal(empty))))
        )
    return float(round(raw))


def ratio(moment: Moment, feature: Ratio) -> float:
    a, b = rate_counts(moment, feature, feature.entity)
    if feature.prior is None:
        return a / b if b else math.nan
    rate = feature.prior
    if isinstance(rate, Entity):
        above, below = (
            rate_counts(moment, feature, rate) if None not in moment.key(rate) else (0.0, 0.0)
        )
        rate = above / below if below else 0.0
    return (a + feature.weight * rate) / (b + feature.weight) if b + feature.weight else math.nan


def rate_counts(moment: Moment, feature: Ratio, about: Entity) -> tuple[float, float]:
    """Return numerator and denominator of an entity."""
    counted_rows = (
        moment.rows(feature, types=types, entity=about) for types in (feature.types, feature.below)
    )
    a, b = (float(len(moment.within(rows, feature.window))) for rows in counted_rows)
    return a, b


def trend(moment: Moment, feature: Trend) -> float:
    """Return the rate in the short window divided by that in the long one, missing if the latter is
    empty.
    """
    rows = moment.rows(feature)
    short, long = (
        float(len(moment.within(rows, window))) for window in (feature.short, feature.long)
    )
    return short / long * (feature.long.length / feature.short.length) if long else math.nan


def share(moment: Moment, feature: Share) -> float:
    """Return the own sum divided by the group's, missing where the group is unknown or its sum not
    above 0.
    """
    if None in moment.key(feature.group):
        return math.nan
    value = feature.amount.of if feature.amount else None
    by_item = shared_by_item(feature)
    own_value, group = (
        sum_units(
            moment.within(
                moment.rows(feature, entity=about, value=value, per_item=by_item), feature.window
            ),
            feature.amount,
        )
        for about in (feature.entity, feature.group)
    )
    return own_value / group if group > 0 else math.nan


def shared_by_item(feature: Share) -> bool:
    """Return whether both sums count an event of several items once for each of them."""
    return any(
        name.partition(".")[0] == "item"
        for about in (feature.entity, feature.group)
        for name in about.fields
    )


def decayed(moment: Moment, feature: Decayed) -> float:
    """Return the decayed sum, added from the oldest tile.

    An event counts 2^(−k/4), k quarters of a half-life before the one that contains t.
    """
    rows = moment.rows(feature, value=feature.amount.of if feature.amount else None)
    hop, result = feature.window.hop, 0.0
    for age in range(feature.window.tiles, -1, -1):
        tile = [row for row in rows if row.event["ts"] // hop == moment.t // hop - age]
        result += (
            sum_units(tile, feature.amount)
            * DECAY_QUARTERS[age % DECAY_STEPS]
            / 2.0 ** (age // DECAY_STEPS)
        )
    return result * feature.amount.unit if feature.amount else result


# 2^(−k/4) for k = 0 to 3: numbers of the definition, which are not computed anew by each machine.
DECAY_QUARTERS = (1.0, 0.8408964152537145, 0.7071067811865476, 0.5946035575013605)


def last_or_first(moment: Moment, feature: Last | First) -> float | int:
    """Return the last value within the horizon, or the first one ever."""
    rows = moment.rows(feature, value=feature.of)
    rows = (
        moment.last_rows(rows, 1)
        if isinstance(feature, Last)
        else sorted(rows, key=lambda row: row.order())[:1]
    )
    if not rows:
        return 0 if feature.kind == "categorical" else math.nan
    if feature.kind == "categorical":
        return category(evaluate(feature.of, rows[0].field))
    return float32(number(feature.of, rows[0].field))


def time_since(moment: Moment, feature: TimeSince) -> float:
    rows = moment.last_rows(moment.rows(feature), 1)
    return float(moment.t - rows[0].event["ts"]) / 1e6 if rows else math.nan


def time_since_first(moment: Moment, feature: TimeSinceFirst) -> float:
    """Return the time since the first event ever, at most the horizon."""
    times = [row.event["ts"] for row in moment.rows(feature)]
    return float(min(moment.t - min(times), HORIZON)) / 1e6 if times else math.nan


def gap_mean(moment: Moment, feature: GapMean) -> float:
    """Return the mean gap over the last events; those of the same time are one."""
    times = sorted(
        {row.event["ts"] for row in moment.last_rows(moment.rows(feature), feature.length)}
    )
    return float(times[-1] - times[0]) / 1e6 / float(len(times) - 1) if len(times) > 1 else math.nan


def gap_of(moment: Moment, feature: GapOf) -> float:
    """Return another measure of the same gaps.

    The deviation is the root of the mean squared difference from `gap_mean`, added from the oldest.
    """
    times = sorted(
        {row.event["ts"] for row in moment.last_rows(moment.rows(feature), feature.length)}
    )
    gaps = [float(later - earlier) / 1e6 for earlier, later in pairwise(times)]
    if not gaps:
        return math.nan
    if feature.measure == "deviation":
        mean, squares = gap_mean(moment, feature), 0.0
        for gap in gaps:
            squares += (gap - mean) * (gap - mean)
        return math.sqrt(squares / float(len(gaps)))
    return {"min": min(gaps), "max": max(gaps), "last": gaps[-1]}[feature.measure]


def of_session(moment: Moment, feature: SessionFeature) -> float:
    """Return the measure over the current session's events of the measured types."""
    rows = [
        row for row in moment.session_rows(feature) if row.event["type"] in feature.measured_types
    ]
    measure = feature.measure if isinstance(feature, SessionMeasure) else "length"
    if measure == "depth":
        return float(len({row.item for row in rows if row.item is not None}))
    if measure == "refinements":
        other_orders = [row.order() for row in rows if row.event["type"] != "search"]
        return float(
            sum(row.order() > max(other_orders) for row in rows) if other_orders else len(rows)
        )
    if measure == "duration":
        return float(moment.t - min(row.event["ts"] for row in rows)) / 1e6 if rows else math.nan
    return float(len(rows))


def sum_units(rows: "list[Row]", amount: Amount | None) -> float:
    """Return the sum in whole units, or the number of events."""
    return float(len(rows) if amount is None else sum(units(row, amount) for row in rows))


def units(row: Row, amount: Amount) -> int:
    """Return whole units, rounded half to even, clipped at the declared maximum."""
    limit = float(amount.units_max)
    return round(min(max(number(amount.of, row.field) / amount.unit, -limit), limit))
