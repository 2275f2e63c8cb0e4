"""Processes of a project's roles that an `up` before this one left behind when it was killed.

Servers go on answering without it; the next `up` ends them once its own are ready. Other roles end
by themselves (`parent.die_with_parent`), unless they hang.
"""

import asyncio
import os
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tailorbird.platform.runtime.processes import stat_fields, state_of

PARENT_VARIABLE = "TAILORBIRD_PARENT"
_POLL_S = 0.05


@dataclass(frozen=True)
class Leftover:
    """A process of a role without a supervisor; `is_server` says whether it answers requests."""

    pid: int
    is_server: bool


def find_leftovers(root: Path, own_pids: Collection[int]) -> list[Leftover]:
    """Return the roles that run on a project, were started by an `up`, and have outlived it.

    `own_pids` are the processes that this `up` started.
    """
    leftovers = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if b"run" not in arguments or os.fsencode(root) not in arguments:
                continue
            variables = (folder / "environ").read_bytes().split(b"\0")
            process_fields = stat_fields(int(folder.name))  # State, parent, …
        except OSError:  # It has ended, or is another user's.
            continue
        supervisor_pid = next(
            (
                variable.partition(b"=")[2]
                for variable in variables
                if variable.startswith(PARENT_VARIABLE.encode() + b"=")
            ),
            b"",
        )
        parent_pid = process_fields[1].encode()
        is_orphan = supervisor_pid != parent_pid or (
            # It began before this process took new code by exec.
            parent_pid == str(os.getpid()).encode() and int(folder.name) not in own_pids
        )
        if supervisor_pid and is_orphan and process_fields[0] != "Z":
            leftovers.append(Leftover(int(folder.name), b"serve" in arguments))
    return leftovers


async def end_leftovers(leftovers: Sequence[Leftover], wait_s: float) -> None:
    """End processes in an orderly way; kill those that are there after `wait_s`."""
    for leftover in leftovers:
        _send_signal(leftover.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while any(_is_running(leftover.pid) for leftover in leftovers):
                await asyncio.sleep(_POLL_S)
    for leftover in leftovers:
        _send_signal(leftover.pid, signal.SIGKILL)


def _send_signal(pid: int, signal_number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal_number)


def _is_running(pid: int) -> bool:
    with suppress(ChildProcessError):  # It is a child after `up` took new code.
        os.waitpid(pid, os.WNOHANG)
    return state_of(pid) not in ("", "Z")
