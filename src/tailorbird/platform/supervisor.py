"""Keeps the roles of a project running as processes: starts them, restarts one that dies, stops
them in order.

Which roles there are may change while it runs: it asks now and then, starts what is new, ends what
is no longer wanted, and replaces what is wanted otherwise; the others go on undisturbed.

A role that dies again and again is started less and less often (up to `BACKOFF_MAX_S`), and said
so; one that ends with `REFUSED` at the start, since it was asked for something that cannot be, ends
all. Later, when the others serve already, a setting or a declaration that was broken meanwhile is
no reason to end them: the role is tried again. A role never outlives the supervisor: each child
asks the kernel for a SIGTERM when its parent dies, and exits if that has happened already.
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
LOOK_S = 0.5  # between looks at which roles are wanted
STABLE_S = 2.5  # a role that lived this long starts again at once
STOP_S = 10.0  # and as long as the role drains
FOUND_OUT_S = 60.0  # on a busy machine, to load its code and find out that it cannot run
REFUSED = 2  # exit status of a wrong setting, declaration or option: starting again would not help
PARENT_VARIABLE = "TAILORBIRD_PARENT"

_PR_SET_PDEATHSIG = 1

Say = Callable[[str, str], None]


@dataclass(eq=False)
class Role:
    """A role as the supervisor sees it. One that is wanted with other arguments, or `made_for`
    something else, is another.

    Attributes:
        drain_s: how long it goes on, as it should, when it was told to stop.
        since_s: when its process was started, or the last one ended, in seconds since 1970.
    """

    name: str
    arguments: list[str]
    made_for: str = ""
    drain_s: float = 0.0
    restarts: int = 0
    since_s: float = 0.0
    process: asyncio.subprocess.Process | None = None
    retired: bool = False
    founding: bool = False  # there from the start, and not yet known to run

    @property
    def pid(self) -> int:
        """Return the number of its process; 0 while there is none."""
        return (
            self.process.pid if self.process is not None and self.process.returncode is None else 0
        )

    def same(self, other: "Role") -> bool:
        return (self.name, self.arguments, self.made_for) == (
            other.name,
            other.arguments,
            other.made_for,
        )


@dataclass
class Supervisor:
    """Runs `roles`, in this order, and stops them in the reverse order.

    Args:
        project: the folder of the project.
        say: called with a role's name and a line that it printed or that is about it.
        wanted: the roles that there should be, in order, or None where nothing has changed since it
            was last asked.
        note: told of the roles as they are, whenever one was started or has ended.
    """

    project: Path
    roles: list[Role]
    say: Say
    wanted: Callable[[], list[Role] | None] = lambda: None
    note: Callable[[list[Role]], None] = lambda roles: None
    _keepers: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _status: int = 0

    async def run(self) -> int:
        """Run until SIGINT, SIGTERM, `stop()` or a role that cannot run at all; when all have
        ended, the status to exit with.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        for role in self.roles:
            role.founding = True
            self._start(role)
        while not self._stopping.is_set():
            await self._look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), LOOK_S)
        for role in reversed(self.roles):
            await self._end(role)
        await asyncio.gather(*self._keepers)
        return self._status

    def stop(self) -> None:
        """End every role and return from `run`."""
        self._stopping.set()

    def _tell(self, role: str, line: str) -> None:
        """Say it; where nobody reads any more, end in order: of `up | tee log`, a Ctrl-C may end
        `tee` first.
        """
        try:
            self.say(role, line)
        except (BrokenPipeError, SystemExit):  # the second is how `rich` says it
            self.stop()

    def _start(self, role: Role) -> None:
        self._keepers = [task for task in self._keepers if not task.done()]
        self._keepers.append(asyncio.create_task(self._keep(role)))

    async def _look(self) -> None:
        """Become what is wanted. What cannot be found out now is said, and looked at again when it
        has changed.
        """
        try:
            wanted = self.wanted()
        except TailorbirdError as error:
            self._tell("up", f"the roles stay as they are: {error}")
            return
        if wanted is None:
            return
        kept = [role for role in self.roles if any(role.same(other) for other in wanted)]
        for role in reversed([role for role in self.roles if role not in kept]):
            role.retired = True
            await self._end(role)
        self.roles = [next((role for role in kept if role.same(other)), other) for other in wanted]
        for role in self.roles:
            if role not in kept:
                self._start(role)

    async def _keep(self, role: Role) -> None:
        wait = BACKOFF_MIN_S
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set() and not role.retired:
            started = loop.time()
            status = await self._run_once(role)
            if self._stopping.is_set() or role.retired:
                return
            lived = loop.time() - started
            role.founding = role.founding and lived <= (
                FOUND_OUT_S if status == REFUSED else STABLE_S
            )
            if status == REFUSED and role.founding:
                self._tell(role.name, "cannot run as it is set up; stopping the others")
                self._status = REFUSED
                self.stop()
                return
            wait = BACKOFF_MIN_S if lived > STABLE_S else min(wait * 2, BACKOFF_MAX_S)
            role.restarts += 1
            self._tell(
                role.name, f"ended with {_describe(status)}; starting it again in {wait:.2g} s"
            )
            try:
                await asyncio.wait_for(self._stopping.wait(), wait)
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
        self._noted(role)
        if (
            self._stopping.is_set() or role.retired
        ):  # while it was being started, when there was nothing to end yet
            role.process.terminate()
        while not role.process.stdout.at_eof():
            try:
                line = await role.process.stdout.readline()
            except ValueError:  # longer than a line may be; what was read of it is dropped
                continue
            if line:
                self._tell(role.name, line.decode(errors="replace").rstrip())
        status = await role.process.wait()
        self._noted(role)
        return status

    def _noted(self, changed: Role) -> None:
        changed.since_s = time.time()
        self.note(self.roles)

    async def _end(self, role: Role) -> None:
        process = role.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        wait_s = STOP_S + role.drain_s
        try:
            await asyncio.wait_for(process.wait(), wait_s)
        except TimeoutError:
            self._tell(role.name, f"did not stop within {wait_s:.0f} s; killed, which it survives")
            process.kill()


def die_with_parent() -> None:
    """In a role's process: end when the supervisor does, even when that was killed. Nothing without
    a supervisor.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    end_with_parent(signal.SIGTERM)
    if os.getppid() != int(parent):
        raise SystemExit(0)


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends; nothing where the system is
    not Linux.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
