"""Snowplow's enriched lines: 131 fields, with the schemas and examples of its documentation."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.adapters import convert_events, convert_lines, read_refusals

from tailorbird.events.adapters import snowplow

# All fields in their order, so that the adapter's positions are held against the format and not
# against themselves.
ENRICHED = """
    app_id platform etl_tstamp collector_tstamp dvce_created_tstamp event event_id txn_id name_tracker v_tracker v_collector v_etl
    user_id user_ipaddress user_fingerprint domain_userid domain_sessionidx network_userid geo_country geo_region geo_city
    geo_zipcode geo_latitude geo_longitude geo_region_name ip_isp ip_organization ip_domain ip_netspeed page_url page_title
    page_referrer page_urlscheme page_urlhost page_urlport page_urlpath page_urlquery page_urlfragment refr_urlscheme refr_urlhost
    refr_urlport refr_urlpath refr_urlquery refr_urlfragment refr_medium refr_source refr_term mkt_medium mkt_source mkt_term
    mkt_content mkt_campaign contexts se_category se_action se_label se_property se_value unstruct_event tr_orderid tr_affiliation
    tr_total tr_tax tr_shipping tr_city tr_state tr_country ti_orderid ti_sku ti_name ti_category ti_price ti_quantity
    pp_xoffset_min pp_xoffset_max pp_yoffset_min pp_yoffset_max useragent br_name br_family br_version br_type br_renderengine
    br_lang br_features_pdf br_features_flash br_features_java br_features_director br_features_quicktime br_features_realplayer
    br_features_windowsmedia br_features_gears br_features_silverlight br_cookies br_colordepth br_viewwidth br_viewheight os_name
    os_family os_manufacturer os_timezone dvce_type dvce_ismobile dvce_screenwidth dvce_screenheight doc_charset doc_width
    doc_height tr_currency tr_total_base tr_tax_base tr_shipping_base ti_currency ti_price_base base_currency geo_timezone
    mkt_clickid mkt_network etl_tags dvce_sent_tstamp refr_domain_userid refr_dvce_tstamp derived_contexts domain_sessionid
    derived_tstamp event_vendor event_name event_format event_version event_fingerprint true_tstamp
