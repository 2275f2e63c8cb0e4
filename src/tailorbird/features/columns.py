"""A block of routed events as columns of numbers and hashes, each made once, when first asked for;
the same for stream and backfill.

How a field becomes numbers or hashes is in `features.fields`; what accumulators add of a block, in
`features.extracts`. A row of a frame is an event, or an event and one of its `items` where it has
no item_id of its own.
"""

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.keys import combine, hash64
from tailorbird.events.schema import micros
from tailorbird.features.declare import WHOLE_FIELDS, Entity
from tailorbird.features.expression import Expression
from tailorbird.features.fields import (
    JsonColumn,
    category_key,
    floats,
    query_keys,
    text_keys,
    weekdays,
    whole_keys,
)
from tailorbird.features.layout import Source
from tailorbird.features.plain import number_of

if TYPE_CHECKING:
    from tailorbird.features.extracts import Extract

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
Some = Rows | slice

SHOWN_TYPES = ("answer", "impression")
NUMBER_MAX = 1.7e308  # as `plain.number_of` has it
_JSON_COLUMNS = {"item": "item_profile", "user": "user_profile", "properties": "properties"}


def entity_key(entity: Entity, parts: list[Keys]) -> Keys:
    """The key of an entity from the hashes of its fields: of one field, its hash; else mixed with
    the entity's name.
    """
    if len(parts) == 1:
        return parts[0]
    return combine(np.array(hash64(entity.name), np.uint64), *parts)


