"""GA4's BigQuery export: rows with the fields of its schema, as JSON (64-bit integers as text) and
as Parquet.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.adapters import convert_events, convert_lines, read_refusals

from tailorbird.errors import InputError

TEE = {
    "item_id": "SKU_12345",
    "item_name": "Stan and Friends Tee",
    "item_brand": "Google",
    "item_category": "Apparel",
    "price": 10.01,
    "quantity": "3",
    "coupon": "(not set)",
}
GREY = {
    "item_id": "SKU_12346",
    "item_name": "Google Grey Women's Tee",
    "item_category": "Apparel",
    "price": 21.01,
    "quantity": "1",
}


def _param(key: str, **value: Any) -> dict[str, Any]:
    return {
        "key": key,
        "value": {
            "string_value": None,
            "int_value": None,
            "float_value": None,
            "double_value": None,
            **value,
        },
    }


def _row(name: str, *params: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {
        "event_date": "20210131",
        "event_timestamp": "1612069510766593",
        "event_name": name,
        "event_params": [
            _param("ga_session_id", int_value="661084800"),
            _param("ga_session_number", int_value="1"),
            _param("page_location", string_value="https://shop.googlemerchandisestore.com/"),
            _param("engagement_time_msec", int_value="5"),
            *params,
        ],
        "event_bundle_sequence_id": "-3388624000",
        "user_id": None,
        "user_pseudo_id": "1026454.4271112504",
        "device": {
            "category": "mobile",
            "operating_system": "Web",
            "language": "en-us",
            "time_zone_offset_seconds": "3600",
        },
        "geo": {"continent": "Europe", "country": "Norway", "city": "Oslo"},
        "ecommerce": {"transaction_id": "(not set)"},
        "items": [],
        "platform": "WEB",
        **columns,
    }


def _convert(folder: Path, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    (folder / "e.json").write_text("\n".join(json.dumps(row) for row in rows))
    return convert_events("ga4", folder / "e.json")


def test_a_complete_row(tmp_path: Path) -> None:
    (event,) = _convert(
        tmp_path,
        _row(
            "view_item",
            _param("currency", string_value="USD"),
            _param("request_id", string_value="r1"),
            items=[TEE],
        ),
    )
    kind, _, digest = event.pop("event_id").partition(":")
    assert (kind, len(digest)) == ("row", 32)
    assert event == {
        "type": "view",
        "ts": 1_612_069_510_766_593,
        "anonymous_id": "1026454.4271112504",
        "session_id": "1026454.4271112504.661084800",
        "item_id": "SKU_12345",
        "request_id": "r1",
        "context": {
            "device": "mobile",
            "page": "https://shop.googlemerchandisestore.com/",
            "utc_offset_min": 60,
        },
        "properties": {
            "currency": "USD",
            "item_name": "Stan and Friends Tee",
            "item_brand": "Google",
            "item_category": "Apparel",
            "price": 10.01,
            "quantity": 3,
        },
    }


@pytest.mark.parametrize(
    ("name", "type_", "items"),
    [
        ("select_item", "click", [("SKU_12345", None), ("SKU_12346", None)]),
        ("add_to_cart", "cart", [("SKU_12345", None), ("SKU_12346", None)]),
        ("view_item_list", "impression", [(None, ["SKU_12345", "SKU_12346"])]),
        ("purchase", "purchase", [("SKU_12345", None), ("SKU_12346", None)]),
        ("page_view", "view", [(None, None)]),
    ],
)
def test_events_about_products(tmp_path: Path, name: str, type_: str, items: list[Any]) -> None:
    converted = _convert(
        tmp_path,
        _row(name, items=[TEE, GREY], user_id="u7", ecommerce={"transaction_id": "T_12345"}),
    )
    assert [(one["type"], one["user_id"]) for one in converted] == [(type_, "u7")] * len(items)
    assert [(one.get("item_id"), one.get("items")) for one in converted] == items
    assert converted[0]["properties"]["transaction_id"] == "T_12345"


def test_a_search_and_a_share(tmp_path: Path) -> None:
    search, share = _convert(
        tmp_path,
        _row("view_search_results", _param("search_term", string_value="t-shirts")),
        _row(
            "share",
            _param("item_id", string_value="C_12345"),
            _param("method", string_value="Twitter"),
        ),
    )
    assert (search["type"], search["properties"]) == ("search", {"query": "t-shirts"})
    assert (share["type"], share["item_id"], share["properties"]) == (
        "share",
        "C_12345",
        {"method": "Twitter"},
    )


def test_rows_numbered_in_their_batch_have_the_same_id_in_every_export(tmp_path: Path) -> None:
    row = _row("page_view", batch_page_id="1", batch_ordering_id="2", batch_event_index="3")
    (first,) = _convert(tmp_path, row)
    other, repeated = _convert(tmp_path, {**row, "batch_event_index": "4"}, row)
    assert first["event_id"] == repeated["event_id"] != other["event_id"]


def test_events_without_items_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(
        "\n".join(
            json.dumps(_row(name))
            for name in ("session_start", "scroll", "click", "user_engagement")
        )
    )
    assert convert_lines("ga4", tmp_path / "e.json") == []


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    row = _row("purchase", items=[{**TEE, "quantity": 3}])
    row["event_timestamp"] = int(row["event_timestamp"])
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "e.parquet")
    (by_json,) = _convert(tmp_path, row)
    (by_parquet,) = convert_events("ga4", tmp_path / "e.parquet")
    assert {**by_parquet, "event_id": ""} == {**by_json, "event_id": ""}


def test_lists_that_an_extract_wrapped(tmp_path: Path) -> None:
    row = _row("view_item")
    row["items"] = {"list": [{"element": TEE}]}
    assert _convert(tmp_path, row)[0]["item_id"] == "SKU_12345"


def test_a_table_of_something_else(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "e.parquet")
    with pytest.raises(
        InputError, match="expected the columns event_name and event_timestamp of the export, got a"
    ):
        convert_events("ga4", tmp_path / "e.parquet")


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"event_timestamp": "now"}, "bad_time", "$.event_timestamp"),
        ({"event_name": None}, "missing", "$.event_name"),
        ({"items": [{"price": 1}]}, "missing", "$.items[0].item_id"),
        ({"items": [{"item_id": "(not set)"}]}, "missing", "$.items[0].item_id"),
        ({"event_params": 3}, "wrong_type", "$.event_params"),
        ({"event_params": [{"value": {"int_value": 1}}]}, "missing", "$.event_params[0].key"),
        ({"event_name": "begin_checkout"}, "unknown_type", "$.type"),
    ],
)
def test_unreadable_records_are_quarantined_with_the_reason(
    tmp_path: Path, change: dict[str, Any], code: str, path: str
) -> None:
    (tmp_path / "e.json").write_text(json.dumps({**_row("view_item", items=[TEE]), **change}))
    accepted, refused = read_refusals("ga4", tmp_path / "e.json")
    assert accepted == 0
    assert [(actual, where) for actual, where, _, _ in refused] == [(code, path)]
