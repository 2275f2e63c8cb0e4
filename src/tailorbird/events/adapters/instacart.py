"""Instacart's baskets: `orders.csv`, `order_products__*.csv`, `products.csv`, `aisles.csv` and `departments.csv`.

order_products → a purchase of each product, by who made the order, with the order as session
products       → timeless item profiles (title, category: the department, aisle)

The files say no date, only the weekday and hour of an order and the days since the one before. So the first order of everybody is put
into the first week of 2017, on its weekday, and the others follow. Distances between the orders of one person are right to the day; how
the orders of two people lie to each other is made up. More than thirty days stand in the files as thirty.

Source: "The Instacart Online Grocery Shopping Dataset 2017".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import AdapterOptions, Batch, encode_event, in_batches
from tailorbird.events.adapters.record import unread_row
from tailorbird.events.clock import DAY, HOUR, SECOND
from tailorbird.events.envelope import Event
from tailorbird.events.tables.columns import read_columns
from tailorbird.events.tables.forms import Join, TableForm

FORMAT = "instacart"
PATTERNS = ("orders.csv", "order_products__*.csv", "products.csv", "aisles.csv", "departments.csv")
BEGIN = 1_483_228_800_000_000  # Sunday, 1 January 2017, in microseconds
_KNOWN = ({"days_since_prior_order", "order_number"}, {"add_to_cart_order", "reordered"}, {"aisle_id", "department_id", "product_name"},
          {"aisle_id", "aisle"}, {"department_id", "department"})  # fmt: skip
_NO_ORDER = ("missing", "$.order_id", "no row of orders.csv has this order")
Ints = npt.NDArray[np.int64]


def is_instacart(columns: list[str]) -> bool:
    """Whether a table is one of this format, by the names of its columns."""
    return any(names <= set(columns) for names in _KNOWN)


@dataclass(frozen=True)
class _Orders:
    """Orders by ascending id: whose, and when, in microseconds."""

    id: Ints
    user: Ints
    ts: Ints


def read_instacart(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Turn the products of orders into purchases, and the products into profiles.

    Raises:
        InputError: `orders.csv` is missing, or a file cannot be read.
    """
    by_name = {file.name.removesuffix(".gz").removesuffix(".zst"): file for file in files}
    bought = [file for file in files if file.name.startswith("order_products__")]
    if bought and "orders.csv" not in by_name:
        raise InputError("orders.csv is missing, which says who ordered", where=options.root, fix="put it into the same folder")
    orders = _orders(by_name["orders.csv"]) if bought else _Orders(*(np.zeros(0, np.int64) for _ in range(3)))
    for file in bought:
        yield from in_batches(str(file), _purchases(file, files[file][:12], orders))
    if "products.csv" in by_name:
        file = by_name["products.csv"]
        yield from in_batches(str(file), _products(file, files[file][:12], by_name))


def _orders(file: Path) -> _Orders:
    names = ["order_id", "user_id", "order_number", "order_dow", "order_hour_of_day", "days_since_prior_order"]
    parts = [[_numbers(batch.column(name)) for name in names] for batch in read_columns(file, names, broken=[])]
    if not parts:
        return _Orders(*(np.zeros(0, np.int64) for _ in range(3)))
    order, user, number, weekday, hour, since = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    row = np.lexsort((number, user))
    order, user, weekday, hour, since = (column[row] for column in (order, user, weekday, hour, since))
    first = np.r_[True, user[1:] != user[:-1]]
    days = np.cumsum(np.where(first, 0, since))
    at_first = np.maximum.accumulate(np.where(first, np.arange(len(user)), 0))
    day = weekday[at_first] + days - days[at_first]
    at = np.argsort(order, kind="stable")
    return _Orders(order[at], user[at], (BEGIN + day * DAY + hour * HOUR)[at])


def _numbers(column: pa.Array) -> Ints:
    return column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.int64)


def _purchases(file: Path, digest: str, orders: _Orders) -> Iterator[tuple[int, bytes]]:
    done = 0
    for batch in read_columns(file, ["order_id", "product_id", "add_to_cart_order"], broken=[]):
        order, product, place = (_numbers(batch.column(name)) for name in ("order_id", "product_id", "add_to_cart_order"))
        at = np.minimum(np.searchsorted(orders.id, order), max(len(orders.id) - 1, 0))
        known = orders.id[at] == order if len(orders.id) else np.zeros(len(order), bool)
        for row in range(len(order)):
            number = done + row + 1
            if not known[row]:
                record = [int(order[row]), int(product[row]), int(place[row])]
                yield number, unread_row(FORMAT, f"{digest}:{number}", record, _NO_ORDER)
                continue
            yield (
                number,
                encode_event(
                    Event(
                        event_id=f"instacart:{order[row]}:{product[row]}",
                        type="purchase",
                        ts=int(orders.ts[at[row]] + place[row] * SECOND),
                        user_id=str(orders.user[at[row]]),
                        item_id=str(product[row]),
                        session_id=str(order[row]),
                    )
                ),
            )
        done += len(order)


def _products(file: Path, digest: str, by_name: dict[str, Path]) -> Iterator[tuple[int, bytes]]:
    names = {"department": ("departments.csv", "department_id"), "aisle": ("aisles.csv", "aisle_id")}
    joins = tuple(Join(by_name[other], key) for other, key in names.values() if other in by_name)
    attributes = {"title": "product_name"} | {
        to: column for to, column in (("category", "department"), ("aisle", "aisle")) if names[column][0] in by_name
    }
    columns = ["product_id", *attributes.values()]
    number = 0
    for batch in read_columns(file, columns, texts=frozenset(columns), broken=[], form=TableForm(joins=joins)):
        for row in batch.to_pylist():
            number += 1
            properties = {to: row[column] for to, column in attributes.items() if row[column]}
            event = Event(event_id=f"{digest}:{number}", type="item", item_id=row["product_id"], timeless=True, properties=properties)
            yield number, encode_event(event)
