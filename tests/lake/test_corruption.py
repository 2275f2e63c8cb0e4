"""Every way of reading a table names a corrupt or missing file and its remedy, on any storage."""

import pytest

from tailorbird.errors import DamageError, StorageError, UsageError
from tailorbird.events import SystemClock
from tailorbird.lake import Lake, LakeRole, versions_of
from tailorbird.lake.tables import TABLES

pytestmark = pytest.mark.long_on_s3

DATA = {
    "cut": lambda data: data[:-300],
    "empty": lambda data: b"",
    "changed": lambda data: data[:60] + bytes(200) + data[260:],
}
LOG = {"garbled": lambda data: b"{" + data, "torn": lambda data: data[:20]}
READS = {
    "table": lambda lake: lake.table("events"),
    "batches": lambda lake: list(lake.batches("events", TABLES["events"].schema.names)),
    "sql": lambda lake: lake.sql("SELECT * FROM events"),
    "as of a version": lambda lake: lake.pin_versions().table("events"),
}


@pytest.fixture
def lake(home, site):
    for _ in range(2):
        with LakeRole(home / "stream", home / "lake", clock=SystemClock()) as role:
            role.drain()
        site.add(1)
    return home / "lake"


def each_reading_names(lake, path, harms):
    original = path.read_bytes()
    for harm in harms:
        path.write_bytes(harms[harm](original))
        for reading in READS:
            _names(lake, path, reading)
    path.unlink()
    for reading in READS:
        _names(lake, path, reading)


def _names(lake, path, reading):
    with pytest.raises(DamageError) as raised:
        READS[reading](Lake(lake))
    assert path.name in str(raised.value), reading
    assert ("tailorbird lake repair" in str(raised.value)) != str(lake).startswith("s3://"), (
        "which is not for buckets"
    )


def test_a_damaged_data_file_is_named(lake):
    each_reading_names(lake, sorted((lake / "events").rglob("*.parquet"))[0], DATA)


def test_a_damaged_file_of_the_log_is_named(lake):
    each_reading_names(lake, lake / "events" / "_delta_log" / f"{1:020d}.json", LOG)


def test_the_role_that_puts_files_together_names_the_damaged_one(home, lake):
    path = sorted((lake / "events").rglob("*.parquet"))[0]
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        path.write_bytes(DATA["cut"](path.read_bytes()))
        with pytest.raises(DamageError, match=path.name):
            _small_files_put_together(role)


def test_a_file_deleted_during_a_read_is_not_corruption(home, lake):
    at = versions_of(lake)
    reader = Lake(lake, versions={"quarantine": at["quarantine"]})
    assert reader.table("quarantine").num_rows
    with LakeRole(home / "stream", lake, clock=SystemClock()) as role:
        _small_files_put_together(role)
        role.vacuum(keep_us=0)
    with pytest.raises(StorageError, match="deleted while it was read"):
        reader.table("quarantine")


def test_a_query_that_is_wrong_blames_no_file(lake):
    with pytest.raises(UsageError, match="cannot be run"):
        Lake(lake).sql("SELECT arrow_cast('x', 'Int64') FROM events")


def _small_files_put_together(role):
    role.drain()
    while role.upkeep(include_unsettled=True):
        pass
