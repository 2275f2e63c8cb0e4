"""The decision on each event: what is attached to it, and what it changes for later events.

The decision depends only on the plan and on the events before: a click finds a response that stands
before it in the same step. It is made column by column, in an order in which no column needs a
later one. A value that holds for all events of a person or item in the step is looked up once. Row
by row are only those whose values the step itself changes. `router.router` has files and
transactions.

    Arrivals without duplicates ──► response → ts ──► person ──► profiles ──► batch of events.ROUTED
                                       └─► response, identify, profile: applied to later events
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import apsw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import HOUR, MINUTE, ROUTED, RoutePlan
from tailorbird.router.decide import attribution, dedup, identity
from tailorbird.router.decide import profiles as profile_history
from tailorbird.router.decide.arrivals import Arrivals, Int64s
from tailorbird.router.decide.profile_lookup import (
    Bools,
    DictionaryColumn,
    TimelineUpdate,
    V,
    build_profile_updates,
    look_up_item_profiles,
    look_up_profiles,
)

MEMORY_BYTES = 256 << 20
_ANONYMOUS_PREFIX = "anon:"


class RouterMemory:
    """State of the router from applied events, read from its tables and saved with each step.

    Args:
        bytes_max: approximate bound of the caches of identities and profiles.
    """

    def __init__(
        self, connection: apsw.Connection, plan: RoutePlan, bytes_max: int = MEMORY_BYTES
    ) -> None:
        cache_bytes_max = bytes_max // 4
        self.dedup_index = dedup.DedupIndex(connection, plan.dedup_us)
        self.identity = identity.IdentityHistory(connection, cache_bytes_max)
        self.merges = identity.MergeHistory(connection, cache_bytes_max)
        self.users = profile_history.ProfileHistory(
            connection, "user", plan.user_attributes, cache_bytes_max
        )
        self.items = profile_history.ProfileHistory(
            connection, "item", plan.item_attributes, cache_bytes_max
        )
        self.responses = attribution.ResponseMemory(connection, plan.answer_us)

    @staticmethod
    def make_tables(connection: apsw.Connection) -> None:
        for table_sql in (
            dedup.SCHEMA_SQL,
            identity.SCHEMA_SQL,
            profile_history.SCHEMA_SQL,
            attribution.SCHEMA_SQL,
        ):
            connection.execute(table_sql)

    def save(
        self,
        connection: apsw.Connection,
        newest_by_producer: dict[int, int],
        historical_producer_ids: Sequence[int],
    ) -> None:
        """Write all changes.

        Args:
            newest_by_producer: newest time of receipt by producer.
            historical_producer_ids: the producers of imports and replays.
        """
        self.dedup_index.save(connection, historical_producer_ids)
        self.identity.save(connection)
        self.merges.save(connection)
        self.users.save(connection)
        self.items.save(connection)
        self.responses.save(connection, newest_by_producer)


def route(
    arrivals: Arrivals, memory: RouterMemory, plan: RoutePlan, first_log_position: int
) -> pa.RecordBatch:
    """Decide on and apply each event; return n rows of events.ROUTED.

    Their `p` begins at `first_log_position`.
    """
    event_columns = arrivals.columns
    row_count = len(arrivals)
    is_profile = np.zeros(row_count, bool)  # profiles get nothing attached and always count
    is_profile[[profile.row for profile in arrivals.profiles]] = True
    attributed_events = _attribute_events(arrivals, memory.responses, is_profile)
    ts = attributed_events.ts
    persons = _resolve_persons(arrivals, memory, is_profile, ts, first_log_position)
    delay_us = arrivals.received_at - ts
    local_hours = (ts + arrivals.utc_offset_minutes * MINUTE) // HOUR % 24
    columns = (
        event_columns
        | attributed_events.columns
        | {
            "p": pa.array(np.arange(first_log_position, first_log_position + row_count)),
            "ts": pa.array(ts),
            "person": persons,
            "local_hour": pa.array(local_hours.astype(np.int8), mask=is_profile),
            "counts": pa.array(
                is_profile | ((delay_us <= plan.lateness_us) & (delay_us <= plan.horizon_us))
            ),
            "raw_partition": _raw_log_names(arrivals),
            "raw_offset": pa.array(arrivals.dedup_entries["offset"]),
            "raw_row": pa.array(arrivals.dedup_entries["row"]),
        }
    )
    profile_mask = pa.array(is_profile)
    user_profiles = look_up_profiles(
        pc.if_else(profile_mask, None, persons),
        ts,
        memory.users.timeline,
        build_profile_updates(arrivals, memory.users, "user", "user_id", first_log_position),
    )
    item_profiles = look_up_item_profiles(
        arrivals,
        pc.if_else(profile_mask, None, event_columns["item_id"]),
        ts,
        memory.items,
        first_log_position,
        is_profile,
    )
    for name, profiles in (("user", user_profiles), ("item", item_profiles)):
        columns[f"{name}_version"] = profiles.to_arrow(pa.string(), attrgetter("version"))
        columns[f"{name}_profile"] = profiles.to_arrow(pa.string(), attrgetter("attributes"))
    return pa.RecordBatch.from_arrays(
        [columns[field.name].cast(field.type) for field in ROUTED], schema=ROUTED
    )


def _raw_log_names(arrivals: Arrivals) -> pa.Array:
    """Return the name of each event's raw log."""
    producer_ids, codes = np.unique(arrivals.dedup_entries["producer"], return_inverse=True)
    return DictionaryColumn(
        [arrivals.producers[producer_id] for producer_id in producer_ids.tolist()],
        codes.astype(np.int32),
    ).to_arrow(pa.string(), str)


