"""From the lanes of reading records to columns: one fixed order of float64 operations for each kind, rounded once to float32.

Reading and backfill both come through here, each with its own way to the lanes, so that equal sums are equal bits. The
arithmetic is + − × ÷ only, whose result IEEE 754 fixes; NumPy neither fuses nor reorders it within an element.

    count = n    total = S·unit    mean = S·unit / n    ratio = (a + m·(A/B)) / (b + m)    since = (t − ts) / 1e6
    variance = max(Q/n − (S/n)², 0)·unit², Q = high·2^31 + low    extreme = v·unit
    trend = (a / b)·(L / l)    share = a / A    decayed = (Σ tile·weight, the oldest first)·unit
    quantile = low + (high − low)·((q·n − below) / count)    match = words found / words asked
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.features.columns import PEAK_ZERO
from tailorbird.features.declare import DECAY_HALF_LIVES, DECAY_STEPS, HORIZON, SQUARE_BITS
from tailorbird.features.layout import Layout, Spot, Step
from tailorbird.features.runs import OF_RUN
from tailorbird.features.sketch import estimate

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

# 2^(−k/4) for k quarters of a half-life, written out: what `**` gives is not the same everywhere. Whole powers are exact.
_QUARTERS = (1.0, 0.8408964152537145, 0.7071067811865476, 0.5946035575013605)
DECAY_WEIGHTS = tuple(_QUARTERS[age % DECAY_STEPS] / 2.0 ** (age // DECAY_STEPS) for age in range(DECAY_STEPS * DECAY_HALF_LIVES + 1))


class Lanes(Protocol):
    """Where columns are finished from. Arrays are (rows,), or (1,) where all rows have the same.

    Of an entity that a row has not (no item.category, no person), `known` is False and `lane` 0 (any value for attributes).
    """

    @property
    def rows(self) -> int: ...

    @property
    def t(self) -> Int64s:
        """When each row is read."""
        ...

    def lane(self, spot: Spot) -> Int64s: ...

    def known(self, entity: int) -> Bools: ...

    def of_run(self, step: Step) -> npt.NDArray:
        """What the step makes of the last events of who asks, by `runs.Runs`."""
        ...

    def query_words(self) -> Keys:
        """The first different words of the query, 0 where there are no more: (rows, WORDS) or (1, WORDS)."""
        ...

    def context_number(self, field: str) -> Floats: ...

    def context_key(self, field: str) -> Keys: ...


def numeric(layout: Layout, lanes: Lanes) -> npt.NDArray[np.float32]:
    """All numeric columns in order of declaration, shape (rows, columns)."""
    steps = [step for step in layout.steps if step.kind == "numeric"]
    table = np.empty((lanes.rows, len(steps)), np.float32)
    place = {step.name: column for column, step in enumerate(steps)}
    with np.errstate(all="ignore"):
        for column, step in enumerate(steps):
            if step.operation != "derived":
                table[:, column] = number(step, lanes)
        by_name = {step.name: step for step in steps}
        for name in layout.derived_order:
            expression = by_name[name].expression
            assert expression is not None
            table[:, place[name]] = expression.numbers(lambda other, kind: table[:, place[other]].astype(np.float64), lanes.rows)
    return table


def categorical(layout: Layout, lanes: Lanes) -> Keys:
    """All categorical columns in order of declaration, shape (rows, columns)."""
    steps = [step for step in layout.steps if step.kind == "categorical"]
    table = np.empty((lanes.rows, len(steps)), np.uint64)
    for column, step in enumerate(steps):
        table[:, column] = category(step, lanes)
    return table


def number(step: Step, lanes: Lanes) -> Floats:
    """One numeric column that is not derived, before rounding."""
    if step.operation == "context":
        return lanes.context_number(step.text)
    known = lanes.known(step.spots[0].entity)
    value = lanes.of_run(step) if step.operation in OF_RUN else _NUMBERS[step.operation](step, lanes)
    return value if known.all() else np.where(known, value, np.nan)


def category(step: Step, lanes: Lanes) -> Keys:
    if step.operation == "context":
        return lanes.context_key(step.text)
    known = lanes.known(step.spots[0].entity)
    if step.operation in OF_RUN:
        return np.where(known, lanes.of_run(step), np.uint64(0))
    value = lanes.lane(step.spots[-1])
    if step.operation == "last":
        known = known & _recent(step, lanes)
    if step.operation == "earliest":
        known = known & (lanes.lane(step.spots[0]) > 0)
    return np.where(known, value, 0).astype(np.int64).view(np.uint64)


def recent(t: int, ts: Int64s, *columns: Int64s) -> tuple[Int64s, ...]:
    """Times and other columns of a sequence where it has an event within the horizon of t."""
    kept = (ts > 0) & (ts >= t - HORIZON)
    return tuple(column[kept] for column in (ts, *columns))


def values_of(step: Step, bits: Iterable[Int64s]) -> dict[str, npt.NDArray]:
    """The further values of a sequence by their text, as numbers or hashes."""
    return {one.text: each.view(np.uint64 if one.kind == "text" else np.float64) for one, each in zip(step.of, bits, strict=True)}


def _recent(step: Step, lanes: Lanes) -> Bools:
    ts = lanes.lane(step.spots[0])
    return (ts > 0) & (ts >= lanes.t - HORIZON)


def _count(step: Step, lanes: Lanes) -> Floats:
    return lanes.lane(step.spots[0]).astype(np.float64)


def _total(step: Step, lanes: Lanes) -> Floats:
    return lanes.lane(step.spots[0]).astype(np.float64) * step.numbers[0]


def _mean(step: Step, lanes: Lanes) -> Floats:
    events = lanes.lane(step.spots[1]).astype(np.float64)
    return np.where(events > 0, _total(step, lanes) / events, np.nan)


def _variance(step: Step, lanes: Lanes) -> Floats:
    events, amount, low, high = (lanes.lane(spot).astype(np.float64) for spot in step.spots)
    mean = amount / events
    spread = np.maximum((high * 2.0**SQUARE_BITS + low) / events - mean * mean, 0.0)
    return np.where(events > 0, spread * (step.numbers[0] * step.numbers[0]), np.nan)


def _extreme(step: Step, lanes: Lanes) -> Floats:
    code = lanes.lane(step.spots[0])
    unit = step.numbers[0]
    units = code - PEAK_ZERO if unit > 0 else PEAK_ZERO - code
    return np.where(code > 0, units.astype(np.float64) * abs(unit), np.nan)


def _quantile(step: Step, lanes: Lanes) -> Floats:
    """Within the bucket where the counts first reach q of all, as if its values lay evenly; its edge, if it has only one."""
    q, *edges = step.numbers
    counts = [lanes.lane(spot).astype(np.float64) for spot in step.spots]
    events = np.zeros(len(counts[0]))
    for count in counts:
        events = events + count
    rank, below = q * events, np.zeros(len(events))
    value = np.full(len(events), np.nan)
    for bucket, count in enumerate(counts):
        reached = np.isnan(value) & (count > 0) & (below + count >= rank)
        low, high = edges[max(bucket - 1, 0)], edges[min(bucket, len(edges) - 1)]
        value = np.where(reached, low + (high - low) * ((rank - below) / count), value)
        below = below + count
    return value


def _distinct(step: Step, lanes: Lanes) -> Floats:
    empty, weight = (lanes.lane(spot) for spot in step.spots)
    return estimate(empty, weight, int(step.numbers[0]))


def _ratio(step: Step, lanes: Lanes) -> Floats:
    a, b = (lanes.lane(spot).astype(np.float64) for spot in step.spots[:2])
    constant, weight = step.numbers
    if weight < 0:
        return np.where(b > 0, a / b, np.nan)
    rate: Floats | float = constant
    if len(step.spots) == 4:
        above, below = (lanes.lane(spot).astype(np.float64) for spot in step.spots[2:])
        rate = np.where(below > 0, above / below, 0.0)
    return np.where(b + weight > 0, (a + weight * rate) / (b + weight), np.nan)


def _trend(step: Step, lanes: Lanes) -> Floats:
    short, long = (lanes.lane(spot).astype(np.float64) for spot in step.spots)
    return np.where(long > 0, short / long * step.numbers[0], np.nan)


def _share(step: Step, lanes: Lanes) -> Floats:
    own, group = (lanes.lane(spot).astype(np.float64) for spot in step.spots)
    return np.where(group > 0, own / group, np.nan)


def _decayed(step: Step, lanes: Lanes) -> Floats:
    return lanes.lane(step.spots[0]).view(np.float64) * step.numbers[0]


def _last(step: Step, lanes: Lanes) -> Floats:
    return np.where(_recent(step, lanes), lanes.lane(step.spots[1]).view(np.float64), np.nan)


def _earliest(step: Step, lanes: Lanes) -> Floats:
    return np.where(lanes.lane(step.spots[0]) > 0, lanes.lane(step.spots[1]).view(np.float64), np.nan)


def _since(step: Step, lanes: Lanes) -> Floats:
    elapsed = (lanes.t - lanes.lane(step.spots[0])).astype(np.float64) / 1e6
    return np.where(_recent(step, lanes), elapsed, np.nan)


def _first(step: Step, lanes: Lanes) -> Floats:
    code = lanes.lane(step.spots[0])
    elapsed = np.minimum(lanes.t - (PEAK_ZERO - code), HORIZON).astype(np.float64) / 1e6
    return np.where(code > 0, elapsed, np.nan)


def _attribute(step: Step, lanes: Lanes) -> Floats:
    return lanes.lane(step.spots[0]).view(np.float64)


def _age(step: Step, lanes: Lanes) -> Floats:
    return (lanes.t.astype(np.float64) - lanes.lane(step.spots[0]).view(np.float64)) / 1e6


def _match(step: Step, lanes: Lanes) -> Floats:
    asked, words = lanes.query_words(), [lanes.lane(spot).view(np.uint64) for spot in step.spots]
    found = np.zeros(lanes.rows)
    for place in range(asked.shape[1]):
        word = asked[:, place]
        if word.any():
            hit = np.zeros(lanes.rows, np.bool_)
            for other in words:
                hit |= other == word
            found += hit & (word != 0)
    count = np.count_nonzero(asked, axis=1).astype(np.float64)
    return np.where((count > 0) & (words[0] != 0), found / count, np.nan)


_NUMBERS = {
    "count": _count,
    "total": _total,
    "mean": _mean,
    "variance": _variance,
    "extreme": _extreme,
    "distinct": _distinct,
    "ratio": _ratio,
    "trend": _trend,
    "share": _share,
    "decayed": _decayed,
    "last": _last,
    "earliest": _earliest,
    "since": _since,
    "first": _first,
    "attribute": _attribute,
    "age": _age,
    "match": _match,
    "quantile": _quantile,
}
