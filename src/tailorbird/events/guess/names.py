"""Usual column names, for `--guess`: what a name says about the role of its column."""

from tailorbird.events.guess.words import normalise_name

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
