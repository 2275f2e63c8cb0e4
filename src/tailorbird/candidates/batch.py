"""Batches of events as columns of keys, identical from the routed log and from the lake."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.candidates.contract import CATEGORY_ATTRIBUTE, SEGMENTS, Contract
from tailorbird.events.contract.schema import ROUTED, micros
from tailorbird.events.keys import hash64, hash64s

Keys = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

CONTEXT_FIELDS = tuple(name for name in SEGMENTS if name != CATEGORY_ATTRIBUTE)
EVENT_COLUMNS = (
    "p",
    "type",
    "ts",
    "person",
    "item_id",
    "items",
    "agent",
    "counts",
    "timeless",
    "properties",
    *CONTEXT_FIELDS,
)
# `EventBatch.kind`
INTEREST = 0
IMPRESSION = 1
PROFILE = 2
_HOST = re.compile(r"^[a-z]+://(?:www\.)?([^/?#]*).*$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class EventBatch:
    """Events in log order, one row per item that they name; arrays of shape (n,).

    Attributes:
        log_position: position of the event in the routed log, ascending.
        ts: when it happened; of a timeless profile 0.
        kind: INTEREST (a person showed interest in the item), IMPRESSION or PROFILE.
        person_keys: key of the user; 0 if unknown. Only interests have one.
        item_keys: key of the item.
        category_keys: of a profile, the key of its category; 0 without one.
        segment_keys: context field → key of its value; 0 without one. Only interests have any.
        item_ids: the items' ids.
        end_position: the events of the log up to this position are in this batch or before it.
    """

    log_position: Int64s
    ts: Int64s
    kind: npt.NDArray[np.uint8]
    person_keys: Keys
    item_keys: Keys
    category_keys: Keys
    segment_keys: Mapping[str, Keys]
    item_ids: pa.Array
    end_position: int

    def __len__(self) -> int:
        return len(self.log_position)

    def slice(self, start_row: int, stop_row: int, end_position: int) -> "EventBatch":
        """Return the rows from `start_row` to `stop_row` as a batch up to `end_position`."""
        rows = slice(start_row, stop_row)
        segments = {name: keys[rows] for name, keys in self.segment_keys.items()}
        arrays = (
            self.log_position[rows],
            self.ts[rows],
            self.kind[rows],
            self.person_keys[rows],
            self.item_keys[rows],
            self.category_keys[rows],
        )
        return EventBatch(
            *arrays, segments, self.item_ids.slice(start_row, stop_row - start_row), end_position
        )


def to_event_batch(events: pa.Table, contract: Contract, end_position: int) -> EventBatch:
    """Convert routed events to a batch.

    Args:
        events: columns `EVENT_COLUMNS` of `events.contract.schema.ROUTED`, in order of p. Those of
            bots, and those that came too late to count, are left out.
        end_position: position of the last event of the log that was looked at.
    """
    table = events.select(
        [name for name in EVENT_COLUMNS if name in events.column_names]
    ).combine_chunks()
    event_types = pa.array([*contract.event_types, contract.shown, "item"], pa.string())
    is_counted = pc.and_(pc.is_in(table["type"], event_types), pc.fill_null(table["counts"], True))
    table = table.filter(
        pc.and_(is_counted, pc.fill_null(pc.not_equal(table["agent"], "bot"), True))
    ).combine_chunks()
    kinds = _classify_events(table, contract)
    table, kind = _explode_items(table, kinds)
    is_interest = kind == INTEREST
    keys_by_segment = {
        name: np.where(
            is_interest, _hash_column(table[name], partial(_normalise_segment, name)), np.uint64(0)
        )
        for name in CONTEXT_FIELDS
    }
    ts = np.where(pc.fill_null(table["timeless"], False).to_numpy(), 0, micros(table["ts"]))
    person_keys = np.where(is_interest, _hash_column(table["person"]), np.uint64(0))
    item_ids = _to_one_array(table["item_id"])
    return EventBatch(
        log_position=table["p"].to_numpy(),
        ts=ts.astype(np.int64),
        kind=kind,
        person_keys=person_keys,
        item_keys=_hash_column(item_ids),
        category_keys=_read_categories(table, kind),
        segment_keys=keys_by_segment,
        item_ids=item_ids,
        end_position=end_position,
    )


def empty_batch(end_position: int) -> EventBatch:
    """Return a batch without events, which only advances the position."""
    no_integers = np.zeros(0, np.int64)
    keys = np.zeros(0, np.uint64)
    segments = dict.fromkeys(CONTEXT_FIELDS, keys)
    return EventBatch(
        log_position=no_integers,
        ts=no_integers,
        kind=np.zeros(0, np.uint8),
        person_keys=keys,
        item_keys=keys,
        category_keys=keys,
        segment_keys=segments,
        item_ids=pa.array([], pa.string()),
        end_position=end_position,
    )


def segment_keys(context: Mapping[str, str | None]) -> dict[str, int]:
    """Return the keys of the segments that a request is in, by context field."""
    return {
        name: hash64(_normalise_segment(name, value))
        for name in CONTEXT_FIELDS
        if (value := context.get(name))
    }


def _to_one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def _classify_events(table: pa.Table, contract: Contract) -> npt.NDArray[np.uint8]:
    kinds = np.full(table.num_rows, INTEREST, np.uint8)
    kinds[pc.equal(table["type"], contract.shown).to_numpy()] = IMPRESSION
    kinds[pc.equal(table["type"], "item").to_numpy()] = PROFILE
    return kinds


def _explode_items(
    table: pa.Table, kind: npt.NDArray[np.uint8]
) -> tuple[pa.Table, npt.NDArray[np.uint8]]:
    """Return one row per item: an event that shows several is repeated for each."""
    has_item = pc.is_valid(table["item_id"]).to_numpy(zero_copy_only=False)
    is_list_event = (kind == IMPRESSION) & ~has_item
    if "items" not in table.column_names or not is_list_event.any():
        event_rows = np.flatnonzero(has_item)
        return table.take(pa.array(event_rows)), kind[event_rows]
    item_lists = _to_one_array(table["items"])
    sizes = np.where(
        is_list_event,
        pc.fill_null(pc.list_value_length(item_lists), 0).to_numpy(),
        has_item.astype(np.int64),
    ).astype(np.int64)
    event_rows = np.repeat(np.arange(table.num_rows), sizes)
    item_rows = table.take(pa.array(event_rows))
    listed_ids = pc.list_flatten(item_lists.take(pa.array(np.flatnonzero(is_list_event))))
    ids = np.array(item_rows["item_id"].to_pylist(), object)
    ids[is_list_event[event_rows]] = listed_ids.to_pylist()
    item_column_index = item_rows.schema.get_field_index("item_id")
    return item_rows.set_column(
        item_column_index, "item_id", pa.array(ids.tolist(), pa.string())
    ), kind[event_rows]


def _hash_column(column: pa.Array | pa.ChunkedArray, transform: Callable[[str], str] = str) -> Keys:
    """Hash a column of texts, each distinct value once; 0 for null.

    `transform` transforms the values first.
    """
    dictionary = _to_one_array(column).dictionary_encode()
    keys = np.append(
        hash64s([transform(value) for value in dictionary.dictionary.to_pylist()]), np.uint64(0)
    )
    return keys[pc.fill_null(dictionary.indices, len(keys) - 1).to_numpy()]


def _normalise_segment(name: str, value: str) -> str:
    """Return the segment of a context field: a referrer's host, else the value itself."""
    return _HOST.sub(r"\1", value).lower() if name == "referrer" else value


def _read_categories(table: pa.Table, kind: npt.NDArray[np.uint8]) -> Keys:
    categories = np.zeros(table.num_rows, np.uint64)
    profile_rows = np.flatnonzero(kind == PROFILE)
    if len(profile_rows) and "properties" in table.column_names:
        texts: Sequence[str | None] = table["properties"].take(pa.array(profile_rows)).to_pylist()
        categories[profile_rows] = [_category_key(text) for text in texts]
    return categories


def _category_key(text: str | None) -> int:
    value = msgspec.json.decode(text, type=dict[str, Any]).get(CATEGORY_ATTRIBUTE) if text else None
    return (
        hash64(value if isinstance(value, str) else f"{value:g}")
        if isinstance(value, str | float | int)
        else 0
    )


assert set(EVENT_COLUMNS) <= set(ROUTED.names)
