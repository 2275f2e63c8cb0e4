"""Tables that are joined: each row gets the columns of the row with its key, nulls where there is
none.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tailorbird.errors import InputError
from tailorbird.events.adapters.mapping.adapter import sample_lines
from tailorbird.events.adapters.mapping.file import parse_mapping
from tailorbird.events.tables.columns import read_column_names, read_columns, read_sample
from tailorbird.events.tables.forms import Join, TableSpec


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    (tmp_path / "lines.csv").write_text("order_id,product\n7,a\n8,b\n9,c\n7,d\n")
    pq.write_table(
        pa.table({"order_id": [8, 7, 7], "who": ["x", "y", "z"], "shop": [2, 1, 3]}),
        tmp_path / "orders.parquet",
    )
    (tmp_path / "shops.csv").write_text("shop,city\n1,Oslo\n2,Bergen\n")
    return tmp_path / "lines.csv"


def test_a_key_that_is_a_number_here_and_a_text_there(lines: Path) -> None:
    form = TableSpec(joins=(Join(lines.parent / "orders.parquet", "order_id"),))
    assert read_column_names(lines, form) == ["order_id", "product", "who", "shop"]
    (batch,) = read_columns(lines, ["product", "who"], table_spec=form)
    assert batch.to_pydict() == {
        "product": ["a", "b", "c", "d"],
        "who": ["y", "x", None, "y"],
    }  # of two rows of one key the first


def test_one_after_another(lines: Path) -> None:
    joins = (
        Join(lines.parent / "orders.parquet", "order_id"),
        Join(lines.parent / "shops.csv", "shop"),
    )
    sample = read_sample(lines, TableSpec(joins=joins), ["product", "city"])
    assert sample.column("city").to_pylist() == ["Oslo", "Bergen", None, "Oslo"]


def test_a_mapping_with_joins(lines: Path) -> None:
    text = (
        '[[source]]\nfile = "lines.csv"\nuser_id = "who"\nitem_id = '
        '"product"\n[[source.join]]\nfile = "{}"\non = "order_id"\n'
    )
    (source,) = parse_mapping(text.format("orders.parquet"), "m").source
    assert b'"user_id":"y"' in sample_lines(lines, source)[0]
    (source,) = parse_mapping(text.format("gone.csv"), "m").source
    with pytest.raises(InputError, match="no such file, whose columns are joined by order_id"):
        sample_lines(lines, source)
