"""Small files in the layouts of well-known data sets, generated with known content.

One made-up shop lies behind all of them: people have a taste for a third of the items, and come
back. Each layout writes its events in the columns, times, numbers and packing of the original; none
has a row of it.
"""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BEGIN = datetime(2025, 3, 3, 8, 0, 1, tzinfo=UTC)  # a swap of day and month would show
PEOPLE, ITEMS, EVENTS = 60, 40, 900
WORDS = ("Lampe", "Stuhl", "Tisch", "Regal")


@dataclass(frozen=True)
class Action:
    """An action of a person in the shop."""

    at: datetime
    person: int
    item: int
    kind: str  # view, cart or purchase
    session: int
    price: float


def actions() -> list[Action]:
    """Return the events of the shop, in order of time."""
    draw = random.Random(7)
    made: list[Action] = []
    at = BEGIN
    for number in range(EVENTS):
        at += timedelta(seconds=draw.randrange(600, 4000))
        person = draw.randrange(PEOPLE)
        item = (
            draw.randrange(ITEMS // 3) * 3 + person % 3
            if draw.random() < 0.8
            else draw.randrange(ITEMS)
        )
        kind = draw.choices(("view", "cart", "purchase"), (8, 2, 1))[0]
        made.append(
            Action(
                at, person, min(item, ITEMS - 1), kind, number // 4, round(5 + item * 1.25 % 60, 2)
            )
        )
    return made


@dataclass(frozen=True)
class Layout:
    """A layout, and what must be read of it.

    Attributes:
        write: writes its files into a folder.
        first: time of the first event, in UTC.
        user, item: of the first event, as they are read.
        events: how many events there are.
        types: event types that occur.
        options: what the user adds to `init`, the answer to its one question.
        question: what `init` says without them.
        mapping: lines that the proposed mapping has.
    """

    write: Callable[[Path], None]
    first: datetime
    user: str
    item: str
    events: int
    types: frozenset[str]
    options: tuple[str, ...] = ()
    question: str = ""
    mapping: tuple[str, ...] = ()


def _csv(
    path: Path,
    head: list[str],
    rows: list[list[object]],
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter)
        if head:
            writer.writerow(head)
        writer.writerows(rows)


def rees46(folder: Path) -> None:
    """Write Kaggle's eCommerce behaviour data from a multi-category store."""
    head = [
        "event_time",
        "event_type",
        "product_id",
        "category_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    ]
    rows = [
        [
            f"{d.at:%Y-%m-%d %H:%M:%S} UTC",
            d.kind,
            1_000_000 + d.item,
            2_053_013_555 + d.item % 5,
            f"furniture.kind{d.item % 5}",
            f"brand{d.item % 7}",
            f"{d.price:.2f}",
            512_000_000 + d.person,
            f"5d{d.session:06}-aa",
        ]
        for d in actions()
    ]
    _csv(folder / "2025-Mar.csv", head, rows)


def retailrocket(folder: Path) -> None:
    """Write RetailRocket: events.csv with milliseconds, and properties one a row."""
    kinds = {"view": "view", "cart": "addtocart", "purchase": "transaction"}
    rows = [
        [
            int(d.at.timestamp() * 1000),
            d.person,
            kinds[d.kind],
            d.item,
            d.session if d.kind == "purchase" else "",
        ]
        for d in actions()
    ]
    _csv(
        folder / "events.csv", ["timestamp", "visitorid", "event", "itemid", "transactionid"], rows
    )
    moment = int((BEGIN - timedelta(days=9)).timestamp() * 1000)
    properties = [
        [moment, item, name, f"n{item % 9}.000"]
        for item in range(ITEMS)
        for name in ("categoryid", "790")
    ]
    _csv(
        folder / "item_properties_part1.csv",
        ["timestamp", "itemid", "property", "value"],
        properties,
    )


def hm(folder: Path) -> None:
    """Write H&M: transactions of days, articles, customers."""
    rows = [
        [f"{d.at:%Y-%m-%d}", f"{d.person:064x}", f"0{d.item:09}", d.price / 1000, 1 + d.item % 2]
        for d in actions()
    ]
    _csv(
        folder / "transactions_train.csv",
        ["t_dat", "customer_id", "article_id", "price", "sales_channel_id"],
        rows,
    )
    articles = [
        [f"0{item:09}", f"Strap top {item}", f"Type {item % 6}", f"Dept {item % 4}"]
        for item in range(ITEMS)
    ]
    _csv(
        folder / "articles.csv",
        ["article_id", "prod_name", "product_type_name", "department_name"],
        articles,
    )
    customers = [[f"{person:064x}", "ACTIVE", 20 + person] for person in range(PEOPLE)]
    _csv(folder / "customers.csv", ["customer_id", "club_member_status", "age"], customers)


def otto(folder: Path) -> None:
    """Write OTTO: a session a line, its events in a list."""
    kinds = {"view": "clicks", "cart": "carts", "purchase": "orders"}
    sessions: dict[int, list[dict[str, object]]] = {}
    for d in actions():
        sessions.setdefault(d.person, []).append(
            {"aid": d.item, "ts": int(d.at.timestamp() * 1000), "type": kinds[d.kind]}
        )
    lines = [
        json.dumps({"session": person, "events": events}) for person, events in sessions.items()
    ]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def lastfm(folder: Path) -> None:
    """Write Last.fm 1K: tabs, no header."""
    rows = [
        [
            f"user_{d.person:06}",
            f"{d.at:%Y-%m-%dT%H:%M:%SZ}",
            f"a{d.item % 9}",
            f"Artist {d.item % 9}",
            f"t{d.item}",
            f"Track {d.item}",
        ]
        for d in actions()
    ]
    _csv(folder / "userid-timestamp-artid-artname-traid-traname.tsv", [], rows, "\t")


def shopify(folder: Path) -> None:
    """Write Shopify: exported orders, a row for each line of an order."""
    head = [
        "Name",
        "Email",
        "Financial Status",
        "Currency",
        "Total",
        "Created at",
        "Lineitem quantity",
        "Lineitem name",
        "Lineitem price",
        "Lineitem sku",
        "Vendor",
    ]
    rows = [
        [
            f"#{1001 + d.session}",
            f"p{d.person}@example.org",
            "paid",
            "EUR",
            round(d.price + d.session, 2),
            f"{d.at:%Y-%m-%d %H:%M:%S} +0000",
            2,
            f"Chair {d.item}",
            d.price,
            f"SKU-{d.item:03}",
            f"Maker {d.item % 4}",
        ]
        for d in actions()
    ]
    _csv(folder / "orders_export.csv", head, rows)


def german(folder: Path) -> None:
    """Write a German shop's export: semicolons, decimal commas, days first, Windows-1252."""
    rows = [
        [
            f"K{d.person:03}",
            f"{d.item:04}",
            f"{WORDS[d.item % 4]} für Gäste {d.item}",
            f"{d.at:%d.%m.%Y %H:%M:%S}",
            f"{1000 + d.price:,.2f}".translate(str.maketrans(",.", ".,")),
            1,
        ]
        for d in actions()
    ]
    _csv(
        folder / "bestellungen.csv",
        ["Kunde", "Artikel", "Bezeichnung", "Datum", "Preis", "Menge"],
        rows,
        ";",
        "cp1252",
    )


def american(folder: Path) -> None:
    """Write ambiguous dates: day and month are both at most twelve, and in no order."""
    at = [BEGIN + timedelta(days=number % 9) for number in range(EVENTS)]
    rows = [
        [d.person, d.item, f"{day:%m/%d/%Y} 10:{number // 60:02}:{number % 60:02}"]
        for number, (d, day) in enumerate(zip(actions(), at, strict=True))
    ]
    _csv(folder / "clicks.csv", ["user_id", "item_id", "time"], rows)


def nested(folder: Path) -> None:
    """Write JSON lines with nested objects."""
    lines = [
        json.dumps(
            {
                "event": d.kind,
                "occurred_at": f"{d.at:%Y-%m-%dT%H:%M:%S}+00:00",
                "user": {"id": f"u{d.person}", "plan": "ab"[d.person % 2]},
                "product": {
                    "id": f"p{d.item}",
                    "title": f"Lamp {d.item}",
                    "tags": ["new", f"t{d.item % 3}"],
                    "price": d.price,
                },
            }
        )
        for d in actions()
    ]
    (folder / "events.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")


def flat(folder: Path) -> None:
    """Write one JSON list of flat objects, seconds since 1970."""
    records = [
        {
            "userId": f"u{d.person}",
            "itemId": f"i{d.item}",
            "action": d.kind,
            "timestamp": int(d.at.timestamp()),
        }
        for d in actions()
    ]
    (folder / "export.json").write_text(json.dumps(records, indent=1))


def indexed(folder: Path) -> None:
    """Write Parquet as pandas does, with the index of its rows."""
    made = actions()
    table = pa.table(
        {
            "customer_id": [float(d.person) for d in made],
            "product_id": [f"{d.item:05}" for d in made],
            "created_at": pa.array([d.at.replace(tzinfo=None) for d in made], pa.timestamp("ns")),
            "amount": [d.price for d in made],
            "__index_level_0__": list(range(len(made))),
        }
    )
    pq.write_table(table, folder / "orders.parquet")


def parts(folder: Path) -> None:
    """Write a folder of packed files, a day's events in each."""
    made = actions()
    for number in range(3):
        table = pa.table(
            {
                "user_id": [f"u{d.person}" for d in made[number::3]],
                "item_id": [f"i{d.item}" for d in made[number::3]],
                "timestamp": [d.at.isoformat() for d in made[number::3]],
            }
        )
        pq.write_table(table, folder / f"part-{number:05}.parquet")


def ga4(folder: Path) -> None:
    """Write Google Analytics 4: the export of BigQuery as JSON lines."""
    names = {"view": "view_item", "cart": "add_to_cart", "purchase": "purchase"}
    lines = [
        json.dumps(
            {
                "event_date": f"{d.at:%Y%m%d}",
                "event_timestamp": str(int(d.at.timestamp() * 1_000_000)),
                "event_name": names[d.kind],
                "event_params": [{"key": "ga_session_id", "value": {"int_value": str(d.session)}}],
                "user_pseudo_id": f"{d.person}.17",
                "user_id": f"u{d.person}",
                "device": {"category": "mobile"},
                "geo": {"country": "Germany"},
                "items": [
                    {
                        "item_id": f"p{d.item}",
                        "item_name": f"Lamp {d.item}",
                        "price": d.price,
                        "quantity": 1,
                    }
                ],
            }
        )
        for d in actions()
    ]
    (folder / "events_20250303.json").write_text("\n".join(lines) + "\n")


def personalize(folder: Path) -> None:
    """Write Amazon Personalize: interactions, users and items."""
    rows = [[d.person, f"p{d.item}", int(d.at.timestamp()), d.kind] for d in actions()]
    _csv(folder / "interactions.csv", ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"], rows)
    _csv(
        folder / "items.csv",
        ["ITEM_ID", "GENRES", "PRICE"],
        [[f"p{item}", f"kind{item % 5}", item + 0.5] for item in range(ITEMS)],
    )
    _csv(
        folder / "users.csv",
        ["USER_ID", "GENDER"],
        [[person, "xy"[person % 2]] for person in range(PEOPLE)],
    )


def olist(folder: Path) -> None:
    """Write Olist's shop, as an SQL database is exported.

    Lines of orders have no customer or time, which are with the order.
    """
    moment = "%Y-%m-%d %H:%M:%S"
    orders = [
        [
            f"o{n:04}",
            f"c{d.person}",
            "delivered",
            d.at.strftime(moment),
            (d.at + timedelta(days=6)).strftime(moment),
        ]
        for n, d in enumerate(actions())
    ]
    head = [
        "order_id",
        "customer_id",
        "order_status",
        "order_purchase_timestamp",
        "order_delivered_customer_date",
    ]
    _csv(folder / "olist_orders_dataset.csv", head, orders)
    lines = [
        [f"o{n:04}", 1, f"p{d.item}", (d.at + timedelta(days=2)).strftime(moment), d.price]
        for n, d in enumerate(actions())
    ]
    _csv(
        folder / "olist_order_items_dataset.csv",
        ["order_id", "order_item_id", "product_id", "shipping_limit_date", "price"],
        lines,
    )
    products = [[f"p{item}", f"moveis_{item % 5}", 100 + item] for item in range(ITEMS)]
    _csv(
        folder / "olist_products_dataset.csv",
        ["product_id", "product_category_name", "product_weight_g"],
        products,
    )
    names = [[f"moveis_{number}", f"furniture_{number}"] for number in range(5)]
    _csv(
        folder / "product_category_name_translation.csv",
        ["product_category_name", "product_category_name_english"],
        names,
    )
    customers = [[f"c{person}", "sao paulo", "SP"] for person in range(PEOPLE)]
    _csv(
        folder / "olist_customers_dataset.csv",
        ["customer_id", "customer_city", "customer_state"],
        customers,
    )


def instacart(folder: Path) -> None:
    """Write Instacart: orders by weekday, hour and days since the last one, with their products."""
    of_person: dict[int, list[Action]] = {}
    for deed in actions():
        of_person.setdefault(deed.person, []).append(deed)
    orders, lines = [], []
    for person, made in of_person.items():
        for number, deed in enumerate(made, 1):
            order = 10_000 + len(orders)
            orders.append(
                [
                    order,
                    person + 1,
                    "prior",
                    number,
                    0,
                    f"{deed.at:%H}",
                    "" if number == 1 else f"{deed.item % 7 + 1}.0",
                ]
            )
            lines.append([order, deed.item + 1, 1, int(number > 1)])
    head = [
        "order_id",
        "user_id",
        "eval_set",
        "order_number",
        "order_dow",
        "order_hour_of_day",
        "days_since_prior_order",
    ]
    _csv(folder / "orders.csv", head, orders)
    columns = ["order_id", "product_id", "add_to_cart_order", "reordered"]
    _csv(folder / "order_products__prior.csv", columns, lines[:600])
    _csv(folder / "order_products__train.csv", columns, lines[600:])
    products = [
        [item + 1, f"{WORDS[item % 4]} {item}", item % 7 + 1, item % 3 + 1] for item in range(ITEMS)
    ]
    _csv(
        folder / "products.csv",
        ["product_id", "product_name", "aisle_id", "department_id"],
        products,
    )
    _csv(
        folder / "aisles.csv",
        ["aisle_id", "aisle"],
        [[number + 1, f"aisle {number}"] for number in range(7)],
    )
    _csv(
        folder / "departments.csv",
        ["department_id", "department"],
        [[number + 1, f"department {number}"] for number in range(3)],
    )


def mind(folder: Path) -> None:
    """Write MIND: impressions with clicks, one list a row, and the news; no file has a header."""
    rows = []
    for number, d in enumerate(actions(), 1):
        distractors = [f"N{(d.item + step) % ITEMS}-0" for step in (3, 7)]
        rows.append(
            [
                number,
                f"U{d.person}",
                f"{d.at:%m/%d/%Y %I:%M:%S %p}",
                "N1 N2",
                " ".join([distractors[0], f"N{d.item}-1", distractors[1]]),
            ]
        )
    _csv(folder / "behaviors.tsv", [], rows, "\t")
    news = [
        [
            f"N{n}",
            f"kind{n % 5}",
            "sub",
            f"{WORDS[n % 4]} {n}",
            "",
            "https://example.org",
            "[]",
            "[]",
        ]
        for n in range(ITEMS)
    ]
    _csv(folder / "news.tsv", [], news, "\t")


def _first_of_instacart() -> Action:
    """Return the first order if everybody's first one is on the same day."""
    firsts: dict[int, Action] = {}
    for deed in actions():
        firsts.setdefault(deed.person, deed)
    return min(
        firsts.values(), key=lambda deed: deed.at.hour
    )  # of one hour, whoever came first: their orders have lower numbers


_ALL = frozenset(("view", "cart", "purchase"))
_FIRST = actions()[0]
_FIRST_ORDER = _first_of_instacart()
_AT, _WHO, _WHAT = _FIRST.at, _FIRST.person, _FIRST.item

LAYOUTS: dict[str, Layout] = {
    "rees46": Layout(
        rees46,
        _AT,
        str(512_000_000 + _WHO),
        str(1_000_000 + _WHAT),
        EVENTS,
        _ALL,
        mapping=('category = "category_code"', 'brand = "brand"'),
    ),
    "retailrocket": Layout(
        retailrocket, _AT, str(_WHO), str(_WHAT), EVENTS, _ALL, mapping=('ts_unit = "ms"',)
    ),
    "hm": Layout(
        hm,
        _AT.replace(hour=0, minute=0, second=0),
        f"{_WHO:064x}",
        f"0{_WHAT:09}",
        EVENTS,
        frozenset(("purchase",)),
        mapping=('kind = "items"', 'kind = "users"'),
    ),
    "otto": Layout(
        otto, _AT, str(_WHO), str(_WHAT), EVENTS, frozenset(("click", "cart", "purchase"))
    ),
    "lastfm": Layout(
        lastfm,
        _AT,
        f"user_{_WHO:06}",
        f"t{_WHAT}",
        EVENTS,
        frozenset(("click",)),
        mapping=('columns = ["userid", "timestamp", "artid", "artname", "traid", "traname"]',),
    ),
    "shopify": Layout(
        shopify,
        _AT,
        f"p{_WHO}@example.org",
        f"SKU-{_WHAT:03}",
        EVENTS,
        frozenset(("purchase",)),
        mapping=('title = "Lineitem name"', 'brand = "Vendor"'),
    ),
    "german": Layout(
        german,
        _AT,
        f"K{_WHO:03}",
        f"{_WHAT:04}",
        EVENTS,
        frozenset(("purchase",)),
        mapping=(
            'delimiter = ";"',
            'decimal = ","',
            'ts_format = "%d.%m.%Y %H:%M:%S"',
            'title = "Bezeichnung"',
        ),
    ),
    "american": Layout(
        american,
        BEGIN.replace(hour=10, minute=0, second=0),
        str(_WHO),
        str(_WHAT),
        EVENTS,
        frozenset(("click",)),
        ("--ts-format", "%m/%d/%Y %H:%M:%S"),
        "day and month of time cannot be told apart",
    ),
    "nested": Layout(
        nested,
        _AT,
        f"u{_WHO}",
        f"p{_WHAT}",
        EVENTS,
        _ALL,
        mapping=('title = "product.title"', 'tags = "product.tags"', 'kind = "users"'),
    ),
    "flat": Layout(flat, _AT, f"u{_WHO}", f"i{_WHAT}", EVENTS, _ALL, mapping=('ts_unit = "s"',)),
    "indexed": Layout(indexed, _AT, str(_WHO), f"{_WHAT:05}", EVENTS, frozenset(("purchase",))),
    "ga4": Layout(ga4, _AT, f"u{_WHO}", f"p{_WHAT}", EVENTS, _ALL),
    "personalize": Layout(personalize, _AT, str(_WHO), f"p{_WHAT}", EVENTS, _ALL),
    "olist": Layout(
        olist,
        _AT,
        f"c{_WHO}",
        f"p{_WHAT}",
        EVENTS,
        frozenset(("purchase",)),
        mapping=(
            'ts = "order_purchase_timestamp"',
            'on = "order_id"',
            'on = "product_category_name"',
        ),
    ),
    "instacart": Layout(
        instacart,
        datetime(2017, 1, 1, _FIRST_ORDER.at.hour, 0, 1, tzinfo=UTC),
        str(_FIRST_ORDER.person + 1),
        str(_FIRST_ORDER.item + 1),
        EVENTS,
        frozenset(("purchase",)),
    ),
    "mind": Layout(
        mind, _AT, f"U{_WHO}", f"N{_WHAT}", EVENTS, frozenset(("answer", "impression", "click"))
    ),
    "parts": Layout(
        parts,
        _AT,
        f"u{_WHO}",
        f"i{_WHAT}",
        EVENTS,
        frozenset(("click",)),
        mapping=('file = "part-0000*.parquet"',),
    ),
}