class _AttributedColumns(NamedTuple):
    """Columns taken from the responses that events name, and corrected event times."""

    ts: Int64s
    columns: dict[str, pa.Array]


def _attribute_events(
    arrivals: Arrivals, memory: attribution.ResponseMemory, is_profile: Bools
) -> _AttributedColumns:
    """Join events to the responses they name, in order, and add responses for later events."""
    event_columns = arrivals.columns
    row_count = len(arrivals)
    ts = arrivals.ts.copy()
    responses: dict[int, attribution.RememberedResponse] = {}
    propensities: dict[int, list[float]] = {}
    position_and_propensity_by_row: dict[int, tuple[int | None, float | None]] = {}
    response_rows = {response.row: response for response in arrivals.responses}
    request_rows = np.flatnonzero(
        event_columns["request_id"].is_valid().to_numpy(zero_copy_only=False) & ~is_profile
    )
    id_columns = (
        event_columns[name].take(pa.array(request_rows)).to_pylist()
        for name in ("request_id", "item_id")
    )
    time_columns = (ts[request_rows].tolist(), arrivals.received_at[request_rows].tolist())
    for row, request_id, item_id, event_ts, received_at in zip(
        request_rows.tolist(), *id_columns, *time_columns, strict=True
    ):
        if (response_row := response_rows.get(row)) is not None:
            response = response_row.response
            responses[row] = attribution.RememberedResponse(
                request_id=request_id,
                ts=event_ts,
                received_at=received_at,
                slot=response.slot,
                experiment=response.experiment,
                arm=response.arm,
                model=response.model,
                query=response.query,
                items=response_row.items,
                propensities=response.propensities,
            )
            propensities[row] = response.propensities
            memory.put(int(arrivals.dedup_entries["producer"][row]), responses[row])
        elif (remembered_response := memory.get(request_id, received_at)) is not None:
            responses[row] = remembered_response
            if (
                event_ts <= remembered_response.ts
                # A client whose clock is behind cannot react before the response was given.
            ):
                ts[row] = remembered_response.ts + 1
            if item_id is not None:
                position_and_propensity_by_row[row] = remembered_response.find_item(item_id)
    encoded_responses = _encode_by_identity(responses, row_count)
    columns = {
        name: encoded_responses.to_arrow(
            pa.string(), lambda response_, name=name: getattr(response_, name)
        )
        for name in ("slot", "experiment", "arm", "model")
    }
    columns["answer_query"] = encoded_responses.to_arrow(
        pa.string(), lambda response_: response_.query
    )
    for index, name in enumerate(("position", "propensity")):
        columns[name] = _build_sparse_column(
            {row: values[index] for row, values in position_and_propensity_by_row.items()},
            row_count,
            ROUTED.field(name).type,
        )
    columns["propensities"] = _build_sparse_column(
        propensities, row_count, ROUTED.field("propensities").type
    )
    return _AttributedColumns(ts, columns)


