"""Processes that share a training: wherever the one that started them is killed, they go, and the
run that begins again is alone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra deep: pip install 'tailorbird[deep]'")

from tests.support.nets import make_rows
from tests.support.programs import train_in_processes
from tests.support.programs.train_in_processes import RUN_FOLDER
from tests.support.training.bits import have_same_bits

from tailorbird.errors import LockedError
from tailorbird.models.deep import parallel
from tailorbird.models.deep.checkpoint import CHECKPOINT_FILE
from tailorbird.models.deep.rows import write_parts

pytestmark = pytest.mark.slow

LONG_S = 240  # far more than anything here takes, on a machine that does much else


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    write_parts(tmp_path / "rows", [make_rows(3_000), make_rows(3_000, seed=2)], block_rows=700)
    write_parts(tmp_path / "watched", [make_rows(1_000, seed=1)])
    return tmp_path


@pytest.fixture
def started(parts: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Start a training and return it with its two member processes."""
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.support.programs.train_in_processes", str(parts)],
        env=dict(os.environ),
    )
    children: list[int] = []
    try:
        wait_for(lambda: parent.poll() is not None or len(children_of(parent.pid)) == 2)
        children = children_of(parent.pid)
        assert len(children) == 2, "it has not ended"
        yield parent, children
    finally:
        parent.kill()
        parent.wait()
        for pid in filter(alive, children):
            os.kill(pid, signal.SIGKILL)


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_S
    while not what():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.01)


def children_of(pid: int) -> list[int]:
    children = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        if state := state_of(int(each)):
            children += [int(each)] * (state[1] == str(pid))
    return sorted(children)


def state_of(pid: int) -> list[str]:
    """State and parent of a process; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    return bool(state := state_of(pid)) and state[0] not in "ZX"


def kill(parent: subprocess.Popen[bytes]) -> None:
    parent.send_signal(signal.SIGKILL)
    assert parent.wait() == -signal.SIGKILL, "it was killed in the middle of its work"


linux = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc"
)


@pytest.mark.nightly
@linux
@pytest.mark.parametrize("moment", ["while they load", "while they train"])
def test_orphaned_members_exit_and_the_next_run_ends_in_the_same_bits(
    parts, started, moment
) -> None:
    parent, children = started
    if moment == "while they train":
        wait_for((parts / RUN_FOLDER / "checkpoint" / CHECKPOINT_FILE).exists)
    else:
        assert not (parts / RUN_FOLDER / "meeting").exists(), (
            "none has come as far as to wait for the other"
        )
    kill(parent)
    wait_for(lambda: not any(map(alive, children)))
    assert (parts / RUN_FOLDER / "checkpoint" / CHECKPOINT_FILE).exists() == (
        moment == "while they train"
    )
    assert have_same_bits(
        train_in_processes.fit(parts), train_in_processes.fit(parts, "undisturbed", 1)
    )


@linux
@pytest.mark.parametrize(
    "moment", [pytest.param("before they met", marks=pytest.mark.nightly), "in a step"]
)
def test_waiting_members_exit_too_and_no_run_starts_next_to_a_stopped_one(
    parts, started, moment, monkeypatch
) -> None:
    parent, (waits, stopped) = started
    if moment == "in a step":
        wait_for((parts / RUN_FOLDER / "checkpoint" / CHECKPOINT_FILE).exists)
        os.kill(stopped, signal.SIGSTOP)
    else:
        os.kill(stopped, signal.SIGSTOP)
        wait_for((parts / RUN_FOLDER / "meeting").exists)
    kill(parent)
    wait_for(lambda: not alive(waits))
    monkeypatch.setattr(parallel, "EXIT_TIMEOUT_S", 0.2)
    with pytest.raises(
        LockedError, match=f"a training that process {parent.pid} began is still at work here"
    ):
        train_in_processes.fit(parts)
    os.kill(stopped, signal.SIGCONT)
    wait_for(lambda: not alive(stopped))
    monkeypatch.setattr(parallel, "EXIT_TIMEOUT_S", LONG_S)
    assert have_same_bits(
        train_in_processes.fit(parts, count=1), train_in_processes.fit(parts, "undisturbed", 1)
    )
