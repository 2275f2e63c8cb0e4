"""Accepted events on their way through the router: their own fields as columns, and where each
stands in the raw logs.

Bodies are checked and turned into columns a few hundred events at a time. The Python objects of one
chunk are freed before the next is read, which is several times faster than keeping the objects of a
whole step. `router.decide.route` decides on the events.

    bodies ──contract──► Python columns ──► chunk of Arrow columns ──┬──► Arrivals of the step
                              └─► fingerprints, profiles, responses ─┘
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events import ROUTED, Context, Receipt, ResponseDetails
from tailorbird.events.contract.checked_batch import CheckedBatch, select_rows
from tailorbird.events.contract.columnwise import Contract
from tailorbird.events.contract.envelope import PROPERTY_COLUMNS
from tailorbird.events.contract.plan import MERGED_INTO, PROFILE_TYPES
from tailorbird.events.parts import partition_rows
from tailorbird.router.columns import RefusedRow
from tailorbird.router.decide import enrich
from tailorbird.router.decide.dedup import ENTRY, Entries, fingerprint_columns

Int64s = npt.NDArray[np.int64]

CHUNK_ROWS = 256
_NO_CONTEXT = Context()
_ID_COLUMNS = ("event_id", "type", "user_id", "anonymous_id", "session_id", "item_id", "request_id")
EVENT_COLUMNS = (
    *_ID_COLUMNS,
    "ts_original",
    "sent_at",
    "received_at",
    "items",
    "device",
    "country",
    "page",
    "referrer",
    "agent",
    *PROPERTY_COLUMNS,
    "properties",
    "timeless",
)
"""The columns of ROUTED that come from the event itself."""


class Body(NamedTuple):
    """A body to check and its place in the raw log."""

    payload: bytes
    receipt: Receipt
    producer: str
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """A profile among the events; `text` holds its properties as JSON."""

    row: int
    type: str
    properties: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class ResponseRow:
    """A response of ours among the events."""

    row: int
    response: ResponseDetails
    items: list[str]


@dataclass(frozen=True)
class Arrivals:
    """Accepted events in routing order; all columns have length n.

    Attributes:
        columns: the columns named in `EVENT_COLUMNS`.
        entries: position, time of receipt and fingerprint of each event, for the dedup index.
        ts: event time before attribution, in microseconds.
        utc_offset_min: offset of the client's clock, 0 where unknown.
        profiles, responses, identifies: events that affect later ones, by ascending row.
        merges: rows of merge events and the user that each user is merged into.
        producers: producer names by the number used in `entries`.
        refused: rows that the contract refused.
    """

    columns: dict[str, pa.Array]
    entries: Entries
    ts: Int64s
    utc_offset_min: Int64s
    profiles: Sequence[ProfileRow] = ()
    responses: Sequence[ResponseRow] = ()
    identifies: Sequence[int] = ()
    merges: Sequence[tuple[int, str]] = ()
    producers: dict[int, str] = field(default_factory=dict)
    refused: Sequence[RefusedRow] = ()

    @property
    def received_at(self) -> Int64s:
        return self.entries["received_at"]

    def without(self, rows: Sequence[int]) -> "Arrivals":
        """Return the arrivals except the given rows."""
        is_retained = np.ones(len(self), bool)
        is_retained[rows] = False
        arrow_mask, new_rows = pa.array(is_retained), np.cumsum(is_retained) - 1
        return replace(
            self,
            columns={name: column.filter(arrow_mask) for name, column in self.columns.items()},
            entries=self.entries[is_retained],
            ts=self.ts[is_retained],
            utc_offset_min=self.utc_offset_min[is_retained],
            profiles=[
                replace(profile, row=int(new_rows[profile.row]))
                for profile in self.profiles
                if is_retained[profile.row]
            ],
            responses=[
                replace(response, row=int(new_rows[response.row]))
                for response in self.responses
                if is_retained[response.row]
            ],
            identifies=[int(new_rows[row]) for row in self.identifies if is_retained[row]],
            merges=[
                (int(new_rows[row]), merged_into)
                for row, merged_into in self.merges
                if is_retained[row]
            ],
        )

    def __len__(self) -> int:
        return len(self.ts)


class ArrivalsBuilder:
    """Builder of the Arrivals of a step from bodies in routing order.

    Args:
        producer_ids: the producers' numbers in the dedup index.
        partition: (number, count) of this router, which takes only its own rows of logs that all
            routers read; see `events.parts`.
    """

    def __init__(
        self, contract: Contract, producer_ids: dict[str, int], partition: tuple[int, int] = (0, 1)
    ) -> None:
        self._contract, self._producer_ids, self._partition = contract, producer_ids, partition
        self._pending_bodies: list[Body] = []
        self._pending_rows = 0
        self._chunks: list[Arrivals] = []
        self._rows = 0
        self._refused: list[RefusedRow] = []

    def add(self, body: Body, *, shared: bool = False) -> None:
        """Add the next body; `shared` marks one that all routers read."""
        if shared and self._partition[1] > 1:
            self._flush()
            self._check([body], *self._partition)
            return
        self._pending_bodies.append(body)
        self._pending_rows += body.rows
        if self._pending_rows >= CHUNK_ROWS:
            self._flush()

    def build(self) -> Arrivals:
        """Return the arrivals built from all added bodies."""
        self._flush()
        chunks = self._chunks
        producers = {number: name for name, number in self._producer_ids.items()}
        if not chunks:
            empty = np.empty(0, np.int64)
            columns = {name: pa.array([], ROUTED.field(name).type) for name in EVENT_COLUMNS}
            return Arrivals(
                columns,
                np.empty(0, ENTRY),
                empty,
                empty,
                producers=producers,
                refused=self._refused,
            )
        return Arrivals(
            {
                name: pa.concat_arrays([chunk.columns[name] for chunk in chunks])
                for name in EVENT_COLUMNS
            },
            np.concatenate([chunk.entries for chunk in chunks]),
            np.concatenate([chunk.ts for chunk in chunks]),
            np.concatenate([chunk.utc_offset_min for chunk in chunks]),
            [profile for chunk in chunks for profile in chunk.profiles],
            [response for chunk in chunks for response in chunk.responses],
            [row for chunk in chunks for row in chunk.identifies],
            [merge for chunk in chunks for merge in chunk.merges],
            producers,
            self._refused,
        )

    def _flush(self) -> None:
        if self._pending_bodies:
            self._check(self._pending_bodies)
            self._pending_bodies, self._pending_rows = [], 0

    def _check(self, bodies: list[Body], number: int = 0, count: int = 1) -> None:
        checked = self._contract.check([(body.payload, body.receipt) for body in bodies])
        if count > 1:
            checked = select_rows(
                checked, partition_rows(checked.fields, number, count), refused=number == 0
            )
        for body_index, refusal in checked.refused:
            body = bodies[body_index]
            self._refused.append(
                RefusedRow(
                    refusal,
                    body.receipt.received_at,
                    body.receipt.source,
                    body.producer,
                    body.offset,
                )
            )
        if len(checked):
            self._chunks.append(_to_arrivals(checked, bodies, self._producer_ids, self._rows))
            self._rows += len(checked)


def _to_arrivals(
    checked: CheckedBatch, bodies: Sequence[Body], producer_ids: dict[str, int], first_row: int
) -> Arrivals:
    """Turn checked events into columns, with rows counted from `first_row`."""
    fields = checked.fields
    types = set(fields.type)
    profiles: list[ProfileRow] = []
    if not types.isdisjoint(PROFILE_TYPES):
        for row, (type_, properties) in enumerate(zip(fields.type, fields.properties, strict=True)):
            if type_ in PROFILE_TYPES:
                profiles.append(
                    ProfileRow(
                        row, type_, properties or {}, enrich.encode_properties(properties or {})
                    )
                )
    responses: list[ResponseRow] = []
    if "answer" in types:
        rows = zip(fields.type, fields.answer, fields.items, strict=True)
        responses = [
            ResponseRow(first_row + row, response, items)
            for row, (type_, response, items) in enumerate(rows)
            if type_ == "answer" and response is not None and items is not None
        ]
    identifies = (
        [first_row + row for row, type_ in enumerate(fields.type) if type_ == "identify"]
        if "identify" in types
        else []
    )
    merges: list[tuple[int, str]] = []
    if "merge" in types:
        profile_rows = zip(fields.type, fields.properties, strict=True)
        merges = [
            (first_row + row, (properties or {})[MERGED_INTO])
            for row, (type_, properties) in enumerate(profile_rows)
            if type_ == "merge"
        ]
    columns = {
        name: pa.array(getattr(fields, name), ROUTED.field(name).type) for name in _ID_COLUMNS
    }
    columns |= {
        name: pa.array(getattr(checked, name), ROUTED.field(name).type)
        for name in ("ts_original", "sent_at", "received_at")
    }
    columns["items"] = pa.array(fields.items, ROUTED.field("items").type)
    columns["timeless"] = pa.array(fields.timeless, pa.bool_())
    columns |= _property_columns(fields.properties, profiles)
    context_columns, utc_offset_min = _context_columns(fields.context)
    return Arrivals(
        columns | context_columns,
        _dedup_entries(checked, bodies, producer_ids),
        np.array(checked.ts, np.int64),
        utc_offset_min,
        [replace(profile, row=first_row + profile.row) for profile in profiles],
        responses,
        identifies,
        merges,
    )


def _context_columns(contexts: Sequence[Any]) -> tuple[dict[str, pa.Array], Int64s]:
    """Return the context columns and the clients' offsets from UTC in minutes."""
    filled = [context or _NO_CONTEXT for context in contexts] if None in contexts else contexts
    device, country, page, referrer, user_agent, offset = zip(
        *map(msgspec.structs.astuple, filled), strict=True
    )
    country_codes = {text: text and text.upper() for text in set(country)}
    agents = {text: enrich.classify_agent(text) for text in set(user_agent)}
    columns = {
        "device": device,
        "country": [country_codes[text] for text in country],
        "page": page,
        "referrer": referrer,
        "agent": [agents[text] for text in user_agent],
    }
    offsets = (
        np.zeros(len(filled), np.int64)
        if offset.count(None) == len(offset)
        else np.array([offset_or_none or 0 for offset_or_none in offset], np.int64)
    )
    return {name: pa.array(column, pa.string()) for name, column in columns.items()}, offsets


