"""Look-up of the profiles known at each event, and their updates."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.router.decide import profiles as profile_history
from tailorbird.router.decide.arrivals import Arrivals, Int64s
from tailorbird.router.decide.timeline import NOT_CONSTANT, Timeline

V = TypeVar("V")
_PENDING = -2  # code of a row whose value is looked up by itself
Codes = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


class DictionaryColumn(NamedTuple, Generic[V]):
    """A dictionary-encoded column: `codes`, shape (n,), index into `values`; -1 is null."""

    values: list[V]
    codes: Codes

    def to_arrow(self, type_: pa.DataType, get_field: Callable[[V], Any]) -> pa.Array:
        """Return `get_field` of each value as an Arrow array."""
        if not self.values:
            return pa.nulls(len(self.codes), type_)
        return pa.array([get_field(value) for value in self.values], type_).take(
            pa.array(self.codes, mask=self.codes < 0)
        )


class TimelineUpdate(NamedTuple):
    """A change of `key` by the event at `row`, which `apply` puts into its timeline."""

    row: int
    key: str
    apply: Callable[[int], None]


def build_profile_updates(
    arrivals: Arrivals,
    history: profile_history.ProfileHistory,
    kind: str,
    key_column: str,
    first_log_position: int,
) -> list[TimelineUpdate]:
    """Return the profile updates of one kind."""
    # The version of a profile is the id of its event.
    ids = arrivals.columns[key_column]
    versions = arrivals.columns["event_id"]
    profiles = {profile.row: profile for profile in arrivals.profiles if profile.type == kind}

    def apply(row: int) -> None:
        profile = profiles[row]
        history.apply(
            ids[row].as_py() or "",
            int(arrivals.ts[row]),
            first_log_position + row,
            versions[row].as_py(),
            profile.properties,
            profile.properties_json,
        )

    return [TimelineUpdate(row, ids[row].as_py() or "", apply) for row in profiles]


def look_up_profiles(
    keys: pa.Array,
    ts: Int64s,
    timeline: Timeline[V],
    updates: Sequence[TimelineUpdate],
    lookup_by_row: Mapping[int, Callable[[int], V | None]] | None = None,
) -> DictionaryColumn[V]:
    """Return the value of each key at its time, after the updates of earlier rows.

    All updates are applied. A null key has a null value.

    Args:
        lookup_by_row: functions to call instead of the lookup, by row.
    """
    encoded_keys = keys.dictionary_encode()
    distinct_keys = encoded_keys.dictionary.to_pylist()
    timeline.preload([*distinct_keys, *(update.key for update in updates)])
    updated_keys = {update.key for update in updates}
    first_ts, last_ts = (int(ts.min()), int(ts.max())) if len(ts) else (0, 0)
    values: list[V] = []
    code_by_key_index = np.full(
        len(distinct_keys) + 1, -1, np.int32
    )  # the last entry stands for a null key
    for index, value in enumerate(timeline.find_constant(distinct_keys, first_ts, last_ts)):
        if value is NOT_CONSTANT or distinct_keys[index] in updated_keys:
            code_by_key_index[index] = _PENDING
        elif value is not None:
            code_by_key_index[index] = len(values)
            values.append(value)
    key_indexes = encoded_keys.indices.fill_null(len(distinct_keys)).to_numpy(zero_copy_only=False)
    codes = code_by_key_index[key_indexes]

    def look_up(row: int) -> None:
        value = (
            lookup_by_row[row](row)
            if lookup_by_row and row in lookup_by_row
            else timeline.value_at(distinct_keys[key_indexes[row]], int(ts[row]))
        )
        codes[row] = -1 if value is None else len(values)
        if value is not None:
            values.append(value)

    lookups = [
        (row, look_up)
        for row in (*np.flatnonzero(codes == _PENDING).tolist(), *(lookup_by_row or ()))
    ]
    for row, action in sorted(
        [*lookups, *((update.row, update.apply) for update in updates)], key=itemgetter(0)
    ):
        action(row)
    return DictionaryColumn(values, codes)


def look_up_item_profiles(
    arrivals: Arrivals,
    keys: pa.Array,
    ts: Int64s,
    history: profile_history.ProfileHistory,
    first_log_position: int,
    is_profile: Bools,
) -> DictionaryColumn[profile_history.ProfileVersion]:
    """Return the item profile of each event; that of each item for an event about several."""
    updates = build_profile_updates(arrivals, history, "item", "item_id", first_log_position)
    item_lists = arrivals.columns["items"]
    if item_lists.null_count == len(item_lists):
        return look_up_profiles(keys, ts, history.timeline, updates)
    list_lengths = pc.fill_null(pc.list_value_length(item_lists), 0).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(
        (list_lengths > 0) & keys.is_null().to_numpy(zero_copy_only=False) & ~is_profile
    )
    selected_lists = item_lists.take(pa.array(rows))
    history.timeline.preload(selected_lists.flatten().unique().to_pylist())
    items_by_row = dict(zip(rows.tolist(), selected_lists.to_pylist(), strict=True))

    def look_up(row: int) -> profile_history.ProfileVersion | None:
        return history.join_versions(items_by_row[row], int(ts[row]))

    return look_up_profiles(
        keys, ts, history.timeline, updates, dict.fromkeys(items_by_row, look_up)
    )
