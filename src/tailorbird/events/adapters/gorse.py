"""Gorse's JSON lines, as `gorse-cli` and its dashboard export them: users, items and feedback, told
apart by their fields.

    FeedbackType, UserId, ItemId, Value, Timestamp
        → an event of FeedbackType; `read` is a view, `star` a like
    ItemId, IsHidden, Categories, Timestamp, Labels, Comment
        → item profile, valid from Timestamp if there is one
    UserId, Labels, Comment
        → timeless user profile

Labels may be a list or an object, whose fields become properties. Times are dates, or dates and
times, by default in UTC; also as printed by Go: `2020-01-01 01:01:01.000000001 +0000 UTC`.

Source: Gorse's documentation, "Data Objects" and "RESTful API", and the structs of its REST
clients.
"""

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.events.adapters.batch import AdapterOptions, Batch, FormatAdapter
from tailorbird.events.adapters.fields import (
    as_record,
    nonempty_fields,
    parse_number,
    parse_time_text,
    require_text,
    safe_event_type,
    to_slug,
)
from tailorbird.events.adapters.record import Record, UnreadableError, convert_records
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.files import read_records

FORMAT = "gorse"
PATTERNS = ("*.jsonl", "*.ndjson", "*.json")

_TYPE_BY_FEEDBACK = {
    "read": "view",
    "star": "like",
    "buy": "purchase",
    "add_to_cart": "cart",
    "rate": "rating",
}
_MISSING_TIME_PREFIX = "0001-01-01"  # Gorse's placeholder for a missing time
_GO_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) ([+-]\d{4})(?: \S+){0,2}"
)  # a zone's name, `m=+0.01` of its clock


def read_gorse(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read the files in order of their names."""
    for file, digest in files.items():
        yield from convert_records(FORMAT, str(file), read_records(file), digest, convert)


def convert(record: Any, location: str) -> list[Event]:
    """Convert a user, an item or a feedback record."""
    fields = as_record(record)
    if "FeedbackType" in fields:
        return [convert_feedback(fields)]
    if "ItemId" in fields:
        return [convert_item(fields, location)]
    if "UserId" in fields:
        return [convert_user(fields, location)]
    raise UnreadableError(
        "missing", "$.UserId", "expected FeedbackType, ItemId or UserId: is this Gorse's?"
    )


def convert_feedback(fields: Record) -> Event:
    """Convert a feedback record to an event.

    The same feedback at the same time always is the same event, from a file or by the API.
    """
    identity_fields = [require_text(fields, name) for name in ("FeedbackType", "UserId", "ItemId")]
    content = msgspec.json.encode([*identity_fields, _parse_time(fields)])
    event_id = f"gorse:{sha256(content).hexdigest()[:32]}"
    name = to_slug(require_text(fields, "FeedbackType"))
    type_ = _TYPE_BY_FEEDBACK.get(name) or safe_event_type(name)
    properties = _read_properties(
        nonempty_fields(
            fields, excluded=("FeedbackType", "UserId", "ItemId", "Value", "Timestamp", "Updated")
        )
    )
    value = parse_number(fields.get("Value"))
    if value is not None and (type_ == "rating" or value != 0):
        properties["rating" if type_ == "rating" else "value"] = value
    return Event(
        event_id=event_id,
        type=type_,
        ts=_parse_time(fields),
        user_id=require_text(fields, "UserId"),
        item_id=require_text(fields, "ItemId"),
        properties=properties or None,
    )


def convert_item(fields: Record, event_id: str) -> Event:
    """Convert an item to its profile.

    `category` is its first category, since single-valued attributes are more useful.
    """
    properties = _read_properties(
        nonempty_fields(fields, excluded=("ItemId", "Timestamp", "Categories", "IsHidden"))
    )
    categories = fields.get("Categories")
    if categories:
        properties["categories"] = categories
        if isinstance(categories, list) and isinstance(categories[0], str):
            properties.setdefault("category", categories[0])
    if _parse_hidden(fields.get("IsHidden")):
        properties["is_hidden"] = True
    ts = _parse_time(fields)
    item_id = require_text(fields, "ItemId")
    return Event(
        event_id=event_id,
        type="item",
        ts=ts,
        item_id=item_id,
        timeless=ts is None,
        properties=properties or None,
    )


def _parse_hidden(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false", ""):
        return value.lower() == "true"
    if value is not None and not isinstance(value, bool):
        raise UnreadableError(
            "wrong_type", "$.IsHidden", f"expected true or false, got {str(value)[:20]!r}"
        )
    return bool(value)


def convert_user(fields: Record, event_id: str) -> Event:
    """Convert a user to a profile."""
    properties = _read_properties(nonempty_fields(fields, excluded=("UserId",)))
    return Event(
        event_id=event_id,
        type="user",
        user_id=require_text(fields, "UserId"),
        timeless=True,
        properties=properties or None,
    )


def _read_properties(fields: Record) -> dict[str, Any]:
    """Return the properties: Labels under their own names, the other fields in lower case."""
    labels = fields.get("Labels")
    label_properties = (
        {name: value for name, value in labels.items() if value is not None}
        if isinstance(labels, dict)
        else {}
    )
    return {
        **{
            to_slug(name): value
            for name, value in fields.items()
            if not (name == "Labels" and isinstance(value, dict)) and value != []
        },
        **label_properties,
    }


def _parse_time(fields: Record) -> int | None:
    value = fields.get("Timestamp")
    if value in (None, "") or (isinstance(value, str) and value.startswith(_MISSING_TIME_PREFIX)):
        return None
    go_time = _GO_TIME.fullmatch(value) if isinstance(value, str) else None
    return parse_time_text(value if go_time is None else go_time[1] + go_time[2], "$.Timestamp")


ADAPTER = FormatAdapter(
    read=read_gorse,
    patterns=PATTERNS,
    convert=convert,
    is_record=lambda record: bool({"FeedbackType", "ItemId", "UserId"} & record.keys()),
)
