"""A file of requests: each value that cannot be is refused with its file, column and row."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tailorbird.errors import UsageError
from tailorbird.features.offline.entity_table import read_backfill_inputs, read_requests_file

NEWEST = 90
MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
MICROS = int(MOMENT.timestamp()) * 10**6


def read_requests(folder, **columns):
    values = {
        "person": ["u1", None],
        "item": ["i1", "i2"],
        "ts": pa.array([MOMENT, MOMENT], pa.timestamp("us", "UTC")),
        **columns,
    }
    pq.write_table(pa.table(values), folder / "asked.parquet")
    return read_requests_file(folder / "asked.parquet", NEWEST)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([MICROS, MICROS]),
        pa.array([MOMENT, MOMENT], pa.timestamp("ms")),
        pa.array([MOMENT, MOMENT], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([MICROS, MICROS], pa.uint64()),
    ],
)
def test_times_are_read_in_any_unit(tmp_path, column):
    assert read_requests(tmp_path, ts=column).t.tolist() == [MICROS, MICROS]


def test_optional_columns_are_read_and_p_defaults_to_the_newest(tmp_path):
    requests = read_requests(
        tmp_path,
        local_hour=[7.0, float("nan")],
        device=["phone", None],
        person=[17, None],
        other=[["x"], ["y"]],
    )
    assert requests.local_hour.to_pylist() == [7, None]
    assert (requests.device.to_pylist(), requests.person.to_pylist()) == (
        ["phone", None],
        ["17", None],
    )
    assert (requests.log_position.tolist(), requests.query) == ([NEWEST, NEWEST], None)
    assert read_requests(tmp_path, p=[0, NEWEST]).log_position.tolist() == [0, NEWEST]
    assert read_requests(tmp_path, local_hour=pa.nulls(2)).local_hour.to_pylist() == [None, None]
    assert read_requests(
        tmp_path, person=pa.array(["u1", "u1"]).dictionary_encode()
    ).person.to_pylist() == ["u1", "u1"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"p": [5, None]},
            "p: expected a routed position, 0 to 90, up to which the lake knows, got nothing "
            "in row 2",
        ),
        ({"p": [-1, 5]}, "got -1 in row 1"),
        ({"p": [5, 10**12]}, "got 1000000000000 in row 2"),
        ({"p": [5.5, 6.0]}, "got 5.5 in row 1"),
        (
            {"p": ["5", "6"]},
            "p: expected a routed position, 0 to 90, up to which the lake knows, got string",
        ),
        (
            {"local_hour": [7, 99]},
            "local_hour: expected an hour of the day, 0 to 23, got 99 in row 2",
        ),
        ({"local_hour": [-4, -4]}, "got -4 in row 1 (and 1 more rows)"),
        (
            {"local_hour": ["7", "8"]},
            "local_hour: expected an hour of the day, 0 to 23, got string",
        ),
        (
            {"ts": [MICROS // 10**6] * 2},
            "ts: expected a time from 1990 on, in microseconds where it is a whole number, "
            f"got {MICROS // 10**6}",
        ),
        ({"ts": [MICROS * 1000] * 2}, "ts: expected a time from 1990 on"),
        ({"ts": pa.array([MOMENT, None], pa.timestamp("us"))}, "got nothing in row 2"),
        ({"ts": ["2026-03-01", "2026-03-02"]}, "expected timestamps or microseconds, got string"),
        ({"person": [["u1"], ["u2"]]}, "person: expected texts, got list"),
        ({"person": ["u1", ""]}, "person: expected a text, got '' in row 2"),
        ({"item": ["i1", None]}, "item: expected a text, got nothing in row 2"),
        ({"device": [1.5, 2.5]}, "device: expected texts, got double"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_row(tmp_path, columns, message):
    with pytest.raises(UsageError) as error:
        read_requests(tmp_path, **columns)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'asked.parquet'}: ")
    assert "fix: " in str(error.value)


def test_columns_that_are_not_there_or_stand_twice_are_named(tmp_path):
    file = tmp_path / "asked.parquet"
    pq.write_table(pa.table({"who": ["u1"]}), file)
    with pytest.raises(UsageError, match="expected columns person, item and ts, found who"):
        read_requests_file(file, NEWEST)
    twice = pa.Table.from_arrays(
        [pa.array(["u1"]), pa.array(["i1"]), pa.array(["i1"]), pa.array([MICROS])],
        ["person", "item", "item", "ts"],
    )
    pq.write_table(twice, file)
    with pytest.raises(UsageError, match="several columns of this name"):
        read_requests_file(file, NEWEST)


def test_a_file_or_a_folder_of_something_else_is_no_folder_of_a_backfill(tmp_path):
    assert read_backfill_inputs(tmp_path / "new", lock_name="columns.lock") is None
    (tmp_path / "columns.lock").touch()
    (tmp_path / ".backfill.json.12345").touch()
    assert read_backfill_inputs(tmp_path, lock_name="columns.lock") is None, (
        "what a first run makes before all else"
    )
    (tmp_path / "notes").touch()
    with pytest.raises(UsageError, match="something else than a backfill: notes"):
        read_backfill_inputs(tmp_path, lock_name="columns.lock")
    with pytest.raises(UsageError, match="is a file"):
        read_backfill_inputs(tmp_path / "notes", lock_name="columns.lock")
