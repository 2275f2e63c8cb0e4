"""What only one process may do at a time: the second is told who does it, and is let in when that one dies, however it dies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.errors import LockedError
from tailorbird.training.resuming import alone

HOLDS = """
import sys
from pathlib import Path
from tailorbird.training.resuming import alone

with alone(Path(sys.argv[1]), "a net is trained"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(lock: Path) -> subprocess.Popen:
    """A process that has the lock until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_which_one_is_at_work_and_is_let_in_when_that_is_killed(tmp_path):
    lock = tmp_path / "work" / "home.lock"
    first = holder(lock)
    with pytest.raises(LockedError, match=f"a net is trained by process {first.pid} already") as refused, alone(lock, "a net is trained"):
        pass
    assert f"wait for process {first.pid} to end" in refused.value.fix
    assert lock.read_text() == f"{first.pid}\n", "who was refused did not write itself down"
    first.kill()
    first.wait()
    with alone(lock, "a net is trained"):
        assert lock.read_text() == f"{os.getpid()}\n"


def test_one_that_ends_lets_the_next_one_in(tmp_path):
    lock = tmp_path / "home.lock"
    first = holder(lock)
    first.communicate("")
    with pytest.raises(ZeroDivisionError), alone(lock, "a net is trained"):
        raise ZeroDivisionError
    second = holder(lock)
    second.communicate("")
    assert (first.returncode, second.returncode) == (0, 0)
