"""The decision on each event: what is attached to it, and what it changes for later events.

The decision depends only on the plan and on the events before: a click finds a response that stands
before it in the same step. It is made column by column, in an order in which no column needs a
later one. A value that holds for all events of a person or item in the step is looked up once. Row
by row are only those whose values the step itself changes. `router.router` has files and
transactions.

    Arrivals without duplicates ──► response → ts ──► person ──► profiles ──► batch of events.ROUTED
                                       └─► response, identify, profile: applied to later events
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

import apsw
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import HOUR, MINUTE, ROUTED, RoutePlan
from tailorbird.router.decide import attribution, dedup, identity
from tailorbird.router.decide import profiles as catalogue
from tailorbird.router.decide.arrivals import Arrivals, Int64s
from tailorbird.router.decide.timeline import VARIES, Timeline

V = TypeVar("V")
Codes, Bools = npt.NDArray[np.int32], npt.NDArray[np.bool_]
MEMORY_BYTES = 256 << 20
_ANONYMOUS = "anon:"


class RouterMemory:
    """State of the router from applied events, read from its tables and saved with each step.

    Args:
        bytes_max: approximate bound of the caches of identities and profiles.
    """

    def __init__(
        self, connection: apsw.Connection, plan: RoutePlan, bytes_max: int = MEMORY_BYTES
    ) -> None:
        share = bytes_max // 4
        self.dedup_index = dedup.DedupIndex(connection, plan.dedup_us)
        self.identity = identity.IdentityHistory(connection, share)
        self.merges = identity.MergeHistory(connection, share)
        self.users = catalogue.ProfileHistory(connection, "user", plan.user_attributes, share)
        self.items = catalogue.ProfileHistory(connection, "item", plan.item_attributes, share)
        self.responses = attribution.ResponseMemory(connection, plan.answer_us)

    @staticmethod
    def make_tables(connection: apsw.Connection) -> None:
        for table in (dedup.TABLE, identity.TABLES, catalogue.TABLE, attribution.TABLE):
            connection.execute(table)

    def save(
        self, connection: apsw.Connection, newest: dict[int, int], import_producers: Sequence[int]
    ) -> None:
        """Write all changes.

        Args:
            newest: newest time of receipt by producer.
            import_producers: the producers of imports and replays.
        """
        self.dedup_index.save(connection, import_producers)
        self.identity.save(connection)
        self.merges.save(connection)
        self.users.save(connection)
        self.items.save(connection)
        self.responses.save(connection, newest)


class DictionaryColumn(NamedTuple, Generic[V]):
    """A dictionary-encoded column: `codes`, shape (n,), index into `values`; -1 is null."""

    values: list[V]
    codes: Codes

    def to_arrow(self, type_: pa.DataType, get: Callable[[V], Any]) -> pa.Array:
        """Return `get` of each value as an Arrow array."""
        if not self.values:
            return pa.nulls(len(self.codes), type_)
        return pa.array([get(value) for value in self.values], type_).take(
            pa.array(self.codes, mask=self.codes < 0)
        )


def route(
    arrivals: Arrivals, memory: RouterMemory, plan: RoutePlan, first_p: int
) -> pa.RecordBatch:
    """Decide on and apply each event; return n rows of events.ROUTED with p from `first_p` on."""
    event_columns, rows = arrivals.columns, len(arrivals)
    is_profile = np.zeros(rows, bool)  # profiles get nothing attached and always count
    is_profile[[one.row for one in arrivals.profiles]] = True
    attributed = _attribute(arrivals, memory.responses, is_profile)
    ts = attributed.ts
    persons = _resolve_persons(arrivals, memory, is_profile, ts, first_p)
    delay_us = arrivals.received_at - ts
    hour = (ts + arrivals.utc_offset_min * MINUTE) // HOUR % 24
    columns = (
        event_columns
        | attributed.columns
        | {
            "p": pa.array(np.arange(first_p, first_p + rows)),
            "ts": pa.array(ts),
            "person": persons,
            "local_hour": pa.array(hour.astype(np.int8), mask=is_profile),
            "counts": pa.array(
                is_profile | ((delay_us <= plan.lateness_us) & (delay_us <= plan.horizon_us))
            ),
            "raw_partition": _raw_log_names(arrivals),
            "raw_offset": pa.array(arrivals.entries["offset"]),
            "raw_row": pa.array(arrivals.entries["row"]),
        }
    )
    profile_mask = pa.array(is_profile)
    user_profiles = _look_up(
        pc.if_else(profile_mask, None, persons),
        ts,
        memory.users.timeline,
        _profile_updates(arrivals, memory.users, "user", "user_id", first_p),
    )
    item_profiles = _look_up_item_profiles(
        arrivals,
        pc.if_else(profile_mask, None, event_columns["item_id"]),
        ts,
        memory.items,
        first_p,
        is_profile,
    )
    for name, profiles in (("user", user_profiles), ("item", item_profiles)):
        columns[f"{name}_version"] = profiles.to_arrow(pa.string(), attrgetter("version"))
        columns[f"{name}_profile"] = profiles.to_arrow(pa.string(), attrgetter("attributes"))
    return pa.RecordBatch.from_arrays(
        [columns[name.name].cast(name.type) for name in ROUTED], schema=ROUTED
    )


def _raw_log_names(arrivals: Arrivals) -> pa.Array:
    """Return the name of each event's raw log."""
    numbers, codes = np.unique(arrivals.entries["producer"], return_inverse=True)
    return DictionaryColumn(
        [arrivals.producers[number] for number in numbers.tolist()], codes.astype(np.int32)
    ).to_arrow(pa.string(), str)


