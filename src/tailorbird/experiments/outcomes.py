"""Attribute impressions, clicks, purchases and views to a slot's responses, as `training.dataset.dataset`
does.

An item that was seen, clicked, viewed or bought belongs to the response that its request_id names, if that
response contained it; without a request_id, to the person's last response in the slot with the
item. Either way it must follow within the slot's attribution window, and counts once per response
and item. If a table starts after a response, the router's attribution is trusted: an outcome with a
position followed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract.schema import micros
from tailorbird.experiments.metrics import EVENTS

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
KINDS = EVENTS
RESPONSE, IMPRESSION, CLICK, PURCHASE, VIEW = range(len(KINDS))

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Outcomes:
    """Items seen, clicked or bought, each once, with their responses; shapes (n,).

    Attributes:
        table: the events that may count, with all their columns: of people, in the slot, of one
            of its responses by request_id, or without a response.
        kind: shape (rows of the table,), an index into `KINDS`.
        event_row: the row of the event in the table.
        response_row: the row of its response, or `event_row` if the response precedes the table.
        item: index into `items`.
        items: the items' ids.
    """

    table: pa.Table
    kind: Ints
    event_row: Ints
    response_row: Ints
    item: Ints
    items: list[str]


def match_outcomes(events: pa.Table, slot: str, attribution: int) -> Outcomes:
    """Match events to a slot's responses in a table with `COLUMNS` at least, in any order."""
    table = _select_candidates(events, slot)
    kind = pc.index_in(table["type"], value_set=pa.array(KINDS)).to_numpy().astype(np.int64)
    row_of_listed_item = pc.list_parent_indices(table["items"]).to_numpy().astype(np.int64)
    item_ids = pa.chunked_array(
        [*table["item_id"].chunks, *pc.list_flatten(table["items"]).chunks], pa.string()
    )
    item_code, items = encode_values(item_ids)
    single_item = item_code[: table.num_rows]
    listed_item = item_code[table.num_rows :]
    single_rows = np.flatnonzero((kind != RESPONSE) & (single_item >= 0))
    listed_entries = np.flatnonzero(
        (kind[row_of_listed_item] == IMPRESSION) & (single_item[row_of_listed_item] < 0)
    )
    row = np.concatenate([single_rows, row_of_listed_item[listed_entries]])
    item = np.concatenate([single_item[single_rows], listed_item[listed_entries]])
    response = _ResponseIndex(
        table=table,
        kind=kind,
        row_of_listed_item=row_of_listed_item,
        listed_item=listed_item,
        item_count=len(items),
        attribution=attribution,
    ).match(row, item)
    row = row[response >= 0]
    item = item[response >= 0]
    response = response[response >= 0]
    request_code, _ = encode_values(table["request_id"])
    outcome_key = (request_code[response] * len(items) + item) * len(KINDS) + kind[row]
    order = np.lexsort((micros(table["ts"])[row], outcome_key))
    first_outcome = order[np.diff(outcome_key[order], prepend=-1) != 0]
    return Outcomes(
        table=table,
        kind=kind,
        event_row=row[first_outcome],
        response_row=response[first_outcome],
        item=item[first_outcome],
        items=items,
    )


