"""A project is made from tables in memory, as it is from files."""

from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import tailorbird as tb
from tailorbird.platform.tables import as_entity_table

ROWS = [
    {
        "user_id": 5000 + number % 7,
        "item_id": 100 + number * 7 % 53,
        "timestamp": datetime(2025, 11, 1 + number % 28, number % 24),
        "event_type": ("view", "purchase")[number % 5 == 0],
        "price": number % 11 + 0.5,
    }
    for number in range(400)
]
ITEMS = [
    {"item_id": 100 + number, "title": f"Coat {number}", "category": f"c{number % 3}"}
    for number in range(53)
]


def to_duckdb(rows: list[dict[str, Any]]) -> duckdb.DuckDBPyRelation:
    return duckdb.from_arrow(pa.Table.from_pylist(rows))


MAKERS = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.Table.from_pylist,
    "duckdb": to_duckdb,
    "dicts": list,
}


@pytest.mark.parametrize("library", MAKERS)
def test_a_frame_becomes_a_project_with_profiles(library: str, tmp_path: Path) -> None:
    make_table = MAKERS[library]
    events = make_table(ROWS)
    items = make_table(ITEMS)
    shop = tb.Project.create(tmp_path / "shop", data=events, items=items)
    result = shop.import_table(events, items=items)
    assert (result.report.accepted, result.report.refused) == (453, {})
    counts = shop.lake.counts()
    assert (counts["events"], counts["items"]) == (453, 53)
    assert set(
        shop.lake.sql("SELECT DISTINCT user_id FROM events WHERE user_id IS NOT NULL")[
            "user_id"
        ].to_pylist()
    ) == {str(user) for user in range(5000, 5007)}
    assert shop.import_table(events, items=items).report.is_repeated
    assert not list((tmp_path / "shop" / "data" / "stream" / "import-tables").iterdir())


def test_ids_may_be_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    shop = tb.Project.create(tmp_path / "shop", data=frame)
    shop.import_table(frame)
    user = frame["user_id"].iloc[3]  # a number of NumPy
    by_number = shop.recommend(user_id=user, size=3, as_of="latest")
    by_text = shop.recommend(user_id=str(user), size=3, as_of="latest")
    assert [item.item_id for item in by_number.response.items] == [
        item.item_id for item in by_text.response.items
    ]
    assert len(by_number.response.items) == 3
    assert shop.features.online(user, [101, "102"])["item_id"].to_pylist() == ["101", "102"]
    assert len(shop.privacy.export(user)) == len(shop.privacy.export(str(user))) > 0


def test_an_entity_table_may_have_numbers_for_ids() -> None:
    rows = [{"user_id": 5001, "item_id": 101, "ts": "2025-11-01T00:00:00"}]
    expected = {**rows[0], "user_id": "5001", "item_id": "101", "ts": datetime(2025, 11, 1)}
    for make_table in (pd.DataFrame, pl.DataFrame, pa.Table.from_pylist):
        assert as_entity_table(make_table(rows)).to_pylist() == [expected]


def test_a_frame_keeps_its_form_out_of_the_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    frame["event_type"] = frame["event_type"].astype("category")
    frame = frame[frame["user_id"] != 5003]  # its index has gaps
    shop = tb.Project.create(tmp_path / "shop", data=frame)
    assert "__index" not in (tmp_path / "shop" / "mapping.toml").read_text()
    assert shop.import_table(frame).report.accepted == len(frame)


def test_nested_dicts_are_columns(tmp_path: Path) -> None:
    rows = [{**row, "user": {"id": row["user_id"]}, "user_id": None} for row in ROWS]
    shop = tb.Project.create(tmp_path / "shop", data=pl.DataFrame(rows).drop("user_id"))
    assert shop.import_table(rows).report.accepted == 400
    assert 'user_id = "user.id"' in (tmp_path / "shop" / "mapping.toml").read_text()


def test_what_is_no_table_or_no_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tb.UsageError, match="expected a table, got int"):
        tb.Project.create(tmp_path / "shop", data=3)  # type: ignore[arg-type]
    with pytest.raises(tb.InputError, match="do not look like"):
        tb.Project.create(tmp_path / "shop", data=pl.DataFrame(ROWS), items=pl.DataFrame(ROWS))
    assert not (tmp_path / "shop").exists()


def test_the_package_lists_its_own_names_only() -> None:
    assert dir(tb) == sorted(tb.__all__)
