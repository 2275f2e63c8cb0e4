"""The shuffle: its output for each part, kills at any point, gaps in the log, and a second shuffle.

Run as a program it shuffles until it is killed or done:

    python -m tests.features.online.test_shuffle FOLDER
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import features as kit_module
from tests.support.offline.crowd import make_crowd

from tailorbird.errors import LockedError
from tailorbird.events.clock import SimulatedClock
from tailorbird.features.online.receipts import LAKE_ONLY, SELECTED, read_block_events
from tailorbird.features.online.shuffle import Shuffle
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.key_partition import KeyPart
from tailorbird.stream import Block, open_reader

ROOT = Path(__file__).parents[3]
COUNT = 3


def logs(folder: Path) -> list[Path]:
    return [folder / f"part-{number}.db" for number in range(COUNT)]


def make_log(kit, folder: Path, rows: int = 240) -> None:
    log = kit.Log(folder)
    log.append([make_crowd(kit, 5)[start : start + 20] for start in range(0, rows, 20)])
    log.close()


def shuffled(folder: Path, fault: str = "") -> int:
    program = [sys.executable, "-m", __name__, str(folder)]
    return subprocess.run(
        program, cwd=ROOT, env={**os.environ, "TAILORBIRD_FAULTS": fault}, timeout=60, check=False
    ).returncode


def written(folder: Path) -> list[list[tuple[int, str]]]:
    """Return the events of each part with their p, in the order of the log."""
    tables = []
    for path in logs(folder):
        events = []
        with open_reader(path) as reader:
            end = 1
            while blocks := reader.read(end):
                for stored in blocks:
                    assert (stored.offset, stored.block.kind) == (end, SELECTED)
                    table = read_block_events(stored, 0, path)
                    some = (
                        []
                        if table is None
                        else list(
                            zip(table["p"].to_pylist(), table["event_id"].to_pylist(), strict=True)
                        )
                    )
                    assert all(stored.offset <= p < stored.end for p, _ in some)
                    events += some
                    end = stored.end
        tables.append(events)
    return tables


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        "shuffle.between_parts=kill@1",
        "shuffle.between_parts=kill@2",
        "shuffle.before_step=kill@4",
        "stream.after_commit=kill@8",
    ],
)
def test_a_shuffle_killed_at_any_point_resumes_without_a_trace(kit, tmp_path, fault) -> None:
    for name in ("whole", "cut"):
        make_log(kit, tmp_path / name)
    shuffle_all(tmp_path / "whole")
    assert shuffled(tmp_path / "cut", fault) != 0
    assert shuffled(tmp_path / "cut") == 0
    assert written(tmp_path / "cut") == written(tmp_path / "whole")
    assert all(written(tmp_path / "whole"))


def test_rows_deleted_from_the_log_are_marked_as_only_in_the_lake(kit, tmp_path) -> None:
    """Of a log that begins later than the shuffle stands, workers that are behind take from the
    lake; who is further on goes on.
    """
    features = kit.every_kind()
    make_log(kit, tmp_path)
    with Shuffle(tmp_path / "routed.db", logs(tmp_path), features, first_row=101) as shuffle:
        shuffle.step()
        assert shuffle.end() == 241
    part = KeyPart(0, COUNT)
    with FeatureWorker(
        logs(tmp_path)[0], tmp_path / "state", features, clock=SimulatedClock(0), part=part
    ) as worker:
        assert worker.step().rows == 0
        assert worker.waits_for_lake
        assert worker.needs_history(), "it begins at 1, the log at 101"
        history = [
            kit.table([{**one, "p": row + 1} for row, one in enumerate(make_crowd(kit, 5)[:130])])
        ]
        worker.bootstrap(lambda after: history, 130)
        assert worker.step().rows > 0, "from the middle of a block"
        assert not worker.needs_history()
        assert worker.position.log_position == 240
    direct = tmp_path / "direct"
    with FeatureWorker(
        tmp_path / "routed.db", direct, features, clock=SimulatedClock(0), part=part
    ) as other:
        assert other.step().log_position == worker.position.log_position
        assert other.position.newest_ts >= worker.position.newest_ts
    from tests.support.offline.parts import read_records

    assert read_records(direct, features, part) == read_records(tmp_path / "state", features, part)


def test_a_hole_in_the_routed_log_is_passed_on(kit, tmp_path) -> None:
    features = kit.every_kind()
    log = kit.Log(tmp_path)
    rows = make_crowd(kit, 5)
    log.append([rows[:20]])
    with Shuffle(tmp_path / "routed.db", logs(tmp_path), features) as shuffle:
        shuffle.step()
    log.append([rows[20:40], rows[40:60]])
    log._writer.prune(41)
    with Shuffle(tmp_path / "routed.db", logs(tmp_path), features) as shuffle:
        assert shuffle.step().rows == 20
        assert shuffle.step().rows == 20
        assert shuffle.step().rows == 0
        assert shuffle.prune([21, 0, 41]) > 0
    log.close()
    kinds = []
    for path in logs(tmp_path):
        with open_reader(path) as reader:
            kinds.append([(one.offset, one.block.kind) for one in reader.read(reader.start())])
    assert kinds[1] == [(1, SELECTED), (21, LAKE_ONLY), (41, SELECTED)]
    assert kinds[2] == [(41, SELECTED)]
    with FeatureWorker(
        logs(tmp_path)[1],
        tmp_path / "state",
        features,
        clock=SimulatedClock(0),
        part=KeyPart(1, COUNT),
    ) as worker:
        assert worker.step().log_position == 20
        assert worker.step().rows == 0
        assert worker.waits_for_lake
        assert worker.needs_history()


def test_what_was_routed_before_an_attribute_was_declared_is_left_to_the_lake(
    kit, tmp_path
) -> None:
    features = kit.every_kind()
    log = kit.Log(tmp_path)
    rows = make_crowd(kit, 5)
    log.append([rows[:20]])
    receipt = b'{"user_attributes":["plan"],"item_attributes":[],"received_at":5}'
    log._writer.append([Block("events", 20, kit.ipc(rows[20:40]), receipt)])
    log.p += 20
    log.append([rows[40:60]])
    with Shuffle(tmp_path / "routed.db", logs(tmp_path), features) as shuffle:
        while shuffle.step().rows:
            pass
    log.close()
    for path in logs(tmp_path):
        with open_reader(path) as reader:
            blocks = [(one.offset, one.block.rows, one.block.kind) for one in reader.read(1)]
        assert blocks == [(1, 20, SELECTED), (21, 20, LAKE_ONLY), (41, 20, SELECTED)]


def test_a_second_shuffle_is_refused(kit, tmp_path) -> None:
    make_log(kit, tmp_path, 20)
    features = kit.every_kind()
    with (
        Shuffle(tmp_path / "routed.db", logs(tmp_path), features) as one,
        Shuffle(tmp_path / "routed.db", logs(tmp_path), features) as other,
    ):
        assert one.step().rows == 20
        with pytest.raises(LockedError):
            other.step()


def shuffle_all(folder: Path) -> None:
    with Shuffle(folder / "routed.db", logs(folder), kit_module.every_kind()) as shuffle:
        while shuffle.step(rows_max=20).rows:
            pass


if __name__ == "__main__":
    shuffle_all(Path(sys.argv[1]))
