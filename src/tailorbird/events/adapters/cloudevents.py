"""CloudEvents 1.0 in the JSON format: single events, one a line, or a batch (a list). What is
inside is ours or another system's.

    data with Segment's, Gorse's or GA4's fields → as those adapters have it
    other data                                    → our own event, of the envelope's type: the last word, but for a version;
                                                    what it leaves out the envelope fills in: event_id (source#id), ts (time)

The envelope is written by a program, data often by a page. So data never say against the envelope
what kind of event it is: our own are of the envelope's type, whatever theirs says; those of others
are refused where they make something else of an envelope that names a type of ours, and where they
make a profile, a login or a merge of one that does not name that.

`data_base64` is read where it holds JSON. An event in the binary mode of the HTTP binding, whose
attributes are headers, is put into the JSON format first (`in_envelope`). Ids that are whole
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
from tailorbird.events.adapters.batch import AdapterOptions, Batch
from tailorbird.events.adapters.fields import as_record, needed_text, slug, text_at, time_of_text
from tailorbird.events.adapters.record import (
    Convert,
    Record,
    UnreadableError,
    batches_of,
    of_validation,
)
from tailorbird.events.contract import ID_LENGTH_MAX
from tailorbird.events.envelope import Event
from tailorbird.events.plan import EVENT_TYPES, SHARED_TYPES
from tailorbird.events.tables.files import read_records

FORMAT = "cloudevents"
PATTERNS = ("*.json", "*.jsonl", "*.ndjson")

_SERVERS = ("received_at", "answer")
_IDS = ("event_id", "user_id", "anonymous_id", "session_id", "item_id", "request_id")
_HEADER = "ce-"
_VERSION = re.compile(r"\.v\d+\Z")  # as the specification has it: com.example.click.v2
_NAMED_ONLY = frozenset((*SHARED_TYPES, "identify"))  # what an envelope has to name
_TYPE_ALIASES = {"identify": ("identify", "user"), "alias": ("identify", "merge")}  # of Segment's messages


def read_cloudevents(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read the files in order of their names."""
    for file, digest in files.items():
        yield from batches_of(FORMAT, str(file), read_records(file), digest, convert)


def is_binary(headers: Mapping[str, str]) -> bool:
    """Whether a request carries an event in binary mode; `headers` by their names in lower case."""
    return f"{_HEADER}specversion" in headers and not headers.get(
        "content-type", ""
    ).lower().startswith("application/cloudevents")


def in_envelope(headers: Mapping[str, str], body: bytes) -> bytes:
    """An event in binary mode as one in the JSON format: headers are its attributes, the body its
    data.
    """
    envelope: Record = {
        name.removeprefix(_HEADER): _attribute(one)
        for name, one in headers.items()
        if name.startswith(_HEADER)
    }
    if "content-type" in headers:
        envelope["datacontenttype"] = headers["content-type"]
    for name in ("data", "data_base64"):
        envelope.pop(name, None)  # which no attribute may be called
    try:
        if body:
            msgspec.json.decode(body)
            envelope["data"] = msgspec.Raw(body)
        return msgspec.json.encode(envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        envelope["datacontenttype"] = (
            "text/plain"  # whatever it was called; it is refused, and kept to be read by people
        )
    try:
        return msgspec.json.encode({**envelope, "data": body.decode()})
    except UnicodeDecodeError:
        return msgspec.json.encode({**envelope, "data_base64": b64encode(body).decode()})


def _attribute(header: str) -> str:
    """An attribute's value from its header: percent-encoded, and by some senders between quotes."""
    quoted = len(header) > 1 and header[0] == header[-1] == '"'
    text = header[1:-1].replace('\\"', '"').replace("\\\\", "\\") if quoted else header
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text  # as it is: two ids that are no UTF-8 must not become the same


def convert(record: Any, place: str) -> list[Event]:
    """One event in its envelope."""
    envelope = as_record(record)
    version = needed_text(envelope, "specversion")
    if version not in ("1.0", "0.3"):
        raise UnreadableError("unknown_kind", "$.specversion", f"expected 1.0, got {version[:20]}")
    identity = f"{needed_text(envelope, 'source')}#{needed_text(envelope, 'id')}"
    if len(identity) > ID_LENGTH_MAX - 12:
        identity = sha256(identity.encode()).hexdigest()
    data, type_ = (
        _data(envelope),
        slug(_VERSION.sub("", needed_text(envelope, "type")).rpartition(".")[2]),
    )
    foreign = _foreign(data)
    return (
        _require_named_type(foreign(data, identity), type_)
        if foreign is not None
        else [_own_event(envelope, data, identity, type_)]
    )


def _require_named_type(events: list[Event], type_: str) -> list[Event]:
    """The events, where they are what their envelope says that they are."""
    named = _TYPE_ALIASES.get(type_, (type_,))
    for event in events:
        if event.type not in named and (type_ in EVENT_TYPES or event.type in _NAMED_ONLY):
            raise UnreadableError(
                "unknown_kind",
                "$.type",
                f"expected the type of what data say, {event.type}, got {type_[:60]}",
            )
    return events


def _foreign(data: Record) -> Convert | None:
    if "messageId" in data and "type" in data:
        return segment.convert
    if "event_name" in data and "event_timestamp" in data:
        return ga4.convert
    if ("FeedbackType" in data or "ItemId" in data or "UserId" in data) and "type" not in data:
        return gorse.convert
    return None


def _data(envelope: Record) -> Record:
    value = envelope.get("data")
    if "data_base64" in envelope:
        try:
            value = msgspec.json.decode(
                b64decode(text_at(envelope, "data_base64") or "", validate=True)
            )
        except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise UnreadableError(
                "malformed_json", "$.data_base64", f"expected JSON in base64: {error}"
            ) from None
    elif isinstance(value, str) and "json" not in (text_at(envelope, "datacontenttype") or "json"):
        try:  # JSON under another name, as some brokers pass it on
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UnreadableError("malformed_json", "$.data", f"expected JSON: {error}") from None
    return as_record(value, "$.data")


def _own_event(envelope: Record, data: Record, identity: str, type_: str) -> Event:
    fields = {name: value for name, value in data.items() if value is not None}
    fields.setdefault("event_id", identity)
    fields["type"] = type_
    if "ts" not in fields and not fields.get("timeless") and envelope.get("time"):
        fields["ts"] = time_of_text(envelope["time"], "$.time")
    for name in _IDS:
        if isinstance(fields.get(name), int | float):
            fields[name] = needed_text(fields, name, path="$.data")
    for name in _SERVERS:
        if name in fields:
            raise UnreadableError(
                "server_owned", f"$.data.{name}", "only the server sets it; leave it out"
            )
    try:
        return msgspec.convert(fields, Event)
    except msgspec.ValidationError as error:
        raise of_validation(error, "$.data") from None
