"""End a process when its parent dies."""

import ctypes
import os
import signal
import sys

from tailorbird.platform.runtime.leftovers import PARENT_VARIABLE

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """End this role's process when the supervisor ends, even if that was killed.

    Does nothing without a supervisor.
    """
    parent_pid = os.environ.get(PARENT_VARIABLE)
    if parent_pid is None:
        return
    signal_on_parent_exit(signal.SIGTERM)
    if os.getppid() != int(parent_pid):
        raise SystemExit(0)


def signal_on_parent_exit(signal_number: int) -> None:
    """Have the kernel signal this process when its parent ends; does nothing outside Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number)
