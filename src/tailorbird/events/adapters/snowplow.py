"""Snowplow: enriched events, the tab-separated lines of 131 fields that its pipeline writes.

    atomic events
        page_view → view, without an item; transaction_item → purchase of `ti_sku`
        struct → a custom type named by `se_action`
        page_ping and transaction (its items are events of their own) are left out
    self-describing events
        com.snowplowanalytics.snowplow.ecommerce/snowplow_ecommerce_action 1-0-*:
            product_view → view, list_view → impression, list_click → click, add_to_cart → cart,
            transaction → a purchase per product; others keep their name
        com.snowplowanalytics.snowplow/add_to_cart 1-0-* → cart, site_search 1-0-* → search
        com.snowplowanalytics.mobile/screen_view 1-0-*, and …snowplow/screen_view → view, no item
        link_click, *_form, application_*, screen_end, … (`SKIPPED_EVENTS`) are left out
        any other → a custom type named by its schema, with its data as properties
    entities (contexts)
        com.snowplowanalytics.snowplow.ecommerce/product, transaction and user 1-0-*

The time is `derived_tstamp`, which Snowplow has corrected by the client's clock, else
`collector_tstamp`. The user is `user_id`, else the entity `user`; the visitor is `domain_userid`,
else `network_userid`. Custom types must be declared in `[events] types`.

Source: Snowplow's documentation, "Understanding the enriched TSV format", "Ecommerce events", Iglu
Central's schemas; the order of the fields is that of its analytics SDKs.
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
    get_text,
    nonempty_fields,
    parse_number,
    parse_time_text,
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
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.files import NO_SUFFIX_PATTERN, read_lines

FORMAT = "snowplow"
PATTERNS = (
    "*.tsv",
    "*.txt",
    NO_SUFFIX_PATTERN,
)  # S3 loader output has no suffix: date-time-first-last.gz

FIELD_COUNT = 131
# Positions of the fields that are read here, from 0.
_FIELD_POSITIONS = {
    "app_id": 0,
    "collector_tstamp": 3,
    "event": 5,
    "event_id": 6,
    "user_id": 12,
    "domain_userid": 15,
    "network_userid": 17,
    "geo_country": 18,
    "page_url": 29,
    "page_title": 30,
    "page_referrer": 31,
    "contexts": 52,
    "se_category": 53,
    "se_action": 54,
    "se_label": 55,
    "se_property": 56,
    "se_value": 57,
    "unstruct_event": 58,
    "ti_orderid": 67,
    "ti_sku": 68,
    "ti_name": 69,
    "ti_category": 70,
    "ti_price": 71,
    "ti_quantity": 72,
    "useragent": 77,
    "dvce_type": 101,
    "domain_sessionid": 123,
    "derived_tstamp": 124,
    "event_vendor": 125,
    "event_name": 126,
}
_TYPE_BY_ACTION = {
    "product_view": "view",
    "list_view": "impression",
    "list_click": "click",
    "add_to_cart": "cart",
    "transaction": "purchase",
}
SKIPPED_EVENTS = frozenset(
    (
        "link_click",
        "submit_form",
        "change_form",
        "focus_form",
        "application_background",
        "application_foreground",
        "screen_end",
        "application_install",
        "application_error",
        "timing",
        "consent_granted",
        "consent_withdrawn",
        "ad_impression",
        "ad_click",
    )
)
_ECOMMERCE_VENDOR = "com.snowplowanalytics.snowplow.ecommerce"
_MOBILE_VENDOR = "com.snowplowanalytics.mobile"
_CORE_VENDOR = "com.snowplowanalytics.snowplow"


def read_snowplow(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read the files in order of their names."""
    for file, digest in files.items():
        yield from convert_records(FORMAT, str(file), _read_rows(file), digest, convert)