def _encode_by_identity(values_by_row: dict[int, V], row_count: int) -> DictionaryColumn[V]:
    """Encode values given by row, sharing codes of identical objects."""
    values: list[V] = []
    codes = np.full(row_count, -1, np.int32)
    code_by_id = dict[int, int]()
    for row, value in values_by_row.items():
        codes[row] = code = code_by_id.setdefault(id(value), len(values))
        if code == len(values):
            values.append(value)
    return DictionaryColumn(values, codes)


def _build_sparse_column(
    values_by_row: dict[int, Any], row_count: int, type_: pa.DataType
) -> pa.Array:
    """Return an Arrow array of values given by row, null elsewhere."""
    return (
        pa.array([values_by_row.get(row) for row in range(row_count)], type_)
        if values_by_row
        else pa.nulls(row_count, type_)
    )


def _resolve_persons(
    arrivals: Arrivals, memory: RouterMemory, is_profile: Bools, ts: Int64s, first_log_position: int
) -> pa.Array:
    """Return the person of each event and apply identifies and merges.

    That is its user, else the identified user of its anonymous id, both after merges; else the
    anonymous id. A profile belongs to its user alone, and a merge to the user that it names.
    """
    event_columns = arrivals.columns
    history = memory.identity
    users = event_columns["user_id"]
    visitors = event_columns["anonymous_id"]
    ids_by_row = {
        row: (visitors[row].as_py() or "", users[row].as_py() or "")
        for row in arrivals.identify_rows
    }

    def apply_identify(row: int) -> None:
        visitor, user = ids_by_row[row]
        history.apply(visitor, int(ts[row]), first_log_position + row, user)

    updates = [
        TimelineUpdate(row, ids_by_row[row][0], apply_identify) for row in arrivals.identify_rows
    ]
    anonymous_visitors = pc.if_else(pc.or_(users.is_valid(), pa.array(is_profile)), None, visitors)
    if anonymous_visitors.null_count == len(anonymous_visitors) and not updates:
        persons = _apply_merges(arrivals, users, memory.merges, is_profile, ts, first_log_position)
    else:
        identified_users = look_up_profiles(
            anonymous_visitors, ts, history.timeline, updates
        ).to_arrow(pa.string(), str)
        persons = _apply_merges(
            arrivals,
            pc.coalesce(users, identified_users),
            memory.merges,
            is_profile,
            ts,
            first_log_position,
        )
        persons = pc.coalesce(
            persons, pc.binary_join_element_wise(_ANONYMOUS_PREFIX, anonymous_visitors, "")
        )
    item_rows = [profile.row for profile in arrivals.profiles if profile.type == "item"]
    if item_rows:
        is_item = np.zeros(len(arrivals), bool)
        is_item[item_rows] = True
        persons = pc.if_else(pa.array(is_item), None, persons)
    return persons


def _apply_merges(
    arrivals: Arrivals,
    users: pa.Array,
    history: identity.MergeHistory,
    is_profile: Bools,
    ts: Int64s,
    first_log_position: int,
) -> pa.Array:
    """Return the merged users at the times of their events, and apply all merges in order."""
    if not history.has_merges and not arrivals.merges:
        return users
    merged_into_by_row = dict(arrivals.merges)
    encoded_users = users.dictionary_encode()
    distinct_users = encoded_users.dictionary.to_pylist()
    merged_users = history.find_merged_users(distinct_users) | {
        users[row].as_py() for row in merged_into_by_row
    }
    has_merge = np.array([name in merged_users for name in distinct_users] + [False])[
        encoded_users.indices.fill_null(len(distinct_users)).to_numpy(zero_copy_only=False)
    ]
    if not has_merge.any():
        return users
    persons = users.to_pylist()
    for row in np.flatnonzero(has_merge).tolist():
        if row in merged_into_by_row:
            history.apply(
                persons[row], int(ts[row]), first_log_position + row, merged_into_by_row[row]
            )
            persons[row] = merged_into_by_row[row]
        elif not is_profile[row]:
            persons[row] = history.resolve_user(persons[row], int(ts[row]))
    return pa.array(persons, pa.string())
