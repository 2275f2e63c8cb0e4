"""Event types of a file, by its type column, or by its name and columns."""

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa

from tailorbird.events.guess.names import PROPERTY_NAMES, find_usual_columns
from tailorbird.events.guess.quoting import toml_string
from tailorbird.events.guess.words import find_event_type, read_name

_PURCHASE_WORDS = frozenset(
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
_CUSTOMER_COLUMN_NAMES = (
    "customer_id",
    "customer",
    "kunde",
    "kunden_id",
    "kundennummer",
    "customer_email",
)  # customers have bought something
_RATING_MAX = 100


def count_event_types(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> dict[str, int]:
    """Count the event types, most frequent first, as the mapping will name them."""
    if "type" not in roles:
        return {_guess_only_type(sample, roles, stem): sample.num_rows}
    count_by_value = Counter(
        str(value) for value in sample.column(roles["type"]).to_pylist() if value is not None
    )
    count_by_type: Counter[str] = Counter()
    for value, count in count_by_value.items():
        count_by_type[(find_event_type(value) or value)] += count
    return dict(count_by_type.most_common())


def map_type_values(sample: pa.RecordBatch, roles: dict[str, str]) -> dict[str, str]:
    """Return the values of the type column, as written → event type."""
    if "type" not in roles:
        return {}
    distinct_values = [
        str(value)
        for value in sample.column(roles["type"]).unique().to_pylist()
        if value is not None
    ]
    return {value: (find_event_type(value) or value) for value in distinct_values}


def explain_type(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    """Return why the rows are taken for events of their type."""
    if "type" in roles:
        renamed_types = [
            value for value, type_ in map_type_values(sample, roles).items() if value != type_
        ]
        return (
            f"{', '.join(renamed_types)} under our own names"
            if renamed_types
            else "the names of the file"
        )
    type_ = _guess_only_type(sample, roles, stem)
    if type_ == "purchase":
        return (
            "there is an order, a quantity or a customer with a price, or the file's name says so"
        )
    return {
        "rating": "there are ratings",
        "click": "no column says what was done; change it if it was something else",
    }.get(type_, "the name of the file")


def format_type_line(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    if "type" not in roles:
        return f'type = "{_guess_only_type(sample, roles, stem)}"'
    distinct_values = [
        str(value)
        for value in sample.column(roles["type"]).unique().to_pylist()
        if value is not None
    ]
    values = ", ".join(
        f'{toml_string(value)} = "{type_}"'
        for value in distinct_values
        if (type_ := find_event_type(value)) and type_ != value
    )
    return f"type = {{ column = {toml_string(roles['type'])}, values = {{ {values} }} }}"


def _guess_only_type(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    """Return the event type of all rows of a file without a type column."""
    names = {name.lower() for name in sample.schema.names}
    if "item_id" not in roles:
        return stem
    if names & {"rating", "stars"} or any(
        name.lower() == "score" and are_ratings(sample.column(name)) for name in sample.schema.names
    ):
        return "rating"
    is_purchase = names & {"basket_id", "invoice", "order_id", "sales_value"} or find_usual_columns(
        sample.schema.names, PROPERTY_NAMES["quantity"]
    )
    is_purchase = is_purchase or any(
        read_name(name).head == "quantity" for name in sample.schema.names
    )
    is_purchase = is_purchase or (
        find_usual_columns(sample.schema.names, _CUSTOMER_COLUMN_NAMES)
        and find_usual_columns(sample.schema.names, PROPERTY_NAMES["price"])
    )
    return (
        "purchase" if is_purchase or _PURCHASE_WORDS & set(re.split(r"[^a-z]+", stem)) else "click"
    )


def are_ratings(column: pa.Array) -> bool:
    """Return whether scores look given by users, in whole or half points, rather than computed."""
    scores = column.drop_null()
    if not (pa.types.is_integer(scores.type) or pa.types.is_floating(scores.type)) or not len(
        scores
    ):
        return False
    return all(
        0 <= value <= _RATING_MAX and value * 2 == int(value * 2)
        for value in scores.unique().to_pylist()
    )


def to_slug(name: str) -> str:
    """Return a name as a property is written."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def get_stem(file: Path) -> str:
    return to_slug(file.name.partition(".")[0])