class _Attributed(NamedTuple):
    """Columns taken from the responses that events name, and corrected event times."""

    ts: Int64s
    columns: dict[str, pa.Array]


def _attribute(
    arrivals: Arrivals, memory: attribution.ResponseMemory, is_profile: Bools
) -> _Attributed:
    """Join events to the responses they name, in order, and add responses for later events."""
    event_columns, rows, ts = arrivals.columns, len(arrivals), arrivals.ts.copy()
    responses: dict[int, attribution.RememberedResponse] = {}
    propensities: dict[int, list[float]] = {}
    item_places: dict[int, tuple[int | None, float | None]] = {}
    response_rows = {one.row: one for one in arrivals.responses}
    request_rows = np.flatnonzero(
        event_columns["request_id"].is_valid().to_numpy(zero_copy_only=False) & ~is_profile
    )
    texts = (
        event_columns[name].take(pa.array(request_rows)).to_pylist()
        for name in ("request_id", "item_id")
    )
    times = (ts[request_rows].tolist(), arrivals.received_at[request_rows].tolist())
    for row, request_id, item_id, event_ts, received_at in zip(
        request_rows.tolist(), *texts, *times, strict=True
    ):
        if (response_row := response_rows.get(row)) is not None:
            response = response_row.response
            responses[row] = attribution.RememberedResponse(
                request_id,
                event_ts,
                received_at,
                response.slot,
                response.experiment,
                response.arm,
                response.model,
                response.query,
                response_row.items,
                response.propensities,
            )
            propensities[row] = response.propensities
            memory.put(int(arrivals.entries["producer"][row]), responses[row])
        elif (remembered := memory.get(request_id, received_at)) is not None:
            responses[row] = remembered
            if (
                event_ts <= remembered.ts
                # A client whose clock is behind cannot react before the response was given.
            ):
                ts[row] = remembered.ts + 1
            if item_id is not None:
                item_places[row] = remembered.find_item(item_id)
    encoded = _encode_by_identity(responses, rows)
    columns = {
        name: encoded.to_arrow(pa.string(), lambda one, name=name: getattr(one, name))
        for name in ("slot", "experiment", "arm", "model")
    }
    columns["answer_query"] = encoded.to_arrow(pa.string(), lambda one: one.query)
    for index, name in enumerate(("position", "propensity")):
        columns[name] = _scatter(
            {row: place[index] for row, place in item_places.items()}, rows, ROUTED.field(name).type
        )
    columns["propensities"] = _scatter(propensities, rows, ROUTED.field("propensities").type)
    return _Attributed(ts, columns)


def _encode_by_identity(values_by_row: dict[int, V], rows: int) -> DictionaryColumn[V]:
    """Encode values given by row, sharing codes of identical objects."""
    values: list[V] = []
    codes, code_by_id = np.full(rows, -1, np.int32), dict[int, int]()
    for row, value in values_by_row.items():
        codes[row] = code = code_by_id.setdefault(id(value), len(values))
        if code == len(values):
            values.append(value)
    return DictionaryColumn(values, codes)


def _scatter(values_by_row: dict[int, Any], rows: int, type_: pa.DataType) -> pa.Array:
    """Return an Arrow array of values given by row, null elsewhere."""
    return (
        pa.array([values_by_row.get(row) for row in range(rows)], type_)
        if values_by_row
        else pa.nulls(rows, type_)
    )


