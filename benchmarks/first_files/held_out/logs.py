"""Logs of what people did on sites: shops, courses, plans, and exports of trackers."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.first_files.held_out.drawing import (
    DAY,
    DIGITS,
    HEX,
    UPPER,
    blank,
    draw_actions,
    draw_choices,
    draw_codes,
    draw_even,
    draw_numbers,
    draw_prices,
    draw_titles,
    draw_uuids,
    format_times,
    pick,
    write_table,
)
from benchmarks.first_files.layout import Layout

_BROWSERS = ["Chrome", "Safari", "Firefox", "Edge"]


def _write_matomo(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 8)
    n_items = max(20, n_rows // 50)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2024-02-01",
        days=28,
        per_session=4,
        gap_s=50,
        funnel={
            "action": 0.86,
            "search": 0.04,
            "ecommerceAbandonedCart": 0.06,
            "ecommerceOrder": 0.04,
        },
        follow=("ecommerceAbandonedCart", "ecommerceOrder"),
    )
    visitors = draw_codes(rng, n_people, 16)
    accounts = blank(rng, _to_mails(draw_codes(rng, n_people, 6)), 0.8)
    skus = draw_codes(rng, n_items, 6, DIGITS, "SKU-")
    titles = draw_titles(rng, n_items)
    prices = draw_prices(rng, n_items)
    kinds = draw_choices(rng, ["Lamps", "Chairs", "Rugs"], n_items)
    systems = draw_choices(rng, ["Windows", "iOS", "Android", "Mac"], n_people)
    browsers = draw_choices(rng, _BROWSERS, n_people)
    countries = draw_choices(
        rng, [("Germany", "de"), ("France", "fr"), ("Austria", "at")], n_people
    )
    pretty = format_times(actions.second, "%b %-d, %Y %H:%M:%S")
    order = np.argsort(actions.session, kind="stable")
    visits: list[dict[str, Any]] = []
    previous = -1
    for row in order.tolist():
        person = int(actions.person[row])
        item = int(actions.item[row])
        second = int(actions.second[row])
        if actions.session[row] != previous:
            previous = actions.session[row]
            visits.append(
                {
                    "idSite": "1",
                    "idVisit": str(20_000 + len(visits)),
                    "visitIp": f"84.17.{person % 250}.0",
                    "visitorId": visitors[person],
                    "fingerprint": visitors[person][::-1],
                    "actionDetails": [],
                    "goalConversions": "0",
                    "siteCurrency": "EUR",
                    "serverDate": pretty[row][:-9],
                    "visitServerHour": pretty[row][-8:-6],
                    "firstActionTimestamp": second,
                    "userId": accounts[person],
                    "visitorType": "new",
                    "visitCount": "1",
                    "referrerType": "direct",
                    "referrerName": "",
                    "deviceType": "Desktop"
                    if systems[person] in ("Windows", "Mac")
                    else "Smartphone",
                    "operatingSystemName": systems[person],
                    "browserName": browsers[person],
                    "country": countries[person][0],
                    "countryCode": countries[person][1],
                }
            )
        visit = visits[-1]
        action: dict[str, Any] = {
            "type": actions.types[row],
            "serverTimePretty": pretty[row],
            "timestamp": second,
            "icon": None,
        }
        if action["type"] == "action":
            action |= {
                "url": f"https://shop.example/{kinds[item].lower()}/{skus[item].lower()}",
                "pageTitle": titles[item],
                "pageIdAction": str(item + 40),
                "idpageview": visitors[person][:6],
                "pageId": str(900_000 + row),
                "timeSpent": str(item % 90),
                "pageviewPosition": str(len(visit["actionDetails"]) + 1),
                "productViewName": titles[item],
                "productViewSku": skus[item],
                "productViewPrice": prices[item],
                "productViewCategories": [kinds[item]],
            }
        elif action["type"] == "search":
            action |= {
                "siteSearchKeyword": titles[item].split()[0].lower(),
                "siteSearchCount": "12",
            }
        else:
            action |= {
                "revenue": f"{prices[item]:.2f}",
                "items": "1",
                "itemDetails": [
                    {
                        "itemSKU": skus[item],
                        "itemName": titles[item],
                        "itemCategory": kinds[item],
                        "price": prices[item],
                        "quantity": 1,
                    }
                ],
            }
            if action["type"] == "ecommerceOrder":
                action["orderId"] = f"A{100_000 + row}"
        visit["actionDetails"].append(action)
        visit |= {"lastActionTimestamp": second, "actions": str(len(visit["actionDetails"]))}
        visit["visitDuration"] = str(second - visit["firstActionTimestamp"])
    path = folder / "Export _ Visits Log _ February 2024.json"
    path.write_text(json.dumps(visits[::-1]), encoding="utf-8")


def _to_mails(codes: list[str]) -> list[str]:
    return [f"{code}@mail.example" for code in codes]


def _write_posthog(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 15)
    n_items = max(20, n_rows // 60)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2024-05-06",
        days=30,
        per_session=6,
        gap_s=20,
        funnel={
            "$pageview": 0.3,
            "$autocapture": 0.25,
            "$pageleave": 0.1,
            "product viewed": 0.22,
            "product added to cart": 0.08,
            "order completed": 0.05,
        },
        follow=("product added to cart", "order completed"),
    )
    n = len(actions)
    # A visitor has a UUID of version 7; whoever has signed in, the shop's own id.
    ids = draw_uuids(rng, n_people)
    has_account = rng.random(n_people) < 0.4
    people = [f"user_{k}" if known else ids[k] for k, known in enumerate(has_account.tolist())]
    products = [f"prod_{code}" for code in draw_codes(rng, n_items, 8)]
    prices = draw_prices(rng, n_items)
    has_item = [not name.startswith("$") for name in actions.types]
    items = actions.item.tolist()
    sessions = draw_uuids(rng, int(actions.session.max()) + 1)
    micros = rng.integers(0, 1_000_000, n).tolist()
    urls = [
        f"https://store.example/p/{products[i]}" if has else "https://store.example/"
        for i, has in zip(items, has_item, strict=True)
    ]
    browsers = pick(draw_choices(rng, _BROWSERS, n_people), actions.person)
    columns: dict[str, list[Any]] = {
        "id": draw_uuids(rng, n),
        "distinct_id": pick(people, actions.person),
        "properties.$os": pick(
            draw_choices(rng, ["Mac OS X", "Windows", "iOS"], n_people), actions.person
        ),
        "properties.$browser": browsers,
        "properties.$device_type": pick(
            draw_choices(rng, ["Desktop", "Mobile"], n_people), actions.person
        ),
        "properties.$current_url": urls,
        "properties.$host": ["store.example"] * n,
        "properties.$pathname": [url.removeprefix("https://store.example") for url in urls],
        "properties.$lib": ["web"] * n,
        "properties.$device_id": pick(ids, actions.person),
        "properties.$session_id": pick(sessions, actions.session),
        "properties.$geoip_country_code": pick(
            draw_choices(rng, ["US", "GB"], n_people), actions.person
        ),
        "properties.product_id": [
            products[i] if has else None for i, has in zip(items, has_item, strict=True)
        ],
        "properties.price": [
            prices[i] if has else None for i, has in zip(items, has_item, strict=True)
        ],
        "properties.$event_type": ["click" if t == "$autocapture" else None for t in actions.types],
        "event": actions.types,
        "timestamp": [
            f"{time}.{micro:06d}+00:00"
            for time, micro in zip(
                format_times(actions.second, "%Y-%m-%dT%H:%M:%S"), micros, strict=True
            )
        ],
        "person.is_identified": pick(has_account.tolist(), actions.person),
        "person.distinct_ids.0": pick(people, actions.person),
        "person.properties.$initial_browser": browsers,
        "elements_chain": [
            'button.btn:nth-child="2"text="Add, now"' if t == "$autocapture" else None
            for t in actions.types
        ],
    }
    # The newest event comes first.
    write_table(folder / "export-events.csv", {name: list(c)[::-1] for name, c in columns.items()})


_SNOWPLOW_COLUMNS = """
app_id platform etl_tstamp collector_tstamp dvce_created_tstamp event event_id txn_id name_tracker
v_tracker v_collector v_etl user_id user_ipaddress user_fingerprint domain_userid domain_sessionidx
network_userid geo_country geo_region geo_city geo_zipcode geo_latitude geo_longitude
geo_region_name ip_isp ip_organization ip_domain ip_netspeed page_url page_title page_referrer
page_urlscheme page_urlhost page_urlport page_urlpath page_urlquery page_urlfragment refr_urlscheme
refr_urlhost refr_urlport refr_urlpath refr_urlquery refr_urlfragment refr_medium refr_source
refr_term mkt_medium mkt_source mkt_term mkt_content mkt_campaign contexts se_category se_action
se_label se_property se_value unstruct_event tr_orderid tr_affiliation tr_total tr_tax tr_shipping
tr_city tr_state tr_country ti_orderid ti_sku ti_name ti_category ti_price ti_quantity
pp_xoffset_min pp_xoffset_max pp_yoffset_min pp_yoffset_max useragent br_name br_family br_version
br_type br_renderengine br_lang br_features_pdf br_features_flash br_features_java
br_features_director br_features_quicktime br_features_realplayer br_features_windowsmedia
br_features_gears br_features_silverlight br_cookies br_colordepth br_viewwidth br_viewheight
os_name os_family os_manufacturer os_timezone dvce_type dvce_ismobile dvce_screenwidth
dvce_screenheight doc_charset doc_width doc_height tr_currency tr_total_base tr_tax_base
tr_shipping_base ti_currency ti_price_base base_currency geo_timezone mkt_clickid mkt_network
etl_tags dvce_sent_tstamp refr_domain_userid refr_dvce_tstamp derived_contexts domain_sessionid
derived_tstamp event_vendor event_name event_format event_version event_fingerprint true_tstamp
"""


def _write_snowplow(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 10)
    n_items = max(20, n_rows // 50)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2024-03-04",
        days=14,
        per_session=5,
        gap_s=30,
        funnel={
            "page_view": 0.4,
            "product_view": 0.3,
            "list_click": 0.15,
            "add_to_cart": 0.1,
            "transaction": 0.05,
        },
        follow=("add_to_cart", "transaction"),
    )
    n = len(actions)
    domain_ids = pick(draw_uuids(rng, n_people), actions.person)
    network_ids = pick(draw_uuids(rng, n_people), actions.person)
    users = pick(blank(rng, [f"u{k}" for k in range(n_people)], 0.7), actions.person)
    sessions = pick(draw_uuids(rng, int(actions.session.max()) + 1), actions.session)
    skus = draw_codes(rng, n_items, 6, DIGITS, "P")
    names = draw_titles(rng, n_items)
    prices = draw_prices(rng, n_items)
    times = [
        f"{t}.{k % 1000:03d}"
        for k, t in enumerate(format_times(actions.second, "%Y-%m-%d %H:%M:%S"))
    ]
    schema = "iglu:com.snowplowanalytics.snowplow"
    contexts = []
    unstructured = []
    for type_, i in zip(actions.types, actions.item.tolist(), strict=True):
        if type_ == "page_view":
            contexts.append("")
            unstructured.append("")
            continue
        product = {
            "schema": f"{schema}.ecommerce/product/jsonschema/1-0-0",
            "data": {
                "id": skus[i],
                "name": names[i],
                "category": "home",
                "price": prices[i],
                "currency": "EUR",
            },
        }
        action = {
            "schema": f"{schema}.ecommerce/snowplow_ecommerce_action/jsonschema/1-0-2",
            "data": {"type": type_},
        }
        contexts.append(
            json.dumps({"schema": f"{schema}/contexts/jsonschema/1-0-0", "data": [product]})
        )
        unstructured.append(
            json.dumps({"schema": f"{schema}/unstruct_event/jsonschema/1-0-0", "data": action})
        )
    is_page = [type_ == "page_view" for type_ in actions.types]
    columns: dict[str, list[Any]] = {name: [None] * n for name in _SNOWPLOW_COLUMNS.split()}
    columns |= {
        "app_id": ["shop"] * n,
        "platform": ["web"] * n,
        "etl_tstamp": times,
        "collector_tstamp": times,
        "dvce_created_tstamp": times,
        "event": ["page_view" if page else "unstruct" for page in is_page],
        "event_id": draw_uuids(rng, n),
        "name_tracker": ["sp"] * n,
        "v_tracker": ["js-3.22.0"] * n,
        "v_collector": ["ssc-2.9.2-kinesis"] * n,
        "v_etl": ["snowplow-enrich-kinesis-3.9.0"] * n,
        "user_id": users,
        "user_ipaddress": [f"10.1.{k % 200}.x" for k in actions.person.tolist()],
        "domain_userid": domain_ids,
        "domain_sessionidx": [1 + k % 5 for k in actions.session.tolist()],
        "network_userid": network_ids,
        "geo_country": ["DE"] * n,
        "geo_city": pick(draw_choices(rng, ["Berlin", "Köln"], n_people), actions.person),
        "page_url": [f"https://www.example.org/p/{skus[i]}" for i in actions.item.tolist()],
        "page_title": pick(names, actions.item),
        "page_urlscheme": ["https"] * n,
        "page_urlhost": ["www.example.org"] * n,
        "page_urlport": [443] * n,
        "page_urlpath": [f"/p/{skus[i]}" for i in actions.item.tolist()],
        "contexts": contexts,
        "unstruct_event": unstructured,
        "useragent": ["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/122.0"] * n,
        "br_lang": ["de-DE"] * n,
        "br_cookies": [1] * n,
        "os_timezone": ["Europe/Berlin"] * n,
        "dvce_screenwidth": [1920] * n,
        "dvce_screenheight": [1080] * n,
        "doc_charset": ["UTF-8"] * n,
        "dvce_sent_tstamp": times,
        "domain_sessionid": sessions,
        "derived_tstamp": times,
        "event_vendor": [
            f"com.snowplowanalytics.snowplow{'' if page else '.ecommerce'}" for page in is_page
        ],
        "event_name": ["page_view" if page else "snowplow_ecommerce_action" for page in is_page],
        "event_format": ["jsonschema"] * n,
        "event_version": ["1-0-0" if page else "1-0-2" for page in is_page],
        "event_fingerprint": draw_codes(rng, n, 32, HEX),
    }
    rows = zip(*columns.values(), strict=True)
    # Values are not quoted: tabs and line breaks do not occur in them.
    lines = ("\t".join("" if value is None else str(value) for value in row) for row in rows)
    (folder / "enriched.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_tmall(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(10, n_rows // 100)
    n_items = max(40, n_rows // 12)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2014-05-11",
        days=185,
        per_session=7,
        funnel={"0": 0.88, "1": 0.002, "2": 0.06, "3": 0.06},
        follow=("2", "3"),
    )
    people = np.array(draw_numbers(rng, n_people, 1, 424_171))
    items = np.array(draw_numbers(rng, n_items, 1, 1_113_167))
    n_shops = max(5, n_items // 15)
    shops = np.array(draw_numbers(rng, n_shops, 1, 4_996))
    shop_of = rng.integers(0, n_shops, n_items)
    brand_of = blank(rng, (rng.integers(1, 8_478, n_shops)[shop_of]).tolist(), 0.01)
    order = np.lexsort((actions.second, actions.person))
    item = actions.item[order]
    write_table(
        folder / "user_log_format1.csv",
        {
            "user_id": people[actions.person[order]],
            "item_id": items[item],
            "cat_id": rng.integers(1, 1_672, n_items)[item],
            "seller_id": shops[shop_of[item]],
            "brand_id": pick(brand_of, item),
            "time_stamp": format_times(actions.second[order], "%m%d"),
            "action_type": pick(actions.types, order),
        },
    )
    write_table(
        folder / "user_info_format1.csv",
        {
            "user_id": people,
            "age_range": blank(rng, rng.integers(0, 9, n_people).tolist(), 0.005),
            "gender": blank(
                rng, rng.choice([0, 1, 2], n_people, p=[0.67, 0.3, 0.03]).tolist(), 0.015
            ),
        },
    )
    rows = np.unique(actions.person * n_shops + shop_of[actions.item])[: n_people * 2]
    write_table(
        folder / "train_format1.csv",
        {
            "user_id": people[rows // n_shops],
            "merchant_id": shops[rows % n_shops],
            "label": (rng.random(len(rows)) < 0.06).astype(int),
        },
    )


def _write_yoochoose(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_sessions = max(20, n_rows // 4)
    n_items = max(40, n_rows // 15)
    # The data know sessions alone: each is a person of its own.
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_sessions,
        n_items=n_items,
        start="2014-04-01",
        days=180,
        per_session=3.6,
        gap_s=80,
    )
    n = len(actions)
    order = np.lexsort((actions.second, actions.session))
    items = np.array(draw_numbers(rng, n_items, 214_507_331, 214_999_999))
    sessions = actions.session[order] * 3 + 1
    millis = rng.integers(0, 1000, n).tolist()
    times = [
        f"{time}.{milli:03d}Z"
        for time, milli in zip(
            format_times(actions.second[order], "%Y-%m-%dT%H:%M:%S"), millis, strict=True
        )
    ]
    kinds = draw_choices(rng, ["0", "S", "1", "5", "2089046375"], n)
    write_table(
        folder / "yoochoose-clicks.dat",
        {"session": sessions, "time": times, "item": items[actions.item[order]], "category": kinds},
        header=False,
    )
    rows = np.flatnonzero(rng.random(n) < 0.035)
    # Half of the prices and quantities are missing, written as 0.
    is_known = rng.random(len(rows)) < 0.5
    prices = (np.array(draw_prices(rng, n_items, 900)).astype(int))[actions.item[order][rows]]
    write_table(
        folder / "yoochoose-buys.dat",
        {
            "session": sessions[rows],
            "time": pick(times, rows),
            "item": items[actions.item[order]][rows],
            "price": np.where(is_known, prices, 0),
            "quantity": np.where(is_known, 1, 0),
        },
        header=False,
    )


def _write_rees46(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 14)
    n_items = max(40, n_rows // 20)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2019-10-01",
        days=61,
        per_session=4.5,
        gap_s=60,
        funnel={"view": 0.94, "cart": 0.04, "purchase": 0.02},
        follow=("cart", "purchase"),
    )
    people = np.array(draw_numbers(rng, n_people, 33_869_381, 579_969_851))
    items = np.array(draw_numbers(rng, n_items, 1_000_978, 60_500_010))
    codes = ["electronics.smartphone", "electronics.audio.headphone", "appliances.kitchen.washer"]
    kind = rng.integers(0, 4, n_items)
    code_of = pick([*codes, None], kind)
    id_of = 2_053_013_555_631_882_655 + kind * 7_340_033
    brand_of = blank(rng, draw_choices(rng, ["samsung", "apple", "xiaomi", "bosch"], n_items), 0.14)
    prices = np.array(draw_prices(rng, n_items, 160))
    sessions = draw_uuids(rng, int(actions.session.max()) + 1)
    boundary = int(np.datetime64("2019-11-01", "s").astype(np.int64))
    is_november = actions.second >= boundary
    for name, rows in (
        ("2019-Oct.csv", np.flatnonzero(~is_november)),
        ("2019-Nov.csv", np.flatnonzero(is_november)),
    ):
        item = actions.item[rows]
        write_table(
            folder / name,
            {
                "event_time": format_times(actions.second[rows], "%Y-%m-%d %H:%M:%S UTC"),
                "event_type": pick(actions.types, rows),
                "product_id": items[item],
                "category_id": id_of[item],
                "category_code": pick(code_of, item),
                "brand": pick(brand_of, item),
                "price": prices[item],
                "user_id": people[actions.person[rows]],
                "user_session": pick(sessions, actions.session[rows]),
            },
        )


def _write_japanese(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 15)
    n_items = max(20, n_rows // 60)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2024-04-01",
        days=45,
        per_session=4,
        funnel={"閲覧": 0.8, "お気に入り": 0.05, "カート追加": 0.09, "購入": 0.06},
        follow=("お気に入り", "カート追加", "購入"),
    )
    n = len(actions)
    people = [f"M{number:07d}" for number in draw_numbers(rng, n_people, 1, 9_999_999)]
    items = draw_codes(rng, n_items, 5, DIGITS, "JP-")
    words = ["緑茶", "急須", "抹茶碗", "湯のみ", "和菓子", "セット", "特選", "ギフト"]
    titles = [title.replace(" ", "") for title in draw_titles(rng, n_items, words)]
    kinds = draw_choices(rng, ["お茶", "茶器", "菓子"], n_items)
    prices = np.array(draw_prices(rng, n_items, 2000)).astype(int)
    write_table(
        folder / "行動ログ_202404.csv",
        {
            "日時": format_times(actions.second, "%Y/%m/%d %H:%M:%S"),
            "会員ID": pick(people, actions.person),
            "商品ID": pick(items, actions.item),
            "商品名": pick(titles, actions.item),
            "カテゴリ": pick(kinds, actions.item),
            "行動": actions.types,
            "価格": [f"{price:,}円" for price in prices[actions.item].tolist()],
            "端末": draw_choices(rng, ["スマートフォン", "PC", "タブレット"], n),
        },
        encoding="cp932",
        newline="\r\n",
    )


def _write_courses(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 60)
    n_sites = max(30, n_rows // 60)
    actions = draw_actions(
        rng, n_rows, n_people=n_people, n_items=n_sites, start="2013-09-21", days=290, per_session=6
    )
    n = len(actions)
    starts = int(np.datetime64("2013-10-01", "s").astype(np.int64))
    presentations = [("AAA", "2013J"), ("BBB", "2013J"), ("CCC", "2014B")]
    # People and sites belong to one presentation of a module each.
    of_person = rng.integers(0, 3, n_people)
    sites_of = np.array(
        [np.arange(n_sites)[np.arange(n_sites) % 3 == k][: n_sites // 3] for k in range(3)]
    )
    site = sites_of[of_person[actions.person], actions.item // 3 % (n_sites // 3)]
    people = np.array(draw_numbers(rng, n_people, 3_733, 2_716_795))
    site_ids = np.array(draw_numbers(rng, n_sites, 526_721, 1_049_562))
    order = np.lexsort((actions.second // DAY, of_person[actions.person]))
    write_table(
        folder / "studentVle.csv",
        {
            "code_module": [presentations[k][0] for k in of_person[actions.person[order]].tolist()],
            "code_presentation": [
                presentations[k][1] for k in of_person[actions.person[order]].tolist()
            ],
            "id_student": [str(k) for k in people[actions.person[order]].tolist()],
            "id_site": [str(k) for k in site_ids[site[order]].tolist()],
            "date": [str(k) for k in ((actions.second[order] - starts) // DAY).tolist()],
            "sum_click": [str(k) for k in rng.geometric(0.3, n).tolist()],
        },
        quoting=csv.QUOTE_ALL,
    )
    kinds = ["resource", "oucontent", "url", "forumng", "quiz", "homepage"]
    week = blank(rng, rng.integers(0, 29, n_sites).tolist(), 0.82)
    write_table(
        folder / "vle.csv",
        {
            "id_site": site_ids,
            "code_module": [presentations[k % 3][0] for k in range(n_sites)],
            "code_presentation": [presentations[k % 3][1] for k in range(n_sites)],
            "activity_type": draw_choices(rng, kinds, n_sites),
            "week_from": week,
            "week_to": week,
        },
    )
    write_table(
        folder / "studentInfo.csv",
        {
            "code_module": [presentations[k][0] for k in of_person.tolist()],
            "code_presentation": [presentations[k][1] for k in of_person.tolist()],
            "id_student": people,
            "gender": draw_even(rng, ["M", "F"], n_people),
            "region": draw_choices(rng, ["Scotland", "East Anglian Region", "Wales"], n_people),
            "highest_education": draw_choices(
                rng, ["A Level or Equivalent", "HE Qualification"], n_people
            ),
            "imd_band": blank(rng, draw_even(rng, ["90-100%", "20-30%", "10-20"], n_people), 0.03),
            "age_band": draw_choices(rng, ["0-35", "35-55", "55<="], n_people),
            "num_of_prev_attempts": rng.geometric(0.85, n_people) - 1,
            "studied_credits": rng.choice([60, 120, 240], n_people),
            "disability": draw_choices(rng, ["N", "Y"], n_people),
            "final_result": draw_choices(
                rng, ["Pass", "Withdrawn", "Fail", "Distinction"], n_people
            ),
        },
    )
    write_table(
        folder / "studentRegistration.csv",
        {
            "code_module": [presentations[k][0] for k in of_person.tolist()],
            "code_presentation": [presentations[k][1] for k in of_person.tolist()],
            "id_student": people,
            "date_registration": -rng.integers(1, 200, n_people),
            "date_unregistration": blank(rng, rng.integers(1, 200, n_people).tolist(), 0.7),
        },
    )
    write_table(
        folder / "courses.csv",
        {
            "code_module": [module for module, _ in presentations],
            "code_presentation": [presentation for _, presentation in presentations],
            "module_presentation_length": [268, 268, 241],
        },
    )


def _write_plans(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 9)
    n_items = 48
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2024-06-03",
        days=60,
        per_session=4,
        gap_s=25,
        funnel={"IMPRESSION": 0.62, "CLICK": 0.2, "DETAIL": 0.13, "ORDER": 0.05},
        follow=("CLICK", "DETAIL", "ORDER"),
    )
    n = len(actions)
    subscribers = draw_codes(rng, n_people, 40, HEX)
    plans = [f"PLN_{code}" for code in draw_codes(rng, n_items, 4, UPPER + DIGITS)]
    fees = draw_choices(rng, [9.99, 14.99, 19.99, 29.99, 49.99], n_items, [1, 1, 1, 1, 1])
    gigabytes = draw_even(rng, [1, 5, 10, 25, 100], n_items)
    write_table(
        folder / "plan_clicks_202406.csv",
        {
            "event_ts": actions.second * 1000 + rng.integers(0, 1000, n),
            "subscriber_hash": pick(subscribers, actions.person),
            "channel": draw_choices(rng, ["app", "web", "ussd"], n),
            "action": actions.types,
            "plan_code": pick(plans, actions.item),
            "placement": draw_choices(rng, ["home_banner", "upsell_tile", "renewal_page"], n),
            "position": rng.integers(1, 7, n),
            "cell_id": rng.integers(20_000, 65_000, n_people)[actions.person],
        },
    )
    write_table(
        folder / "plans.csv",
        {
            "plan_code": plans,
            "plan_name": [f"Surf {g} GB" for g in gigabytes],
            "monthly_fee": fees,
            "data_gb": gigabytes,
            "contract_months": draw_choices(rng, [24, 1, 12], n_items),
            "segment": draw_choices(rng, ["postpaid", "prepaid", "business"], n_items),
        },
    )
    write_table(
        folder / "subscribers.csv",
        {
            "subscriber_hash": subscribers,
            "current_plan": draw_even(rng, plans, n_people),
            "tenure_months": rng.integers(0, 180, n_people),
            "arpu": rng.lognormal(3, 0.5, n_people).round(2),
            "age_band": blank(rng, draw_choices(rng, ["25-34", "35-44", "18-24"], n_people), 0.12),
            "handset_os": draw_choices(rng, ["Android", "iOS"], n_people),
        },
    )


def _write_pipe_log(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 12)
    n_items = max(20, n_rows // 40)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start="2024-03-05",
        days=3,
        per_session=5,
        gap_s=35,
        funnel={"pdp": 0.75, "wish": 0.05, "atc": 0.14, "order": 0.06},
        follow=("wish", "atc", "order"),
    )
    people = blank(rng, draw_numbers(rng, n_people, 10_000, 9_999_999), 0.2)
    cookies = draw_codes(rng, n_people, 12)
    sessions = draw_codes(rng, int(actions.session.max()) + 1, 10)
    skus = draw_codes(rng, n_items, 8, UPPER + DIGITS)
    days = format_times(actions.second, "%Y%m%d")
    agents = [
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_3)",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64)",
    ]
    agent_of = draw_even(rng, agents, n_people)
    for day in sorted(set(days)):
        rows = np.flatnonzero(np.array(days) == day)
        write_table(
            folder / f"clickstream-{day}.log",
            {
                "ts": format_times(actions.second[rows], "%Y-%m-%dT%H:%M:%S+0100"),
                "ck": pick(cookies, actions.person[rows]),
                "uid": pick(people, actions.person[rows]),
                "sid": pick(sessions, actions.session[rows]),
                "evt": pick(actions.types, rows),
                "sku": pick(skus, actions.item[rows]),
                "st": [200] * len(rows),
                "ms": rng.lognormal(4, 0.6, len(rows)).astype(int),
                "ua": pick(agent_of, actions.person[rows]),
            },
            delimiter="|",
        )


_MATOMO = "Export _ Visits Log _ February 2024.json"
LAYOUTS = (
    Layout(
        name="matomo-visits-export",
        documented_by="https://developer.matomo.org/api-reference/reporting-api, Live.getLastVisitsDetails",
        write=_write_matomo,
        time=f"{_MATOMO}:actionDetails.timestamp",
        # A user's id is known only after signing in.
        person=f"{_MATOMO}:visitorId|{_MATOMO}:userId",
        item=f"{_MATOMO}:actionDetails.productViewSku|{_MATOMO}:actionDetails.itemDetails.itemSKU",
        type=f"{_MATOMO}:actionDetails.type",
        event_types={
            "action": "view",
            "search": "search",
            "ecommerceAbandonedCart": "cart",
            "ecommerceOrder": "purchase",
        },
    ),
    Layout(
        name="posthog-events-csv",
        documented_by="https://posthog.com/docs/api/events, exported from the list of events",
        write=_write_posthog,
        time="export-events.csv:timestamp",
        person="export-events.csv:distinct_id|export-events.csv:person.distinct_ids.0",
        item="export-events.csv:properties.product_id",
        type="export-events.csv:event",
        event_types={
            "$pageview": "view",
            "product viewed": "view",
            "product added to cart": "cart",
            "order completed": "purchase",
        },
    ),
    Layout(
        name="snowplow-enriched-tsv",
        documented_by="https://docs.snowplow.io/docs/fundamentals/canonical-event/",
        write=_write_snowplow,
        time="enriched.tsv:#125|enriched.tsv:#4|enriched.tsv:#5",
        person="enriched.tsv:#16|enriched.tsv:#18|enriched.tsv:#13",
        item="enriched.tsv:#53.data.data.id",
        type="enriched.tsv:#59.data.data.type|enriched.tsv:#127",
        event_types={
            "page_view": "view",
            "product_view": "view",
            "list_click": "click",
            "add_to_cart": "cart",
            "transaction": "purchase",
        },
    ),
    Layout(
        name="tmall-logs",
        documented_by="https://tianchi.aliyun.com/dataset/42",
        write=_write_tmall,
        time="user_log_format1.csv:time_stamp",
        person="user_log_format1.csv:user_id",
        item="user_log_format1.csv:item_id",
        type="user_log_format1.csv:action_type",
        event_types={"0": "click", "1": "cart", "2": "purchase", "3": "like"},
        user_profiles="user_info_format1.csv:user_id",
        # Month and day have no year, and the types are numbers.
        questions=frozenset({"time", "type"}),
    ),
    Layout(
        name="yoochoose-clicks-no-header",
        documented_by="https://recsys.acm.org/recsys15/challenge/",
        write=_write_yoochoose,
        time="yoochoose-clicks.dat:#2",
        person="yoochoose-clicks.dat:#1",
        item="yoochoose-clicks.dat:#3",
        type="=click|=view",
    ),
    Layout(
        name="rees46-multicategory",
        documented_by="https://www.kaggle.com/datasets/mkechinov/ecommerce-behavior-data-from-multi-category-store",
        write=_write_rees46,
        time="2019-Oct.csv:event_time",
        person="2019-Oct.csv:user_id",
        item="2019-Oct.csv:product_id",
        type="2019-Oct.csv:event_type",
        event_types={"view": "view", "cart": "cart", "purchase": "purchase"},
    ),
    Layout(
        name="japanese-shop-log",
        documented_by="no publisher: a Japanese shop's log, in Windows' encoding of Japanese",
        write=_write_japanese,
        time="行動ログ_202404.csv:日時",
        person="行動ログ_202404.csv:会員ID",
        item="行動ログ_202404.csv:商品ID",
        type="行動ログ_202404.csv:行動",
        event_types={
            "閲覧": "view",
            "お気に入り": "like",
            "カート追加": "cart",
            "購入": "purchase",
        },
    ),
    Layout(
        name="university-course-clicks",
        documented_by="https://analyse.kmi.open.ac.uk/open_dataset",
        write=_write_courses,
        time="studentVle.csv:date",
        person="studentVle.csv:id_student",
        item="studentVle.csv:id_site",
        type="=click|=view",
        item_profiles="vle.csv:id_site",
        user_profiles="studentInfo.csv:id_student",
        # Days count from the start of a presentation, whose date is in no file.
        questions=frozenset({"time"}),
    ),
    Layout(
        name="telecom-plan-clicks",
        documented_by="no publisher: clicks on a telecom's plans, as its warehouse exports them",
        write=_write_plans,
        time="plan_clicks_202406.csv:event_ts",
        person="plan_clicks_202406.csv:subscriber_hash",
        item="plan_clicks_202406.csv:plan_code",
        type="plan_clicks_202406.csv:action",
        event_types={
            "IMPRESSION": "impression",
            "CLICK": "click",
            "DETAIL": "view",
            "ORDER": "purchase",
        },
        item_profiles="plans.csv:plan_code",
        user_profiles="subscribers.csv:subscriber_hash",
    ),
    Layout(
        name="pipe-separated-log",
        documented_by="no publisher: a site's own log, a file a day",
        write=_write_pipe_log,
        time="clickstream-20240305.log:ts",
        person="clickstream-20240305.log:ck|clickstream-20240305.log:uid",
        item="clickstream-20240305.log:sku",
        type="clickstream-20240305.log:evt",
        event_types={"pdp": "view", "wish": "like", "atc": "cart", "order": "purchase"},
    ),
)
