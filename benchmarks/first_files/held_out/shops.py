"""Exports of shop systems, workbooks, a database, and lines of fixed widths."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.first_files.held_out.drawing import (
    DAY,
    DIGITS,
    LOWER,
    UPPER,
    Actions,
    blank,
    draw_actions,
    draw_choices,
    draw_codes,
    draw_even,
    draw_numbers,
    draw_prices,
    draw_titles,
    format_comma,
    format_times,
    pick,
    write_table,
)
from benchmarks.first_files.held_out.workbooks import Times, write_ods, write_xlsx
from benchmarks.first_files.layout import Layout

_FIRST = ["Emma", "Liam", "Olivia", "Noah", "Ava", "Mateo", "Sofia", "Zoë"]
_LAST = ["Smith", "O'Brien", "Garcia", "Müller", "Nguyen", "Jones", "Kim"]
_GOODS = ["Classic", "tee", "mug", "linen", "apron", "candle,", "large", "tote", '12"', "board"]


def _draw_orders(
    rng: np.random.Generator, n_rows: int, n_people: int, n_items: int, start: str, days: int
) -> Actions:
    return draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_items,
        start=start,
        days=days,
        per_session=2.2,
        gap_s=0,
        distinct="session",
    )


def _draw_names(rng: np.random.Generator, n: int) -> list[str]:
    firsts = draw_even(rng, _FIRST, n)
    return [f"{a} {b}" for a, b in zip(firsts, draw_even(rng, _LAST, n), strict=True)]


def _draw_emails(rng: np.random.Generator, n: int) -> list[str]:
    hosts = draw_choices(rng, ["gmail.com", "yahoo.com", "outlook.com", "icloud.com"], n)
    return [
        f"{code}@{host}" for code, host in zip(draw_codes(rng, n, 9, LOWER), hosts, strict=True)
    ]


def _write_shopify(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 6)
    n_items = max(20, n_rows // 60)
    actions = _draw_orders(rng, n_rows, n_people, n_items, "2023-01-01", 365)
    n = len(actions)
    orders, first, order = np.unique(actions.session, return_index=True, return_inverse=True)
    n_orders = len(orders)
    is_first = np.r_[True, np.diff(order) != 0].tolist()
    emails = _draw_emails(rng, n_people)
    names = _draw_names(rng, n_people)
    streets = [f"{k} Oak Ave" for k in rng.integers(1, 999, n_people)]
    cities = [("Portland", "'97205", "OR", "Oregon"), ("Austin", "'78701", "TX", "Texas")]
    city_of = draw_choices(rng, cities, n_people)
    prices = np.array(draw_prices(rng, n_items, 30))
    skus = [
        f"{code}-{size}"
        for code, size in zip(
            draw_codes(rng, n_items, 6, UPPER),
            draw_even(rng, ["S", "M", "L"], n_items),
            strict=True,
        )
    ]
    titles = [
        f"{title} - {size}"
        for title, size in zip(
            draw_titles(rng, n_items, _GOODS),
            draw_even(rng, ["Small", "Medium"], n_items),
            strict=True,
        )
    ]
    vendors = draw_choices(rng, ["Northwind Goods", "Acme"], n_items)
    quantity = rng.geometric(0.8, n)
    subtotal = np.bincount(order, prices[actions.item] * quantity).round(2)
    form = "%Y-%m-%d %H:%M:%S -0500"
    seconds = actions.second
    ids = 5_000_000_000_000 + np.arange(n_orders) * 32_768
    cancelled = (rng.random(n_orders) < 0.02).tolist()

    def on_first(values: Any) -> list[Any]:
        """Return values of orders; lines after an order's first one leave them empty."""
        listed = values.tolist() if isinstance(values, np.ndarray) else values
        return [
            listed[k] if begins else None
            for k, begins in zip(order.tolist(), is_first, strict=True)
        ]

    buyer = actions.person[first]
    empty = [None] * n
    bought = format_times(seconds[first], form)
    sent = blank(rng, format_times(seconds[first] + DAY, form), 0.05)
    shipping = draw_even(rng, [0.0, 5.99, 9.5], n_orders)

    def to_address(side: str) -> dict[str, list[Any]]:
        return {
            f"{side} Name": on_first(pick(names, buyer)),
            f"{side} Street": on_first(pick(streets, buyer)),
            f"{side} Address1": on_first(pick(streets, buyer)),
            f"{side} Address2": empty,
            f"{side} Company": empty,
            f"{side} City": on_first([city_of[p][0] for p in buyer.tolist()]),
            f"{side} Zip": on_first([city_of[p][1] for p in buyer.tolist()]),
            f"{side} Province": on_first([city_of[p][2] for p in buyer.tolist()]),
            f"{side} Country": on_first(["US"] * n_orders),
            f"{side} Phone": empty,
        }

    columns: dict[str, Any] = {
        "Name": [f"#{1001 + k}" for k in order.tolist()],
        "Email": pick(emails, actions.person),
        "Financial Status": on_first(
            draw_choices(rng, ["paid", "refunded"], n_orders, [0.96, 0.04])
        ),
        "Paid at": on_first(bought),
        "Fulfillment Status": on_first(["fulfilled" if s else "unfulfilled" for s in sent]),
        "Fulfilled at": on_first(sent),
        "Accepts Marketing": on_first(draw_choices(rng, ["yes", "no"], n_orders)),
        "Currency": on_first(["USD"] * n_orders),
        "Subtotal": on_first(subtotal),
        "Shipping": on_first(shipping),
        "Taxes": on_first((subtotal * 0.08).round(2)),
        "Total": on_first((subtotal * 1.08 + shipping).round(2)),
        "Discount Code": on_first(blank(rng, ["WELCOME10"] * n_orders, 0.85)),
        "Discount Amount": on_first([0.0] * n_orders),
        "Shipping Method": on_first(["Standard"] * n_orders),
        "Created at": [bought[k] for k in order.tolist()],
        "Lineitem quantity": quantity,
        "Lineitem name": pick(titles, actions.item),
        "Lineitem price": prices[actions.item],
        "Lineitem compare at price": empty,
        "Lineitem sku": pick(skus, actions.item),
        "Lineitem requires shipping": ["true"] * n,
        "Lineitem taxable": ["true"] * n,
        "Lineitem fulfillment status": [
            "fulfilled" if sent[k] else "pending" for k in order.tolist()
        ],
        **to_address("Billing"),
        **to_address("Shipping"),
        "Notes": empty,
        "Note Attributes": empty,
        "Cancelled at": on_first([bought[k] if c else None for k, c in enumerate(cancelled)]),
        "Payment Method": on_first(draw_choices(rng, ["Shopify Payments", "PayPal"], n_orders)),
        "Payment Reference": on_first([f"c{i}.1" for i in ids.tolist()]),
        "Refunded Amount": on_first([0.0] * n_orders),
        "Vendor": pick(vendors, actions.item),
        "Outstanding Balance": on_first([0.0] * n_orders),
        "Employee": empty,
        "Location": empty,
        "Device ID": empty,
        "Id": on_first(ids),
        "Tags": empty,
        "Risk Level": on_first(["Low"] * n_orders),
        "Source": on_first(["web"] * n_orders),
        "Lineitem discount": [0.0] * n,
        "Tax 1 Name": on_first(["State Tax 8%"] * n_orders),
        "Tax 1 Value": on_first((subtotal * 0.08).round(2)),
        **{f"Tax {k} {part}": empty for k in range(2, 6) for part in ("Name", "Value")},
        "Phone": empty,
        "Receipt Number": empty,
        "Duties": empty,
        "Billing Province Name": on_first([city_of[p][3] for p in buyer.tolist()]),
        "Shipping Province Name": on_first([city_of[p][3] for p in buyer.tolist()]),
        "Payment ID": on_first([f"c{i}.1" for i in ids.tolist()]),
        "Payment Terms Name": empty,
        "Next Payment Due At": empty,
        "Payment References": on_first([f"c{i}.1" for i in ids.tolist()]),
    }
    # The newest order comes first, with its lines in their order.
    rows = np.lexsort((np.arange(n), -order)).tolist()
    write_table(
        folder / "orders_export_1.csv",
        {name: [values[r] for r in rows] for name, values in columns.items()},
    )


