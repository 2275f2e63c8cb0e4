"""Metarank's JSON lines: every record an item, a user, a ranking or an interaction.

    item         → item profile from its fields
    user         → user profile from its fields
    ranking      → an answer with the items in shown order, and an impression of them, since
                   Metarank regards ranked items as seen
    interaction  → an event of its type, with `ranking` as request_id

`tenant` becomes a property. Statements of a ranking about its items (`relevancy`, `label`, fields)
go to the property `of_items`, by id.

Source: Metarank's documentation, "Supported events".
"""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.events.adapters.batch import AdapterOptions, Batch, FormatAdapter
from tailorbird.events.adapters.fields import safe_event_type
from tailorbird.events.adapters.record import (
    UnreadableError,
    convert_records,
    from_validation_error,
)
from tailorbird.events.contract.envelope import Event, ResponseDetails
from tailorbird.events.contract.rules import format_value
from tailorbird.events.tables.files import read_lines

FORMAT = "metarank"
PATTERNS = ("*.jsonl", "*.json", "*.ndjson")


class _Field(msgspec.Struct):
    name: str
    value: Any = None


class _Item(msgspec.Struct, omit_defaults=True):
    id: str
    relevancy: Any = None
    label: Any = None
    fields: list[_Field] = []

    def properties(self) -> dict[str, Any]:
        """Return the properties that a ranking states about this item, without its id."""
        optional = {"relevancy": self.relevancy, "label": self.label}
        return {name: value for name, value in optional.items() if value is not None} | {
            field.name: field.value for field in self.fields
        }


class _Record(msgspec.Struct):
    event: str
    id: str
    timestamp: int | float | str
    item: str | None = None
    user: str | None = None
    session: str | None = None
    ranking: str | None = None
    type: str | None = None
    tenant: str | None = None
    items: list[_Item] = []
    fields: list[_Field] = []


def read_metarank(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Convert Metarank's records to events.

    A record that cannot be read is kept with the reason, to be quarantined.
    """
    for file, digest in files.items():
        yield from convert_records(
            FORMAT, str(file), read_lines(file), digest, partial(_convert_value, options=options)
        )


def convert(value: Any, location: str) -> list[Event]:
    """Convert a posted record to events.

    A ranking is an impression, since another system gave the answer.
    """
    return [
        event
        for event in _convert_value(value, location, options=AdapterOptions())
        if event.answer is None
    ]


def _convert_value(value: Any, location: str, *, options: AdapterOptions) -> list[Event]:
    try:
        record = msgspec.convert(value, _Record)
    except msgspec.ValidationError as error:
        raise from_validation_error(error) from None
    try:
        ts = _parse_time(record.timestamp)
    except (ValueError, OverflowError):
        message = (
            f"expected milliseconds since 1970 or an ISO time, got {format_value(record.timestamp)}"
        )
        raise UnreadableError("bad_time", "$.timestamp", message) from None
    return list(_convert_record(record, ts, options))


def _convert_record(record: _Record, ts: int | str, options: AdapterOptions) -> Iterator[Event]:
    stated_properties = {entry.name: entry.value for entry in record.fields}
    if record.tenant is not None:
        stated_properties["tenant"] = record.tenant
    if properties_by_item := {
        item.id: ranking_properties
        for item in record.items
        if (ranking_properties := item.properties())
    }:
        stated_properties["of_items"] = (
            properties_by_item  # relevancy, label and item fields as of the ranking
        )
    properties = stated_properties or None
    subject = {"user_id": record.user, "session_id": record.session}
    if record.user is None:
        subject["anonymous_id"] = record.session or record.ranking or record.id
    if record.event == "item":
        yield Event(
            event_id=record.id, type="item", ts=ts, item_id=record.item, properties=properties
        )
    elif record.event == "user":
        yield Event(
            event_id=record.id, type="user", ts=ts, user_id=record.user, properties=properties
        )
    elif record.event == "ranking":
        item_ids = [item.id for item in record.items]
        response = ResponseDetails(
            slot=options.slot, query=_text_or_none((properties or {}).get("query"))
        )
        shared_fields = {
            "ts": ts,
            "items": item_ids,
            "request_id": record.id,
            "properties": properties,
            **subject,
        }
        yield Event(event_id=record.id, type="answer", answer=response, **shared_fields)
        yield Event(event_id=f"{record.id}#impression", type="impression", **shared_fields)
    else:
        name = safe_event_type(record.type or record.event)
        yield Event(
            event_id=record.id,
            type=name,
            ts=ts,
            item_id=record.item,
            request_id=record.ranking,
            properties=properties,
            **subject,
        )


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _parse_time(value: float | str) -> int | str:
    """Convert milliseconds, as number or text, to microseconds.

    ISO text is passed on, with the zone UTC where it names none.
    """
    if not isinstance(value, str) or value.isdigit():
        return int(float(value) * 1_000) if isinstance(value, float) else int(value) * 1_000
    parsed_time = datetime.fromisoformat(value)
    return value if parsed_time.tzinfo is not None else f"{value}Z"


_RECORD_KINDS = ("item", "user", "ranking", "interaction")
ADAPTER = FormatAdapter(
    read=read_metarank,
    patterns=PATTERNS,
    is_record=lambda record: record.get("event") in _RECORD_KINDS and "timestamp" in record,
)