def convert(record: Any, location: str) -> list[Event]:
    """Convert one line, as name → text of the fields read here.

    A line of another width arrives as text.
    """
    if isinstance(record, str):
        raise UnreadableError(
            "wrong_width",
            "$",
            f"expected {FIELD_COUNT} fields in UTF-8 with tabs between them, got "
            f"{record.count(chr(9)) + 1}",
        )
    fields = as_record(record)
    event_kind = get_text(fields, "event")
    if event_kind == "page_view":
        return [
            _convert_event(
                fields, location, "view", nonempty_fields({"title": fields.get("page_title")})
            )
        ]
    if event_kind == "page_ping" or event_kind == "transaction":
        raise SkippedRecordError(event_kind)
    if event_kind == "transaction_item":
        product = {
            name: fields.get(f"ti_{name}")
            for name in ("sku", "name", "category", "price", "quantity")
        }
        base_event = _convert_event(
            fields, location, "purchase", nonempty_fields({"order_id": fields.get("ti_orderid")})
        )
        return build_product_events(base_event, [nonempty_fields(product)], ("sku",), "$.ti_sku")
    if event_kind == "struct":
        names = ("se_category", "se_label", "se_property")
        value = parse_number(fields.get("se_value"))
        properties = nonempty_fields(
            {**{name[3:]: fields.get(name) for name in names}, "value": value}
        )
        return [
            _convert_event(
                fields,
                location,
                safe_event_type(to_slug(get_text(fields, "se_action") or "")),
                properties,
            )
        ]
    if event_kind == "unstruct":
        return _convert_self_describing(fields, location)
    raise UnreadableError(
        "unknown_kind",
        "$.event",
        "expected page_view, page_ping, struct, transaction, transaction_item or unstruct, "
        f"got {event_kind}",
    )


def _convert_self_describing(fields: Record, location: str) -> list[Event]:
    envelope = _decode_json(fields, "unstruct_event")
    vendor, name = _parse_schema(
        get_record(envelope, "data", "$.unstruct_event"), "$.unstruct_event.data"
    )
    data = get_record(
        get_record(envelope, "data", "$.unstruct_event"), "data", "$.unstruct_event.data"
    )
    if vendor == _CORE_VENDOR and name in SKIPPED_EVENTS:
        raise SkippedRecordError(name)
    if (vendor, name) == (_ECOMMERCE_VENDOR, "snowplow_ecommerce_action"):
        return _convert_ecommerce_action(fields, location, data)
    if (vendor, name) == (_CORE_VENDOR, "site_search"):
        terms = data.get("terms")
        query = " ".join(str(term) for term in terms) if isinstance(terms, list) else terms
        return [
            _convert_event(
                fields,
                location,
                "search",
                {**nonempty_fields(data, excluded=("terms",)), "query": query},
            )
        ]
    if (vendor, name) in ((_MOBILE_VENDOR, "screen_view"), (_CORE_VENDOR, "screen_view")):
        return [
            _convert_event(
                fields,
                location,
                "view",
                {
                    **nonempty_fields(data, excluded=("name",)),
                    **nonempty_fields({"title": data.get("name")}),
                },
            )
        ]
    if (vendor, name) in ((_CORE_VENDOR, "add_to_cart"), (_CORE_VENDOR, "remove_from_cart")):
        product = {
            **nonempty_fields(data, excluded=("unitPrice",)),
            **nonempty_fields({"price": data.get("unitPrice")}),
        }
        return build_product_events(
            _convert_event(fields, location, "cart" if name == "add_to_cart" else name, {}),
            [product],
            ("sku",),
            "$.unstruct_event.data.data",
        )
    return [
        _convert_event(
            fields,
            location,
            safe_event_type(to_slug(name)),
            parse_numeric_properties(nonempty_fields(data)),
        )
    ]


