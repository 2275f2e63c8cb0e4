"""Resumable runs, and locks between processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tailorbird.errors import LockedError
from tailorbird.training.fit.resume import UnfinishedRun, hold_exclusive

HOLDS = """
import sys
from pathlib import Path
from tailorbird.training.fit.resume import hold_exclusive

with hold_exclusive(Path(sys.argv[1]), "a net is trained"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(lock: Path) -> subprocess.Popen:
    """A process that has the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_names_its_holder_and_is_released_when_that_is_killed(tmp_path):
    lock = tmp_path / "work" / "home.lock"
    first = holder(lock)
    with (
        pytest.raises(
            LockedError, match=f"a net is trained by process {first.pid} already"
        ) as refused,
        hold_exclusive(lock, "a net is trained"),
    ):
        pass
    assert f"wait for process {first.pid} to end" in refused.value.fix
    assert lock.read_text() == f"{first.pid}\n", "who was refused did not write itself down"
    first.kill()
    first.wait()
    with hold_exclusive(lock, "a net is trained"):
        assert lock.read_text() == f"{os.getpid()}\n"


def test_a_lock_is_released_at_exit(tmp_path):
    lock = tmp_path / "home.lock"
    first = holder(lock)
    first.communicate("")
    with pytest.raises(ZeroDivisionError), hold_exclusive(lock, "a net is trained"):
        raise ZeroDivisionError
    second = holder(lock)
    second.communicate("")
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_resumed_run_keeps_its_results_and_start_time(tmp_path):
    first = UnfinishedRun(tmp_path / "run", {"seed": 7}, 100)
    assert not first.is_resumed
    assert first.load_or_compute("rows", lambda: np.arange(3)).tolist() == [0, 1, 2]
    again = UnfinishedRun(tmp_path / "run", {"seed": 7}, 200)
    assert (again.is_resumed, again.started_at) == (True, 100)
    assert again.load_or_compute("rows", lambda: np.zeros(0)).tolist() == [0, 1, 2]


def test_other_settings_start_a_new_run(tmp_path):
    UnfinishedRun(tmp_path / "run", {"seed": 7}, 100).load_or_compute("rows", lambda: np.arange(3))
    other = UnfinishedRun(tmp_path / "run", {"seed": 8}, 200)
    assert (other.is_resumed, other.started_at) == (False, 200)
    assert other.load_or_compute("rows", lambda: np.zeros(0)).tolist() == []


def test_a_run_without_results_restarts_at_its_own_time(tmp_path):
    """A run fails for lack of data, and is repeated after more data arrived."""
    UnfinishedRun(tmp_path / "run", {"seed": 7}, 100)
    again = UnfinishedRun(tmp_path / "run", {"seed": 7}, 200)
    assert (again.is_resumed, again.started_at) == (False, 200)
