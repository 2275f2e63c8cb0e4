"""Files that hold several tables are read like a folder with a file for each."""

import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from tailorbird.errors import InputError
from tailorbird.events.tables.columns import read_column_names, read_columns
from tailorbird.events.tables.locations import open_location

ORDERS: list[dict[str, Any]] = [
    {"order": 7, "customer": "ann", "price": 9.5},
    {"order": 8, "customer": None, "price": 10.0},
]
COLUMNS = list(ORDERS[0])


def write_sqlite(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute('CREATE TABLE orders("order" INTEGER, customer TEXT, price REAL)')
        connection.execute("CREATE TABLE unused(x)")
        connection.executemany("INSERT INTO orders VALUES (:order, :customer, :price)", ORDERS)


def write_duckdb(file: Path) -> None:
    orders = pa.Table.from_pylist(ORDERS)  # noqa: F841  # DuckDB reads the variable.
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE orders AS SELECT * FROM orders")
        connection.execute("CREATE TABLE unused(x INTEGER)")


def write_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("export/orders.csv", "order,customer,price\n7,ann,9.5\n8,,10.0\n")
        archive.writestr("__MACOSX/orders.csv", "x")


def write_workbook(file: Path) -> None:
    """Write the least that Excel's format asks for: one sheet of numbers and texts."""
    sheet = "".join(
        f"<row>{''.join(cells)}</row>"
        for cells in (
            [f'<c t="inlineStr"><is><t>{name}</t></is></c>' for name in COLUMNS],
            ["<c><v>7</v></c>", '<c t="inlineStr"><is><t>ann</t></is></c>', "<c><v>9.5</v></c>"],
            ["<c><v>8</v></c>", "<c/>", "<c><v>10</v></c>"],
        )
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    part = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types">'
            f'<Override PartName="/xl/workbook.xml" ContentType="{part}.sheet.main+xml"/>'
            f'<Override PartName="/xl/s.xml" ContentType="{part}.worksheet+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
            f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
            '<sheet name="orders" sheetId="1" r:id="r1"/></sheets></workbook>',
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
            f'Type="{office}/worksheet" Target="s.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/s.xml", f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData></worksheet>'
        )


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("shop.sqlite", write_sqlite),
        ("shop.duckdb", write_duckdb),
        ("shop.zip", write_zip),
        ("shop.xlsx", write_workbook),
    ],
)
def test_each_table_with_rows_is_a_file(name: str, write: Any, tmp_path: Path) -> None:
    write(tmp_path / name)
    with open_location(tmp_path / name, tmp_path / "work") as folder:
        (file,) = (file for file in folder.rglob("*") if file.is_file())
        assert file.stem == "orders"
        assert read_column_names(file) == COLUMNS
        (batch,) = read_columns(file)
        assert batch.to_pylist() == ORDERS
        content = file.read_bytes()
    assert list((tmp_path / "work").iterdir()) == []
    with open_location(tmp_path / name) as folder:  # The same files, so that a repeat is known.
        assert next(file for file in folder.rglob("orders.*")).read_bytes() == content


@pytest.mark.parametrize("name", ["a.zip", "a.xlsx", "a.db", "a.duckdb"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no such format" * 100)
    with (
        pytest.raises(InputError, match=f"{name}: cannot be read as"),
        open_location(tmp_path / name),
    ):
        pass


def test_columns_of_feather_have_plain_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user": pa.array([{"id": "u1", "age": 3}, {"id": "u2", "age": None}]),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "name": pa.array(["x", "y"], pa.large_string()),
        }
    )
    feather.write_feather(table, tmp_path / "events.feather")
    assert read_column_names(tmp_path / "events.feather") == ["user.id", "user.age", "kind", "name"]
    (batch,) = read_columns(tmp_path / "events.feather", ["name", "user.id", "kind"])
    assert batch.schema.types == [pa.string()] * 3
    assert batch.to_pylist()[1] == {"name": "y", "user.id": "u2", "kind": "b"}
