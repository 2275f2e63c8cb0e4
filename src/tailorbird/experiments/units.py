"""The units of an experiment with all that they did, and metrics of them at any time.

A unit is a person or a session. It enters with its first response in the experiment, or with the
first impression of one where that is the declared exposure; it keeps its arm, and is left out if it
was in several. Everything is computed from the lake's `events`: what follows belongs to the
experiment, what precedes the first exposure is the unit's history for CUPED.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY
from tailorbird.events.contract.schema import micros
from tailorbird.experiments.metrics import Metric
from tailorbird.experiments.outcomes import (
    COLUMNS,
    IMPRESSION,
    KINDS,
    RESPONSE,
    Outcomes,
    encode_values,
    match_outcomes,
)

EXTRA_COLUMNS = ("session_id", "device", "country", "referrer", "price", "quantity", "dwell_ms")
UNIT_COLUMNS = (*COLUMNS, *EXTRA_COLUMNS)

STRATA_MAX = 10  # values of a segment that are covariates
STRATUM_UNITS_MIN = 100

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Events of units, shape (rows,).

    `unit` indexes the units, `response` the responses, and `kind` the event types.
    """

    unit: Ints
    ts: Ints
    response: Ints
    response_ts: Ints
    kind: Ints
    revenue: Floats
    dwell_s: Floats


@dataclass(frozen=True)
class UnitTable:
    """The units of an experiment.

    Attributes:
        arms: names; `arm` indexes them, shape (units,).
        first: time of each unit's first exposure, microseconds; its responses count from the one
            that was shown then.
        slot_rows: answers, and events attributed to answers of the experiment; each item of an
            answer counts for `per="answer"`, so that `response_sizes` weighs them.
        site_rows: all events of the units, with `types` as kinds.
        history_rows: slot rows from before the first exposure.
        segments: column → value of each unit at its first exposure.
        exposed: arm → units, several arms included; `in_several` counts those left out.
        arrivals: time of each unit's first exposure, several arms included; `arrival_arms` are the
            arms of these exposures.
    """

    arms: tuple[str, ...]
    arm: Ints
    first: Ints
    slot_rows: Rows
    response_sizes: Floats
    site_rows: Rows
    types: tuple[str, ...]
    history_rows: Rows
    segments: dict[str, npt.NDArray[np.str_]]
    exposed: dict[str, int]
    in_several: int
    arrivals: Ints
    arrival_arms: Ints

    def __len__(self) -> int:
        return len(self.arm)


@dataclass(frozen=True)
class MetricValues:
    """Values of included units: numerator, denominator of a ratio, and arm; shape (units,)."""

    unit: Ints
    arm: Ints
    x: Floats
    y: Floats | None


def load_units(
    events: pa.Table,
    slot: str,
    arms: Sequence[str],
    *,
    experiment: str | None,
    start: int,
    stop: int,
    attribution: int,
    unit: str = "person",
    history: int = 28 * DAY,
    segments: Sequence[str] = (),
    exposure: str = "answer",
) -> UnitTable:
    """Collect the units of an experiment from events with `UNIT_COLUMNS`.

    Args:
        events: from `start − history` to `stop`.
        arms: the control first; units of other arms are ignored.
        experiment: None takes all responses of the slot as one arm, for plans.
        exposure: `answer` or `impression`, see `assign.Experiment`.
    """
    outcomes = match_outcomes(events, slot, attribution)
    table, ts = outcomes.table, micros(outcomes.table["ts"])
    column = "session_id" if unit == "session" else "person"
    key, names = encode_values(table[column])
    if experiment is None:
        arm_of = np.where(ts >= start, 0, -1)
    else:
        is_of_experiment = pc.fill_null(pc.equal(table["experiment"], experiment), False).to_numpy()
        arm_of = pc.fill_null(pc.index_in(table["arm"], value_set=pa.array(list(arms))), -1)
        arm_of = np.where(is_of_experiment & (ts >= start), arm_of.to_numpy().astype(np.int64), -1)
    responses = np.flatnonzero((outcomes.kind == RESPONSE) & (key >= 0) & (ts < stop))
    exposures = _first_exposures(outcomes, ts, key, arm_of, responses, stop, exposure, len(arms))
    is_in_one_arm = exposures.in_arm.sum(axis=1) == 1
    keys, entry = exposures.key[is_in_one_arm], exposures.response[is_in_one_arm]
    first, arm = exposures.ts[is_in_one_arm], arm_of[entry]

    row = np.concatenate([responses, outcomes.row])
    response = np.concatenate([responses, outcomes.response])
    owner = _locate(keys, key[response])
    has_owner = (owner >= 0) & (ts[row] < stop)
    row, response, owner = row[has_owner], response[has_owner], owner[has_owner]
    in_experiment = (ts[response] >= ts[entry][owner]) & (arm_of[response] == arm[owner])
    is_history = (ts[response] < ts[entry][owner]) & (ts[row] < first[owner])
    is_history &= ts[row] >= first[owner] - history
    sizes = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy().astype(np.float64)
    amounts = _amounts(table)

    def rows(mask: Bools) -> Rows:
        events_ = row[mask]
        return Rows(
            owner[mask],
            ts[events_],
            response[mask],
            ts[response[mask]],
            outcomes.kind[events_],
            *(amount[events_] for amount in amounts),
        )

    site_rows, types = _site_rows(events, column, names, keys, first, stop)
    return UnitTable(
        arms=tuple(arms),
        arm=arm,
        first=first,
        slot_rows=rows(in_experiment),
        response_sizes=sizes[row[in_experiment]],
        site_rows=site_rows,
        types=types,
        history_rows=rows(is_history),
        segments={name: _texts(table[name], entry) for name in segments},
        exposed={name: int(exposures.in_arm[:, number].sum()) for number, name in enumerate(arms)},
        in_several=int((~is_in_one_arm).sum()),
        arrivals=exposures.ts,
        arrival_arms=arm_of[exposures.response],
    )