def _convert_ecommerce_action(fields: Record, location: str, data: Record) -> list[Event]:
    action = get_text(data, "type", "$.unstruct_event.data.data") or ""
    type_ = _TYPE_BY_ACTION.get(action) or safe_event_type(to_slug(action))
    properties = nonempty_fields({"list": data.get("name")})
    products: list[Record] = []
    for name, entity in _read_entities(fields):
        if name == "product":
            products.append(entity)
        elif name == "transaction":
            properties.update(
                {
                    key: value
                    for key, value in nonempty_fields(entity).items()
                    if key in ("transaction_id", "revenue", "discount_code")
                }
            )
    return build_product_events(
        _convert_event(fields, location, type_, properties), products, ("id",), "$.contexts"
    )


def _convert_event(fields: Record, location: str, type_: str, properties: dict[str, Any]) -> Event:
    user_id = get_text(fields, "user_id")
    if user_id is None:
        user_id = next(
            (
                get_text(entity, "id", "$.contexts")
                for name, entity in _read_entities(fields)
                if name == "user"
            ),
            None,
        )
    time_field = "derived_tstamp" if fields.get("derived_tstamp") else "collector_tstamp"
    return Event(
        event_id=get_text(fields, "event_id") or location,
        type=type_,
        ts=parse_time_text(fields.get(time_field), f"$.{time_field}"),
        user_id=user_id,
        anonymous_id=get_text(fields, "domain_userid") or get_text(fields, "network_userid"),
        session_id=get_text(fields, "domain_sessionid"),
        context=build_context(
            device=fields.get("dvce_type"),
            country=fields.get("geo_country"),
            page=fields.get("page_url"),
            referrer=fields.get("page_referrer"),
            user_agent=fields.get("useragent"),
        ),
        properties=properties or None,
    )


def _read_entities(fields: Record) -> list[tuple[str, Record]]:
    """Return name and data of each e-commerce entity of the event."""
    if not fields.get("contexts"):
        return []
    listed_entities = _decode_json(fields, "contexts").get("data")
    if not isinstance(listed_entities, list):
        raise UnreadableError("wrong_type", "$.contexts.data", "expected a list of entities")
    entities = []
    for index, entity in enumerate(listed_entities):
        path = f"$.contexts.data[{index}]"
        vendor, name = _parse_schema(as_record(entity, path), path)
        if vendor == _ECOMMERCE_VENDOR:
            entities.append((name, get_record(entity, "data", path)))
    return entities


def _parse_schema(self_describing_record: Record, path: str) -> tuple[str, str]:
    """Return vendor and name of `iglu:vendor/name/jsonschema/1-0-0`."""
    schema = (get_text(self_describing_record, "schema", path) or "").removeprefix("iglu:")
    parts = schema.split("/")
    if len(parts) != 4:
        raise UnreadableError(
            "wrong_type", f"{path}.schema", "expected iglu:vendor/name/jsonschema/version"
        )
    vendor, name, _, _ = parts
    return vendor, name


def _decode_json(fields: Record, name: str) -> Record:
    try:
        value = msgspec.json.decode(get_text(fields, name) or "")
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnreadableError("malformed_json", f"$.{name}", f"expected JSON: {error}") from None
    return as_record(value, f"$.{name}")


def _read_rows(file: Path) -> Iterator[tuple[int, bytes]]:
    for line_number, line in read_lines(file, strip=False):
        values = line.split(b"\t")
        try:
            if len(values) == FIELD_COUNT:
                record: Any = {
                    name: values[position].decode()
                    for name, position in _FIELD_POSITIONS.items()
                    if values[position]
                }
            else:
                record = line.decode()
        except UnicodeDecodeError:
            record = line.decode(errors="backslashreplace")
        yield line_number, msgspec.json.encode(record)


ADAPTER = FormatAdapter(
    read=read_snowplow,
    patterns=PATTERNS,
    convert=convert,
    is_text=lambda _, first: first.count(b"\t") == FIELD_COUNT - 1,
    may_lack_suffix=True,
)