def encode_values(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Return each value's index in the list of distinct values, −1 for null."""
    if not len(column):
        return np.empty(0, np.int64), []
    encoded = column.combine_chunks().dictionary_encode()
    return pc.fill_null(encoded.indices, -1).to_numpy().astype(
        np.int64
    ), encoded.dictionary.to_pylist()


def _select_candidates(events: pa.Table, slot: str) -> pa.Table:
    is_unattributed = pc.and_kleene(
        pc.is_null(events["request_id"]), pc.not_equal(events["type"], "answer")
    )
    in_slot = pc.equal(events["slot"], slot)
    is_response = pc.and_kleene(in_slot, pc.equal(events["type"], "answer"))
    responses = events["request_id"].filter(is_response).drop_null()
    has_known_response = pc.and_(
        pc.is_null(events["slot"]), pc.is_in(events["request_id"], responses)
    )
    mask = pc.and_kleene(
        pc.or_kleene(in_slot, pc.or_kleene(is_unattributed, has_known_response)),
        pc.is_in(events["type"], pa.array(KINDS)),
    )
    mask = pc.and_kleene(mask, pc.not_equal(pc.fill_null(events["agent"], "person"), "bot"))
    mask = pc.and_kleene(mask, pc.is_valid(events["person"]))
    return events.filter(mask).combine_chunks()  # null in the mask drops the row


class _ResponseIndex:
    """The items of a table's responses, to match events with."""

    def __init__(
        self,
        table: pa.Table,
        kind: Ints,
        row_of_listed_item: Ints,
        listed_item: Ints,
        item_count: int,
        attribution: int,
    ) -> None:
        self._kind = kind
        self._item_count = item_count
        self._attribution_us = attribution
        self._ts = micros(table["ts"])
        self._person, _ = encode_values(table["person"])
        self._request_code, requests = encode_values(table["request_id"])
        self._has_position = pc.is_valid(table["position"]).to_numpy()
        is_named_response = (kind == RESPONSE) & (self._request_code >= 0)
        self._request_has_response = np.zeros(len(requests), bool)
        self._request_has_response[self._request_code[is_named_response]] = True
        self._response_row = row_of_listed_item[is_named_response[row_of_listed_item]]
        self._response_item = listed_item[is_named_response[row_of_listed_item]]
        self._request_item_keys, self._first_index = np.unique(
            self._request_code[self._response_row] * item_count + self._response_item,
            return_index=True,
        )

    def match(self, row: Ints, item: Ints) -> Ints:
        """Return the row of the response of each event and item, or −1.

        It is the event's own row if the response precedes the table.
        """
        response = np.full(len(row), -1, np.int64)
        has_request = self._request_code[row] >= 0
        has_known_response = np.zeros(len(row), bool)
        has_known_response[has_request] = self._request_has_response[
            self._request_code[row[has_request]]
        ]
        response[has_known_response] = self._match_by_request(
            row[has_known_response], item[has_known_response]
        )
        response[~has_request] = self._match_by_person(row[~has_request], item[~has_request])
        is_trusted = (
            has_request
            & ~has_known_response
            & (self._has_position[row] | (self._kind[row] == IMPRESSION))
        )
        response[is_trusted] = row[is_trusted]
        return response

    def _match_by_request(self, row: Ints, item: Ints) -> Ints:
        if not len(self._request_item_keys):
            return np.full(len(row), -1, np.int64)
        request_item_key = self._request_code[row] * self._item_count + item
        key_index = np.minimum(
            np.searchsorted(self._request_item_keys, request_item_key),
            len(self._request_item_keys) - 1,
        )
        response = self._response_row[self._first_index[key_index]]
        return np.where(
            (self._request_item_keys[key_index] == request_item_key)
            & self._is_within_window(row, response),
            response,
            -1,
        )

    def _match_by_person(self, row: Ints, item: Ints) -> Ints:
        """Return the person's last response with the item before the event.

        Sorted by person, item and time, it is the one that precedes the event.
        """
        rows = np.concatenate([self._response_row, row])
        person_item_key = self._person[rows] * self._item_count + np.concatenate(
            [self._response_item, item]
        )
        is_response = np.arange(len(rows)) < len(self._response_row)
        order = np.lexsort(
            (is_response, self._ts[rows], person_item_key)
        )  # at the same microsecond the event sorts first, as it cannot have followed
        last_response_position = np.maximum.accumulate(
            np.where(is_response[order], np.arange(len(rows)), -1)
        )
        preceding_row = order[np.maximum(last_response_position, 0)]
        is_match = (
            (last_response_position >= 0)
            & (person_item_key[preceding_row] == person_item_key[order])
            & self._is_within_window(rows[order], rows[preceding_row])
        )
        response_by_row = np.empty(len(rows), np.int64)
        response_by_row[order] = np.where(is_match, rows[preceding_row], -1)
        return response_by_row[len(self._response_row) :]

    def _is_within_window(self, row: Ints, response: Ints) -> Bools:
        age = self._ts[row] - self._ts[response]
        return (age >= 0) & (age < self._attribution_us)