def _resolve_persons(
    arrivals: Arrivals, memory: RouterMemory, is_profile: Bools, ts: Int64s, first_p: int
) -> pa.Array:
    """Return the person of each event and apply identifies and merges.

    That is its user, else the identified user of its anonymous id, both after merges; else the
    anonymous id. A profile belongs to its user alone, and a merge to the user that it names.
    """
    event_columns, history = arrivals.columns, memory.identity
    users, visitors = event_columns["user_id"], event_columns["anonymous_id"]
    ids = {
        row: (visitors[row].as_py() or "", users[row].as_py() or "") for row in arrivals.identifies
    }

    def apply(row: int) -> None:
        visitor, user = ids[row]
        history.apply(visitor, int(ts[row]), first_p + row, user)

    updates = [_Update(row, ids[row][0], apply) for row in arrivals.identifies]
    unnamed = pc.if_else(pc.or_(users.is_valid(), pa.array(is_profile)), None, visitors)
    if unnamed.null_count == len(unnamed) and not updates:
        persons = _apply_merges(arrivals, users, memory.merges, is_profile, ts, first_p)
    else:
        identified_users = _look_up(unnamed, ts, history.timeline, updates).to_arrow(
            pa.string(), str
        )
        persons = _apply_merges(
            arrivals, pc.coalesce(users, identified_users), memory.merges, is_profile, ts, first_p
        )
        persons = pc.coalesce(persons, pc.binary_join_element_wise(_ANONYMOUS, unnamed, ""))
    item_rows = [one.row for one in arrivals.profiles if one.type == "item"]
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
    first_p: int,
) -> pa.Array:
    """Return the merged users at the times of their events, and apply all merges in order."""
    if not history.has_merges and not arrivals.merges:
        return users
    merged_into = dict(arrivals.merges)
    encoded = users.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    merged_users = history.find_merged(names) | {users[row].as_py() for row in merged_into}
    has_merge = np.array([name in merged_users for name in names] + [False])[
        encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    ]
    if not has_merge.any():
        return users
    persons = users.to_pylist()
    for row in np.flatnonzero(has_merge).tolist():
        if row in merged_into:
            history.apply(persons[row], int(ts[row]), first_p + row, merged_into[row])
            persons[row] = merged_into[row]
        elif not is_profile[row]:
            persons[row] = history.at(persons[row], int(ts[row]))
    return pa.array(persons, pa.string())


class _Update(NamedTuple):
    """A change of `key` by the event at `row`, which `apply` puts into its timeline."""

    row: int
    key: str
    apply: Callable[[int], None]


def _profile_updates(
    arrivals: Arrivals, history: catalogue.ProfileHistory, kind: str, key: str, first_p: int
) -> list[_Update]:
    """Return the profile updates of one kind."""
    ids, versions = arrivals.columns[key], arrivals.columns["event_id"]
    profiles = {one.row: one for one in arrivals.profiles if one.type == kind}

    def apply(row: int) -> None:
        profile = profiles[row]
        history.apply(
            ids[row].as_py() or "",
            int(arrivals.ts[row]),
            first_p + row,
            versions[row].as_py(),
            profile.properties,
            profile.text,
        )

    return [_Update(row, ids[row].as_py() or "", apply) for row in profiles]


def _look_up(
    keys: pa.Array,
    ts: Int64s,
    timeline: Timeline[V],
    updates: Sequence[_Update],
    overrides: Mapping[int, Callable[[int], V | None]] | None = None,
) -> DictionaryColumn[V]:
    """Return the value of each key at its time, after the updates of earlier rows.

    All updates are applied. A null key has a null value.

    Args:
        overrides: functions to call instead of the lookup, by row.
    """
    encoded = keys.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    timeline.preload([*names, *(put.key for put in updates)])
    updated_keys = {put.key for put in updates}
    first, last = (int(ts.min()), int(ts.max())) if len(ts) else (0, 0)
    values: list[V] = []
    code_of = np.full(len(names) + 1, -1, np.int32)  # the last entry stands for a null key
    for index, value in enumerate(timeline.find_constant(names, first, last)):
        if value is VARIES or names[index] in updated_keys:
            code_of[index] = -2
        elif value is not None:
            code_of[index] = len(values)
            values.append(value)
    place = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    codes = code_of[place]

    def look_up(row: int) -> None:
        value = (
            overrides[row](row)
            if overrides and row in overrides
            else timeline.at(names[place[row]], int(ts[row]))
        )
        codes[row] = -1 if value is None else len(values)
        if value is not None:
            values.append(value)

    lookups = [
        (row, look_up) for row in (*np.flatnonzero(codes == -2).tolist(), *(overrides or ()))
    ]
    for row, action in sorted(
        [*lookups, *((put.row, put.apply) for put in updates)], key=itemgetter(0)
    ):
        action(row)
    return DictionaryColumn(values, codes)


def _look_up_item_profiles(
    arrivals: Arrivals,
    keys: pa.Array,
    ts: Int64s,
    history: catalogue.ProfileHistory,
    first_p: int,
    is_profile: Bools,
) -> DictionaryColumn[catalogue.ProfileVersion]:
    """Return the item profile of each event; that of each item for an event about several."""
    updates = _profile_updates(arrivals, history, "item", "item_id", first_p)
    item_lists = arrivals.columns["items"]
    if item_lists.null_count == len(item_lists):
        return _look_up(keys, ts, history.timeline, updates)
    lengths = pc.fill_null(pc.list_value_length(item_lists), 0).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(
        (lengths > 0) & keys.is_null().to_numpy(zero_copy_only=False) & ~is_profile
    )
    selected = item_lists.take(pa.array(rows))
    history.timeline.preload(selected.flatten().unique().to_pylist())
    items_by_row = dict(zip(rows.tolist(), selected.to_pylist(), strict=True))

    def look_up(row: int) -> catalogue.ProfileVersion | None:
        return history.list_versions(items_by_row[row], int(ts[row]))

    return _look_up(keys, ts, history.timeline, updates, dict.fromkeys(items_by_row, look_up))
