"""The units of an experiment with all that they did.

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
from tailorbird.experiments.outcomes import (
    COLUMNS,
    IMPRESSION,
    RESPONSE,
    Outcomes,
    encode_values,
    match_outcomes,
)

EXTRA_COLUMNS = ("session_id", "device", "country", "referrer", "price", "quantity", "dwell_ms")
UNIT_COLUMNS = (*COLUMNS, *EXTRA_COLUMNS)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class UnitEvents:
    """Events of units, shape (rows,).

    `unit` indexes the units, `response_row` the responses, and `kind` the event types.
    """

    unit: Ints
    ts: Ints
    response_row: Ints
    response_ts: Ints
    kind: Ints
    revenue: Floats
    dwell_s: Floats


@dataclass(frozen=True)
class UnitTable:
    """The units of an experiment.

    Attributes:
        arms: names; `arm` indexes them, shape (units,).
        first_exposure_ts: of each unit; its responses count from the one that was shown then.
        slot_events: responses, and events attributed to responses of the experiment; each item of a
            response counts for `per="answer"`, so that `response_sizes` weighs them.
        site_events: all events of the units, with `event_types` as kinds.
        history_events: slot events from before the first exposure.
        segments: column → value of each unit at its first exposure.
        exposed_units_by_arm: number of units, those in several arms included;
            `several_arms_count` counts these, which are left out.
        all_exposure_ts: first exposure of each unit, those in several arms included;
            `all_exposure_arms` are the arms of these exposures.
    """

    arms: tuple[str, ...]
    arm: Ints
    first_exposure_ts: Ints
    slot_events: UnitEvents
    response_sizes: Floats
    site_events: UnitEvents
    event_types: tuple[str, ...]
    history_events: UnitEvents
    segments: dict[str, npt.NDArray[np.str_]]
    exposed_units_by_arm: dict[str, int]
    several_arms_count: int
    all_exposure_ts: Ints
    all_exposure_arms: Ints

    def __len__(self) -> int:
        return len(self.arm)


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
    table = outcomes.table
    ts = micros(outcomes.table["ts"])
    id_column = "session_id" if unit == "session" else "person"
    unit_code_by_row, unit_ids = encode_values(table[id_column])
    if experiment is None:
        arm_by_row = np.where(ts >= start, 0, -1)
    else:
        is_of_experiment = pc.fill_null(pc.equal(table["experiment"], experiment), False).to_numpy()
        arm_by_row = pc.fill_null(pc.index_in(table["arm"], value_set=pa.array(list(arms))), -1)
        arm_by_row = np.where(
            is_of_experiment & (ts >= start), arm_by_row.to_numpy().astype(np.int64), -1
        )
    responses = np.flatnonzero((outcomes.kind == RESPONSE) & (unit_code_by_row >= 0) & (ts < stop))
    exposures = _first_exposures(
        outcomes=outcomes,
        ts=ts,
        unit_code_by_row=unit_code_by_row,
        arm_by_row=arm_by_row,
        responses=responses,
        stop=stop,
        exposure=exposure,
        arm_count=len(arms),
    )
    is_in_one_arm = exposures.in_arm.sum(axis=1) == 1
    unit_keys = exposures.key[is_in_one_arm]
    exposing_response = exposures.response_row[is_in_one_arm]
    first_exposure_ts = exposures.ts[is_in_one_arm]
    unit_arm = arm_by_row[exposing_response]

    event_row = np.concatenate([responses, outcomes.event_row])
    response_row = np.concatenate([responses, outcomes.response_row])
    owner_unit = _index_in_sorted(unit_keys, unit_code_by_row[response_row])
    is_owned = (owner_unit >= 0) & (ts[event_row] < stop)
    event_row = event_row[is_owned]
    response_row = response_row[is_owned]
    owner_unit = owner_unit[is_owned]
    is_in_experiment = (ts[response_row] >= ts[exposing_response][owner_unit]) & (
        arm_by_row[response_row] == unit_arm[owner_unit]
    )
    is_history = (ts[response_row] < ts[exposing_response][owner_unit]) & (
        ts[event_row] < first_exposure_ts[owner_unit]
    )
    is_history &= ts[event_row] >= first_exposure_ts[owner_unit] - history
    response_size = (
        pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy().astype(np.float64)
    )
    revenue_and_dwell = _revenue_and_dwell(table)

    def select_events(mask: Bools) -> UnitEvents:
        selected_row = event_row[mask]
        return UnitEvents(
            owner_unit[mask],
            ts[selected_row],
            response_row[mask],
            ts[response_row[mask]],
            outcomes.kind[selected_row],
            *(amount[selected_row] for amount in revenue_and_dwell),
        )

    site_events, event_types = _site_events(
        events=events,
        id_column=id_column,
        unit_ids=unit_ids,
        unit_keys=unit_keys,
        first_exposure_ts=first_exposure_ts,
        stop=stop,
    )
    return UnitTable(
        arms=tuple(arms),
        arm=unit_arm,
        first_exposure_ts=first_exposure_ts,
        slot_events=select_events(is_in_experiment),
        response_sizes=response_size[event_row[is_in_experiment]],
        site_events=site_events,
        event_types=event_types,
        history_events=select_events(is_history),
        segments={name: _to_texts(table[name], exposing_response) for name in segments},
        exposed_units_by_arm={
            name: int(exposures.in_arm[:, number].sum()) for number, name in enumerate(arms)
        },
        several_arms_count=int((~is_in_one_arm).sum()),
        all_exposure_ts=exposures.ts,
        all_exposure_arms=arm_by_row[exposures.response_row],
    )


@dataclass(frozen=True)
class _Exposures:
    """The first exposure of each unit, sorted by the unit's key; shape (units,).

    Attributes:
        key: code of the unit's id.
        response_row: row of the response that the unit was exposed to.
        in_arm: whether the unit was in each arm, shape (units, arms).
    """

    key: Ints
    response_row: Ints
    ts: Ints
    in_arm: Bools


def _first_exposures(
    outcomes: Outcomes,
    ts: Ints,
    unit_code_by_row: Ints,
    arm_by_row: Ints,
    responses: Ints,
    stop: int,
    exposure: str,
    arm_count: int,
) -> _Exposures:
    """Find when each unit was first exposed: by a response, or by an impression of one."""
    exposure_row = response_row = responses
    if exposure == "impression":
        is_impression = (outcomes.kind[outcomes.event_row] == IMPRESSION) & (
            ts[outcomes.event_row] < stop
        )
        exposure_row = outcomes.event_row[is_impression]
        response_row = outcomes.response_row[is_impression]
    is_in_arm = (arm_by_row[response_row] >= 0) & (unit_code_by_row[response_row] >= 0)
    exposure_row = exposure_row[is_in_arm]
    response_row = response_row[is_in_arm]
    order = np.argsort(ts[exposure_row], kind="stable")
    unit_keys, first_index = np.unique(unit_code_by_row[response_row[order]], return_index=True)
    in_arm = np.zeros((len(unit_keys), arm_count), bool)
    in_arm[np.searchsorted(unit_keys, unit_code_by_row[response_row]), arm_by_row[response_row]] = (
        True
    )
    return _Exposures(
        unit_keys, response_row[order][first_index], ts[exposure_row[order]][first_index], in_arm
    )


def _index_in_sorted(keys: Ints, values: Ints) -> Ints:
    """Return each value's index in sorted keys, or −1."""
    if not len(keys):
        return np.full(len(values), -1, np.int64)
    position = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return np.where(keys[position] == values, position, -1)