@dataclass(frozen=True)
class _Exposures:
    """The first exposure of each unit, sorted by the unit's key; shape (units,).

    Attributes:
        response: row of the response that the unit was exposed to.
        in_arm: whether the unit was in each arm, shape (units, arms).
    """

    key: Ints
    response: Ints
    ts: Ints
    in_arm: Bools


def _first_exposures(
    outcomes: Outcomes,
    ts: Ints,
    key: Ints,
    arm_of: Ints,
    responses: Ints,
    stop: int,
    exposure: str,
    arms: int,
) -> _Exposures:
    """Find when each unit was first exposed: by a response, or by an impression of one."""
    event = response = responses
    if exposure == "impression":
        is_impression = (outcomes.kind[outcomes.row] == IMPRESSION) & (ts[outcomes.row] < stop)
        event, response = outcomes.row[is_impression], outcomes.response[is_impression]
    is_in_arm = (arm_of[response] >= 0) & (key[response] >= 0)
    event, response = event[is_in_arm], response[is_in_arm]
    order = np.argsort(ts[event], kind="stable")
    keys, first = np.unique(key[response[order]], return_index=True)
    in_arm = np.zeros((len(keys), arms), bool)
    in_arm[np.searchsorted(keys, key[response]), arm_of[response]] = True
    return _Exposures(keys, response[order][first], ts[event[order]][first], in_arm)


def metric_values(table: UnitTable, metric: Metric, until: int) -> MetricValues:
    """Return the values of the units that entered before a time, by what they did before it."""
    mature = until - (metric.window_us or 0) if metric.kind == "return" else until
    included = np.flatnonzero(table.first < mature)
    x, y = _totals(table, metric, until)
    return MetricValues(
        included, table.arm[included], x[included], None if y is None else y[included]
    )


def history_values(table: UnitTable, metric: Metric) -> Floats:
    """Return covariates of all units from before exposure, shape (units, columns), for CUPED.

    They are the numerator and denominator of the same metric in the slot, the activity, and an
    indicator of each common segment: regression on indicators is post-stratification.
    """
    rows, n = table.history_rows, len(table)
    kind = _slot_kind(metric)
    columns = [
        _sum(rows.unit, _event_values(rows, metric, rows.kind == kind), n),
        _sum(rows.unit, (rows.kind == IMPRESSION).astype(np.float64), n),
        _sum(rows.unit, (rows.kind == RESPONSE).astype(np.float64), n),
    ]
    return np.stack([*columns, *_strata(table)], axis=1)


def _strata(table: UnitTable) -> list[Floats]:
    """Return an indicator for each common value of a segment but the most common."""
    indicators = []
    for values in table.segments.values():
        names, counts = np.unique(values, return_counts=True)
        common = np.argsort(-counts, kind="stable")[1 : STRATA_MAX + 1]
        indicators += [
            (values == names[value]).astype(np.float64)
            for value in common
            if counts[value] >= STRATUM_UNITS_MIN
        ]
    return indicators