def _property_columns(
    column: Sequence[dict[str, Any] | None], profiles: Sequence[ProfileRow]
) -> dict[str, pa.Array]:
    """Return the properties with columns of their own and the others as JSON text.

    A profile keeps all of its properties in the text.
    """
    texts: list[str | None] = [None] * len(column)
    properties_by_row: list[dict[str, Any]] = [properties or {} for properties in column]
    for profile in profiles:
        texts[profile.row], properties_by_row[profile.row] = profile.text, {}
    names = set().union(*properties_by_row)
    if not names.issubset(PROPERTY_COLUMNS):
        for row, properties in enumerate(properties_by_row):
            if properties:
                texts[row] = enrich.encode_other_properties(properties)
    columns = {"properties": pa.array(texts, pa.string())}
    for name in PROPERTY_COLUMNS:
        kind = ROUTED.field(name).type
        columns[name] = (
            pa.array([properties.get(name) for properties in properties_by_row], kind)
            if name in names
            else pa.nulls(len(properties_by_row), kind)
        )
    return columns


def _dedup_entries(
    checked: CheckedBatch, bodies: Sequence[Body], producer_ids: dict[str, int]
) -> Entries:
    """Return the dedup index entries of the events, shape (n,)."""
    entries = np.empty(len(checked), ENTRY)
    fields = checked.fields
    fingerprints = fingerprint_columns(
        fields.user_id, fields.anonymous_id, fields.item_id, fields.event_id
    )
    body_indices = np.array(checked.bodies, np.intp)
    entries["key"], entries["fingerprint_rest"] = fingerprints[:, 0], fingerprints[:, 1]
    entries["received_at"] = checked.received_at
    entries["offset"] = np.array([body.offset for body in bodies], np.int64)[body_indices]
    entries["producer"] = np.array([producer_ids[body.producer] for body in bodies], np.int32)[
        body_indices
    ]
    entries["row"] = checked.rows
    return entries
