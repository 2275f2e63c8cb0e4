"""Finds roles that hang: stopped, in a deadlock, or in front of a disk that does not answer.

Each role writes to a pipe from its main loop (`probes.Heartbeat`). A role that computes for long
between two beats, such as a training, is told from one that hangs by its work: CPU time of its
processes, and bytes that they read and write. A server has no such excuse once it has begun to
serve: its event loop must never be busy for seconds.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tailorbird.platform.runtime.processes import stat_fields, state_of

HUNG_S = 7.0  # Without progress; the next look comes within 0.5 s.
QUIET_S = 1.5  # Without a beat, before the work is looked at.
# Brokers, caches and object stores have timeouts of their own, which are to come first.
HUNG_REMOTE_S = 90.0
PROGRESS_CPU_SHARE = 0.05  # Of one core, as progress.
PROGRESS_IO_BYTES = 1 << 20  # Within `HUNG_S`, as progress.
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STATE_DESCRIPTIONS = {"T": "stopped", "D": "waiting for a disk", "t": "stopped by a debugger"}


@dataclass(frozen=True)
class _WorkDone:
    """What the processes of a role have done so far."""

    cpu_s: float
    io_bytes: int
    at_s: float  # Monotonic time.


class ProgressWatch:
    """Follows the progress of one process by its heartbeat.

    Args:
        descriptor: the read end of its pipe, which this object closes.
        pid: the process, which leads a session of its own.
        hung_s: how long it may make no progress.
        counts_work: whether work without beats is progress too, after the first beat.
    """

    def __init__(self, descriptor: int, pid: int, *, hung_s: float, counts_work: bool) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._pid = pid
        self._hung_s = hung_s
        self._counts_work = counts_work
        self._checked_at = self._quiet_since = time.monotonic()
        self._earlier_work: _WorkDone | None = None
        self.has_begun = False  # Its main loop has been reached.

    def close(self) -> None:
        os.close(self._descriptor)

    def is_hung(self) -> bool:
        """Look for progress; return whether there was none for too long."""
        now = time.monotonic()
        was_away = now - self._checked_at > QUIET_S  # This process itself was stopped or starved.
        self._checked_at = now
        if self._read_beats() or was_away:
            self._quiet_since = now
            self._earlier_work = None
            return False
        quiet_s = now - self._quiet_since
        if quiet_s < QUIET_S:
            return False
        if self.has_begun and not self._counts_work:
            return quiet_s >= self._hung_s
        if sys.platform != "linux":  # Nothing says whether it works.
            return False
        work = _session_work(self._pid)
        if self._earlier_work is None:
            self._earlier_work = work
        if quiet_s < self._hung_s:
            return False
        has_worked = (
            work.cpu_s - self._earlier_work.cpu_s
            >= PROGRESS_CPU_SHARE * (work.at_s - self._earlier_work.at_s)
            or work.io_bytes - self._earlier_work.io_bytes >= PROGRESS_IO_BYTES
        )
        if has_worked:
            self._quiet_since = now
            self._earlier_work = work
        return not has_worked

    def describe(self) -> str:
        """Return what is known of a role that hangs."""
        quiet_s = time.monotonic() - self._quiet_since
        state = _STATE_DESCRIPTIONS.get(
            state_of(self._pid), "waiting for something that does not come"
        )
        return f"made no progress for {quiet_s:.0f} s ({state})"

    def _read_beats(self) -> bool:
        try:
            beats = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return False
        self.has_begun = self.has_begun or bool(beats)
        return bool(beats)


def _session_work(session_leader: int) -> _WorkDone:
    """Return the work of the processes of a session; none where there is no /proc."""
    cpu_s = 0.0
    io_bytes = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = stat_fields(int(folder.name))
            if int(fields[3]) != session_leader:  # The field `session`.
                continue
            # The fields `utime`, `stime`, `cutime` and `cstime`.
            cpu_s += sum(int(field) for field in fields[11:15]) / _TICKS_PER_S
            lines = (folder / "io").read_text().splitlines()
        except (OSError, IndexError, ValueError):  # It has ended.
            continue
        io_bytes += sum(
            int(line.partition(": ")[2]) for line in lines if line.startswith(("rchar", "wchar"))
        )
    return _WorkDone(cpu_s, io_bytes, time.monotonic())
