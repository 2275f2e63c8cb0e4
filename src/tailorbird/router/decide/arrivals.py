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
from tailorbird.events.parts import select_partition_rows
from tailorbird.router.columns import RefusedRow
from tailorbird.router.decide import enrich
from tailorbird.router.decide.dedup import ENTRY_DTYPE, Entries, fingerprint_columns

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
    """A body to check, its place in the raw log, and its number of rows."""

    payload: bytes
    receipt: Receipt
    producer: str
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """A profile among the events; `properties_json` holds its properties as JSON."""

    row: int
    type: str
    properties: dict[str, Any]
    properties_json: str


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
        dedup_entries: position, time of receipt and fingerprint of each event, for the dedup index.
        ts: event time before attribution, in microseconds.
        utc_offset_minutes: offset of the client's clock, 0 where unknown.
        profiles, responses, identify_rows: events that affect later ones, by ascending row.
        merges: rows of merge events and the user that each user is merged into.
        producers: producer names by the number used in `dedup_entries`.
        refused_rows: rows that the contract refused.
    """

    columns: dict[str, pa.Array]
    dedup_entries: Entries
    ts: Int64s
    utc_offset_minutes: Int64s
    profiles: Sequence[ProfileRow] = ()
    responses: Sequence[ResponseRow] = ()
    identify_rows: Sequence[int] = ()
    merges: Sequence[tuple[int, str]] = ()
    producers: dict[int, str] = field(default_factory=dict)
    refused_rows: Sequence[RefusedRow] = ()

    @property
    def received_at(self) -> Int64s:
        return self.dedup_entries["received_at"]

    def without_rows(self, rows: Sequence[int]) -> "Arrivals":
        """Return the arrivals except the given rows."""
        is_retained = np.ones(len(self), bool)
        is_retained[rows] = False
        arrow_mask = pa.array(is_retained)
        new_row_indexes = np.cumsum(is_retained) - 1
        return replace(
            self,
            columns={name: column.filter(arrow_mask) for name, column in self.columns.items()},
            dedup_entries=self.dedup_entries[is_retained],
            ts=self.ts[is_retained],
            utc_offset_minutes=self.utc_offset_minutes[is_retained],
            profiles=[
                replace(profile, row=int(new_row_indexes[profile.row]))
                for profile in self.profiles
                if is_retained[profile.row]
            ],
            responses=[
                replace(response, row=int(new_row_indexes[response.row]))
                for response in self.responses
                if is_retained[response.row]
            ],
            identify_rows=[
                int(new_row_indexes[row]) for row in self.identify_rows if is_retained[row]
            ],
            merges=[
                (int(new_row_indexes[row]), merged_into)
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
        self._contract = contract
        self._producer_ids = producer_ids
        self._partition = partition
        self._pending_bodies: list[Body] = []
        self._pending_rows = 0
        self._chunks: list[Arrivals] = []
        self._row_count = 0
        self._refused_rows: list[RefusedRow] = []

    def add(self, body: Body, *, is_shared: bool = False) -> None:
        """Add the next body; `is_shared` marks one that all routers read."""
        if is_shared and self._partition[1] > 1:
            self._flush()
            self._check_bodies([body], *self._partition)
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
            no_times = np.empty(0, np.int64)
            columns = {name: pa.array([], ROUTED.field(name).type) for name in EVENT_COLUMNS}
            return Arrivals(
                columns,
                dedup_entries=np.empty(0, ENTRY_DTYPE),
                ts=no_times,
                utc_offset_minutes=no_times,
                producers=producers,
                refused_rows=self._refused_rows,
            )
        return Arrivals(
            {
                name: pa.concat_arrays([chunk.columns[name] for chunk in chunks])
                for name in EVENT_COLUMNS
            },
            dedup_entries=np.concatenate([chunk.dedup_entries for chunk in chunks]),
            ts=np.concatenate([chunk.ts for chunk in chunks]),
            utc_offset_minutes=np.concatenate([chunk.utc_offset_minutes for chunk in chunks]),
            profiles=[profile for chunk in chunks for profile in chunk.profiles],
            responses=[response for chunk in chunks for response in chunk.responses],
            identify_rows=[row for chunk in chunks for row in chunk.identify_rows],
            merges=[merge for chunk in chunks for merge in chunk.merges],
            producers=producers,
            refused_rows=self._refused_rows,
        )

    def _flush(self) -> None:
        if self._pending_bodies:
            self._check_bodies(self._pending_bodies)
            self._pending_bodies = []
            self._pending_rows = 0

    def _check_bodies(
        self, bodies: list[Body], partition_number: int = 0, partition_count: int = 1
    ) -> None:
        checked = self._contract.check_bodies([(body.payload, body.receipt) for body in bodies])
        if partition_count > 1:
            checked = select_rows(
                checked,
                select_partition_rows(checked.fields, partition_number, partition_count),
                with_refusals=partition_number == 0,
            )
        for body_index, refusal in checked.refusals:
            body = bodies[body_index]
            self._refused_rows.append(
                RefusedRow(
                    refusal,
                    body.receipt.received_at,
                    body.receipt.source,
                    body.producer,
                    body.offset,
                )
            )
        if len(checked):
            self._chunks.append(_to_arrivals(checked, bodies, self._producer_ids, self._row_count))
            self._row_count += len(checked)


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
    identify_rows = (
        [first_row + row for row, type_ in enumerate(fields.type) if type_ == "identify"]
        if "identify" in types
        else []
    )
    merges: list[tuple[int, str]] = []
    if "merge" in types:
        types_and_properties = zip(fields.type, fields.properties, strict=True)
        merges = [
            (first_row + row, (properties or {})[MERGED_INTO])
            for row, (type_, properties) in enumerate(types_and_properties)
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
    columns |= _build_property_columns(fields.properties, profiles)
    context_columns, utc_offset_minutes = _build_context_columns(fields.context)
    return Arrivals(
        columns | context_columns,
        dedup_entries=_build_dedup_entries(checked, bodies, producer_ids),
        ts=np.array(checked.ts, np.int64),
        utc_offset_minutes=utc_offset_minutes,
        profiles=[replace(profile, row=first_row + profile.row) for profile in profiles],
        responses=responses,
        identify_rows=identify_rows,
        merges=merges,
    )


def _build_context_columns(contexts: Sequence[Any]) -> tuple[dict[str, pa.Array], Int64s]:
    """Return the context columns and the clients' offsets from UTC in minutes."""
    present_contexts = (
        [context or _NO_CONTEXT for context in contexts] if None in contexts else contexts
    )
    device, country, page, referrer, user_agent, utc_offset = zip(
        *map(msgspec.structs.astuple, present_contexts), strict=True
    )
    country_codes = {text: text and text.upper() for text in set(country)}
    agent_class_by_user_agent = {text: enrich.classify_agent(text) for text in set(user_agent)}
    columns = {
        "device": device,
        "country": [country_codes[text] for text in country],
        "page": page,
        "referrer": referrer,
        "agent": [agent_class_by_user_agent[text] for text in user_agent],
    }
    utc_offset_minutes = (
        np.zeros(len(present_contexts), np.int64)
        if utc_offset.count(None) == len(utc_offset)
        else np.array([offset_or_none or 0 for offset_or_none in utc_offset], np.int64)
    )
    return {
        name: pa.array(column, pa.string()) for name, column in columns.items()
    }, utc_offset_minutes


