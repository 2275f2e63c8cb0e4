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
Codes, Bools = npt.NDArray[np.int32], npt.NDArray[np.bool_]


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


class Update(NamedTuple):
    """A change of `key` by the event at `row`, which `apply` puts into its timeline."""

    row: int
    key: str
    apply: Callable[[int], None]


def profile_updates(
    arrivals: Arrivals, history: profile_history.ProfileHistory, kind: str, key: str, first_p: int
) -> list[Update]:
    """Return the profile updates of one kind."""
    ids, versions = arrivals.columns[key], arrivals.columns["event_id"]
    profiles = {profile.row: profile for profile in arrivals.profiles if profile.type == kind}

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

    return [Update(row, ids[row].as_py() or "", apply) for row in profiles]


def look_up_profiles(
    keys: pa.Array,
    ts: Int64s,
    timeline: Timeline[V],
    updates: Sequence[Update],
    overrides: Mapping[int, Callable[[int], V | None]] | None = None,
) -> DictionaryColumn[V]:
    """Return the value of each key at its time, after the updates of earlier rows.

    All updates are applied. A null key has a null value.

    Args:
        overrides: functions to call instead of the lookup, by row.
    """
    encoded = keys.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    timeline.preload([*names, *(update.key for update in updates)])
    updated_keys = {update.key for update in updates}
    first, last = (int(ts.min()), int(ts.max())) if len(ts) else (0, 0)
    values: list[V] = []
    code_of = np.full(len(names) + 1, -1, np.int32)  # the last entry stands for a null key
    for index, value in enumerate(timeline.find_constant(names, first, last)):
        if value is NOT_CONSTANT or names[index] in updated_keys:
            code_of[index] = -2
        elif value is not None:
            code_of[index] = len(values)
            values.append(value)
    codes_of_row = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    codes = code_of[codes_of_row]

    def look_up(row: int) -> None:
        value = (
            overrides[row](row)
            if overrides and row in overrides
            else timeline.at(names[codes_of_row[row]], int(ts[row]))
        )
        codes[row] = -1 if value is None else len(values)
        if value is not None:
            values.append(value)

    lookups = [
        (row, look_up) for row in (*np.flatnonzero(codes == -2).tolist(), *(overrides or ()))
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
    first_p: int,
    is_profile: Bools,
) -> DictionaryColumn[profile_history.ProfileVersion]:
    """Return the item profile of each event; that of each item for an event about several."""
    updates = profile_updates(arrivals, history, "item", "item_id", first_p)
    item_lists = arrivals.columns["items"]
    if item_lists.null_count == len(item_lists):
        return look_up_profiles(keys, ts, history.timeline, updates)
    lengths = pc.fill_null(pc.list_value_length(item_lists), 0).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(
        (lengths > 0) & keys.is_null().to_numpy(zero_copy_only=False) & ~is_profile
    )
    selected = item_lists.take(pa.array(rows))
    history.timeline.preload(selected.flatten().unique().to_pylist())
    items_by_row = dict(zip(rows.tolist(), selected.to_pylist(), strict=True))

    def look_up(row: int) -> profile_history.ProfileVersion | None:
        return history.list_versions(items_by_row[row], int(ts[row]))

    return look_up_profiles(
        keys, ts, history.timeline, updates, dict.fromkeys(items_by_row, look_up)
    )
