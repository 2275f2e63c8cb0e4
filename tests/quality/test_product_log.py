"""Logs and questions of the product benchmark: order, sessions, truths, and files of both parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.quality.product import log as log_module
from benchmarks.quality.product.sets import SETS, Cut, DataSet, Small

from tailorbird.events import DAY, MINUTE

T = 1_500_000_000_000_000


def data_set(**changes: object) -> DataSet:
    """Return a set whose test part begins a day after its first event."""
    base = DataSet(
        "tiny",
        "Tiny",
        "tiny",
        "events.parquet",
        "ts",
        "user",
        "session",
        "item",
        {"dev": lambda low, high: Cut(low, low + DAY, high)},
        Small(2),
    )
    return replace(base, **changes)


def write(folder: Path, rows: list[tuple[int, int | None, int | None, str]]) -> None:
    ts, user, session, item = zip(*rows, strict=True)
    times = pa.array([T + each for each in ts], pa.timestamp("us"))
    table = pa.table({"ts": times, "user": list(user), "session": list(session), "item": list(item)})
    pq.write_table(table, folder / "events.parquet")


def test_rows_come_in_order_of_time_and_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, [(5, 1, 1, "b"), (0, 1, 1, "a"), (5, 2, 2, "c"), (DAY, 1, 3, "d"), (9 * DAY, 1, 3, "e")])
    rows, cut = log_module.read_rows(data_set(), tmp_path, "dev", small=False)
    log = log_module.make_log(data_set(), rows, cut)
    assert log.items[log.item].tolist() == ["a", "b", "c", "d"]  # the last is behind the end
    assert log.test_from == 3


def test_a_small_run_keeps_some_users_and_the_newest_of_the_training_part(tmp_path: Path) -> None:
    write(tmp_path, [(0, 2, 1, "a"), (DAY - 1, 2, 1, "b"), (DAY - 1, 3, 2, "c"), (DAY, 4, 3, "d"), (2 * DAY, 4, 3, "e")])
    part = data_set(small=Small(2, train_us=10))
    rows, cut = log_module.read_rows(part, tmp_path, "dev", small=True)
    assert rows["item"].to_pylist() == ["b", "d"]
    assert cut.begin == T + DAY - 10


def test_sessions_are_runs_where_the_data_name_none() -> None:
    person = np.array([0, 1, 0, 0, 1])
    ts = np.array([0, 1, 29, 60, 29]) * MINUTE
    assert log_module.split_sessions(person, ts).tolist() == [0, 2, 0, 1, 2]


def tiny_log(tmp_path: Path, **changes: object) -> tuple[DataSet, log_module.Log]:
    one = data_set(**changes)
    write(
        tmp_path,
        [
            (0, 1, 1, "a"),
            (DAY - 1, 1, 2, "b"),
            (DAY, 1, 2, "c"),
            (DAY + 1, 2, 3, "a"),
            (DAY + 1, 2, 3, "b"),
            (DAY + 2, None, 4, "a"),
            (DAY + 3, 2, 3, "a"),
            (3 * DAY, 1, 5, "z"),
        ],
    )
    rows, cut = log_module.read_rows(one, tmp_path, "dev", small=False)
    return one, log_module.make_log(one, rows, cut)


def test_item_questions_come_before_each_event_of_a_person(tmp_path: Path) -> None:
    one, log = tiny_log(tmp_path)
    questions = log_module.draw_questions(one, log, 100)
    assert questions.at.tolist() == [2, 3, 4, 6]
    assert log.items[questions.truth].tolist() == ["c", "a", "b", "a"]
    fewer = log_module.draw_questions(one, log, 2)
    assert len(fewer) == 2
    assert set(fewer.at.tolist()) < set(questions.at.tolist())


def test_session_questions_are_of_sessions_that_begin_in_the_test_part(tmp_path: Path) -> None:
    one, log = tiny_log(tmp_path, truth="session")
    questions = log_module.draw_questions(one, log, 100)
    assert questions.at.tolist() == [3]  # session 2 had begun before, 4 is of nobody known
    assert questions.now.tolist() == [T + DAY]
    assert log.items[questions.truth].tolist() == ["a", "b"]


def test_the_first_valid_row_gives_the_asker(tmp_path: Path) -> None:
    one = data_set(truth="session", valid=lambda table: np.array(table["item"]) != "fee")
    write(tmp_path, [(0, 1, 9, "a"), (DAY, 1, 8, "fee"), (DAY + 1, 1, 8, "b"), (DAY + 2, 1, 7, "fee"), (2 * DAY, 1, 9, "z")])
    rows, cut = log_module.read_rows(one, tmp_path, "dev", small=False)
    log = log_module.make_log(one, rows, cut)
    questions = log_module.draw_questions(one, log, 100)
    assert questions.at.tolist() == [1]
    assert questions.asker.tolist() == [2]
    assert log.items[questions.truth].tolist() == ["b"]


def test_sessions_that_interleave_keep_their_own_truths(tmp_path: Path) -> None:
    one = data_set(truth="session")
    write(tmp_path, [(0, 1, 9, "a"), (DAY, 1, 8, "b"), (DAY, 2, 7, "c"), (DAY + 1, 1, 8, "d"), (2 * DAY, 1, 9, "z")])
    rows, cut = log_module.read_rows(one, tmp_path, "dev", small=False)
    log = log_module.make_log(one, rows, cut)
    questions = log_module.draw_questions(one, log, 100)
    assert questions.at.tolist() == questions.asker.tolist() == [1, 2]
    assert questions.offsets.tolist() == [0, 2, 3]
    assert log.items[questions.truth].tolist() == ["b", "d", "c"]


def test_last_item_questions_come_after_the_item_before(tmp_path: Path) -> None:
    one = data_set(truth="last")
    write(
        tmp_path,
        [
            (0, 1, 9, "a"),
            (DAY, 1, 8, "b"),
            (DAY + 1, 2, 7, "c"),
            (DAY + 2, 1, 8, "d"),
            (DAY + 9, 1, 8, "e"),
            (DAY + 10, 1, 9, "f"),
            (DAY + 11, 3, 6, "g"),
            (2 * DAY, 1, 9, "z"),
        ],
    )
    rows, cut = log_module.read_rows(one, tmp_path, "dev", small=False)
    log = log_module.make_log(one, rows, cut)
    questions = log_module.draw_questions(one, log, 100)
    assert questions.asker.tolist() == [3]  # of the others one began before, two have one row
    assert questions.at.tolist() == [4]
    assert questions.now.tolist() == [T + DAY + 3]
    assert log.items[questions.truth].tolist() == ["e"]


def test_files_of_the_training_part_hold_nothing_later(tmp_path: Path) -> None:
    one = data_set(profiles=("items.parquet",), dated={"tags.parquet": "at"})
    source, target = tmp_path / "data", tmp_path / "train"
    source.mkdir()
    write(source, [(0, 1, 1, "a"), (DAY, 1, 1, "b"), (2 * DAY, 1, 1, "c")])
    pq.write_table(pa.table({"item": ["a"]}), source / "items.parquet")
    times = pa.array([T, T + DAY], pa.timestamp("us"))
    pq.write_table(pa.table({"at": times, "tag": ["x", "y"]}), source / "tags.parquet")
    rows, cut = log_module.read_rows(one, source, "dev", small=False)
    log_module.write_files(one, source, rows, cut, target, test=False)
    log_module.write_files(one, source, rows, cut, tmp_path / "test", test=True)
    assert pq.read_table(target / "events.parquet")["item"].to_pylist() == ["a"]
    assert pq.read_table(target / "tags.parquet")["tag"].to_pylist() == ["x"]
    assert (target / "items.parquet").exists()
    assert pq.read_table(tmp_path / "test" / "events.parquet")["item"].to_pylist() == ["b"]


@pytest.mark.parametrize("name", SETS)
def test_development_cuts_end_before_other_cuts_start(name: str) -> None:
    low, high = T, T + 400 * DAY
    cuts = {cut: make(low, high) for cut, make in SETS[name].cuts.items()}
    dev = cuts.pop("dev")
    assert dev.begin < dev.at < dev.end
    for each in cuts.values():
        assert dev.end <= each.at < each.end
