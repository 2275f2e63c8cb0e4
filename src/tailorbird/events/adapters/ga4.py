"""Google Analytics 4: rows of the BigQuery export's `events_…` tables, extracted as JSON lines or
Parquet.

    view_item                        → view
    view_item_list                   → impression
    select_item                      → click
    add_to_cart, add_to_wishlist     → cart, like
    purchase                         → a purchase per product
    search, view_search_results      → search
    share                            → share
    page_view, screen_view           → view, without an item
    session_start, scroll, … (`SKIPPED_EVENTS`) → left out and counted; `click` is an outbound link
    any other name, such as begin_checkout → a custom type, to be declared in `[events] types`

`user_id` is the user, `user_pseudo_id` the visitor, both with `ga_session_id` the session. A
`request_id` among the event's parameters joins it to its answer. Ids are derived from a row's
position in its batch if known, so that a day exported twice is imported once; otherwise from file
and row.

Source: Google Analytics Help, "[GA4] BigQuery Export schema"; Google for Developers, "Measure
ecommerce" and "Recommended events".
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import BATCH_ROWS, AdapterOptions, Batch, FormatAdapter
from tailorbird.events.adapters.fields import (
    as_record,
    build_context,
    get_record,
    get_records,
    get_text,
    nonempty_fields,
    parse_epoch_time,
    parse_number,
    require_text,
    safe_event_type,
)
from tailorbird.events.adapters.products import build_product_events, parse_numeric_properties
from tailorbird.events.adapters.record import Record, SkippedRecordError, convert_records
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.files import (
    NO_SUFFIX_PATTERN,
    read_parquet_batches,
    read_records,
    suffix_without_compression,
)

FORMAT = "ga4"
PATTERNS = (
    "*.json",
    "*.jsonl",
    "*.ndjson",
    "*.parquet",
    NO_SUFFIX_PATTERN,
)  # extracts have arbitrary names

TYPE_BY_EVENT_NAME = {
    "view_item": "view",
    "view_item_list": "impression",
    "select_item": "click",
    "add_to_cart": "cart",
    "add_to_wishlist": "like",
    "purchase": "purchase",
    "ecommerce_purchase": "purchase",
    "in_app_purchase": "purchase",
    "search": "search",
    "view_search_results": "search",
    "share": "share",
    "page_view": "view",
    "screen_view": "view",
}
SKIPPED_EVENTS = frozenset(
    (
        "session_start",
        "first_visit",
        "first_open",
        "user_engagement",
        "scroll",
        "click",
        "file_download",
        "form_start",
        "form_submit",
        "video_start",
        "video_progress",
        "video_complete",
        "app_remove",
        "app_update",
        "os_update",
        "app_clear_data",
        "app_exception",
        "notification_receive",
        "notification_dismiss",
        "notification_foreground",
        "ad_impression",
        "ad_click",
    )
)
_ITEM_ID_FIELDS = ("item_id", "item_name")
_BATCH_POSITION_FIELDS = (
    "user_pseudo_id",
    "event_timestamp",
    "event_name",
    "event_bundle_sequence_id",
    "batch_page_id",
    "batch_ordering_id",
    "batch_event_index",
)
_NON_PROPERTY_PARAMETERS = (
    "request_id",
    "ga_session_id",
    "ga_session_number",
    "page_location",
    "page_referrer",
    "engagement_time_msec",
    "session_engaged",
)
_UNSET_VALUES = ("(not set)", "(other)")


def read_ga4(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read the files in order of their names.

    Raises InputError for a Parquet file that is not such an export.
    """
    for file, digest in files.items():
        rows = (
            _read_parquet_rows(file)
            if suffix_without_compression(file) == ".parquet"
            else read_records(file)
        )
        yield from convert_records(FORMAT, str(file), rows, digest, convert)


def convert(record: Any, row_id: str) -> list[Event]:
    """Convert one row."""
    row = as_record(record)
    name = require_text(row, "event_name")
    if name in SKIPPED_EVENTS:
        raise SkippedRecordError(name)
    type_ = TYPE_BY_EVENT_NAME.get(name) or safe_event_type(name)
    parameters = _read_parameters(row)
    items = [_without_unset(item) for item in _read_elements(row, "items")]
    if not items and type_ == "share" and parameters.get("item_id") is not None:
        items = [{"item_id": parameters["item_id"]}]
    if name in ("page_view", "screen_view"):
        items = []
    base_event = _convert_event(row, type_, parameters, row_id)
    return build_product_events(base_event, items, _ITEM_ID_FIELDS, "$.items")