"""
FIELDS = ENRICHED.split()
PAGE = {
    "app_id": "angry-birds",
    "platform": "web",
    "etl_tstamp": "2017-01-26 00:01:25.292",
    "collector_tstamp": "2013-11-26 00:02:05.123",
    "event": "page_view",
    "event_id": "c6ef3124-b53a-4b13-a233-0088f79dcbcb",
    "user_id": "jon.doe@email.com",
    "domain_userid": "bc2e92ec6c204a14",
    "geo_country": "GB",
    "page_url": "http://www.snowplowanalytics.com",
    "page_title": "On Analytics",
    "useragent": "Mozilla/5.0",
    "dvce_type": "Computer",
    "domain_sessionid": "2b15e5c8-d3b1-11e4-b9d6-1681e6b88ec1",
    "derived_tstamp": "2013-11-26 00:03:57.886",
    "os_family": "Mac OS X",
    "refr_domain_userid": "another visitor",
    "refr_dvce_tstamp": "2013-11-20 08:00:00.000",
}
ECOMMERCE = "iglu:com.snowplowanalytics.snowplow.ecommerce/{}/jsonschema/1-0-0"
PRODUCT = {
    "id": "P125",
    "name": "Baseball T",
    "brand": "Snowplow",
    "category": "Mens/Apparel",
    "price": 200,
    "currency": "USD",
    "quantity": 2,
}


def _line(**fields: str) -> str:
    values = {**PAGE, **fields}
    return "\t".join(values.get(name, "") for name in FIELDS)


def _unstruct(schema: str, data: Any) -> dict[str, str]:
    outer = {
        "schema": "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0",
        "data": {"schema": schema, "data": data},
    }
    return {"event": "unstruct", "unstruct_event": json.dumps(outer)}


def _contexts(*entities: tuple[str, Any]) -> dict[str, str]:
    data = [
        {"schema": name if "/" in name else ECOMMERCE.format(name), "data": value}
        for name, value in entities
    ]
    return {
        "contexts": json.dumps(
            {
                "schema": "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1",
                "data": data,
            }
        )
    }


def _action(type_: str, *entities: tuple[str, Any], **fields: Any) -> dict[str, str]:
    return {
        **_unstruct(ECOMMERCE.format("snowplow_ecommerce_action"), {"type": type_, **fields}),
        **_contexts(*entities),
    }


def _convert(folder: Path, *rows: str) -> list[dict[str, Any]]:
    (folder / "e.tsv").write_text("\n".join(rows))
    return convert_events("snowplow", folder / "e.tsv")


def test_the_fields_are_those_of_the_format() -> None:
    assert len(FIELDS) == len(set(FIELDS)) == snowplow.FIELD_COUNT


def test_a_page_view(tmp_path: Path) -> None:
    (event,) = _convert(tmp_path, _line())
    assert event == {
        "event_id": "c6ef3124-b53a-4b13-a233-0088f79dcbcb",
        "type": "view",
        "ts": 1_385_424_237_886_000,
        "user_id": "jon.doe@email.com",
        "anonymous_id": "bc2e92ec6c204a14",
        "session_id": "2b15e5c8-d3b1-11e4-b9d6-1681e6b88ec1",
        "context": {
            "device": "Computer",
            "country": "GB",
            "page": "http://www.snowplowanalytics.com",
            "user_agent": "Mozilla/5.0",
        },
        "properties": {"title": "On Analytics"},
    }


@pytest.mark.parametrize("vendor", ["mobile", "snowplow"])
def test_a_screen_of_an_app_is_a_view_as_a_page_is(tmp_path: Path, vendor: str) -> None:
    screen = {
        "id": "68a3e4f2-1d77-4a5c-9c5b-8a3f5c2f7d10",
        "name": "Basket",
        "type": "Cart",
        "previousName": "Home",
    }
    (event,) = _convert(
        tmp_path,
        _line(
            **_unstruct(f"iglu:com.snowplowanalytics.{vendor}/screen_view/jsonschema/1-0-0", screen)
        ),
    )
    assert (event["type"], event.get("item_id")) == ("view", None)
    assert event["properties"] == {
        "title": "Basket",
        "id": screen["id"],
        "type": "Cart",
        "previousName": "Home",
    }


@pytest.mark.parametrize(
    ("action", "type_"),
    [
        ("product_view", "view"),
        ("list_click", "click"),
        ("add_to_cart", "cart"),
        ("transaction", "purchase"),
    ],
)
def test_actions_with_a_product_each(tmp_path: Path, action: str, type_: str) -> None:
    web_page = ("iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0", {"id": "x"})
    entities = [
        web_page,
        ("product", PRODUCT),
        ("product", {**PRODUCT, "id": "P7"}),
        ("transaction", {"transaction_id": "T12345", "revenue": 50}),
    ]
    first, second = _convert(tmp_path, _line(**_action(action, *entities)))
    assert [(one["type"], one["item_id"]) for one in (first, second)] == [
        (type_, "P125"),
        (type_, "P7"),
    ]
    assert first["properties"] == {
        **{name: PRODUCT[name] for name in PRODUCT if name != "id"},
        "transaction_id": "T12345",
        "revenue": 50,
    }
    assert second["event_id"] == f"{PAGE['event_id']}#1"


def test_a_list_that_was_shown(tmp_path: Path) -> None:
    (event,) = _convert(
        tmp_path,
        _line(
            **_action(
                "list_view",
                *(("product", {**PRODUCT, "id": one}) for one in ("P125", "P7", "P125")),
                name="shop the look",
            )
        ),
    )
    assert (event["type"], event["items"], event["properties"]) == (
        "impression",
        ["P125", "P7"],
        {"list": "shop the look"},
    )


def test_the_user_entity_stands_in_for_a_user(tmp_path: Path) -> None:
    (event,) = _convert(
        tmp_path,
        _line(
            **_action(
                "product_view", ("product", PRODUCT), ("user", {"id": "U1", "is_guest": False})
            ),
            user_id="",
        ),
    )
    assert event["user_id"] == "U1"


def test_a_search_an_older_cart_event_and_an_order_of_the_atomic_kind(tmp_path: Path) -> None:
    search, cart, bought = _convert(
        tmp_path,
        _line(
            **_unstruct(
                "iglu:com.snowplowanalytics.snowplow/site_search/jsonschema/1-0-0",
                {"terms": ["unified", "log"], "totalResults": 14},
            )
        ),
        _line(
            **_unstruct(
                "iglu:com.snowplowanalytics.snowplow/add_to_cart/jsonschema/1-0-0",
                {"sku": "000345", "unitPrice": 49.95, "quantity": 1},
            )
        ),
        _line(
            event="transaction_item",
            ti_orderid="order-123",
            ti_sku="1001",
            ti_name="Blue t-shirt",
            ti_price="2000",
            ti_quantity="2",
        ),
    )
    assert (search["type"], search["properties"]) == (
        "search",
        {"totalResults": 14, "query": "unified log"},
    )
    assert (cart["type"], cart["item_id"], cart["properties"]) == (
        "cart",
        "000345",
        {"quantity": 1, "price": 49.95},
    )
    assert (bought["type"], bought["item_id"]) == ("purchase", "1001")
    assert bought["properties"] == {
        "order_id": "order-123",
        "name": "Blue t-shirt",
        "price": 2000,
        "quantity": 2,
    }


def test_pings_and_totals_are_left_out(tmp_path: Path) -> None:
    link = _unstruct(
        "iglu:com.snowplowanalytics.snowplow/link_click/jsonschema/1-0-1",
        {"targetUrl": "http://www.example.com"},
    )
    (tmp_path / "e.tsv").write_text(
        "\n".join([_line(event="page_ping"), _line(event="transaction"), _line(**link)])
    )
    assert convert_lines("snowplow", tmp_path / "e.tsv") == []


@pytest.mark.parametrize(
    ("row", "code", "path"),
    [
        ("a\tb", "wrong_width", "$"),
        (_line(derived_tstamp="", collector_tstamp="soon"), "bad_time", "$.collector_tstamp"),
        (_line(event="unstruct", unstruct_event="{"), "malformed_json", "$.unstruct_event"),
        (_line(**_unstruct("product", {})), "wrong_type", "$.unstruct_event.data.schema"),
        (_line(**_action("add_to_cart")), "missing", "$.contexts"),
        (
            _line(**_action("add_to_cart", ("product", {"name": "x"}))),
            "missing",
            "$.contexts[0].id",
        ),
        (_line(event="odd"), "unknown_kind", "$.event"),
        (_line(event="struct", se_category="Mixes", se_action="Play"), "unknown_type", "$.type"),
        (
            _line(**_unstruct("iglu:com.acme/quiz_done/jsonschema/1-0-0", {"score": 3})),
            "unknown_type",
            "$.type",
        ),
    ],
)
def test_unreadable_records_are_quarantined_with_the_reason(
    tmp_path: Path, row: str, code: str, path: str
) -> None:
    (tmp_path / "e.tsv").write_text(row)
    accepted, refused = read_refusals("snowplow", tmp_path / "e.tsv")
    assert accepted == 0
    assert [(actual, where) for actual, where, _, _ in refused] == [(code, path)]
