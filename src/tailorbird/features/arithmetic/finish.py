"""From the lanes of reading records to columns: one fixed order of float64 operations per kind.

A lane is one 64-bit number of a record, at the same place in all records of an entity.

Columns are rounded once to float32. Reading and backfill share this module, each with its own
source of lanes, so that equal sums are equal bits. The arithmetic is + − × ÷ only, whose result
IEEE 754 defines; NumPy neither fuses nor reorders it within an element.

    count = n    total = S·unit    mean = S·unit / n    ratio = (a + m·(A/B)) / (b + m)
    since = (t − ts) / 1e6    variance = max(Q/n − (S/n)², 0)·unit², Q = high·2^31 + low
    extreme = v·unit    trend = (a / b)·(L / l)    share = a / A
    decayed = (Σ tile·weight, the oldest first)·unit
    quantile = low + (high − low)·((q·n − below) / count)    match = matched words / query words
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.features.arithmetic.runs import RUN_OPERATIONS
from tailorbird.features.arithmetic.sketch import estimate_distinct
from tailorbird.features.declare.limits import (
    DECAY_HALF_LIVES,
    HALF_LIFE_TILES,
    LOOK_BACK_MAX,
    SQUARE_BITS,
)
from tailorbird.features.event_columns.extracts import PEAK_ZERO
from tailorbird.features.layout.layout import Layout, RecordLane, Step

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

# Lanes of one step (rows,), or of several steps of one operation (steps, rows), with the declared
# constants of each, such as its unit: scalars, or (steps, 1).
Operands = Sequence[Int64s]
Numbers = Sequence[float | Floats]
Arithmetic = Callable[[Operands, Numbers, Int64s], Floats]

# 2^(−k/4) for k quarters of a half-life, written out: what `**` gives is not the same everywhere.
# Whole powers are exact.
_QUARTER_DECAYS = (1.0, 0.8408964152537145, 0.7071067811865476, 0.5946035575013605)
DECAY_WEIGHTS = tuple(
    _QUARTER_DECAYS[age % HALF_LIFE_TILES] / 2.0 ** (age // HALF_LIFE_TILES)
    for age in range(HALF_LIFE_TILES * DECAY_HALF_LIVES + 1)
)


class LaneSource(Protocol):
    """The source of lanes for columns. Arrays are (rows,), or (1,) where all rows are the same.

    Where a row does not have an entity (no item.category, no person), `is_present` is False and
    `lane` is 0 (any value for attributes).
    """

    @property
    def rows(self) -> int: ...

    @property
    def t(self) -> Int64s:
        """The time at which each row is read."""
        ...

    def lane(self, record_lane: RecordLane) -> Int64s: ...

    def is_present(self, entity: int) -> Bools: ...

    def run_values(self, step: Step) -> npt.NDArray:
        """Return a step's values over the last events of the request, see `runs.Runs`."""
        ...

    def query_words(self) -> Keys:
        """Return the query's first distinct words, 0-padded: (rows, WORDS) or (1, WORDS)."""
        ...

    def context_number(self, field: str) -> Floats: ...

    def context_key(self, field: str) -> Keys: ...


def compute_numeric_columns(layout: Layout, lanes: LaneSource) -> npt.NDArray[np.float32]:
    """Return all numeric columns in order of declaration, shape (rows, columns)."""
    steps = [step for step in layout.steps if step.kind == "numeric"]
    table = np.empty((lanes.rows, len(steps)), np.float32)
    with np.errstate(all="ignore"):
        for column, step in enumerate(steps):
            if step.operation != "derived":
                table[:, column] = compute_number(step, lanes)
        fill_derived_columns(layout, table)
    return table


def fill_derived_columns(layout: Layout, table: npt.NDArray[np.float32]) -> None:
    """Write the derived columns of the table (rows, columns), whose other columns are filled."""
    if not layout.derived_order:
        return
    steps = [step for step in layout.steps if step.kind == "numeric"]
    column_by_name = {step.name: column for column, step in enumerate(steps)}
    for name in layout.derived_order:
        expression = steps[column_by_name[name]].expression
        assert expression is not None
        table[:, column_by_name[name]] = expression.numbers(
            lambda read_column, kind: table[:, column_by_name[read_column]].astype(np.float64),
            len(table),
        )