class Frame:
    """A block of routed events (columns of `events.schema.ROUTED`, any order of rows), expanded
    over `items`.
    """

    def __init__(
        self,
        table: pa.Table | pa.RecordBatch,
        hashes: "Callable[[pa.ChunkedArray], Keys] | None" = None,
        *,
        repeated: "Callable[[pa.ChunkedArray], Keys] | None" = None,
    ) -> None:
        """`hashes` makes keys of texts; `repeated` of those that come again in other frames, so not
        of the events' own ids.
        """
        self._hashes = hashes or text_keys
        self._repeated = repeated or self._hashes
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
        self.extracts: dict[Source, Extract] = {}
        self.capped: Counter[str] = (
            Counter()
        )  # by what is summed: values that were cut off at their declared maximum
        self.unreadable: Counter[str] = (
            Counter()
        )  # by field: values that are there but are no number or text as asked for
        self.converted: Counter[str] = (
            Counter()
        )  # by field: truths and lists that were taken as numbers
        count = self._table.num_rows
        lengths = np.zeros(count, np.int64)
        if self._table["items"].null_count < count:
            lengths += pc.fill_null(pc.list_value_length(self._table["items"]), 0).to_numpy()
            lengths[self._table["item_id"].is_valid().to_numpy()] = 0
        self._lengths = lengths
        self._id_of, self._has_id = np.zeros(count, np.uint64), np.zeros(count, np.bool_)
        self._expanded = bool(lengths.any())
        # Which event each row is; columns of events that are not expanded are taken as they are,
        # not copied.
        self._event: Rows | slice = slice(None)
        # The place in `items`; 0 where an event is not expanded.
        self.index: Int64s = np.zeros(count, np.int64)
        if self._expanded:
            copies = np.maximum(lengths, 1)
            self._event = np.repeat(np.arange(count), copies)
            self.index = np.arange(len(self._event)) - np.repeat(np.cumsum(copies) - copies, copies)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_expanded(self) -> bool:
        """Whether any event has a row for each of several items."""
        return self._expanded

    def event(self, rows: Rows) -> Rows:
        """The event, by its place in the table, that each row is of."""
        return rows if isinstance(self._event, slice) else self._event[rows]

    @cached_property
    def ts(self) -> Int64s:
        return micros(self._table["ts"])[self._event]

    @cached_property
    def p(self) -> Int64s:
        return self._table["p"].to_numpy()[self._event]

    @property
    def id(self) -> Keys:
        """Of all rows, as `ids`."""
        return self.ids(np.arange(len(self)))

    def ids(self, rows: Rows) -> Keys:
        """hash(event, owner) + place in `items`; the owner is whose event ids are told apart by:
        user, anonymous or item.

        Hashing is dear: an event is hashed when a row of it is first asked for.
        """
        event = self.event(rows)
        wanted = np.zeros(len(self._id_of), np.bool_)
        wanted[event] = True
        missing = np.flatnonzero(wanted & ~self._has_id)
        if len(missing):
            some = self._table.select(["event_id", "user_id", "anonymous_id", "item_id"]).take(
                pa.array(missing)
            )
            owner = pc.coalesce(
                some["user_id"], some["anonymous_id"], some["item_id"], pa.scalar("")
            )
            self._id_of[missing] = combine(self._hashes(some["event_id"]), self._repeated(owner))
            self._has_id[missing] = True
        with np.errstate(over="ignore"):
            return self._id_of[event] + self.index[rows].astype(np.uint64)

    @cached_property
    def counts(self) -> Bools:
        """Events that count and have a time: a timeless profile is no event."""
        return self._table["counts"].to_numpy()[self._event] & (self.ts > 0)

    def of_types(self, types: tuple[str, ...]) -> Bools:
        mask = self._masks.get(types)
        if mask is None:
            codes, known = self.types
            asked = np.array([one in types for one in known], np.bool_)
            mask = np.ones(len(self), np.bool_) if asked.all() else asked[codes][self._event]
            self._masks[types] = mask
        return mask

    @cached_property
    def types(self) -> tuple[npt.NDArray, list[str]]:
        """The type of each event as a code, and what the codes stand for, with one for none at the
        end where there are such.
        """
        codes = self._table["type"].combine_chunks()
        codes = codes if pa.types.is_dictionary(codes.type) else codes.dictionary_encode()
        known = codes.dictionary.to_pylist()
        if not codes.null_count:
            return codes.indices.to_numpy(), known
        return pc.fill_null(codes.indices, len(known)).to_numpy(), [*known, ""]

    def once(self, per_item: bool) -> Bools:
        """Rows to be taken: each item of impressions and answers, and of others if `per_item`; else
        the event's first.
        """
        if per_item or not self._expanded:
            return np.ones(len(self), np.bool_)
        return (self.index == 0) | self.of_types(SHOWN_TYPES)

    def text(self, name: str) -> Keys:
        """The hash of a text column, 0 where it is missing; "user", "item" and "session" are those
        of entities.
        """
        found = self._texts.get(name)
        if found is None:
            found = self._texts[name] = self._text(name)
        return found

    def number(self, name: str) -> Floats:
        """A number column as float64, NaN where it is missing."""
        found = self._numbers.get(name)
        if found is None:
            if "." in name:
                found = self._attribute(name, number_of, np.nan)
            elif name == "weekday":
                found = weekdays(self.ts, self.number("local_hour"))
            else:
                found = self._finite(name)
            if name == "position":  # of what was shown at once, its place in it
                found = np.where(
                    np.isnan(found) & self.of_types(SHOWN_TYPES) & self._shown_at_once(),
                    self.index + 1.0,
                    found,
                )
            self._numbers[name] = found
        return found

    def _finite(self, name: str) -> Floats:
        """A column of the table; what is not finite, or too large to calculate with, is missing as
        in a profile.
        """
        found = floats(self._table[name])
        if (
            len(found) and found.max() <= NUMBER_MAX and found.min() >= -NUMBER_MAX
        ):  # neither holds where there is any NaN
            return found[self._event]
        with np.errstate(invalid="ignore"):
            odd = ~(np.abs(found) <= NUMBER_MAX)
        lost = int(np.count_nonzero(odd)) - self._table[name].null_count
        if lost:
            self.unreadable[name] += lost
        return np.where(odd, np.nan, found)[self._event] if odd.any() else found[self._event]

    def _attribute(
        self, name: str, make: "Callable[[object], float]", missing: float
    ) -> npt.NDArray:
        """An attribute in JSON, made into a number or a hash; what is there but cannot be made is
        counted.
        """
        owner, _, attribute = name.partition(".")
        found, lost, converted = self._of(owner).values(attribute, make, missing)
        if lost:
            self.unreadable[name] += lost
        if converted:
            self.converted[name] += converted
        return found

    def column(self, name: str, kind: str) -> npt.NDArray:
        """What `Expression` asks for."""
        return self.text(name) if kind == "text" else self.number(name)

    def holds(self, where: Expression) -> Bools:
        mask = self._masks.get(where)
        if mask is None:
            mask = self._masks[where] = where.truths(self.column, len(self))
        return mask

    def bits(self, value: Expression) -> Int64s:
        """An expression as 64 bits a row: hash64 of a text, 0 where it is missing, or a float64,
        NaN where it is missing.
        """
        found = self._bits.get(value)
        if found is None:
            columns = (
                value.columns(self.column)
                if value.kind == "text"
                else value.numbers(self.column, len(self))
            )
            found = self._bits[value] = np.ascontiguousarray(
                np.broadcast_to(columns, (len(self),))
            ).view(np.int64)
        return found

    def key(self, entity: Entity) -> tuple[Keys, Bools]:
        """The entity of each row, and whether the row has one."""
        found = self._keys.get(entity)
        if found is None:
            parts = [self.part(entity, name) for name in entity.fields]
            has = np.ones(len(self), np.bool_)
            for part in parts:
                has &= part != 0
            found = self._keys[entity] = (
                np.broadcast_to(entity_key(entity, parts), (len(self),)),
                has,
            )
        return found

    def _text(self, name: str) -> Keys:
        if "." in name:
            return self._attribute(name, category_key, 0)
        if name in WHOLE_FIELDS:
            return whole_keys(self.number(name))
        return self.of_text(name, self._repeated)

    def part(self, entity: Entity, name: str) -> Keys:
        """What a field adds to the entity's key, 0 where it is missing."""
        return self._queries() if name == "query" else self.text(name)

    def of_text(self, name: str, keyed: Callable[[pa.ChunkedArray], Keys]) -> Keys:
        """A column of text as keys that a function makes of it; 0 where it is missing."""
        if name == "item":
            return self._items(keyed)
        return keyed(self._table[{"user": "person", "session": "session_id"}.get(name, name)])[
            self._event
        ]

    def profile_keys(self, ids: pa.ChunkedArray) -> Keys:
        """The keys of the users or items whose ids these are."""
        return self._hashes(ids)

    def _shown_at_once(self) -> Bools:
        """The rows that stand for one of an event's `items`."""
        return (self._lengths > 0)[self._event]

    def _queries(self) -> Keys:
        """The normalised query of each row, its own or that of the answer that it follows."""
        own, answered = (query_keys(self._table[name]) for name in ("query", "answer_query"))
        return np.where(own != 0, own, answered)[self._event]

    def _items(self, keyed: Callable[[pa.ChunkedArray], Keys]) -> Keys:
        own = keyed(self._table["item_id"])
        if not self._expanded:
            return own
        found = own[self._event]
        taken = pc.filter(self._table["items"], pa.array(self._lengths > 0))
        found[np.repeat(self._lengths > 0, np.maximum(self._lengths, 1))] = keyed(
            pc.list_flatten(taken)
        )
        return found

    def _of(self, owner: str) -> "JsonColumn":
        if owner not in self._json:
            self._json[owner] = JsonColumn(
                self._table[_JSON_COLUMNS[owner]], self._event, self.index
            )
        return self._json[owner]


def chosen_of(values: npt.NDArray, rows: Rows) -> npt.NDArray:
    """The values at rows that ascend; not a copy where these are all."""
    return values if len(rows) == len(values) else values[rows]
