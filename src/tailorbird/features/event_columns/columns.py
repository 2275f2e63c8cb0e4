"""A block of routed events as columns of numbers and hashes, each computed on first use.

Stream and backfill share it. `features.event_columns.fields` converts a field into numbers or
hashes; `features.event_columns.extracts` computes what accumulators add of a block. A row of a
frame is an event, or an event and one of its `items` where it has no item_id of its own.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract.schema import micros
from tailorbird.events.keys import combine_keys, hash64
from tailorbird.features.declare.declarations import Entity
from tailorbird.features.declare.fields import INTEGER_FIELDS
from tailorbird.features.declare.scalars import number_of
from tailorbird.features.event_columns.fields import (
    JsonColumn,
    category_key,
    compute_weekdays,
    integer_keys,
    query_keys,
    text_keys,
    to_floats,
)
from tailorbird.features.expr.expression import Expression

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
RowSelection = Rows | slice
T = TypeVar("T")

SHOWN_TYPES = ("answer", "impression")
NUMBER_MAX = 1.7e308  # the limit of `scalars.number_of`
_JSON_COLUMNS = {"item": "item_profile", "user": "user_profile", "properties": "properties"}


def entity_key(entity: Entity, field_keys: list[Keys]) -> Keys:
    """Return the key of an entity: the hash of its only field, or a mix of hashes with its name."""
    if len(field_keys) == 1:
        return field_keys[0]
    return combine_keys(np.array(hash64(entity.name), np.uint64), *field_keys)


class Frame:
    """A block of routed events (columns of `events.contract.schema.ROUTED`, in any order), expanded
    over `items`.
    """

    def __init__(
        self,
        table: pa.Table | pa.RecordBatch,
        hash_texts: "Callable[[pa.ChunkedArray], Keys] | None" = None,
        *,
        hash_repeated_texts: "Callable[[pa.ChunkedArray], Keys] | None" = None,
    ) -> None:
        """Prepare the columns of a block.

        Args:
            hash_texts: makes keys of texts.
            hash_repeated_texts: the same for texts that recur in other frames, so not for the
                events' own ids.
        """
        self._hash_texts = hash_texts or text_keys
        self._hash_repeated_texts = hash_repeated_texts or self._hash_texts
        self._table = (
            pa.Table.from_batches([table])
            if isinstance(table, pa.RecordBatch)
            else table.combine_chunks()
        )
        self._texts: dict[str, Keys] = {}
        self._numbers: dict[str, Floats] = {}
        self._masks: dict[object, Bools] = {}
        self._bits: dict[Expression, Int64s] = {}
        self._keys: dict[Entity, tuple[Keys, Bools]] = {}
        self._json: dict[str, JsonColumn] = {}
        self._cached_values: dict[Hashable, Any] = {}
        self.capped_counts: Counter[str] = (
            Counter()
        )  # values clipped at their declared maximum, by the summed expression
        self.unreadable_counts: Counter[str] = (
            Counter()
        )  # present values that are no number or text as required, by field
        self.converted_counts: Counter[str] = (
            Counter()
        )  # truths and lists used as numbers, by field
        event_count = self._table.num_rows
        item_counts = np.zeros(event_count, np.int64)
        if self._table["items"].null_count < event_count:
            item_counts += pc.fill_null(pc.list_value_length(self._table["items"]), 0).to_numpy()
            item_counts[self._table["item_id"].is_valid().to_numpy()] = 0
        self._item_counts = item_counts
        self._event_ids = np.zeros(event_count, np.uint64)
        self._is_hashed = np.zeros(event_count, np.bool_)
        self._is_expanded = bool(item_counts.any())
        # Which event each row is; columns of events that are not expanded are taken as they are,
        # not copied.
        self._event_of_row: Rows | slice = slice(None)
        # The index in `items`; 0 where an event is not expanded.
        self.index: Int64s = np.zeros(event_count, np.int64)
        if self._is_expanded:
            row_counts = np.maximum(item_counts, 1)
            self._event_of_row = np.repeat(np.arange(event_count), row_counts)
            self.index = np.arange(len(self._event_of_row)) - np.repeat(
                np.cumsum(row_counts) - row_counts, row_counts
            )

    def compute_once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return a value computed from this frame, once per key."""
        if key not in self._cached_values:
            self._cached_values[key] = compute()
        return self._cached_values[key]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_expanded(self) -> bool:
        """True if any event has a row for each of several items."""
        return self._is_expanded

    def event(self, rows: Rows) -> Rows:
        """Return the index in the table of the event of each row."""
        return rows if isinstance(self._event_of_row, slice) else self._event_of_row[rows]

    @cached_property
    def ts(self) -> Int64s:
        return micros(self._table["ts"])[self._event_of_row]

    @cached_property
    def log_position(self) -> Int64s:
        return self._table["p"].to_numpy()[self._event_of_row]

    @property
    def id(self) -> Keys:
        """The ids of all rows, see `ids`."""
        return self.ids(np.arange(len(self)))

    def ids(self, rows: Rows) -> Keys:
        """Return hash(event, owner) + index in `items`.

        The owner scopes event ids: user, anonymous or item. Hashing is expensive, so an event is
        hashed when one of its rows is first requested.
        """
        event_of_row = self.event(rows)
        is_requested = np.zeros(len(self._event_ids), np.bool_)
        is_requested[event_of_row] = True
        unhashed_events = np.flatnonzero(is_requested & ~self._is_hashed)
        if len(unhashed_events):
            id_columns = self._table.select(
                ["event_id", "user_id", "anonymous_id", "item_id"]
            ).take(pa.array(unhashed_events))
            owner = pc.coalesce(
                id_columns["user_id"],
                id_columns["anonymous_id"],
                id_columns["item_id"],
                pa.scalar(""),
            )
            self._event_ids[unhashed_events] = combine_keys(
                self._hash_texts(id_columns["event_id"]), self._hash_repeated_texts(owner)
            )
            self._is_hashed[unhashed_events] = True
        with np.errstate(over="ignore"):
            return self._event_ids[event_of_row] + self.index[rows].astype(np.uint64)

    @cached_property
    def is_counted(self) -> Bools:
        """Events that count and have a time: a profile without a time is no event."""
        return self._table["counts"].to_numpy()[self._event_of_row] & (self.ts > 0)

    def has_type(self, types: tuple[str, ...]) -> Bools:
        has_type = self._masks.get(types)
        if has_type is None:
            codes, type_names = self.type_codes
            is_selected = np.array([type_name in types for type_name in type_names], np.bool_)
            has_type = (
                np.ones(len(self), np.bool_)
                if is_selected.all()
                else is_selected[codes][self._event_of_row]
            )
            self._masks[types] = has_type
        return has_type

    @cached_property
    def type_codes(self) -> tuple[npt.NDArray, list[str]]:
        """The type code of each event and the names of the codes, with "" last if any type is
        missing.
        """
        codes = self._table["type"].combine_chunks()
        codes = codes if pa.types.is_dictionary(codes.type) else codes.dictionary_encode()
        type_names = codes.dictionary.to_pylist()
        if not codes.null_count:
            return codes.indices.to_numpy(), type_names
        return pc.fill_null(codes.indices, len(type_names)).to_numpy(), [*type_names, ""]

    def is_counted_row(self, per_item: bool) -> Bools:
        """Return which rows count: each item of impressions and responses, and of others if
        `per_item`.

        Otherwise only the first row of an event counts.
        """
        if per_item or not self._is_expanded:
            return np.ones(len(self), np.bool_)
        return (self.index == 0) | self.has_type(SHOWN_TYPES)

    def text(self, name: str) -> Keys:
        """Return the hashes of a text column, 0 where it is missing; "user", "item", "session" are
        entities'.
        """
        keys = self._texts.get(name)
        if keys is None:
            keys = self._texts[name] = self._text(name)
        return keys

    def number(self, name: str) -> Floats:
        """Return a number column as float64, NaN where it is missing."""
        values = self._numbers.get(name)
        if values is None:
            if "." in name:
                values = self._convert_attribute(name, number_of, np.nan)
            elif name == "weekday":
                values = compute_weekdays(self.ts, self.number("local_hour"))
            else:
                values = self._finite_column(name)
            if name == "position":  # Items shown at once have their index as position.
                values = np.where(
                    np.isnan(values) & self.has_type(SHOWN_TYPES) & self._is_expanded_row(),
                    self.index + 1.0,
                    values,
                )
            self._numbers[name] = values
        return values

    def _finite_column(self, name: str) -> Floats:
        """Return a column of the table; non-finite or too large values are missing, as in a
        profile.
        """
        values = to_floats(self._table[name])
        if (
            len(values) and values.max() <= NUMBER_MAX and values.min() >= -NUMBER_MAX
        ):  # Both comparisons are False if there is any NaN.
            return values[self._event_of_row]
        with np.errstate(invalid="ignore"):
            is_unusable = ~(np.abs(values) <= NUMBER_MAX)
        unreadable_count = int(np.count_nonzero(is_unusable)) - self._table[name].null_count
        if unreadable_count:
            self.unreadable_counts[name] += unreadable_count
        return (
            np.where(is_unusable, np.nan, values)[self._event_of_row]
            if is_unusable.any()
            else values[self._event_of_row]
        )

    def _convert_attribute(
        self, name: str, convert: "Callable[[object], float]", missing: float
    ) -> npt.NDArray:
        """Convert a JSON attribute into numbers or hashes, and count values that cannot be
        converted.
        """
        owner, _, attribute = name.partition(".")
        values, unreadable_count, converted_count = self._json_column(owner).convert(
            attribute, convert, missing
        )
        if unreadable_count:
            self.unreadable_counts[name] += unreadable_count
        if converted_count:
            self.converted_counts[name] += converted_count
        return values

    def column(self, name: str, kind: str) -> npt.NDArray:
        """Return a column for an `Expression`."""
        return self.text(name) if kind == "text" else self.number(name)

    def matches(self, where: Expression) -> Bools:
        is_match = self._masks.get(where)
        if is_match is None:
            is_match = self._masks[where] = where.truths(self.column, len(self))
        return is_match

    def bits(self, value: Expression) -> Int64s:
        """Return an expression as 64 bits per row: hash64 (0 if missing) or float64 (NaN if
        missing).
        """
        bits = self._bits.get(value)
        if bits is None:
            columns = (
                value.columns(self.column)
                if value.kind == "text"
                else value.numbers(self.column, len(self))
            )
            bits = self._bits[value] = np.ascontiguousarray(
                np.broadcast_to(columns, (len(self),))
            ).view(np.int64)
        return bits

    def key(self, entity: Entity) -> tuple[Keys, Bools]:
        """Return the entity of each row, and whether the row has one."""
        cached_keys = self._keys.get(entity)
        if cached_keys is None:
            field_keys = [self.key_field(entity, name) for name in entity.fields]
            has_entity = np.ones(len(self), np.bool_)
            for field_key in field_keys:
                has_entity &= field_key != 0
            cached_keys = self._keys[entity] = (
                np.broadcast_to(entity_key(entity, field_keys), (len(self),)),
                has_entity,
            )
        return cached_keys

    def _text(self, name: str) -> Keys:
        if "." in name:
            return self._convert_attribute(name, category_key, 0)
        if name in INTEGER_FIELDS:
            return integer_keys(self.number(name))
        return self.text_column(name, self._hash_repeated_texts)

    def key_field(self, entity: Entity, name: str) -> Keys:
        """Return a field's part of the entity's key, 0 where it is missing."""
        return self._read_queries() if name == "query" else self.text(name)

    def text_column(self, name: str, hash_column: Callable[[pa.ChunkedArray], Keys]) -> Keys:
        """Return a text column as keys computed by a function; 0 where it is missing."""
        if name == "item":
            return self._read_items(hash_column)
        return hash_column(
            self._table[{"user": "person", "session": "session_id"}.get(name, name)]
        )[self._event_of_row]

    def profile_keys(self, ids: pa.ChunkedArray) -> Keys:
        """Return the keys of users or items with these ids."""
        return self._hash_texts(ids)

    def _is_expanded_row(self) -> Bools:
        """Return the rows that stand for one of an event's `items`."""
        return (self._item_counts > 0)[self._event_of_row]

    def _read_queries(self) -> Keys:
        """Return the normalised query of each row: its own, or that of the response that it
        follows.
        """
        own_queries, answer_queries = (
            query_keys(self._table[name]) for name in ("query", "answer_query")
        )
        return np.where(own_queries != 0, own_queries, answer_queries)[self._event_of_row]

    def _read_items(self, hash_column: Callable[[pa.ChunkedArray], Keys]) -> Keys:
        own_items = hash_column(self._table["item_id"])
        if not self._is_expanded:
            return own_items
        keys = own_items[self._event_of_row]
        item_lists = pc.filter(self._table["items"], pa.array(self._item_counts > 0))
        keys[np.repeat(self._item_counts > 0, np.maximum(self._item_counts, 1))] = hash_column(
            pc.list_flatten(item_lists)
        )
        return keys

    def _json_column(self, owner: str) -> "JsonColumn":
        if owner not in self._json:
            self._json[owner] = JsonColumn(
                self._table[_JSON_COLUMNS[owner]], self._event_of_row, self.index
            )
        return self._json[owner]


def take_rows(values: npt.NDArray, rows: Rows) -> npt.NDArray:
    """Return the values at ascending rows, without a copy where these are all."""
    return values if len(rows) == len(values) else values[rows]