def _write_woocommerce(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 7)
    n_items = max(20, n_rows // 60)
    actions = _draw_orders(rng, n_rows, n_people, n_items, "2022-05-01", 500)
    n = len(actions)
    order = np.unique(actions.session, return_inverse=True)[1]
    emails = _draw_emails(rng, n_people)
    firsts = draw_even(rng, _FIRST, n_people)
    lasts = draw_even(rng, _LAST, n_people)
    # A guest has the customer id 0.
    accounts = np.where(rng.random(n_people) < 0.3, 0, np.arange(n_people) + 12)
    post_ids = np.arange(n_people) * 3 + 40
    product_ids = post_ids[:n_items] if n_items <= n_people else np.arange(n_items) * 3 + 40
    prices = np.array(draw_prices(rng, n_items, 25))
    quantity = rng.geometric(0.8, n)
    line = (prices[actions.item] * quantity).round(2)
    totals = np.bincount(order, line).round(2)[order]
    status = draw_choices(
        rng, ["completed", "processing", "refunded"], int(order.max()) + 1, [0.9, 0.07, 0.03]
    )
    zips = draw_codes(rng, n_people, 5, DIGITS)
    zero = [0.0] * n
    empty = [None] * n

    def to_address(side: str) -> dict[str, Any]:
        return {
            f"{side}_first_name": pick(firsts, actions.person),
            f"{side}_last_name": pick(lasts, actions.person),
            f"{side}_company": empty,
            **({"billing_email": pick(emails, actions.person)} if side == "billing" else {}),
            **({"billing_phone": empty} if side == "billing" else {}),
            f"{side}_address_1": ["12 High Street"] * n,
            f"{side}_address_2": empty,
            f"{side}_postcode": pick(zips, actions.person),
            f"{side}_city": ["Leeds"] * n,
            f"{side}_state": empty,
            f"{side}_country": ["GB"] * n,
        }

    columns: dict[str, Any] = {
        "order_id": order * 2 + 1730,
        "order_number": order * 2 + 1730,
        "date": format_times(actions.second, "%Y-%m-%d %H:%M:%S"),
        "status": pick(status, order),
        "shipping_total": [4.95] * n,
        "shipping_tax_total": zero,
        "fee_total": zero,
        "fee_tax_total": zero,
        "tax_total": (totals * 0.2).round(2),
        "discount_total": zero,
        "order_total": (totals * 1.2 + 4.95).round(2),
        "refunded_total": zero,
        "order_currency": ["GBP"] * n,
        "payment_method": pick(draw_choices(rng, ["stripe", "paypal"], len(status)), order),
        "shipping_method": ["flat_rate"] * n,
        "customer_id": accounts[actions.person],
        **to_address("billing"),
        **to_address("shipping"),
        "customer_note": blank(rng, ["Please ring, thanks"] * n, 0.95),
        "item_id": np.arange(n) + 5000,
        "item_product_id": product_ids[actions.item],
        "item_name": pick(draw_titles(rng, n_items, _GOODS), actions.item),
        "item_sku": pick(blank(rng, draw_codes(rng, n_items, 7, UPPER), 0.2), actions.item),
        "item_quantity": quantity,
        "item_subtotal": line,
        "item_subtotal_tax": (line * 0.2).round(2),
        "item_total": line,
        "item_total_tax": (line * 0.2).round(2),
        "item_refunded": zero,
        "item_refunded_qty": [0] * n,
        "item_meta": empty,
        "item_price": prices[actions.item],
        "coupons": empty,
        "order_notes": empty,
        "download_permissions_granted": [0] * n,
    }
    write_table(folder / "orders-export-2023-09-14.csv", columns)


def _write_bigcommerce(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 7)
    n_items = max(20, n_rows // 60)
    actions = _draw_orders(rng, n_rows, n_people, n_items, "2023-02-01", 300)
    n = len(actions)
    order = np.unique(actions.session, return_inverse=True)[1]
    prices = np.array(draw_prices(rng, n_items, 40))
    quantity = rng.geometric(0.8, n)
    line = (prices[actions.item] * quantity).round(2)
    totals = np.bincount(order, line).round(2)[order]
    names = _draw_names(rng, n_people)
    skus = draw_codes(rng, n_items, 8, UPPER + DIGITS)
    write_table(
        folder / "orders-2023-12-01.csv",
        {
            "Order ID": order + 100,
            "Customer ID": actions.person + 1,
            "Customer Name": pick(names, actions.person),
            "Customer Email": pick(_draw_emails(rng, n_people), actions.person),
            "Customer Phone": [None] * n,
            "Order Date": format_times(actions.second, "%m/%d/%Y"),
            "Order Time": format_times(actions.second, "%H:%M:%S"),
            "Order Status": pick(
                draw_choices(rng, ["Completed", "Shipped", "Refunded"], int(order.max()) + 1), order
            ),
            "Subtotal (inc tax)": totals,
            "Subtotal (ex tax)": totals,
            "Tax Total": [0.0] * n,
            "Shipping Cost (inc tax)": [7.5] * n,
            "Shipping Cost (ex tax)": [7.5] * n,
            "Coupon Details": [None] * n,
            "Refund Amount": [0.0] * n,
            "Order Total (inc tax)": (totals + 7.5).round(2),
            "Order Total (ex tax)": (totals + 7.5).round(2),
            "Payment Method": ["Credit Card"] * n,
            "Total Quantity": np.bincount(order, quantity).astype(int)[order],
            "Total Shipped": np.bincount(order, quantity).astype(int)[order],
            "Date Shipped": format_times(actions.second + 2 * DAY, "%m/%d/%Y"),
            "Order Currency Code": ["USD"] * n,
            "Order Notes": [None] * n,
            "Customer Message": [None] * n,
            "Billing Country": ["United States"] * n,
            "Product ID": (np.array(draw_numbers(rng, n_items, 77, 9_000)))[actions.item],
            "Product Qty": quantity,
            "Product SKU": pick(skus, actions.item),
            "Product Name": pick(draw_titles(rng, n_items, _GOODS), actions.item),
            "Product Weight": rng.uniform(0.1, 9, n_items).round(2)[actions.item],
            "Product Variation Details": [None] * n,
            "Product Unit Price": prices[actions.item],
            "Product Total Price": line,
        },
    )


def _write_superstore(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 12)
    n_items = max(30, n_rows // 6)
    actions = _draw_orders(rng, n_rows, n_people, n_items, "2020-01-03", 1450)
    n = len(actions)
    order = np.unique(actions.session, return_inverse=True)[1]
    n_orders = int(order.max()) + 1
    names = _draw_names(rng, n_people)
    people = [
        f"{name.split()[0][0]}{name.split()[1][0]}-{number}"
        for name, number in zip(names, draw_numbers(rng, n_people, 10_000, 21_999), strict=True)
    ]
    kinds = [
        ("Office Supplies", "Binders"),
        ("Furniture", "Chairs"),
        ("Technology", "Phones"),
        ("Office Supplies", "Paper"),
    ]
    kind_of = draw_choices(rng, kinds, n_items)
    items = [
        f"{kind[:3].upper()}-{sub[:2].upper()}-{number}"
        for (kind, sub), number in zip(
            kind_of, draw_numbers(rng, n_items, 10_000_000, 10_004_999 + n_items), strict=True
        )
    ]
    places = [
        ("Los Angeles", "California", 90036, "West"),
        ("New York City", "New York", 10024, "East"),
        ("Houston", "Texas", 77041, "Central"),
        ("Jacksonville", "Florida", 32216, "South"),
    ]
    place = np.array(draw_choices(rng, range(4), n_orders))[order]
    days = actions.second // DAY * DAY
    order_ids = [
        f"{code}-{year}-{100_000 + k}"
        for k, year, code in zip(
            order.tolist(),
            format_times(days, "%Y"),
            pick(["CA", "US"], rng.integers(0, 2, n_orders)[order]),
            strict=True,
        )
    ]
    quantity = rng.integers(1, 10, n)
    discount = rng.choice([0.0, 0.2, 0.7], n, p=[0.5, 0.4, 0.1])
    sales = (
        quantity * np.array(draw_prices(rng, n_items, 25))[actions.item] * (1 - discount)
    ).round(4)
    segments = draw_choices(rng, ["Consumer", "Corporate", "Home Office"], n_people)
    modes = draw_choices(rng, ["Standard Class", "Second Class", "First Class"], n_orders)
    write_xlsx(
        folder / "Sample - Superstore.xlsx",
        {
            "Orders": {
                "Row ID": np.arange(1, n + 1),
                "Order ID": order_ids,
                "Order Date": Times(days.tolist()),
                "Ship Date": Times((days + rng.integers(1, 7, n_orders)[order] * DAY).tolist()),
                "Ship Mode": pick(modes, order),
                "Customer ID": pick(people, actions.person),
                "Customer Name": pick(names, actions.person),
                "Segment": pick(segments, actions.person),
                "Country/Region": ["United States"] * n,
                "City": [places[p][0] for p in place.tolist()],
                "State": [places[p][1] for p in place.tolist()],
                "Postal Code": [places[p][2] for p in place.tolist()],
                "Region": [places[p][3] for p in place.tolist()],
                "Product ID": pick(items, actions.item),
                "Category": [kind_of[i][0] for i in actions.item.tolist()],
                "Sub-Category": [kind_of[i][1] for i in actions.item.tolist()],
                "Product Name": pick(draw_titles(rng, n_items), actions.item),
                "Sales": sales,
                "Quantity": quantity,
                "Discount": discount,
                "Profit": (sales * rng.normal(0.12, 0.2, n)).round(4),
            },
            "Returns": {
                "Returned": ["Yes"] * (n // 30),
                "Order ID": draw_even(rng, order_ids, n // 30),
            },
            "People": {
                "Regional Manager": [
                    "Sadie Pawthorne",
                    "Chuck Magee",
                    "Roxanne Rodriguez",
                    "Fred Suzuki",
                ],
                "Region": ["West", "East", "Central", "South"],
            },
        },
    )


def _write_dutch_ods(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 15)
    n_items = max(20, n_rows // 80)
    actions = _draw_orders(rng, n_rows, n_people, n_items, "2024-01-02", 330)
    n = len(actions)
    people = np.sort(draw_numbers(rng, n_people, 1_000, 99_999))
    items = [f"ART{number:04d}" for number in range(1, n_items + 1)]
    prices = np.array(draw_prices(rng, n_items, 15))
    quantity = rng.geometric(0.7, n)
    write_ods(
        folder / "verkopen 2024.ods",
        {
            "Verkopen": {
                "Bonnummer": actions.session + 24_000_001,
                "Verkoopdatum": Times(actions.second.tolist()),
                "Klantnummer": people[actions.person],
                "Artikelnummer": pick(items, actions.item),
                "Aantal": quantity,
                "Bedrag": (prices[actions.item] * quantity).round(2),
                "Betaalwijze": draw_choices(rng, ["PIN", "Contant", "iDEAL"], n),
            },
            "Artikelen": {
                "Artikelnummer": items,
                "Omschrijving": draw_titles(
                    rng, n_items, ["Gouda", "kaas", "stroopwafel", "fiets"]
                ),
                "Groep": draw_choices(rng, ["Zuivel", "Koek", "Overig"], n_items),
                "Prijs": prices,
            },
            "Klanten": {
                "Klantnummer": people,
                "Naam": _draw_names(rng, n_people),
                "Plaats": draw_choices(rng, ["Utrecht", "'s-Hertogenbosch", "Gouda"], n_people),
                "Geboortejaar": blank(rng, rng.integers(1940, 2006, n_people).tolist(), 0.2),
            },
        },
    )


def _write_chinook(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 38)
    n_tracks = max(40, n_rows // 2)
    n_albums = max(5, n_tracks // 10)
    n_artists = max(4, n_albums // 2)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_tracks,
        start="2009-01-01",
        days=1825,
        per_session=5.4,
        gap_s=0,
        distinct="session",
    )
    n = len(actions)
    first, order = np.unique(actions.session, return_index=True, return_inverse=True)[1:]
    buyer = actions.person[first].tolist()
    price = np.where(rng.random(n_tracks) < 0.06, 1.99, 0.99)
    totals = np.bincount(order, price[actions.item]).round(2).tolist()
    dates = format_times(actions.second[first] // DAY * DAY, "%Y-%m-%d %H:%M:%S")
    places = [("São Paulo", "SP", "Brazil", "12227-000"), ("Stuttgart", None, "Germany", "70174")]
    place_of = draw_choices(rng, places, n_people)
    names = [name.split() for name in _draw_names(rng, n_people)]
    emails = _draw_emails(rng, n_people)
    titles = draw_titles(rng, n_tracks)
    genres = ["Rock", "Jazz", "Metal", "Alternative & Punk", "Latin"]
    tables: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
        "Artist": (
            "ArtistId INTEGER PRIMARY KEY, Name NVARCHAR(120)",
            list(enumerate(draw_titles(rng, n_artists), 1)),
        ),
        "Album": (
            "AlbumId INTEGER PRIMARY KEY, Title NVARCHAR(160) NOT NULL, ArtistId INTEGER NOT NULL",
            [
                (k + 1, title, k % n_artists + 1)
                for k, title in enumerate(draw_titles(rng, n_albums))
            ],
        ),
        "Genre": ("GenreId INTEGER PRIMARY KEY, Name NVARCHAR(120)", list(enumerate(genres, 1))),
        "MediaType": (
            "MediaTypeId INTEGER PRIMARY KEY, Name NVARCHAR(120)",
            [(1, "MPEG audio file"), (2, "Protected AAC audio file")],
        ),
        "Track": (
            "TrackId INTEGER PRIMARY KEY, Name NVARCHAR(200) NOT NULL, AlbumId INTEGER, "
            "MediaTypeId INTEGER NOT NULL, GenreId INTEGER, Composer NVARCHAR(220), "
            "Milliseconds INTEGER NOT NULL, Bytes INTEGER, UnitPrice NUMERIC(10,2) NOT NULL",
            [
                (
                    k + 1,
                    title,
                    k * n_albums // n_tracks + 1,
                    1,
                    k * 5 // n_tracks + 1,
                    by,
                    ms,
                    33 * ms,
                    cost,
                )
                for k, (title, by, ms, cost) in enumerate(
                    zip(
                        titles,
                        blank(rng, _draw_names(rng, n_tracks), 0.28),
                        rng.integers(60_000, 500_000, n_tracks).tolist(),
                        price.tolist(),
                        strict=True,
                    )
                )
            ],
        ),
        "Employee": (
            "EmployeeId INTEGER PRIMARY KEY, LastName NVARCHAR(20), FirstName NVARCHAR(20), "
            "Title NVARCHAR(30), ReportsTo INTEGER, BirthDate DATETIME, HireDate DATETIME",
            [
                (
                    1,
                    "Adams",
                    "Andrew",
                    "General Manager",
                    None,
                    "1962-02-18 00:00:00",
                    "2002-08-14 00:00:00",
                ),
                (
                    2,
                    "Peacock",
                    "Jane",
                    "Sales Agent",
                    1,
                    "1973-08-29 00:00:00",
                    "2002-04-01 00:00:00",
                ),
            ],
        ),
        "Customer": (
            "CustomerId INTEGER PRIMARY KEY, FirstName NVARCHAR(40) NOT NULL, "
            "LastName NVARCHAR(20) NOT NULL, Company NVARCHAR(80), Address NVARCHAR(70), "
            "City NVARCHAR(40), State NVARCHAR(40), Country NVARCHAR(40), PostalCode NVARCHAR(10), "
            "Phone NVARCHAR(24), Fax NVARCHAR(24), Email NVARCHAR(60) NOT NULL, SupportRepId INTEGER",
            [
                (p + 1, *names[p], None, "Rua 1", *place_of[p], "+55 12", None, emails[p], 2)
                for p in range(n_people)
            ],
        ),
        "Invoice": (
            "InvoiceId INTEGER PRIMARY KEY, CustomerId INTEGER NOT NULL, "
            "InvoiceDate DATETIME NOT NULL, BillingAddress NVARCHAR(70), BillingCity NVARCHAR(40), "
            "BillingState NVARCHAR(40), BillingCountry NVARCHAR(40), "
            "BillingPostalCode NVARCHAR(10), Total NUMERIC(10,2) NOT NULL",
            [
                (k + 1, p + 1, date, "Rua 1", *place_of[p], total)
                for k, (p, date, total) in enumerate(zip(buyer, dates, totals, strict=True))
            ],
        ),
        "InvoiceLine": (
            "InvoiceLineId INTEGER PRIMARY KEY, InvoiceId INTEGER NOT NULL REFERENCES Invoice, "
            "TrackId INTEGER NOT NULL REFERENCES Track, UnitPrice NUMERIC(10,2) NOT NULL, "
            "Quantity INTEGER NOT NULL",
            list(
                zip(
                    range(1, n + 1),
                    (order + 1).tolist(),
                    (actions.item + 1).tolist(),
                    price[actions.item].tolist(),
                    [1] * n,
                    strict=True,
                )
            ),
        ),
    }
    database = sqlite3.connect(folder / "Chinook_Sqlite.sqlite")
    for name, (columns, rows) in tables.items():
        database.execute(f"CREATE TABLE {name} ({columns})")
        marks = ", ".join("?" * len(rows[0]))
        database.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
    database.commit()
    database.close()


def _write_fixed(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(15, n_rows // 20)
    n_items = max(20, n_rows // 50)
    actions = _draw_orders(rng, n_rows, n_people, n_items, "2023-10-02", 200)
    n = len(actions)
    people = [f"{number:010d}" for number in draw_numbers(rng, n_people, 100_000, 999_999)]
    items = [f"{code:<12}" for code in draw_codes(rng, n_items, 6, UPPER + DIGITS)]
    titles = [
        f"{title[:24]:<24}"
        for title in draw_titles(rng, n_items, ["Schraube", "Dübel", "M8", "Öl"])
    ]
    groups = draw_choices(rng, ["0100", "0210", "0300"], n_items)
    prices = np.array(draw_prices(rng, n_items, 300))
    quantity = rng.geometric(0.4, n)
    write_table(
        folder / "UMSATZ.TXT",
        {
            "BUCHDATUM": format_times(actions.second, "%Y%m%d"),
            "BUCHZEIT": format_times(actions.second, "%H%M%S"),
            "BELEGNR": [f"{number + 4_500_000:010d}" for number in actions.session.tolist()],
            "KUNDENNR": pick(people, actions.person),
            "ARTIKELNR": pick(items, actions.item),
            "BEZEICHNUNG": pick(titles, actions.item),
            "WARENGR": pick(groups, actions.item),
            "MENGE": [f"{text:>10}" for text in format_comma(quantity, 3)],
            "BETRAG": [f"{text:>14}" for text in format_comma(prices[actions.item] * quantity)],
        },
        delimiter=";",
        encoding="cp1252",
        newline="\r\n",
    )


def _to_table_column(file: str, table: str, column: str) -> str:
    """Return the two names of a column of a table inside a file: alone, and after its table."""
    return f"{file}:{column}|{file}:{table}.{column}"


_SUPERSTORE = "Sample - Superstore.xlsx"
_ODS = "verkopen 2024.ods"
_CHINOOK = "Chinook_Sqlite.sqlite"
LAYOUTS = (
    Layout(
        name="shopify-orders-export",
        documented_by="https://help.shopify.com/en/manual/fulfillment/managing-orders/exporting-orders",
        write=_write_shopify,
        # `Paid at` is empty in an order's later lines.
        time="orders_export_1.csv:Created at",
        person="orders_export_1.csv:Email",
        item="orders_export_1.csv:Lineitem sku|orders_export_1.csv:Lineitem name",
        type="=purchase",
    ),
    Layout(
        name="woocommerce-orders-export",
        documented_by="https://woocommerce.com/document/ordercustomer-csv-export/",
        write=_write_woocommerce,
        time="orders-export-2023-09-14.csv:date",
        # All guests share the customer id 0.
        person="orders-export-2023-09-14.csv:billing_email",
        item="orders-export-2023-09-14.csv:item_product_id|orders-export-2023-09-14.csv:item_name",
        type="=purchase",
    ),
    Layout(
        name="bigcommerce-orders",
        documented_by="https://support.bigcommerce.com/s/article/Customizing-Export-Templates",
        write=_write_bigcommerce,
        time="orders-2023-12-01.csv:Order Date",
        person="orders-2023-12-01.csv:Customer ID|orders-2023-12-01.csv:Customer Email",
        item="orders-2023-12-01.csv:Product ID|orders-2023-12-01.csv:Product SKU",
        type="=purchase",
    ),
    Layout(
        name="excel-workbook-sales",
        documented_by="Tableau, Sample - Superstore",
        write=_write_superstore,
        time=_to_table_column(_SUPERSTORE, "Orders", "Order Date"),
        person=_to_table_column(_SUPERSTORE, "Orders", "Customer ID"),
        item=_to_table_column(_SUPERSTORE, "Orders", "Product ID"),
        type="=purchase",
    ),
    Layout(
        name="ods-workbook-sales",
        documented_by="no publisher: a Dutch shop's workbook of LibreOffice",
        write=_write_dutch_ods,
        time=_to_table_column(_ODS, "Verkopen", "Verkoopdatum"),
        person=_to_table_column(_ODS, "Verkopen", "Klantnummer"),
        item=_to_table_column(_ODS, "Verkopen", "Artikelnummer"),
        type="=purchase",
        item_profiles=_to_table_column(_ODS, "Artikelen", "Artikelnummer"),
        user_profiles=_to_table_column(_ODS, "Klanten", "Klantnummer"),
    ),
    Layout(
        name="sqlite-shop-database",
        documented_by="https://github.com/lerocha/chinook-database",
        write=_write_chinook,
        time=_to_table_column(_CHINOOK, "Invoice", "InvoiceDate"),
        person=_to_table_column(_CHINOOK, "Invoice", "CustomerId"),
        item=_to_table_column(_CHINOOK, "InvoiceLine", "TrackId"),
        type="=purchase",
        item_profiles=_to_table_column(_CHINOOK, "Track", "TrackId"),
        user_profiles=_to_table_column(_CHINOOK, "Customer", "CustomerId"),
    ),
    Layout(
        name="fixed-semicolon-decimal-comma",
        documented_by="no publisher: an accounting system's lines of fixed widths, in German",
        write=_write_fixed,
        time="UMSATZ.TXT:BUCHDATUM",
        person="UMSATZ.TXT:KUNDENNR",
        item="UMSATZ.TXT:ARTIKELNR",
        type="=purchase",
    ),
)