def compute_categorical_columns(layout: Layout, lanes: LaneSource) -> Keys:
    """Return all categorical columns in order of declaration, shape (rows, columns)."""
    steps = [step for step in layout.steps if step.kind == "categorical"]
    table = np.empty((lanes.rows, len(steps)), np.uint64)
    for column, step in enumerate(steps):
        table[:, column] = compute_category(step, lanes)
    return table


def compute_number(step: Step, lanes: LaneSource) -> Floats:
    """Return one numeric column that is not derived, before rounding."""
    if step.operation == "context":
        return lanes.context_number(step.text)
    is_present = lanes.is_present(step.record_lanes[0].entity)
    if step.operation in RUN_OPERATIONS:
        value = lanes.run_values(step)
    elif step.operation == "match":
        value = _match_share(step, lanes)
    else:
        value = ARITHMETIC[arithmetic_name(step)](
            [lanes.lane(record_lane) for record_lane in step.record_lanes], step.numbers, lanes.t
        )
    return value if is_present.all() else np.where(is_present, value, np.nan)


def arithmetic_name(step: Step) -> str:
    """Return the arithmetic of a step that is computed from lanes alone, "" for other steps."""
    if step.operation == "ratio" and step.numbers[1] < 0:
        return "bare ratio"
    if step.operation == "extreme":
        return "largest" if step.numbers[0] > 0 else "smallest"
    return step.operation if step.operation in ARITHMETIC else ""


def compute_category(step: Step, lanes: LaneSource) -> Keys:
    if step.operation == "context":
        return lanes.context_key(step.text)
    is_present = lanes.is_present(step.record_lanes[0].entity)
    if step.operation in RUN_OPERATIONS:
        return np.where(is_present, lanes.run_values(step), np.uint64(0))
    value = lanes.lane(step.record_lanes[-1])
    if step.operation == "attribute" and is_present.all():
        return value.view(np.uint64)
    if step.operation == "last":
        is_present = is_present & _is_recent(lanes.lane(step.record_lanes[0]), lanes.t)
    if step.operation == "earliest":
        is_present = is_present & (lanes.lane(step.record_lanes[0]) > 0)
    return np.where(is_present, value, 0).astype(np.int64).view(np.uint64)


def recent_events(t: int, ts: Int64s, *columns: Int64s) -> tuple[Int64s, ...]:
    """Return times and other columns of a sequence, oldest first, within the horizon of t."""
    first_in_horizon = int(ts.searchsorted(max(1, t - LOOK_BACK_MAX)))
    return tuple([column[first_in_horizon:] for column in (ts, *columns)])


def further_values(step: Step, bits: Iterable[Int64s]) -> dict[str, npt.NDArray]:
    """Return what a sequence stores beside item, type and time, by its expression's text."""
    return {
        expression.text: lane.view(np.uint64 if expression.kind == "text" else np.float64)
        for expression, lane in zip(step.of, bits, strict=True)
    }


def _is_recent(ts: Int64s, t: Int64s) -> Bools:
    return (ts > 0) & (ts >= t - LOOK_BACK_MAX)


