"""Detection of a file's form: delimiter, header, decimal sign and JSON records."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tailorbird.events.tables.columns import read_column_names, read_columns, read_sample
from tailorbird.events.tables.forms import TableSpec, has_header, sniff_delimiter


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("who,what\nu,i\nv,j\n", ""),
        ("who;what;price\nu;i;1,5\nv;j;2,5\n", ";"),
        ("who\twhat\nu\ti\nv\tj\n", "\t"),
        ("who|what|x\nu|i|a,b\nv|j|c\n", "|"),
        ("who\nu\nv\n", ""),
        ("", ""),
    ],
)
def test_the_delimiter_is_that_of_the_first_lines(
    text: str, delimiter: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert sniff_delimiter(tmp_path / "t.csv") == delimiter


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("user_id,item_id,ts\n", True),
        (",user_id\n", True),
        ("u1,i1,2025-01-01T10:00:00Z\n", False),
        ("1,U7,news\n", False),
        ("a,,b\n", False),
    ],
)
def test_a_first_line_with_values_is_no_header(text: str, header: bool, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert has_header(tmp_path / "t.csv", TableSpec()) is header


def test_numbers_with_decimal_commas_are_numbers_and_odd_ones_stay_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("price;name\n1.234,50;1,5 m\n-7;x\n")
    (batch,) = read_columns(tmp_path / "t.csv", table_spec=TableSpec(";", ","))
    assert batch.to_pylist() == [{"price": 1234.5, "name": "1,5 m"}, {"price": -7.0, "name": "x"}]


def test_a_sample_has_the_first_rows_in_order_and_some_from_everywhere(tmp_path: Path) -> None:
    rows = 90_000
    (tmp_path / "t.csv").write_text("n\n" + "\n".join(map(str, range(rows))) + "\n")
    sample = read_sample(tmp_path / "t.csv").column("n").to_pylist()
    assert sample[:10_000] == list(range(10_000))
    assert sample == sorted(sample)
    assert sample[-1] > rows * 0.9
    assert len(sample) < rows / 2
    assert read_sample(tmp_path / "t.csv").column("n").to_pylist() == sample


def test_json_records_become_columns_and_lists_of_objects_rows(tmp_path: Path) -> None:
    records = [
        {
            "user": {"id": "u", "age": 7},
            "tags": ["a"],
            "lines": [{"sku": "x", "n": 1}, {"sku": "y", "n": 2}],
        },
        {"user": {"id": "v", "age": 8.5}, "tags": None, "lines": [{"sku": "z", "n": "many"}]},
    ]
    (tmp_path / "t.jsonl").write_text(
        "\n".join([json.dumps(records[0]), "{broken", "3", json.dumps(records[1])])
    )
    broken: list[str] = []
    (batch,) = read_columns(tmp_path / "t.jsonl", broken_rows=broken)
    assert read_column_names(tmp_path / "t.jsonl") == [
        "user.id",
        "user.age",
        "tags",
        "lines.sku",
        "lines.n",
    ]
    assert batch.to_pylist() == [
        {"user.id": "u", "user.age": 7.0, "tags": ["a"], "lines.sku": "x", "lines.n": "1"},
        {"user.id": "u", "user.age": 7.0, "tags": ["a"], "lines.sku": "y", "lines.n": "2"},
        {"user.id": "v", "user.age": 8.5, "tags": None, "lines.sku": "z", "lines.n": "many"},
    ]
    assert broken == ["{broken", "3"]
    (texts,) = read_columns(
        tmp_path / "t.jsonl", ["user.age"], text_columns=frozenset(["user.age"]), broken_rows=[]
    )
    assert texts.column(0) == pa.array(["7", "7", "8.5"])