def _build_property_columns(
    properties_column: Sequence[dict[str, Any] | None], profiles: Sequence[ProfileRow]
) -> dict[str, pa.Array]:
    """Return the properties with columns of their own and the others as JSON text.

    A profile keeps all of its properties in the text.
    """
    properties_json: list[str | None] = [None] * len(properties_column)
    properties_by_row: list[dict[str, Any]] = [properties or {} for properties in properties_column]
    for profile in profiles:
        properties_json[profile.row] = profile.properties_json
        properties_by_row[profile.row] = {}
    property_names = set().union(*properties_by_row)
    if not property_names.issubset(PROPERTY_COLUMNS):
        for row, properties in enumerate(properties_by_row):
            if properties:
                properties_json[row] = enrich.encode_other_properties(properties)
    columns = {"properties": pa.array(properties_json, pa.string())}
    for name in PROPERTY_COLUMNS:
        arrow_type = ROUTED.field(name).type
        columns[name] = (
            pa.array([properties.get(name) for properties in properties_by_row], arrow_type)
            if name in property_names
            else pa.nulls(len(properties_by_row), arrow_type)
        )
    return columns


def _build_dedup_entries(
    checked: CheckedBatch, bodies: Sequence[Body], producer_ids: dict[str, int]
) -> Entries:
    """Return the dedup index entries of the events, shape (n,)."""
    entries = np.empty(len(checked), ENTRY_DTYPE)
    fields = checked.fields
    fingerprints = fingerprint_columns(
        fields.user_id, fields.anonymous_id, fields.item_id, fields.event_id
    )
    body_indexes = np.array(checked.body_indexes, np.intp)
    entries["key"] = fingerprints[:, 0]
    entries["fingerprint_rest"] = fingerprints[:, 1]
    entries["received_at"] = checked.received_at
    entries["offset"] = np.array([body.offset for body in bodies], np.int64)[body_indexes]
    entries["producer"] = np.array([producer_ids[body.producer] for body in bodies], np.int32)[
        body_indexes
    ]
    entries["row"] = checked.rows
    return entries