def _convert_event(row: Record, type_: str, parameters: Record, row_id: str) -> Event:
    properties = parse_numeric_properties(
        nonempty_fields(parameters, excluded=("search_term", "item_id", *_NON_PROPERTY_PARAMETERS))
    )
    if (
        type_ == "search"
        and (term := get_text(parameters, "search_term", "$.event_params")) is not None
    ):
        properties["query"] = term
    ecommerce = get_record(row, "ecommerce")
    transaction_id = ecommerce.get("transaction_id")
    if transaction_id not in (None, "", *_UNSET_VALUES):
        properties.setdefault("transaction_id", transaction_id)
    anonymous_id = get_text(row, "user_pseudo_id")
    session_id = get_text(parameters, "ga_session_id", "$.event_params")
    device = get_record(row, "device")
    geo = get_record(row, "geo")
    utc_offset_s = parse_number(device.get("time_zone_offset_seconds"))
    return Event(
        event_id=_make_event_id(row, row_id),
        type=type_,
        ts=parse_epoch_time(row.get("event_timestamp"), "$.event_timestamp", "microseconds"),
        user_id=get_text(row, "user_id"),
        anonymous_id=anonymous_id,
        session_id=None if session_id is None else f"{anonymous_id or ''}.{session_id}",
        request_id=get_text(parameters, "request_id", "$.event_params"),
        context=build_context(
            device=device.get("category"),
            country=geo.get("country"),
            page=parameters.get("page_location"),
            referrer=parameters.get("page_referrer"),
            utc_offset_min=int(utc_offset_s) // 60
            if isinstance(utc_offset_s, int) and not isinstance(utc_offset_s, bool)
            else None,
        ),
        properties=properties or None,
    )


def _make_event_id(row: Record, row_id: str) -> str:
    """Return an id for a row, which has none of its own.

    Rows of newer exports are numbered within their batch.
    """
    if any(row.get(name) in (None, "") for name in _BATCH_POSITION_FIELDS):
        return row_id
    text = "\0".join(str(row[name]) for name in _BATCH_POSITION_FIELDS)
    return f"ga4:{sha256(text.encode()).hexdigest()[:32]}"


def _read_parameters(row: Record) -> Record:
    """Return `event_params`, an array of keys and typed values, as one object."""
    parameters: Record = {}
    for index, entry in enumerate(_read_elements(row, "event_params")):
        value = entry.get("value")
        if isinstance(value, dict):
            typed_values = [
                (value_field, value.get(value_field))
                for value_field in ("string_value", "int_value", "float_value", "double_value")
            ]
            value = next(
                (
                    parse_number(value) if value_field != "string_value" else value
                    for value_field, value in typed_values
                    if value is not None
                ),
                None,
            )
        if value is not None and value not in _UNSET_VALUES:
            parameters[require_text(entry, "key", path=f"$.event_params[{index}]")] = value
    return parameters


def _read_elements(row: Record, name: str) -> list[Record]:
    """Return a repeated field.

    Some extracts to Parquet wrap it as `{"list": [{"element": …}]}`.
    """
    value = row.get(name)
    if isinstance(value, dict) and isinstance(value.get("list"), list):
        elements = [
            element.get("element", element.get("item", element))
            if isinstance(element, dict)
            else element
            for element in value["list"]
        ]
        return get_records({name: elements}, name)
    return get_records(row, name)


def _without_unset(item: Record) -> Record:
    """Return an item without unset values; its nested parameters stay as they are."""
    return {
        name: value
        for name, value in item.items()
        if value not in (None, "", []) and value not in _UNSET_VALUES
    }


def _read_parquet_rows(file: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        source = pq.ParquetFile(file)
        if not {"event_name", "event_timestamp"} <= set(source.schema_arrow.names):
            raise InputError(
                "expected the columns event_name and event_timestamp of the export, got "
                f"{', '.join(source.schema_arrow.names)[:200]}",
                where=str(file),
                fix="tailorbird import --guess PATH proposes a mapping for files with other "
                "columns",
            )
        for batch in read_parquet_batches(source, file, min(BATCH_ROWS, 2_000)):
            for row in batch.to_pylist():
                number += 1
                yield number, msgspec.json.encode(row, enc_hook=str)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"not a Parquet file that can be read, after row {number}: {error}", where=str(file)
        ) from None


ADAPTER = FormatAdapter(
    read=read_ga4,
    patterns=PATTERNS,
    convert=convert,
    is_table=lambda _, columns: {"event_name", "event_timestamp", "event_params"} <= set(columns),
    is_record=lambda record: "event_name" in record and "event_timestamp" in record,
    may_lack_suffix=True,
)
