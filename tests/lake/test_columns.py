"""A lake of an older release gets the new columns; one of a newer release is refused."""

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tailorbird.errors import DamageError
from tailorbird.events import SystemClock
from tailorbird.lake import Lake, LakeRole, tables, verify
from tailorbird.lake.delta import compaction
from tailorbird.lake.write import role

NEW = ("propensities", "rating")


@pytest.fixture
def old(tmp_path, site, monkeypatch):
    """A lake whose events have two columns less, in another order, and three rounds of traffic."""
    spec = tables.TABLES["events"]
    fields = [field for field in reversed(list(spec.schema)) if field.name not in NEW]
    older = {
        **tables.TABLES,
        "events": tables.TableSpec(
            "events", pa.schema(fields), spec.partition_column, spec.statistics_columns
        ),
    }
    with monkeypatch.context() as patch:
        patch.setattr(role, "TABLES", older)
        with open_role(tmp_path) as made:
            made.drain()
    return tmp_path / "lake"


def open_role(tmp_path):
    return LakeRole(tmp_path / "stream", tmp_path / "lake", clock=SystemClock())


def test_it_is_read_as_it_is(old):
    rows = Lake(old).events()
    assert rows.num_rows == 24
    assert rows["rating"].null_count == 24


def test_it_gets_the_new_columns_and_goes_on(tmp_path, site, old, monkeypatch):
    monkeypatch.setattr(compaction, "SMALL_FILES_MIN", 2)
    site.add(2)
    with open_role(tmp_path) as opened:
        opened.drain()
    assert set(DeltaTable(old / "events").schema().to_arrow().names) == set(
        tables.TABLES["events"].schema.names
    )
    ids = Lake(old).events(["event_id", "rating"])["event_id"].to_pylist()
    assert sorted(ids) == sorted(f"e{10 * r + k}" for r in range(5) for k in range(8))
    assert Lake(old).sql("SELECT count(*) AS n FROM events WHERE rating IS NULL").to_pylist() == [
        {"n": 40}
    ]
    report = verify(old)
    assert report.is_clean, str(report)
    with open_role(tmp_path) as opened:
        assert opened.recoveries == []


def test_a_crash_between_the_columns_and_the_ledger_is_mended(tmp_path, old):
    with open_role(tmp_path):
        pass
    ledger = old / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))
    with open_role(tmp_path) as opened:
        assert [(finding.table, finding.action) for finding in opened.recoveries] == [
            ("events", "recovered")
        ]
    assert verify(old).is_clean


def test_a_lake_of_a_newer_release_is_refused(tmp_path, site, monkeypatch):
    with open_role(tmp_path) as made:
        made.drain()
    spec = tables.TABLES["users"]
    fewer = tables.TableSpec(
        "users",
        pa.schema([field for field in spec.schema if field.name != "version"]),
        None,
        spec.statistics_columns,
    )
    monkeypatch.setattr(role, "TABLES", {**tables.TABLES, "users": fewer})
    with pytest.raises(DamageError, match="differ in: version"):
        open_role(tmp_path)
