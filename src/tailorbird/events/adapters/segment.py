"""Segment: messages of its spec, from a warehouse or S3 archive as JSON lines, or as a webhook
destination sends them.

    identify   → identify (where both ids are given) and, with traits, a user profile
    alias      → identify: the visitor previousId is userId from then on; unless previousId is the
                 message's own anonymousId also a merge: the user previousId is userId
    page, screen → view, without an item
    track      → by the e-commerce spec, v2 or v1:
                 Products Searched → search; Product List Viewed and Filtered → impression;
                 Product Clicked → click; Product Viewed → view; Product Added → cart;
                 Order Completed → a purchase per product; Product Added to Wishlist → like;
                 Product Shared → share; Product Reviewed → rating.
                 Any other name is a custom type: `Video Played` becomes `video_played`, to be
                 declared in `[events] types`.
    group      → left out
    batch      → its messages, as in Segment's HTTP API, each with the batch's `context` and
                 `sentAt`

`timestamp` is used unchanged, since Segment has corrected it by the client's clock. Without it,
`originalTimestamp` and `sentAt` are used. A `request_id` among the properties joins the event to
its answer.

In an archive `receivedAt` is when traits arrived and became known (`convert_stored`). A posted
message may not state it (`convert`). Actions keep only their event time, as in any file: a history
that was loaded into Segment later does not count as late.

Source: Segment's documentation, "Spec: Common Fields", "Spec: Track", "Spec: Identify", "Spec: V2
Ecommerce Events".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.events.adapters.batch import AdapterOptions, Batch, FormatAdapter
from tailorbird.events.adapters.fields import (
    as_record,
    build_context,
    get_record,
    get_records,
    get_text,
    nonempty_fields,
    parse_time_text,
    require_text,
    safe_event_type,
    to_slug,
)
from tailorbird.events.adapters.products import build_product_events, parse_numeric_properties
from tailorbird.events.adapters.record import (
    Record,
    SkippedRecordError,
    UnreadableError,
    convert_records,
)
from tailorbird.events.contract.envelope import Context, Event
from tailorbird.events.contract.plan import MERGED_INTO
from tailorbird.events.tables.files import NO_SUFFIX_PATTERN, read_records

FORMAT = "segment"
PATTERNS = (
    "*.jsonl",
    "*.ndjson",
    "*.json",
    "*.gz",
    NO_SUFFIX_PATTERN,
)  # its S3 archive has segment-logs/SOURCE/DAY/NAME.gz

_TYPE_BY_EVENT_NAME = {
    "products_searched": "search",
    "product_list_viewed": "impression",
    "viewed_product_category": "impression",
    "product_list_filtered": "impression",
    "product_clicked": "click",
    "clicked_product": "click",
    "product_viewed": "view",
    "viewed_product": "view",
    "product_added": "cart",
    "added_product": "cart",
    "wishlist_product_added_to_cart": "cart",
    "order_completed": "purchase",
    "completed_order": "purchase",
    "product_added_to_wishlist": "like",
    "product_shared": "share",
    "product_reviewed": "rating",
}
_PRODUCT_ID_FIELDS = ("product_id", "productId", "sku", "id")
_ENVELOPE_PROPERTIES = ("request_id", "session_id")


def read_segment(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read the files in order of their names."""
    for file, digest in files.items():
        yield from convert_records(FORMAT, str(file), read_records(file), digest, convert_stored)


def convert(record: Any, location: str) -> list[Event]:
    """Convert one message, or a batch of them.

    If one message of a batch cannot be read, none is converted.
    """
    return [event for message in _iterate_messages(record) for event in _convert_message(message)]


def convert_stored(record: Any, location: str) -> list[Event]:
    """Convert a message, or a batch, of an archive: traits carry the time Segment received them."""
    return [
        event for message in _iterate_messages(record) for event in _convert_stored_message(message)
    ]


def _iterate_messages(record: Any) -> Iterator[Record]:
    """Yield a message, or each one of a batch."""
    message = as_record(record)
    if isinstance(message.get("batch"), list) and "type" not in message:
        for inner_message in expand_batch(message):
            yield from _iterate_messages(inner_message)
    else:
        yield message


def _convert_stored_message(message: Record) -> list[Event]:
    events = _convert_message(message)
    stated_received_at = message.get("receivedAt")
    if stated_received_at in (None, "") or not any(event.type == "user" for event in events):
        return events
    received_at = parse_time_text(stated_received_at, "$.receivedAt")
    return [
        _with_received_at(event, received_at) if event.type == "user" else event for event in events
    ]


def _with_received_at(profile: Event, received_at: int) -> Event:
    """Add the arrival time to a profile.

    A message with a corrected `timestamp` was sent when it was received, and never before it was
    made. Otherwise `sentAt` corrects it now.
    """
    if isinstance(profile.ts, int) and profile.sent_at is None:
        received_at = max(received_at, profile.ts)
    return msgspec.structs.replace(
        profile, received_at=received_at, sent_at=profile.sent_at or received_at
    )


def _convert_message(message: Record) -> list[Event]:
    message_type = require_text(message, "type")
    if message_type == "track":
        return _convert_track(message)
    if message_type in ("page", "screen"):
        properties = get_record(message, "properties")
        page_names = nonempty_fields(
            {"name": message.get("name"), "category": message.get("category")}
        )
        return [
            _convert_event(
                message,
                "view",
                {
                    **nonempty_fields(
                        properties, excluded=("url", "referrer", "path", *_ENVELOPE_PROPERTIES)
                    ),
                    **page_names,
                },
            )
        ]
    if message_type == "identify":
        return _convert_identify(message)
    if message_type == "alias":
        return _convert_alias(message)
    if message_type == "group":
        raise SkippedRecordError("group")
    raise UnreadableError(
        "unknown_kind",
        "$.type",
        f"expected track, identify, page, screen, alias or group, got {message_type[:60]}",
    )