def _finish_count(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return lanes[0].astype(np.float64)


def _finish_total(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return lanes[0].astype(np.float64) * numbers[0]


def _finish_mean(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    event_count = lanes[1].astype(np.float64)
    return np.where(event_count > 0, _finish_total(lanes, numbers, t) / event_count, np.nan)


def _finish_variance(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    event_count, amount_sum, low, high = (lane.astype(np.float64) for lane in lanes)
    mean = amount_sum / event_count
    squared_spread = np.maximum((high * 2.0**SQUARE_BITS + low) / event_count - mean * mean, 0.0)
    return np.where(event_count > 0, squared_spread * (numbers[0] * numbers[0]), np.nan)


# Peaks are read as codes: `PEAK_ZERO` ± the value, or 0 where there is none.
def _finish_maximum(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return np.where(lanes[0] > 0, (lanes[0] - PEAK_ZERO).astype(np.float64) * numbers[0], np.nan)


def _finish_minimum(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return np.where(lanes[0] > 0, (PEAK_ZERO - lanes[0]).astype(np.float64) * -numbers[0], np.nan)


def _finish_quantile(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    """Interpolate within the bucket where the counts first reach q of the total.

    A bucket with only one edge gives that edge.
    """
    q, *edges = numbers
    counts = [lane.astype(np.float64) for lane in lanes]
    event_counts = np.zeros(counts[0].shape)
    for count in counts:
        event_counts = event_counts + count
    rank = q * event_counts
    events_below = np.zeros(event_counts.shape)
    value = np.full(event_counts.shape, np.nan)
    for bucket, count in enumerate(counts):
        is_reached = np.isnan(value) & (count > 0) & (events_below + count >= rank)
        low = edges[max(bucket - 1, 0)]
        high = edges[min(bucket, len(edges) - 1)]
        value = np.where(is_reached, low + (high - low) * ((rank - events_below) / count), value)
        events_below = events_below + count
    return value


def _finish_distinct(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return estimate_distinct(lanes[0], lanes[1], int(numbers[0]))


def _finish_plain_ratio(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    numerator, denominator = (lane.astype(np.float64) for lane in lanes)
    return np.where(denominator > 0, numerator / denominator, np.nan)


def _finish_ratio(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    numerator, denominator, *prior_counts = (lane.astype(np.float64) for lane in lanes)
    rate, weight = numbers
    if prior_counts:
        prior_numerator, prior_denominator = prior_counts
        rate = np.where(prior_denominator > 0, prior_numerator / prior_denominator, 0.0)
    return np.where(
        denominator + weight > 0, (numerator + weight * rate) / (denominator + weight), np.nan
    )


def _finish_trend(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    short_count, long_count = (lane.astype(np.float64) for lane in lanes)
    return np.where(long_count > 0, short_count / long_count * numbers[0], np.nan)


def _finish_decayed(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return lanes[0].view(np.float64) * numbers[0]


def _finish_last_value(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return np.where(_is_recent(lanes[0], t), lanes[1].view(np.float64), np.nan)


def _finish_first_value(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return np.where(lanes[0] > 0, lanes[1].view(np.float64), np.nan)


def _finish_since_last(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return np.where(_is_recent(lanes[0], t), (t - lanes[0]).astype(np.float64) / 1e6, np.nan)


def _finish_since_first(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    elapsed = np.minimum(t - (PEAK_ZERO - lanes[0]), LOOK_BACK_MAX).astype(np.float64) / 1e6
    return np.where(lanes[0] > 0, elapsed, np.nan)


def _finish_attribute(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return lanes[0].view(np.float64)


def _finish_age(lanes: Operands, numbers: Numbers, t: Int64s) -> Floats:
    return (t.astype(np.float64) - lanes[0].view(np.float64)) / 1e6


def _match_share(step: Step, lanes: LaneSource) -> Floats:
    query_words = lanes.query_words()
    profile_words = [lanes.lane(record_lane).view(np.uint64) for record_lane in step.record_lanes]
    matches = np.zeros(lanes.rows)
    for position in range(query_words.shape[1]):
        query_word = query_words[:, position]
        if query_word.any():
            is_match = np.zeros(lanes.rows, np.bool_)
            for profile_word in profile_words:
                is_match |= profile_word == query_word
            matches += is_match & (query_word != 0)
    count = np.count_nonzero(query_words, axis=1).astype(np.float64)
    return np.where((count > 0) & (profile_words[0] != 0), matches / count, np.nan)


ARITHMETIC: dict[str, Arithmetic] = {
    "count": _finish_count,
    "total": _finish_total,
    "mean": _finish_mean,
    "variance": _finish_variance,
    "largest": _finish_maximum,
    "smallest": _finish_minimum,
    "distinct": _finish_distinct,
    "ratio": _finish_ratio,
    "bare ratio": _finish_plain_ratio,
    "trend": _finish_trend,
    "share": _finish_plain_ratio,
    "decayed": _finish_decayed,
    "last": _finish_last_value,
    "earliest": _finish_first_value,
    "since": _finish_since_last,
    "first": _finish_since_first,
    "attribute": _finish_attribute,
    "age": _finish_age,
    "quantile": _finish_quantile,
}
