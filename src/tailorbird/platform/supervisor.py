"""Runs the roles of a project as processes: starts, restarts and stops them.

The set of roles may change while it runs. The supervisor polls the desired roles, starts new ones,
ends removed ones, and replaces changed ones. The others are not disturbed.

A role that dies repeatedly is restarted with a growing delay (up to `BACKOFF_MAX_S`). A role that
exits with `EXIT_MISCONFIGURED` during startup ends the supervisor, since a restart cannot help.
Later, when other roles serve already, such a role is retried instead. A role never outlives the
supervisor: each child asks the kernel for a SIGTERM when its parent dies, and exits if that has
happened already.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.errors import TailorbirdError

BACKOFF_MIN_S = 0.25
BACKOFF_MAX_S = 15.0
POLL_S = 0.5  # Between polls of the desired roles.
STABLE_S = 2.5  # A role that ran for this long is restarted without a growing delay.
STOP_S = 10.0  # In addition to the drain time of the role.
STARTUP_S = 60.0  # Time to load the code on a busy machine and detect that the role cannot run.
# Exit status for an invalid setting, declaration or option, which a restart cannot fix.
EXIT_MISCONFIGURED = 2
PARENT_VARIABLE = "TAILORBIRD_PARENT"

_PR_SET_PDEATHSIG = 1

ReportLine = Callable[[str, str], None]


@dataclass(eq=False)
class Role:
    """A role as the supervisor sees it; other arguments or another `variant` make another role.

    Attributes:
        drain_s: how long the role may continue after it was told to stop.
        since_s: when its process started or the last one ended, in seconds since 1970.
    """

    name: str
    arguments: list[str]
    variant: str = ""
    drain_s: float = 0.0
    restarts: int = 0
    since_s: float = 0.0
    process: asyncio.subprocess.Process | None = None
    is_retired: bool = False
    is_starting_up: bool = False  # Present from the start, and not yet known to run.

    @property
    def pid(self) -> int:
        """Return the process id; 0 while there is no process."""
        return (
            self.process.pid if self.process is not None and self.process.returncode is None else 0
        )

    def is_same_as(self, other: "Role") -> bool:
        return (self.name, self.arguments, self.variant) == (
            other.name,
            other.arguments,
            other.variant,
        )


@dataclass
class Supervisor:
    """Runs `roles` in this order, and stops them in the reverse order.

    Args:
        project: folder of the project.
        report_line: called with a role's name and a line that it printed or that is about it.
        desired_roles: returns the roles that should run, in order, or None if nothing has changed
            since the last call.
        on_change: called with all roles whenever one has started or ended.
    """

    project: Path
    roles: list[Role]
    report_line: ReportLine
    desired_roles: Callable[[], list[Role] | None] = lambda: None
    on_change: Callable[[list[Role]], None] = lambda roles: None
    _keeper_tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _status: int = 0

    async def run(self) -> int:
        """Run until SIGINT, SIGTERM, `stop()` or a misconfigured role; return the exit status."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, self.stop)
        for role in self.roles:
            role.is_starting_up = True
            self._start(role)
        while not self._stopping.is_set():
            await self._reconcile()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), POLL_S)
        for role in reversed(self.roles):
            await self._end(role)
        await asyncio.gather(*self._keeper_tasks)
        return self._status

    def stop(self) -> None:
        """End every role and return from `run`."""
        self._stopping.set()

    def _report(self, role: str, line: str) -> None:
        """Report a line; shut down if the reader is gone.

        In `up | tee log` a Ctrl-C may end `tee` first.
        """
        try:
            self.report_line(role, line)
        except (BrokenPipeError, SystemExit):  # `rich` raises the second.
            self.stop()

    def _start(self, role: Role) -> None:
        self._keeper_tasks = [task for task in self._keeper_tasks if not task.done()]
        self._keeper_tasks.append(asyncio.create_task(self._supervise(role)))

    async def _reconcile(self) -> None:
        """Start and end roles until they match the desired ones.

        If the desired roles cannot be determined, that is reported and retried at the next change.
        """
        try:
            desired = self.desired_roles()
        except TailorbirdError as error:
            self._report("up", f"the roles stay as they are: {error}")
            return
        if desired is None:
            return
        unchanged = [
            role for role in self.roles if any(role.is_same_as(other) for other in desired)
        ]
        for role in reversed([role for role in self.roles if role not in unchanged]):
            role.is_retired = True
            await self._end(role)
        self.roles = [
            next((role for role in unchanged if role.is_same_as(other)), other) for other in desired
        ]
        for role in self.roles:
            if role not in unchanged:
                self._start(role)

    async def _supervise(self, role: Role) -> None:
        wait_s = BACKOFF_MIN_S
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set() and not role.is_retired:
            started = loop.time()
            status = await self._run_once(role)
            if self._stopping.is_set() or role.is_retired:
                return
            lifetime_s = loop.time() - started
            role.is_starting_up = role.is_starting_up and lifetime_s <= (
                STARTUP_S if status == EXIT_MISCONFIGURED else STABLE_S
            )
            if status == EXIT_MISCONFIGURED and role.is_starting_up:
                self._report(role.name, "cannot run as it is set up; stopping the others")
                self._status = EXIT_MISCONFIGURED
                self.stop()
                return
            wait_s = BACKOFF_MIN_S if lifetime_s > STABLE_S else min(wait_s * 2, BACKOFF_MAX_S)
            role.restarts += 1
            self._report(
                role.name, f"ended with {_describe(status)}; starting it again in {wait_s:.2g} s"
            )
            try:
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            except TimeoutError:
                continue

    async def _run_once(self, role: Role) -> int:
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        role.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tailorbird",
            "-C",
            str(self.project),
            *role.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        assert role.process.stdout is not None
        self._record_change(role)
        if (
            self._stopping.is_set() or role.is_retired
            # The role was retired while its process was being started, when there was nothing to
            # end yet.
        ):
            role.process.terminate()
        while not role.process.stdout.at_eof():
            try:
                line = await role.process.stdout.readline()
            # The line exceeds the limit of the reader; what was read of it is dropped.
            except ValueError:
                continue
            if line:
                self._report(role.name, line.decode(errors="replace").rstrip())
        status = await role.process.wait()
        self._record_change(role)
        return status

    def _record_change(self, changed: Role) -> None:
        changed.since_s = time.time()
        self.on_change(self.roles)

    async def _end(self, role: Role) -> None:
        process = role.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        wait_s = STOP_S + role.drain_s
        try:
            await asyncio.wait_for(process.wait(), wait_s)
        except TimeoutError:
            self._report(
                role.name, f"did not stop within {wait_s:.0f} s and was killed; its data is safe"
            )
            process.kill()


def die_with_parent() -> None:
    """End this role's process when the supervisor ends, even if that was killed.

    Does nothing without a supervisor.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    end_with_parent(signal.SIGTERM)
    if os.getppid() != int(parent):
        raise SystemExit(0)


def end_with_parent(signal_number: int) -> None:
    """Have the kernel signal this process when its parent ends; does nothing outside Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number)


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