def expand_batch(batch: Record) -> list[Any]:
    """Return the messages of a batch, each with the batch's `sentAt` and merged context."""
    shared_fields = {
        name: batch[name] for name in ("sentAt", "context") if batch.get(name) is not None
    }
    return [
        _with_shared_fields(message, shared_fields) if isinstance(message, dict) else message
        for message in batch["batch"]
    ]


def _with_shared_fields(message: Record, shared_fields: Record) -> Record:
    merged_fields = {**shared_fields, **message}
    contexts = [
        part["context"]
        for part in (shared_fields, message)
        if isinstance(part.get("context"), dict)
    ]
    return (
        {**merged_fields, "context": {**contexts[0], **contexts[1]}}
        if len(contexts) > 1
        else merged_fields
    )


def _convert_track(message: Record) -> list[Event]:
    name = to_slug(require_text(message, "event"))
    type_ = _TYPE_BY_EVENT_NAME.get(name) or safe_event_type(name)
    properties = get_record(message, "properties")
    if type_ == "search" and not isinstance(properties.get("query", ""), str):
        properties = {**properties, "query": msgspec.json.encode(properties["query"]).decode()}
    products = get_records(properties, "products", "$.properties")
    if products:
        shared_fields = nonempty_fields(properties, excluded=("products", *_ENVELOPE_PROPERTIES))
        return build_product_events(
            _convert_event(message, type_, shared_fields),
            products,
            _PRODUCT_ID_FIELDS,
            "$.properties.products",
        )
    if any(properties.get(field) not in (None, "") for field in _PRODUCT_ID_FIELDS[:3]):
        return build_product_events(
            _convert_event(message, type_, {}),
            [nonempty_fields(properties, excluded=_ENVELOPE_PROPERTIES)],
            _PRODUCT_ID_FIELDS,
            "$.properties",
        )
    return build_product_events(
        _convert_event(
            message,
            type_,
            parse_numeric_properties(nonempty_fields(properties, excluded=_ENVELOPE_PROPERTIES)),
        ),
        [],
        _PRODUCT_ID_FIELDS,
        "$.properties.product_id",
    )


def _convert_identify(message: Record) -> list[Event]:
    identify_event = _convert_event(message, "identify", {})
    traits = nonempty_fields(get_record(message, "traits"))
    events = (
        [identify_event]
        if identify_event.user_id is not None and identify_event.anonymous_id is not None
        else []
    )
    if traits and identify_event.user_id is not None:
        profile = Event(
            event_id=f"{identify_event.event_id}#traits",
            type="user",
            ts=identify_event.ts,
            sent_at=identify_event.sent_at,
            user_id=identify_event.user_id,
            properties=traits,
        )
        events.append(profile)
    if not events:
        raise SkippedRecordError(
            "identify without userId"
            if identify_event.user_id is None
            else "identify without traits"
        )
    return events


def _convert_alias(message: Record) -> list[Event]:
    """Convert an alias to `identify`, and to a merge unless it names the message's own visitor.

    Segment does not say whether `previousId` is a visitor's or a user's.
    """
    previous_id = require_text(message, "previousId")
    user_id = require_text(message, "userId")
    identify_event = msgspec.structs.replace(
        _convert_event(message, "identify", {}), anonymous_id=previous_id, user_id=user_id
    )
    if previous_id == message.get("anonymousId"):
        return [identify_event]
    merge = Event(
        event_id=f"{identify_event.event_id}#merge",
        type="merge",
        ts=identify_event.ts,
        sent_at=identify_event.sent_at,
        user_id=previous_id,
        properties={MERGED_INTO: user_id},
    )
    return [identify_event, merge]


def _convert_event(message: Record, type_: str, properties: dict[str, Any]) -> Event:
    stated_properties = get_record(message, "properties")
    ts = message.get("timestamp")
    sent_at = None
    if ts in (None, ""):
        ts = message.get("originalTimestamp")
        sent_at = message.get("sentAt")
    return Event(
        event_id=require_text(message, "messageId"),
        type=type_,
        ts=None if ts in (None, "") else parse_time_text(ts, "$.timestamp"),
        sent_at=None
        if sent_at in (None, "") or ts in (None, "")
        else parse_time_text(sent_at, "$.sentAt"),
        user_id=get_text(message, "userId"),
        anonymous_id=get_text(message, "anonymousId"),
        session_id=get_text(stated_properties, "session_id", "$.properties")
        or get_text(get_record(message, "context"), "sessionId", "$.context"),
        request_id=get_text(stated_properties, "request_id", "$.properties"),
        context=_convert_context(message, stated_properties),
        properties=properties or None,
    )


def _convert_context(message: Record, properties: Record) -> Context | None:
    context = get_record(message, "context")
    page = get_record(context, "page", "$.context")
    return build_context(
        device=get_record(context, "device", "$.context").get("type"),
        country=get_record(context, "location", "$.context").get("country"),
        page=page.get("url") or (properties.get("url") if message.get("type") == "page" else None),
        referrer=page.get("referrer")
        or (properties.get("referrer") if message.get("type") == "page" else None),
        user_agent=context.get("userAgent"),
    )


ADAPTER = FormatAdapter(
    read=read_segment,
    patterns=PATTERNS,
    convert=convert_stored,
    is_record=lambda record: "messageId" in record and "type" in record,
    may_lack_suffix=True,
)