def _revenue_and_dwell(table: pa.Table) -> tuple[Floats, Floats]:
    price = _to_floats(table["price"], 0.0)
    return price * _to_floats(table["quantity"], 1.0), _to_floats(table["dwell_ms"], 0.0) / 1_000


def _to_floats(column: pa.ChunkedArray, default: float) -> Floats:
    return pc.fill_null(column, default).to_numpy().astype(np.float64)


def _to_texts(column: pa.ChunkedArray, rows: Ints) -> npt.NDArray[np.str_]:
    values = pc.fill_null(column.take(pa.array(rows)), "").to_pylist()
    return np.array(values, dtype=np.str_)


def _site_events(
    events: pa.Table,
    id_column: str,
    unit_ids: Sequence[str],
    unit_keys: Ints,
    first_exposure_ts: Ints,
    stop: int,
) -> tuple[UnitEvents, tuple[str, ...]]:
    """Return all events of the units after their exposure, with the event types.

    Args:
        id_column: of the units' ids; `unit_ids` has the id of each code, and `unit_keys` the codes
            of the units.
    """
    owner_keys = pc.index_in(events[id_column], value_set=pa.array(unit_ids, pa.string()))
    owner_unit = _index_in_sorted(
        unit_keys, pc.fill_null(owner_keys, -1).to_numpy().astype(np.int64)
    )
    ts = micros(events["ts"])
    event_kind, event_types = encode_values(events["type"])
    event_row = np.flatnonzero(owner_unit >= 0)
    event_row = event_row[
        (ts[event_row] >= first_exposure_ts[owner_unit[event_row]]) & (ts[event_row] < stop)
    ]
    revenue_and_dwell = _revenue_and_dwell(events)
    event_ts = ts[event_row]
    return UnitEvents(
        owner_unit[event_row],
        event_ts,
        event_row,
        event_ts,
        event_kind[event_row],
        *(amount[event_row] for amount in revenue_and_dwell),
    ), tuple(event_types)
