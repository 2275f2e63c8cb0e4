"""SQL reads the tables and nothing else; what is refused is refused in a sentence."""

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from tailorbird.errors import UsageError
from tailorbird.events import SystemClock
from tailorbird.lake import Lake, LakeRole
from tailorbird.lake.query import check_query, run_query


@pytest.fixture
def lake(tmp_path, site):
    with LakeRole(tmp_path / "stream", tmp_path / "lake", clock=SystemClock()) as role:
        role.drain()
    return Lake(tmp_path / "lake")


def test_a_query_returns_arrow_string_types(lake):
    table = lake.sql("SELECT type, count(*) AS n FROM events GROUP BY type ORDER BY n DESC, type;")
    assert table.column("n").to_pylist() == [6, 6, 6, 6]
    assert table.schema.field("type").type == pa.string()


def test_a_join_over_tables(lake):
    rows = lake.sql(
        "WITH a AS (SELECT id FROM items) SELECT count(*) AS n FROM events e JOIN a ON "
        "e.item_id = a.id WHERE e.type = 'item'"
    )
    assert rows.column("n").to_pylist()[0] > 0


def test_times_are_compared_exactly(lake, samples):
    times = sorted(row["ts"] for row in lake.events(["ts"]).to_pylist())
    query = f"SELECT count(*) AS n FROM events WHERE ts >= '{times[5].isoformat()}'"
    assert lake.sql(query).to_pylist() == [{"n": sum(time >= times[5] for time in times)}]


def test_files_are_not_skipped_by_another_aggregate(tmp_path):
    """DataFusion skips files by `max(ts)` also where `max(CASE …)` needs them, unless it is told
    not to.
    """
    rows, days = 3_000, 60
    ts = pa.array(range((days + 1) * rows), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    events = pa.table(
        {
            "ts": ts,
            "type": ["click"] * rows * days + ["answer"] * rows,
            "day": [n // rows for n in range(len(ts))],
        }
    )
    write_deltalake(tmp_path / "events", events.slice(0, rows * days), partition_by=["day"])
    write_deltalake(
        tmp_path / "events", events.slice(rows * days), partition_by=["day"], mode="append"
    )
    query = (
        "SELECT max(ts) AS newest, max(CASE WHEN type <> 'answer' THEN ts END) AS deed FROM events"
    )
    result = run_query(query, {"events": DeltaTable(tmp_path / "events")}, lambda _: None)
    assert result.column("newest")[0].value == (days + 1) * rows - 1
    assert result.column("deed")[0].value == days * rows - 1


def test_show_and_describe(lake):
    assert lake.sql("show tables").column("table_name").to_pylist() == sorted(
        ["events", "answers", "users", "items", "quarantine", "duplicates", "commits"]
    )
    assert "event_id" in lake.sql("DESCRIBE events").column("column_name").to_pylist()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DELETE FROM events", "got DELETE"),
        ("drop table events", "got DROP"),
        ("SELECT 1; DROP TABLE events", "expected one statement"),
        ("WITH x AS (SELECT 1) INSERT INTO events SELECT * FROM x", "says INSERT"),
        ("SELECT * INTO copied FROM events", "says INTO"),
        ("COPY events TO '/tmp/x.csv'", "got COPY"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "got CREATE"),
        ("EXPLAIN ANALYZE INSERT INTO events SELECT * FROM events", "says INSERT"),
        ("SET datafusion.execution.batch_size = 1", "got SET"),
        ("-- SELECT\nUPDATE events SET type = 'x'", "got UPDATE"),
        ("/* SELECT */ delete from events", "got DELETE"),
        ("  ;; ", "empty"),
        ("", "empty"),
    ],
)
def test_what_is_not_reading_is_refused(lake, query, said):
    with pytest.raises(UsageError, match=said):
        lake.sql(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 'DROP; TABLE' AS x",
        'SELECT type AS "delete" FROM events',
        "SELECT 1 -- ; DROP TABLE events",
        "(SELECT 1)",
        "select '' || ';' as it",
    ],
)
def test_text_and_quoted_names_are_not_checked(lake, query):
    assert lake.sql(query).num_rows > 0


@pytest.mark.parametrize(
    "query",
    [
        "SELECT nothing FROM events",
        "SELECT * FROM nowhere",
        "SELECT (",
        "SELECT * FROM '/etc/passwd'",
    ],
)
def test_a_query_that_cannot_run_gives_the_reason(lake, query):
    with pytest.raises(UsageError, match=r"the query cannot be run: .+"):
        lake.sql(query)


def test_a_closing_semicolon_and_a_comment_after_it():
    assert check_query("SELECT 1; ") == "SELECT 1"


def test_an_unknown_column_names_those_there_are(lake):
    with pytest.raises(UsageError, match="has no column 'prise'"):
        lake.events(["prise"])
    with pytest.raises(UsageError, match="no table 'evnts'"):
        lake.table("evnts")
