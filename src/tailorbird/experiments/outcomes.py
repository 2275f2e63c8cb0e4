"""What was seen and done of a slot's answers, by the same rule as the labels that models learn from
(`training.dataset`).

An item that was seen, clicked or bought belongs to the answer that its request_id names, if that
showed it; without a request_id, to the person's last answer in the slot with the item. Either way
it must come within the slot's attribution window after the answer, and counts once for an answer
and item, however often it is told.

Where a table begins after an answer, the router's word is taken for what named it: an outcome with
a position followed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.schema import micros

COLUMNS = (
    "type",
    "ts",
    "person",
    "agent",
    "slot",
    "experiment",
    "arm",
    "items",
    "item_id",
    "request_id",
    "position",
)
KINDS = ("answer", "impression", "click", "purchase")
ANSWER, IMPRESSION, CLICK, PURCHASE = range(len(KINDS))

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Followed:
    """Items that were seen, clicked or bought and the answers that they belong to, each of them
    once; shapes (n,).

    Attributes:
        table: the events that could count: of people, in the slot or naming no answer.
        kind: shape (rows of the table,), an index into `KINDS`.
        row: the row of the table that tells it.
        answer: the row of its answer, or `row` where the answer lies before the table.
        item: index into `items`.
        items: the items' ids.
    """

    table: pa.Table
    kind: Ints
    row: Ints
    answer: Ints
    item: Ints
    items: list[str]


def what_followed(events: pa.Table, slot: str, attribution: int) -> Followed:
    """Find what belongs to a slot's answers in a table with `COLUMNS`, any order."""
    table = _candidates(events, slot)
    kind = pc.index_in(table["type"], value_set=pa.array(KINDS)).to_numpy().astype(np.int64)
    parent = pc.list_parent_indices(table["items"]).to_numpy().astype(np.int64)
    both = pa.chunked_array(
        [*table["item_id"].chunks, *pc.list_flatten(table["items"]).chunks], pa.string()
    )
    code, items = codes(both)
    single, listed = code[: table.num_rows], code[table.num_rows :]
    ones = np.flatnonzero((kind != ANSWER) & (single >= 0))
    several = np.flatnonzero((kind[parent] == IMPRESSION) & (single[parent] < 0))
    row, item = (
        np.concatenate([ones, parent[several]]),
        np.concatenate([single[ones], listed[several]]),
    )
    answer = _Answers(table, kind, parent, listed, len(items), attribution).of(row, item)
    row, item, answer = row[answer >= 0], item[answer >= 0], answer[answer >= 0]
    request, _ = codes(table["request_id"])
    key = (request[answer] * len(items) + item) * len(KINDS) + kind[row]
    order = np.lexsort((micros(table["ts"])[row], key))
    first = order[np.diff(key[order], prepend=-1) != 0]
    return Followed(table, kind, row[first], answer[first], item[first], items)


def codes(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Each value's index in the list of different ones, −1 for null."""
    if not len(column):
        return np.empty(0, np.int64), []
    encoded = column.combine_chunks().dictionary_encode()
    return pc.fill_null(encoded.indices, -1).to_numpy().astype(
        np.int64
    ), encoded.dictionary.to_pylist()


def _candidates(events: pa.Table, slot: str) -> pa.Table:
    free = pc.and_kleene(pc.is_null(events["request_id"]), pc.not_equal(events["type"], "answer"))
    wanted = pc.and_kleene(
        pc.or_kleene(pc.equal(events["slot"], slot), free),
        pc.is_in(events["type"], pa.array(KINDS)),
    )
    wanted = pc.and_kleene(wanted, pc.not_equal(pc.fill_null(events["agent"], "person"), "bot"))
    wanted = pc.and_kleene(wanted, pc.is_valid(events["person"]))
    return events.select(COLUMNS).filter(wanted).combine_chunks()  # null in the mask drops the row


class _Answers:
    """The items that a table's answers showed, and which of them an event follows."""

    def __init__(
        self, table: pa.Table, kind: Ints, parent: Ints, listed: Ints, items: int, attribution: int
    ) -> None:
        self._kind, self._items, self._attribution = kind, items, attribution
        self._ts = micros(table["ts"])
        self._person, _ = codes(table["person"])
        self._request, requests = codes(table["request_id"])
        self._placed = pc.is_valid(table["position"]).to_numpy()
        named = (kind == ANSWER) & (self._request >= 0)
        self._known = np.zeros(len(requests), bool)
        self._known[self._request[named]] = True
        self._row, self._item = parent[named[parent]], listed[named[parent]]
        self._keys, self._first = np.unique(
            self._request[self._row] * items + self._item, return_index=True
        )

    def of(self, row: Ints, item: Ints) -> Ints:
        """The row of the answer that each event and item belong to; the event's own if that lies
        before the table; −1 for none.
        """
        answer = np.full(len(row), -1, np.int64)
        names = self._request[row] >= 0
        known = np.zeros(len(row), bool)
        known[names] = self._known[self._request[row[names]]]
        answer[known] = self._named(row[known], item[known])
        answer[~names] = self._last(row[~names], item[~names])
        believed = names & ~known & (self._placed[row] | (self._kind[row] == IMPRESSION))
        answer[believed] = row[believed]
        return answer

    def _named(self, row: Ints, item: Ints) -> Ints:
        if not len(self._keys):
            return np.full(len(row), -1, np.int64)
        key = self._request[row] * self._items + item
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        answer = self._row[self._first[at]]
        return np.where((self._keys[at] == key) & self._in_time(row, answer), answer, -1)

    def _last(self, row: Ints, item: Ints) -> Ints:
        """The person's last answer with the item before the event: sorted by person, item and time,
        the one that stands before it.
        """
        rows = np.concatenate([self._row, row])
        pair = self._person[rows] * self._items + np.concatenate([self._item, item])
        given = np.arange(len(rows)) < len(self._row)
        order = np.lexsort(
            (given, self._ts[rows], pair)
        )  # at the same microsecond the event is first: it cannot have followed
        place = np.maximum.accumulate(np.where(given[order], np.arange(len(rows)), -1))
        before = order[np.maximum(place, 0)]
        fits = (
            (place >= 0) & (pair[before] == pair[order]) & self._in_time(rows[order], rows[before])
        )
        found = np.empty(len(rows), np.int64)
        found[order] = np.where(fits, rows[before], -1)
        return found[len(self._row) :]

    def _in_time(self, row: Ints, answer: Ints) -> Bools:
        age = self._ts[row] - self._ts[answer]
        return (age >= 0) & (age < self._attribution)
