"""Instacart's baskets: `orders.csv`, `order_products__*.csv`, `products.csv`, `aisles.csv` and
`departments.csv`.

order_products → a purchase of each product, by who made the order, with the order as session
products       → timeless item profiles (title, category: the department, aisle)

The files have no dates, only the weekday and hour of an order and the days since the previous one.
So every user's first order is placed on its weekday in the first week of 2017, and the others
follow. Intervals between a user's orders are exact to the day; those between users are arbitrary.
The files cap intervals at thirty days.

Source: "The Instacart Online Grocery Shopping Dataset 2017".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import (
    AdapterOptions,
    Batch,
    FormatAdapter,
    encode_event,
    to_batches,
)
from tailorbird.events.adapters.record import encode_unread_row, encode_unread_rows
from tailorbird.events.clock import DAY, HOUR, SECOND
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.columns import read_columns
from tailorbird.events.tables.files import name_without_compression
from tailorbird.events.tables.forms import Join, TableSpec

FORMAT = "instacart"
PATTERNS = ("orders.csv", "order_products__*.csv", "products.csv", "aisles.csv", "departments.csv")
FIRST_WEEK_START = 1_483_228_800_000_000  # Sunday, 1 January 2017, in microseconds
_TABLE_COLUMNS = (
    {"days_since_prior_order", "order_number"},
    {"add_to_cart_order", "reordered"},
    {"aisle_id", "department_id", "product_name"},
    {"aisle_id", "aisle"},
    {"department_id", "department"},
)
_NO_ORDER_REASON = ("missing", "$.order_id", "no row of orders.csv has this order")
Ints = npt.NDArray[np.int64]


def is_instacart(columns: list[str]) -> bool:
    """Return whether a table is of this format, by its column names."""
    return any(names <= set(columns) for names in _TABLE_COLUMNS)


@dataclass(frozen=True)
class _Orders:
    """Orders by ascending id, with their user and time in microseconds."""

    id: Ints
    user: Ints
    ts: Ints

    def find_rows(self, order_ids: Ints) -> Ints:
        """Return the row of each order, or −1."""
        rows = np.minimum(np.searchsorted(self.id, order_ids), len(self.id) - 1)
        return np.where(self.id[rows] == order_ids, rows, -1)


def read_instacart(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Convert the products of orders to purchases and the products to profiles.

    A row that cannot be read is kept with the reason.

    Raises:
        InputError: `orders.csv` is missing, or a file cannot be read.
    """
    file_by_name = {name_without_compression(file): file for file in files}
    order_product_files = [file for file in files if file.name.startswith("order_products__")]
    if order_product_files and "orders.csv" not in file_by_name:
        raise InputError(
            "orders.csv is missing, which says who ordered",
            where=options.root,
            fix="put it into the same folder",
        )
    orders = _read_orders(file_by_name["orders.csv"]) if order_product_files else None
    for file in order_product_files:
        yield from to_batches(str(file), _read_purchases(file, files[file][:12], orders))
    if "products.csv" in file_by_name:
        file = file_by_name["products.csv"]
        yield from to_batches(str(file), _read_products(file, files[file][:12], file_by_name))


def _read_orders(file: Path) -> _Orders | None:
    """Return the orders, or None without any.

    Products of an order row that cannot be read count as products of a missing order.
    """
    names = [
        "order_id",
        "user_id",
        "order_number",
        "order_dow",
        "order_hour_of_day",
        "days_since_prior_order",
    ]
    column_batches = [
        [_read_numbers(batch, name, file) for name in names]
        for batch in read_columns(file, names, broken_rows=[])
    ]
    if not column_batches:
        return None
    order_id, user_id, order_number, weekday, hour, days_since_previous = (
        np.concatenate(columns) for columns in zip(*column_batches, strict=True)
    )
    rows_sorted_by_user = np.lexsort((order_number, user_id))
    order_id, user_id, weekday, hour, days_since_previous = (
        column[rows_sorted_by_user]
        for column in (order_id, user_id, weekday, hour, days_since_previous)
    )
    is_first_of_user = np.r_[True, user_id[1:] != user_id[:-1]]
    elapsed_days = np.cumsum(np.where(is_first_of_user, 0, days_since_previous))
    first_row_of_user = np.maximum.accumulate(
        np.where(is_first_of_user, np.arange(len(user_id)), 0)
    )
    order_day = weekday[first_row_of_user] + elapsed_days - elapsed_days[first_row_of_user]
    rows_sorted_by_order_id = np.argsort(order_id, kind="stable")
    return _Orders(
        order_id[rows_sorted_by_order_id],
        user_id[rows_sorted_by_order_id],
        (FIRST_WEEK_START + order_day * DAY + hour * HOUR)[rows_sorted_by_order_id],
    )


