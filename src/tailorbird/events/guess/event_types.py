"""Which event types a file holds: by its column of types, or by its name and columns where it has
none.
"""

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa

from tailorbird.events.guess.names import PROPERTIES, named
from tailorbird.events.guess.quoting import quoted

_TYPE_VALUES = {
    "addtocart": "cart",
    "add_to_cart": "cart",
    "carts": "cart",
    "transaction": "purchase",
    "order": "purchase",
    "orders": "purchase",
    "buy": "purchase",
    "purchased": "purchase",
    "clicks": "click",
    "pageview": "view",
    "page_view": "view",
}
_PURCHASES = frozenset(
    (
        "order",
        "orders",
        "purchase",
        "purchases",
        "transaction",
        "transactions",
        "sales",
        "bestellungen",
        "invoices",
    )
)
_CUSTOMERS = (
    "customer_id",
    "customer",
    "kunde",
    "kunden_id",
    "kundennummer",
    "customer_email",
)  # who is called so has bought
_RATING_MAX = 100


def types_of(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> dict[str, int]:
    """Event types, most frequent first, as the mapping will call them."""
    if "type" not in roles:
        return {_one_type(sample, roles, stem): sample.num_rows}
    counts = Counter(
        str(value) for value in sample.column(roles["type"]).to_pylist() if value is not None
    )
    renamed: Counter[str] = Counter()
    for value, count in counts.items():
        renamed[_TYPE_VALUES.get(value.lower(), value)] += count
    return dict(renamed.most_common())


def values_of(sample: pa.RecordBatch, roles: dict[str, str]) -> dict[str, str]:
    """What the column of types holds, as it is written → the event type."""
    if "type" not in roles:
        return {}
    seen = [
        str(value)
        for value in sample.column(roles["type"]).unique().to_pylist()
        if value is not None
    ]
    return {value: _TYPE_VALUES.get(value.lower(), value) for value in seen}


def type_reason(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    """Return why the rows are taken for events of their type."""
    if "type" in roles:
        renamed = [value for value in values_of(sample, roles) if value.lower() in _TYPE_VALUES]
        return f"{', '.join(renamed)} under our own names" if renamed else "the names of the file"
    type_ = _one_type(sample, roles, stem)
    if type_ == "purchase":
        return (
            "there is an order, a quantity or a customer with a price, or the file's name says so"
        )
    return {
        "rating": "there are ratings",
        "click": "no column says what was done; change it if it was something else",
    }.get(type_, "the name of the file")


def type_line(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    if "type" not in roles:
        return f'type = "{_one_type(sample, roles, stem)}"'
    seen = [
        str(value)
        for value in sample.column(roles["type"]).unique().to_pylist()
        if value is not None
    ]
    values = ", ".join(
        f'{quoted(value)} = "{_TYPE_VALUES[value.lower()]}"'
        for value in seen
        if value.lower() in _TYPE_VALUES
    )
    return f"type = {{ column = {quoted(roles['type'])}, values = {{ {values} }} }}"


def _one_type(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    """The type of all rows of a file that has no column of types."""
    names = {name.lower() for name in sample.schema.names}
    if "item_id" not in roles:
        return stem
    if names & {"rating", "stars"} or any(
        name.lower() == "score" and are_ratings(sample.column(name)) for name in sample.schema.names
    ):
        return "rating"
    is_purchase = names & {"basket_id", "invoice", "order_id", "sales_value"} or named(
        sample.schema.names, PROPERTIES["quantity"]
    )
    is_purchase = is_purchase or (
        named(sample.schema.names, _CUSTOMERS) and named(sample.schema.names, PROPERTIES["price"])
    )
    return "purchase" if is_purchase or _PURCHASES & set(re.split(r"[^a-z]+", stem)) else "click"


def are_ratings(column: pa.Array) -> bool:
    """Whether scores are what people give, in whole or half points, and not what a program
    computed.
    """
    scores = column.drop_null()
    if not (pa.types.is_integer(scores.type) or pa.types.is_floating(scores.type)) or not len(scores):
        return False
    return all(
        0 <= value <= _RATING_MAX and value * 2 == int(value * 2)
        for value in scores.unique().to_pylist()
    )


def slug_of(name: str) -> str:
    """Return a name as a property is written."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def stem_of(file: Path) -> str:
    return slug_of(file.name.partition(".")[0])
