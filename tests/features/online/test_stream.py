"""Stream and reading equal the plain-Python reference, in float32 bits, whatever comes in whichever
order.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tailorbird import faults
from tailorbird.events import SECOND, SimulatedClock
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker

EXAMPLES = int(os.environ.get("TAILORBIRD_EXAMPLES", "40"))
ITEMS = ["i1", "i2", "i3"]


def played(kit, data, folder: Path) -> list[str]:
    """Draw events, cut them into blocks and steps, read in between and after a restart; all
    differences to the reference.
    """
    features = kit.every_kind()
    least = data.draw(st.sampled_from([30, 1]), label="at least")
    left = kit.routed(
        data.draw(st.lists(kit.events(), min_size=least, max_size=60), label="events")
    )
    log, routed, different = kit.Log(folder), [], []
    worker = FeatureWorker(log.path, folder / "state", features, clock=SimulatedClock(kit.T0))
    reader = Reader(folder / "state", features)
    try:
        while left:
            blocks = [[]] if data.draw(st.booleans(), label="a block without events") else []
            for size in data.draw(
                st.lists(st.integers(1, 20), min_size=1, max_size=3), label="blocks"
            ):
                blocks.append(left[:size])
                left = left[size:]
            routed += log.append(blocks)
            while worker.step(data.draw(st.integers(1, 30), label="rows_max")).rows:
                for request in data.draw(st.lists(kit.requests, max_size=1), label="requests"):
                    rows = reader.read(request, ITEMS)
                    different += kit.differences(features, rows, request, ITEMS, routed)
            if data.draw(st.integers(0, 5), label="restart") == 0:
                worker.close()
                worker = FeatureWorker(
                    log.path, folder / "state", features, clock=SimulatedClock(kit.T0)
                )
        request = data.draw(kit.requests, label="last request")
        different += kit.differences(features, reader.read(request, ITEMS), request, ITEMS, routed)
    finally:
        reader.close()
        worker.close()
        log.close()
    return different


# Shrinking takes minutes here and is worth it only while looking for the cause: add Phase.shrink
# then.
@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_every_value_read_is_the_reference_at_its_two_times(kit, data):
    with tempfile.TemporaryDirectory() as folder:
        assert played(kit, data, Path(folder)) == []


def test_a_tile_too_few_is_noticed(kit, monkeypatch, tmp_path):
    monkeypatch.setenv("TAILORBIRD_FAULTS", "features.tile=cut")
    faults._load_faults.cache_clear()
    try:
        different = differences_of_one_click_a_window_ago(kit, tmp_path)
    finally:
        monkeypatch.undo()
        faults._load_faults.cache_clear()
    assert {"clicks_1m", "clicks_1m_30s"} <= {one.split()[0] for one in different}
    assert differences_of_one_click_a_window_ago(kit, tmp_path / "sound") == []


def differences_of_one_click_a_window_ago(kit, folder: Path) -> list[str]:
    features, log = kit.every_kind(), kit.Log(folder)
    later = kit.T0 + 60 * SECOND
    routed = log.append(
        [
            kit.routed(
                [
                    kit.event(type, ts, item_id="i1", user_id="u1")
                    for type, ts in (("click", kit.T0), ("view", later))
                ]
            )
        ]
    )
    with FeatureWorker(
        log.path, folder / "state", features, clock=SimulatedClock(kit.T0)
    ) as worker:
        worker.step()
    log.close()
    request = kit.ReadRequest(person="u1", now=later)
    reader = Reader(folder / "state", features)
    try:
        return kit.differences(features, reader.read(request, ["i1"]), request, ["i1"], routed)
    finally:
        reader.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "site", ["worker.before_step", "worker.before_commit", "worker.after_commit"]
)
def test_a_worker_killed_at_any_point_resumes_without_a_trace(kit, site, tmp_path):
    log = kit.Log(tmp_path)
    clicks = [
        kit.event("click", kit.T0 + n * SECOND, item_id="i1", user_id="u1", event_id=f"e{n}")
        for n in range(30)
    ]
    routed = log.append([kit.routed(clicks)[start : start + 5] for start in range(0, 30, 5)])
    for hit in (1, 3):
        killed = run_worker(tmp_path, f"{site}=kill@{hit}")
        assert killed.returncode == -9
    finished = run_worker(tmp_path, "")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split()[-1] == "6"
    log.close()
    features = kit.every_kind()
    reader = Reader(tmp_path / "state", features)
    request = kit.ReadRequest(person="u1", now=kit.T0 + 30 * SECOND)
    rows = reader.read(request, ["i1"])
    reader.close()
    assert (rows.commit, rows.log_position) == (6, 30)
    assert kit.differences(features, rows, request, ["i1"], routed) == []


def run_worker(folder: Path, faults: str) -> subprocess.CompletedProcess[str]:
    program = [
        sys.executable,
        str(Path(__file__).parents[2] / "support" / "features.py"),
        str(folder),
    ]
    return subprocess.run(
        program,
        env={**os.environ, "TAILORBIRD_FAULTS": faults},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_log_that_is_just_being_made_is_waited_for(kit, tmp_path):
    apsw.Connection(str(tmp_path / "routed.db")).execute("PRAGMA journal_mode = wal").fetchall()
    with FeatureWorker(
        tmp_path / "routed.db", tmp_path / "state", kit.every_kind(), clock=SimulatedClock(kit.T0)
    ) as worker:
        assert worker.step().rows == 0
        log = kit.Log(tmp_path)
        log.append([kit.routed([kit.event("click", kit.T0, item_id="i1", user_id="u1")])])
        assert worker.step().rows == 1
        log.close()
