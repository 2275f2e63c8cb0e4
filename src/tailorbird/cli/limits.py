"""Bounds of what a command may take: sizes as they are typed, and a process that ends when it takes
too long or too much memory.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path

from tailorbird.errors import UsageError
from tailorbird.platform.supervisor import end_with_parent

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|MiB|GB|GiB|TB|TiB)?\Z", re.IGNORECASE)
_UNITS = {
    "mb": 10**6,
    "mib": 1 << 20,
    "gb": 10**9,
    "gib": 1 << 30,
    "tb": 10**12,
    "tib": 1 << 40,
    "": 1,
}
_LOOK_S = 0.02


def size_of(text: str) -> int:
    """Return the bytes of a size such as `2GB`. Raises UsageError where it is none, or less than 16
    MiB.
    """
    match = _SIZE.match(text.strip())
    size = int(float(match[1]) * _UNITS[(match[2] or "").lower()]) if match else 0
    if size < 1 << 24:
        raise UsageError(
            f"expected a size such as 2GB, at least 16 MiB, got {text!r}", where="--memory"
        )
    return size


def go_on_within(seconds: float, memory: int) -> None:
    """Go on in a child process, which this one ends on Ctrl-C, and when it has taken too long or
    too much memory.

    Only the child returns. An engine that computes hears no signal and cannot be told to stop, but
    it can be killed. Where the engine was loaded before, by a program that runs several commands,
    there is no child, since its threads would not go with it, and no bound.

    Raises:
        UsageError: in this process: the child was ended. SystemExit: it ended by itself, with its
            status.
    """
    if "deltalake" in sys.modules:
        return
    child = os.fork()
    if not child:
        end_with_parent(signal.SIGKILL)
        return
    end = time.monotonic() + seconds
    try:
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(_LOOK_S)
            if time.monotonic() > end:
                raise UsageError(
                    f"gave up after {seconds:.0f} s",
                    fix="ask for less, or give it longer: --timeout 1h",
                )
            if _resident(child) > memory:
                raise UsageError(
                    f"it needs more than {memory >> 20:,} MiB of memory",
                    fix="ask for less, or allow more: --memory 16GB",
                )
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    code = os.waitstatus_to_exitcode(ended[1])
    raise SystemExit(code if code >= 0 else 128 - code)


def _resident(process: int) -> int:
    """Return the bytes of memory that a process holds; 0 where the system does not say, as only
    Linux does.
    """
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
    except (OSError, ValueError, IndexError):
        return 0
