"""Resource limits of commands: parsed sizes, and a child process with time and memory limits."""

import os
import re
import signal
import sys
import time
from pathlib import Path

from tailorbird.errors import UsageError
from tailorbird.platform.runtime.parent import signal_on_parent_exit

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|MiB|GB|GiB|TB|TiB)?\Z", re.IGNORECASE)
_BYTES_BY_UNIT = {
    "mb": 10**6,
    "mib": 1 << 20,
    "gb": 10**9,
    "gib": 1 << 30,
    "tb": 10**12,
    "tib": 1 << 40,
    "": 1,
}
_POLL_S = 0.02


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `2GB`.

    Raises UsageError if it is no size or less than 16 MiB.
    """
    match = _SIZE.match(text.strip())
    size = int(float(match[1]) * _BYTES_BY_UNIT[(match[2] or "").lower()]) if match else 0
    if size < 1 << 24:
        raise UsageError(
            f"expected a size such as 2GB, at least 16 MiB, got {text!r}", where="--memory"
        )
    return size


def continue_in_child(timeout_s: float, memory_bytes: int) -> None:
    """Continue in a child process with time and memory limits, which Ctrl-C also ends.

    Only the child returns. A computing engine does not react to signals, but its process can be
    killed. If the engine is loaded already, as in a program that runs several commands, there is no
    child and no limit, since threads do not survive a fork.

    Raises:
        UsageError: in the parent: the child exceeded a limit and was killed.
            SystemExit: in the parent: the child ended with this status.
    """
    if "deltalake" in sys.modules:
        return
    child_pid = os.fork()
    if not child_pid:
        signal_on_parent_exit(signal.SIGKILL)
        return
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            ended_pid, wait_status = os.waitpid(child_pid, os.WNOHANG)
            if ended_pid:
                break
            time.sleep(_POLL_S)
            if time.monotonic() > deadline:
                raise UsageError(
                    f"gave up after {timeout_s:.0f} s",
                    fix="ask for less, or give it longer: --timeout 1h",
                )
            if _resident_bytes(child_pid) > memory_bytes:
                raise UsageError(
                    f"it needs more than {memory_bytes >> 20:,} MiB of memory",
                    fix="ask for less, or allow more: --memory 16GB",
                )
    except BaseException:
        os.kill(child_pid, signal.SIGKILL)
        os.waitpid(child_pid, 0)
        raise
    exit_code = os.waitstatus_to_exitcode(wait_status)
    raise SystemExit(exit_code if exit_code >= 0 else 128 - exit_code)


def _resident_bytes(pid: int) -> int:
    """Return the resident bytes of a process; 0 if the system does not tell, as outside Linux."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