def _totals(table: UnitTable, metric: Metric, until: int) -> tuple[Floats, Floats | None]:
    n = len(table)
    if metric.kind == "return":
        rows = table.site_rows
        age = rows.ts - table.first[rows.unit]
        is_back = (rows.ts // DAY > table.first[rows.unit] // DAY) & (rows.ts < until)
        is_back &= age <= (metric.window_us or 0)
        return np.minimum(_sum(rows.unit, is_back.astype(np.float64), n), 1.0), None
    if metric.scope == "site":
        rows = table.site_rows
        event = metric.event_type
        code = table.types.index(event) if event in table.types else -2
        is_event = (rows.kind == code) & (rows.ts < until) & (rows.ts >= table.first[rows.unit])
        if metric.window_us is not None:
            is_event &= rows.ts - table.first[rows.unit] < metric.window_us
    else:
        rows = table.slot_rows
        is_event = (rows.kind == _slot_kind(metric)) & (rows.ts < until)
        if metric.window_us is not None:
            is_event &= rows.ts - rows.response_ts < metric.window_us
    if metric.dwell_s:
        is_event &= rows.dwell_s >= metric.dwell_s
    if metric.kind == "success":
        return _successes(rows, is_event, until, n)
    x = _sum(rows.unit, _event_values(rows, metric, is_event), n)
    if metric.kind == "conversion":
        x = np.minimum(x, 1.0)
    if metric.kind != "ratio":
        return x, None
    in_time = rows.ts < until
    if metric.per == "answer":
        shown = np.where((rows.kind == RESPONSE) & in_time, table.response_sizes, 0.0)
    else:
        shown = ((rows.kind == IMPRESSION) & in_time).astype(np.float64)
    return x, _sum(rows.unit, shown, n)


def _successes(rows: Rows, is_event: Bools, until: int, count: int) -> tuple[Floats, Floats]:
    """Return each unit's responses with such an event, and all of its responses."""
    first = np.unique(rows.response[is_event], return_index=True)[1]
    is_response = (rows.kind == RESPONSE) & (rows.ts < until)
    return (
        _sum(rows.unit[is_event][first], np.ones(len(first)), count),
        _sum(rows.unit, is_response.astype(np.float64), count),
    )


def _event_values(rows: Rows, metric: Metric, mask: Bools) -> Floats:
    values = {"count": 1.0, "revenue": rows.revenue, "dwell_s": rows.dwell_s}[metric.event_value]
    return np.where(mask, values, 0.0)


def _slot_kind(metric: Metric) -> int:
    return KINDS.index(metric.event_type) if metric.event_type in KINDS else -2


def _sum(unit: Ints, values: Floats, count: int) -> Floats:
    return np.bincount(unit, weights=values, minlength=count).astype(np.float64)


def _locate(keys: Ints, values: Ints) -> Ints:
    """Return each value's index in sorted keys, or −1."""
    if not len(keys):
        return np.full(len(values), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return np.where(keys[at] == values, at, -1)


def _amounts(table: pa.Table) -> tuple[Floats, Floats]:
    price = _numbers(table["price"], 0.0)
    return price * _numbers(table["quantity"], 1.0), _numbers(table["dwell_ms"], 0.0) / 1_000


def _numbers(column: pa.ChunkedArray, default: float) -> Floats:
    return pc.fill_null(column, default).to_numpy().astype(np.float64)


def _texts(column: pa.ChunkedArray, rows: Ints) -> npt.NDArray[np.str_]:
    values = pc.fill_null(column.take(pa.array(rows)), "").to_pylist()
    return np.array(values, dtype=np.str_)


def _site_rows(
    events: pa.Table, column: str, names: Sequence[str], keys: Ints, first: Ints, stop: int
) -> tuple[Rows, tuple[str, ...]]:
    """Return all events of the units after their exposure, with the event types.

    Args:
        column: of the units' ids; `names` has the id of each code, and `keys` the units' codes.
    """
    owner_keys = pc.index_in(events[column], value_set=pa.array(names, pa.string()))
    owner = _locate(keys, pc.fill_null(owner_keys, -1).to_numpy().astype(np.int64))
    ts = micros(events["ts"])
    kind, types = encode_values(events["type"])
    inside = np.flatnonzero(owner >= 0)
    inside = inside[(ts[inside] >= first[owner[inside]]) & (ts[inside] < stop)]
    amounts = _amounts(events)
    at = ts[inside]
    return Rows(owner[inside], at, inside, at, kind[inside], *(a[inside] for a in amounts)), tuple(
        types
    )
