"""Usual column names, for `--guess`: what a name says about the role of its column."""

import re

_WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

ROLE_NAMES: dict[str, tuple[str, ...]] = {
    "ts": (
        "ts",
        "timestamp",
        "time",
        "event_time",
        "datetime",
        "created_at",
        "date",
        "clicked_at",
        "occurred_at",
        "event_date",
        "event_timestamp",
        "t_dat",
        "invoice_date",
        "order_date",
        "processed_at",
        "sent_at",
        "datum",
        "zeit",
        "zeitpunkt",
        "zeitstempel",
        "bestelldatum",
    ),
    "user_id": (
        "user_id",
        "userid",
        "user",
        "visitorid",
        "visitor_id",
        "customer_id",
        "customer",
        "household_id",
        "member_id",
        "shopper_id",
        "person_id",
        "kunde",
        "kunden_id",
        "kundennummer",
        "nutzer",
        "nutzer_id",
        "email",
        "customer_email",
        "user_email",
    ),
    "anonymous_id": ("anonymous_id", "cookie_id", "device_id", "client_id"),
    "session_id": (
        "session_id",
        "sessionid",
        "session",
        "user_session",
        "visit_id",
        "basket_id",
        "order_id",
        "invoice",
        "invoice_no",
        "transaction_id",
        "bestellnummer",
        "sitzung",
    ),
    "item_id": (
        "item_id",
        "itemid",
        "item",
        "product_id",
        "productid",
        "article_id",
        "movie_id",
        "movieid",
        "video_id",
        "content_id",
        "sku",
        "stock_code",
        "aid",
        "news_id",
        "track_id",
        "song_id",
        "product",
        "artikel",
        "artikel_id",
        "artikelnummer",
        "produkt",
        "produkt_id",
        "lineitem_sku",
        "lineitem_name",
        "artist_id",
    ),
    "event_id": ("event_id", "eventid", "uuid", "message_id"),
    "request_id": ("request_id", "recommendation_id", "impression_id"),
    "type": (
        "type",
        "event_type",
        "event",
        "action",
        "behavior",
        "behaviour",
        "event_name",
        "aktion",
        "ereignis",
    ),
}
CONTEXT_FIELD_NAMES: dict[str, tuple[str, ...]] = {
    "device": ("device", "device_type", "device_group", "platform"),
    "country": ("country", "country_code"),
    "page": ("page_url", "url"),
    "referrer": ("referrer", "referer", "referrer_type", "traffic_source"),
}
PROPERTY_NAMES: dict[str, tuple[str, ...]] = {
    "price": (
        "price",
        "unit_price",
        "sales_value",
        "amount",
        "price_usd",
        "lineitem_price",
        "preis",
        "einzelpreis",
        "umsatz",
    ),
    "quantity": ("quantity", "qty", "units", "lineitem_quantity", "menge", "anzahl"),
    "rating": ("rating", "score", "stars"),
    "query": ("query", "search_term", "suchbegriff"),
    "dwell_ms": ("dwell_ms", "play_time_ms"),
}
ATTRIBUTE_NAMES: dict[
    str, tuple[str, ...]
] = {  # item attributes: names of a column once it is an attribute
    "title": (
        "title",
        "name",
        "product_name",
        "item_name",
        "prod_name",
        "product_title",
        "lineitem_name",
        "track_name",
        "description",
        "bezeichnung",
    ),
    "category": (
        "category",
        "category_code",
        "product_category",
        "category_name",
        "product_category_name",
        "department",
        "genre",
        "kategorie",
        "section",
        "topic",
    ),
    "brand": ("brand", "vendor", "manufacturer", "marke", "hersteller"),
    "price": PROPERTY_NAMES["price"],
    "tags": ("tags", "labels", "keywords"),
    "published_at": ("published_at", "release_date", "publish_date"),
}
INDEX_NAMES = (
    "",
    "unnamed: 0",
    "__index_level_0__",
    "index",
    "level_0",
)  # pandas' names of the index


def normalise_name(name: str) -> str:
    """Return a name in snake case: `Created at`, `createdAt` and `created.at` give `created_at`."""
    words = re.sub(r"\W+", "_", _WORD_BORDER.sub("_", name).lower())
    return re.sub(r"_+", "_", words).strip("_")


def has_usual_name(name: str, usual_names: tuple[str, ...]) -> bool:
    """Return whether a column has one of the usual names, in full or after its last dot."""
    return normalise_name(name) in usual_names or (
        "." in name and normalise_name(name.rpartition(".")[2]) in usual_names
    )


def find_usual_columns(names: list[str], usual_names: tuple[str, ...]) -> list[str]:
    """Return the columns with one of the usual names, in full or after the last dot, best first."""
    column_by_name = {normalise_name(name): name for name in reversed(names)}
    column_by_last_part = {
        normalise_name(name.rpartition(".")[2]): name for name in reversed(names) if "." in name
    }
    column_by_lower_case = {name.lower(): name for name in reversed(names)}
    matches = (
        column_by_lower_case.get(name) or column_by_name.get(name) or column_by_last_part.get(name)
        for name in usual_names
    )
    return list(dict.fromkeys(name for name in matches if name is not None))
