"""CloudEvents 1.0 in the JSON format: single events, one a line, or a batch (a list). What is
inside is ours or another system's.

    data with Segment's, Gorse's or GA4's fields → converted as by those adapters
    other data                                   → a native event of the envelope's type (its last
                                                   word without a version); event_id (source#id)
                                                   and ts (time) default to those of the envelope

The envelope is written by a program, data often by a page. So the envelope decides the event type.
A native event gets the envelope's type. Foreign data is refused if it gives another type than a
native one that the envelope names, or a profile, a login or a merge that it does not name.

`data_base64` is read where it holds JSON. An event in the binary mode of the HTTP binding, whose
attributes are headers, is put into the JSON format first (`to_structured_mode`). Ids that are whole
numbers are taken as their digits.

Source: CloudEvents specification 1.0.2, "JSON Event Format" and "HTTP Protocol Binding".
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from tailorbird.events.adapters import ga4, gorse, segment
from tailorbird.events.adapters.batch import AdapterOptions, Batch, FormatAdapter
from tailorbird.events.adapters.fields import (
    as_record,
    get_text,
    parse_time_text,
    require_text,
    to_slug,
)
from tailorbird.events.adapters.record import (
    Convert,
    Record,
    UnreadableError,
    convert_records,
    from_validation_error,
)
from tailorbird.events.contract.envelope import ID_BOUNDS, Event
from tailorbird.events.contract.plan import EVENT_TYPES, SHARED_TYPES
from tailorbird.events.tables.files import read_records

FORMAT = "cloudevents"
PATTERNS = ("*.json", "*.jsonl", "*.ndjson")

_SERVER_FIELDS = ("received_at", "answer")
_ID_FIELDS = ("event_id", "user_id", "anonymous_id", "session_id", "item_id", "request_id")
_HEADER_PREFIX = "ce-"
_VERSION_SUFFIX = re.compile(r"\.v\d+\Z")  # as the specification has it: com.example.click.v2
_ENVELOPE_ONLY_TYPES = frozenset(
    (*SHARED_TYPES, "identify")
)  # types that only the envelope may name
_TYPE_ALIASES = {
    "identify": ("identify", "user"),
    "alias": ("identify", "merge"),
}  # of Segment's messages


def read_cloudevents(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read the files in order of their names."""
    for file, digest in files.items():
        yield from convert_records(FORMAT, str(file), read_records(file), digest, convert)


def is_binary_mode(headers: Mapping[str, str]) -> bool:
    """Return whether a request carries an event in binary mode; header names are in lower case."""
    return f"{_HEADER_PREFIX}specversion" in headers and not headers.get(
        "content-type", ""
    ).lower().startswith("application/cloudevents")


def to_structured_mode(headers: Mapping[str, str], body: bytes) -> bytes:
    """Convert an event in binary mode to the JSON format, from headers and body."""
    envelope: Record = {
        name.removeprefix(_HEADER_PREFIX): _decode_attribute(value)
        for name, value in headers.items()
        if name.startswith(_HEADER_PREFIX)
    }
    if "content-type" in headers:
        envelope["datacontenttype"] = headers["content-type"]
    for name in ("data", "data_base64"):
        envelope.pop(name, None)  # Attributes must not have these names.
    try:
        if body:
            msgspec.json.decode(body)
            envelope["data"] = msgspec.Raw(body)
        return msgspec.json.encode(envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        envelope["datacontenttype"] = (
            "text/plain"  # The event is refused, and stored in a readable form.
        )
    try:
        return msgspec.json.encode({**envelope, "data": body.decode()})
    except UnicodeDecodeError:
        return msgspec.json.encode({**envelope, "data_base64": b64encode(body).decode()})


def _decode_attribute(header: str) -> str:
    """Decode an attribute from its header: percent-encoded, and quoted by some senders."""
    is_quoted = len(header) > 1 and header[0] == header[-1] == '"'
    text = header[1:-1].replace('\\"', '"').replace("\\\\", "\\") if is_quoted else header
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text  # Decoding invalid UTF-8 could make two ids equal.


def convert(record: Any, location: str) -> list[Event]:
    """Convert one CloudEvent."""
    envelope = as_record(record)
    version = require_text(envelope, "specversion")
    if version not in ("1.0", "0.3"):
        raise UnreadableError("unknown_kind", "$.specversion", f"expected 1.0, got {version[:20]}")
    envelope_id = f"{require_text(envelope, 'source')}#{require_text(envelope, 'id')}"
    if len(envelope_id) > ID_BOUNDS.high - 12:
        envelope_id = sha256(envelope_id.encode()).hexdigest()
    data = _decode_data(envelope)
    type_ = to_slug(_VERSION_SUFFIX.sub("", require_text(envelope, "type")).rpartition(".")[2])
    convert_foreign = _find_foreign_converter(data)
    return (
        _require_named_type(convert_foreign(data, envelope_id), type_)
        if convert_foreign is not None
        else [_build_native_event(envelope, data, envelope_id, type_)]
    )


def _require_named_type(events: list[Event], type_: str) -> list[Event]:
    """Return the events, or raise if their type is not the one that the envelope names."""
    type_names = _TYPE_ALIASES.get(type_, (type_,))
    for event in events:
        if event.type not in type_names and (
            type_ in EVENT_TYPES or event.type in _ENVELOPE_ONLY_TYPES
        ):
            raise UnreadableError(
                "unknown_kind",
                "$.type",
                f"expected the type of what data say, {event.type}, got {type_[:60]}",
            )
    return events


def _find_foreign_converter(data: Record) -> Convert | None:
    if "messageId" in data and "type" in data:
        return segment.convert
    if "event_name" in data and "event_timestamp" in data:
        return ga4.convert
    if ("FeedbackType" in data or "ItemId" in data or "UserId" in data) and "type" not in data:
        return gorse.convert
    return None


def _decode_data(envelope: Record) -> Record:
    value = envelope.get("data")
    if "data_base64" in envelope:
        try:
            value = msgspec.json.decode(
                b64decode(get_text(envelope, "data_base64") or "", validate=True)
            )
        except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise UnreadableError(
                "malformed_json", "$.data_base64", f"expected JSON in base64: {error}"
            ) from None
    elif isinstance(value, str) and "json" not in (get_text(envelope, "datacontenttype") or "json"):
        try:  # JSON under another name, as some brokers pass it on
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UnreadableError("malformed_json", "$.data", f"expected JSON: {error}") from None
    return as_record(value, "$.data")


def _build_native_event(envelope: Record, data: Record, envelope_id: str, type_: str) -> Event:
    fields = {name: value for name, value in data.items() if value is not None}
    fields.setdefault("event_id", envelope_id)
    fields["type"] = type_
    if "ts" not in fields and not fields.get("timeless") and envelope.get("time"):
        fields["ts"] = parse_time_text(envelope["time"], "$.time")
    for name in _ID_FIELDS:
        if isinstance(fields.get(name), int | float):
            fields[name] = require_text(fields, name, path="$.data")
    for name in _SERVER_FIELDS:
        if name in fields:
            raise UnreadableError(
                "server_owned", f"$.data.{name}", "only the server sets it; leave it out"
            )
    try:
        return msgspec.convert(fields, Event)
    except msgspec.ValidationError as error:
        raise from_validation_error(error, "$.data") from None


ADAPTER = FormatAdapter(
    read=read_cloudevents,
    patterns=PATTERNS,
    convert=convert,
    is_record=lambda record: "specversion" in record and "source" in record,
)