def _read_numbers(batch: pa.RecordBatch, name: str, file: Path) -> Ints:
    try:
        return (
            batch.column(name)
            .cast(pa.float64())
            .fill_null(0.0)
            .to_numpy(zero_copy_only=False)
            .astype(np.int64)
        )
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{name} holds something that is no number: {error}", where=str(file)
        ) from None


def _read_purchases(file: Path, digest: str, orders: _Orders | None) -> Iterator[tuple[int, bytes]]:
    rows_before = 0
    broken_rows: list[str] = []
    for batch in read_columns(
        file, ["order_id", "product_id", "add_to_cart_order"], broken_rows=broken_rows
    ):
        order_ids, product_ids, cart_positions = (
            _read_numbers(batch, name, file)
            for name in ("order_id", "product_id", "add_to_cart_order")
        )
        order_rows = (
            orders.find_rows(order_ids) if orders is not None else np.full(len(order_ids), -1)
        )
        for number, row, *record in zip(
            range(rows_before + 1, rows_before + 1 + len(order_ids)),
            order_rows,
            order_ids,
            product_ids,
            cart_positions,
            strict=True,
        ):
            if orders is None or row < 0:
                yield (
                    number,
                    encode_unread_row(
                        FORMAT,
                        f"{digest}:{number}",
                        [int(value) for value in record],
                        _NO_ORDER_REASON,
                    ),
                )
                continue
            order_id, item_id, cart_position = record
            event = Event(
                event_id=f"instacart:{order_id}:{item_id}",
                type="purchase",
                ts=int(orders.ts[row] + cart_position * SECOND),
                user_id=str(orders.user[row]),
                item_id=str(item_id),
                session_id=str(order_id),
            )
            yield number, encode_event(event)
        rows_before += len(order_ids)
    yield from encode_unread_rows(FORMAT, digest, broken_rows, rows_before)


def _read_products(
    file: Path, digest: str, file_by_name: dict[str, Path]
) -> Iterator[tuple[int, bytes]]:
    lookup_files = {
        "category": ("departments.csv", "department_id", "department"),
        "aisle": ("aisles.csv", "aisle_id", "aisle"),
    }
    available_lookups = {
        attribute: lookup for attribute, lookup in lookup_files.items() if lookup[0] in file_by_name
    }
    table_form = TableSpec(
        joins=tuple(Join(file_by_name[other], key) for other, key, _ in available_lookups.values())
    )
    attributes = {"title": "product_name"} | {
        attribute: column for attribute, (_, _, column) in available_lookups.items()
    }
    columns = ["product_id", *attributes.values()]
    rows_before = 0
    broken_rows: list[str] = []
    for batch in read_columns(
        file,
        columns,
        text_columns=frozenset(columns),
        broken_rows=broken_rows,
        table_spec=table_form,
    ):
        for number, row in enumerate(batch.to_pylist(), rows_before + 1):
            properties = {
                attribute: row[column] for attribute, column in attributes.items() if row[column]
            }
            event = Event(
                event_id=f"{digest}:{number}",
                type="item",
                item_id=row["product_id"],
                timeless=True,
                properties=properties,
            )
            yield number, encode_event(event)
        rows_before += batch.num_rows
    yield from encode_unread_rows(FORMAT, digest, broken_rows, rows_before)


ADAPTER = FormatAdapter(
    read=read_instacart,
    patterns=PATTERNS,
    is_table=lambda _, columns: is_instacart(columns),
    has_csv=True,
)
