"""Real sets from files to lake, to the event. Needs the optional folder of data sets:
TAILORBIRD_DATA, or ../shared/data.

The two that are large are taken in part, since millions of rows need minutes;
TAILORBIRD_TEST_DATA=whole takes all of them.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.support.commands import must, must_json

DATA = Path(os.environ.get("TAILORBIRD_DATA") or Path(__file__).parents[3] / "shared" / "data")
USE_ALL_ROWS = os.environ.get("TAILORBIRD_TEST_DATA") == "whole"
FEATURES = """
from tailorbird.features import count, entity

item_1d = count("item_1d", entity("item"), "{}", window="1d")
"""

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not DATA.is_dir(), reason=f"no data sets in {DATA}; name their folder by TAILORBIRD_DATA"
    ),
]


def _project(folder: Path, kind: str) -> Path:
    """A project with one feature: what is tested is that every event arrives."""
    must("init", folder)
    (folder / "features.py").write_text(FEATURES.format(kind))
    (folder / "slots.py").write_text('from tailorbird.ranking import Slot\n\nhome = Slot("home")\n')
    return folder


def _part(file: Path, folder: Path, row_groups: int) -> tuple[Path, pa.Table]:
    """The first groups of rows of a file, in a file of the same name in `folder`, and as a
    table.
    """
    source = pq.ParquetFile(file)
    rows = source.read() if USE_ALL_ROWS else source.read_row_groups(list(range(row_groups)))
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / file.name)
    return folder, rows


def _different(rows: pa.Table, **names: str) -> dict[str, int]:
    """Return the number of distinct values of columns, by the names that a query uses."""
    return {name: pc.count_distinct(rows[column]).as_py() for name, column in names.items()}


def _one(project: Path, query: str) -> dict[str, Any]:
    (row,) = must_json("-C", project, "sql", query)["rows"]
    return row


def _import(project: Path, *words: object) -> dict[str, Any]:
    report = must_json("-C", project, "import", *words)
    assert report["accepted"] == report["rows"]
    assert report["routed"] == {"accepted": report["rows"], "duplicates": 0, "quarantined": 0}
    return report


@pytest.mark.nightly
@pytest.mark.slow
def test_globo_clicks(tmp_path: Path) -> None:
    project = _project(tmp_path / "globo", "click")
    folder, clicks = _part(DATA / "globo-clicks" / "clicks.parquet", tmp_path / "part", 2)
    (project / "mapping.toml").write_text(must("import", "--guess", folder))
    _import(project, "mapping", folder, "--mapping", project / "mapping.toml")
    query = (
        "SELECT count(*) AS clicks, count(distinct user_id) AS users, count(distinct "
        "session_id) AS sessions, "
        "count(distinct item_id) AS articles, min(ts) AS first, max(ts) AS last FROM events "
        "WHERE type = 'click' AND counts"
    )
    counts = _one(project, query)
    assert counts.pop("first") >= "2017-10-01T03:00"
    assert counts.pop("last") < "2017-10-15T03:01"
    assert counts == {"clicks": len(clicks)} | _different(
        clicks, users="user_id", sessions="session_id", articles="article_id"
    )
    if USE_ALL_ROWS:
        assert counts == {
            "clicks": 2_697_554,
            "users": 308_049,
            "sessions": 945_085,
            "articles": 40_934,
        }
    must("-C", project, "lake", "verify")


@pytest.mark.nightly
@pytest.mark.slow
def test_movielens(tmp_path: Path) -> None:
    project = _project(tmp_path / "ml", "rating")
    _import(project, "movielens", DATA / "ml-latest-small")
    query = (
        "SELECT count(*) AS ratings, count(distinct user_id) AS users, sum(CASE WHEN rating "
        "BETWEEN 0.5 AND 5 THEN 1 ELSE 0 END) AS valid "
        "FROM events WHERE type = 'rating'"
    )
    assert _one(project, query) == {"ratings": 100_004, "users": 671, "valid": 100_004}
    assert _one(project, "SELECT count(*) AS n FROM items") == {"n": 9_125}


@pytest.mark.nightly
@pytest.mark.slow
def test_complete_journey(tmp_path: Path) -> None:
    project = _project(tmp_path / "journey", "purchase")
    # Three of its tables; coupons and campaigns are no events and no profiles.
    folder, lines = _part(
        DATA / "complete-journey" / "transactions.parquet", tmp_path / "tables", 1
    )
    for name in ("products", "demographics"):
        shutil.copy(DATA / "complete-journey" / f"{name}.parquet", folder)
    (project / "mapping.toml").write_text(must("import", "--guess", folder))
    _import(project, "mapping", folder, "--mapping", project / "mapping.toml")
    query = (
        "SELECT count(*) AS lines, count(distinct session_id) AS baskets, count(distinct "
        "user_id) AS households, "
        "count(distinct item_id) AS products FROM events WHERE type = 'purchase' AND counts"
    )
    counts = _one(project, query)
    assert counts == {"lines": len(lines)} | _different(
        lines, baskets="basket_id", households="household_id", products="product_id"
    )
    if USE_ALL_ROWS:
        assert counts == {
            "lines": 1_469_307,
            "baskets": 155_848,
            "households": 2_469,
            "products": 68_509,
        }
    assert _one(project, "SELECT count(*) AS n FROM items") == {"n": 92_331}
    assert _one(project, "SELECT count(*) AS n FROM users") == {"n": 801}


@pytest.mark.nightly
@pytest.mark.slow
def test_backfill_and_stream_are_equal_on_real_clicks(tmp_path: Path) -> None:
    from benchmarks.quality.parity import run

    report = run(DATA / "globo-clicks", tmp_path, small=True)
    ours = report["results"]["tailorbird"]
    assert (ours["unequal"], report["by_feature"]) == (0, {})
    assert ours["people"] > 10_000
    assert ours["compared"] > 1_000_000
