"""Runs the roles of a project as processes: starts, restarts and stops them.

The set of roles may change while it runs. The supervisor polls the desired roles, starts new ones,
ends removed ones, and replaces changed ones. The others are not disturbed.

A role that dies repeatedly is restarted with a growing delay (up to `BACKOFF_MAX_S`). A role that
exits with `EXIT_MISCONFIGURED` during startup ends the supervisor, since a restart cannot help.
Later, when other roles serve already, such a role is retried instead. A role that makes no progress
is killed and restarted (`watching`).

Servers start first, on a listening socket that the supervisor holds, and outlive it: they answer
until the next supervisor has servers of its own. Its processes start one after another, since
loading the code of all at once would leave little of the CPU to the old servers. Every other role
ends with the supervisor: it asks the kernel for a SIGTERM when its parent dies, and exits if that
has happened already.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tailorbird.config.roles import RECENT_S, Restart
from tailorbird.errors import TailorbirdError
from tailorbird.platform.runtime.leftovers import (
    PARENT_VARIABLE,
    Leftover,
    end_leftovers,
    find_leftovers,
)
from tailorbird.platform.runtime.watching import HUNG_S, ProgressWatch
from tailorbird.probes import HEARTBEAT_VARIABLE
from tailorbird.serving.sockets import LISTENER_VARIABLE

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 15.0
POLL_S = 0.5  # Between polls of the desired roles.
STABLE_S = 2.5  # A role that ran for this long is restarted without a growing delay.
# A role that ended so often within this time waits longer.
STORM_WINDOW_S = 60.0
STORM_DEATHS = 5
SERVERS_FIRST_S = 20.0  # Time for the servers to start before the other roles.
ROLE_START_S = 5.0  # Time for a role to start before the next one.
STOP_TIMEOUT_S = 10.0  # In addition to the drain time of the role.
STARTUP_TIMEOUT_S = 60.0  # To load the code on a busy machine, and to see that a role cannot run.
# Exit status for an invalid setting, declaration or option, which a restart cannot fix.
EXIT_MISCONFIGURED = 2


ReportLine = Callable[[str, str], None]


@dataclass(eq=False)
class Role:
    """A role as the supervisor sees it; other arguments or another `variant` make another role.

    Attributes:
        variant: declarations that only a new process reads, such as the router's attributes.
        drain_s: how long the role may continue after it was told to stop.
        listener: the socket that a server accepts from; None for other roles.
        hung_s: how long the role may make no progress.
        since_s: when its process started or the last one ended, in seconds since 1970.
    """

    name: str
    arguments: list[str]
    variant: str = ""
    drain_s: float = 0.0
    listener: socket.socket | None = None
    hung_s: float = HUNG_S
    restart_count: int = 0
    hang_count: int = 0  # Restarts because it made no progress.
    recent_restarts: list[Restart] = field(default_factory=list)  # Within `RECENT_S`.
    hang_reason: str = ""  # Why it was killed.
    since_s: float = 0.0
    progress_watch: ProgressWatch | None = None
    last_line: str = ""
    process: asyncio.subprocess.Process | None = None
    is_retired: bool = False
    is_starting_up: bool = False  # Present from the start, and not yet known to run.

    @property
    def pid(self) -> int:
        """Return the process id; 0 while there is no process."""
        return (
            self.process.pid if self.process is not None and self.process.returncode is None else 0
        )

    @property
    def is_ready(self) -> bool:
        """Return whether its main loop runs; that of a server answers requests."""
        return bool(self.pid) and self.progress_watch is not None and self.progress_watch.has_begun

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
        take_over: called once the servers answer, to end the supervisor that ran until then;
            returns a notice for the user, or "".
        on_reload: called on SIGUSR2, to run new code in this process; it does not return.
        on_ready: called once all servers answer.
        on_tick: called every `POLL_S` / 2 seconds.
    """

    project: Path
    roles: list[Role]
    report_line: ReportLine
    desired_roles: Callable[[], list[Role] | None] = lambda: None
    on_change: Callable[[list[Role]], None] = lambda roles: None
    take_over: Callable[[], Awaitable[str]] | None = None
    on_reload: Callable[[], NoReturn] | None = None
    on_ready: Callable[[], None] = lambda: None
    on_tick: Callable[[], None] = lambda: None
    _role_tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stop_event: asyncio.Event = field(default_factory=asyncio.Event)
    _exit_status: int = 0
    _old_servers_answer: bool = False

    async def run(self) -> int:
        """Run until a signal, `stop()` or a misconfigured role; return the exit status."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signal_number, self.stop)
        if self.on_reload is not None:
            loop.add_signal_handler(signal.SIGUSR2, self.on_reload)
        for role in self.roles:
            role.is_starting_up = True
        servers = [role for role in self.roles if role.listener is not None]
        leftovers = find_leftovers(self.project, ())
        self._old_servers_answer = self.take_over is not None or any(
            leftover.is_server for leftover in leftovers
        )
        tick_task = asyncio.create_task(self._watch_roles())
        try:
            await self._start_roles(servers)
            await self._start_others(servers, leftovers)
            while not self._stop_event.is_set():
                await self._reconcile()
                await self._sleep(POLL_S)
            for role in reversed(self.roles):
                if role.listener is None:
                    await self._end_role(role)
            servers = [role for role in self.roles if role.listener is not None]
            await asyncio.gather(*(self._end_role(role) for role in servers))
            if not self._exit_status:  # It was stopped before it had ended those of an earlier one.
                await end_leftovers(find_leftovers(self.project, ()), STOP_TIMEOUT_S)
        finally:
            tick_task.cancel()
        await asyncio.gather(*self._role_tasks)
        return self._exit_status

    async def _start_others(self, servers: list[Role], leftovers: list[Leftover]) -> None:
        """Start the other roles once a server answers, and end those of an earlier supervisor."""
        if leftovers:
            self._report("up", f"takes over from an earlier one: {len(leftovers)} processes")
        old_servers = [leftover for leftover in leftovers if leftover.is_server]
        await end_leftovers(
            [leftover for leftover in leftovers if not leftover.is_server], STOP_TIMEOUT_S
        )
        any_or_all, wait_s = (all, STARTUP_TIMEOUT_S) if self.take_over else (any, SERVERS_FIRST_S)
        await self._wait_for(lambda: any_or_all(role.is_ready for role in servers), wait_s)
        if self.take_over is not None and not self._stop_event.is_set():
            if not all(role.is_ready for role in servers):
                self._report("up", f"no answer within {wait_s:.0f} s; the old processes go on")
                self._exit_status = 1
                self.stop()
                return
            if notice := await self.take_over():
                self._report("up", notice)
            # The servers of one that was killed go on.
            leftovers = find_leftovers(self.project, [role.pid for role in servers])
            old_servers = [leftover for leftover in leftovers if leftover.is_server]
            await end_leftovers(
                [leftover for leftover in leftovers if not leftover.is_server], STOP_TIMEOUT_S
            )
        if self._stop_event.is_set():
            return
        self._role_tasks.append(asyncio.create_task(self._finish_start(servers, old_servers)))
        await self._start_roles([role for role in self.roles if role not in servers])

    async def _start_roles(self, roles: list[Role]) -> None:
        """Start roles; while servers of an earlier supervisor answer, one after another."""
        for role in roles:
            if self._stop_event.is_set():
                return
            self._start(role)
            if self._old_servers_answer:
                await self._wait_for(lambda role=role: role.is_ready, ROLE_START_S)

    async def _finish_start(self, servers: list[Role], old_servers: list[Leftover]) -> None:
        await self._wait_for(lambda: all(role.is_ready for role in servers), STARTUP_TIMEOUT_S)
        if self._stop_event.is_set():
            return
        self.on_ready()
        if servers:
            await end_leftovers(old_servers, STOP_TIMEOUT_S + servers[0].drain_s)

    async def _wait_for(self, condition: Callable[[], bool], wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while not (self._stop_event.is_set() or condition() or time.monotonic() > deadline):
            await self._sleep(0.05)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop_event.wait(), seconds)

    async def _watch_roles(self) -> None:
        """Kill the roles that hang, which `_supervise` then restarts."""
        while True:
            for role in self.roles:
                if role.progress_watch is not None and role.pid and role.progress_watch.is_hung():
                    role.hang_reason = role.progress_watch.describe()
                    self._report(role.name, f"{role.hang_reason}; it is killed")
                    role.hang_count += 1
                    role.progress_watch = None  # A large process dies slowly; it hung once.
                    with suppress(ProcessLookupError):
                        os.killpg(role.pid, signal.SIGKILL)
            self.on_tick()
            await asyncio.sleep(POLL_S / 2)

    def stop(self) -> None:
        """End every role and return from `run`."""
        self._stop_event.set()

    def _report(self, role: str, line: str) -> None:
        """Report a line; shut down if the reader is gone.

        In `up | tee log` a Ctrl-C may end `tee` first.
        """
        try:
            self.report_line(role, line)
        except (BrokenPipeError, SystemExit):  # `rich` raises the second.
            self.stop()

    def _start(self, role: Role) -> None:
        self._role_tasks = [task for task in self._role_tasks if not task.done()]
        self._role_tasks.append(asyncio.create_task(self._supervise(role)))

    async def _reconcile(self) -> None:
        """Start and end roles until they match the desired ones.

        If the desired roles cannot be determined, that is reported and retried at the next change.
        """
        try:
            desired_roles = self.desired_roles()
        except TailorbirdError as error:
            self._report("up", f"the roles stay as they are: {error}")
            return
        if desired_roles is None:
            return
        unchanged_roles = [
            role for role in self.roles if any(role.is_same_as(other) for other in desired_roles)
        ]
        for role in reversed([role for role in self.roles if role not in unchanged_roles]):
            role.is_retired = True
            await self._end_role(role)
        self.roles = [
            next((role for role in unchanged_roles if role.is_same_as(other)), other)
            for other in desired_roles
        ]
        for role in self.roles:
            if role not in unchanged_roles:
                self._start(role)

    async def _supervise(self, role: Role) -> None:
        delay_s = BACKOFF_MIN_S
        loop = asyncio.get_running_loop()
        while not self._stop_event.is_set() and not role.is_retired:
            started_at = loop.time()
            status = await self._run_once(role)
            if self._stop_event.is_set() or role.is_retired:
                return
            lifetime_s = loop.time() - started_at
            role.is_starting_up = role.is_starting_up and lifetime_s <= (
                STARTUP_TIMEOUT_S if status == EXIT_MISCONFIGURED else STABLE_S
            )
            if status == EXIT_MISCONFIGURED and role.is_starting_up:
                self._report(role.name, "cannot run as it is set up; stopping the others")
                self._exit_status = EXIT_MISCONFIGURED
                self.stop()
                return
            delay_s = BACKOFF_MIN_S if lifetime_s > STABLE_S else min(delay_s * 2, BACKOFF_MAX_S)
            delay_s, storm_note = _record_restart(role, status, delay_s)
            self._report(
                role.name,
                f"ended with {_describe_exit(status)}; starting it again in {delay_s:.2g} "
                f"s{storm_note}",
            )
            await self._sleep(delay_s)

    async def _run_once(self, role: Role) -> int:
        read_end, write_end = os.pipe()
        environment = {
            **os.environ,
            PARENT_VARIABLE: str(os.getpid()),
            HEARTBEAT_VARIABLE: str(write_end),
            "PYTHONUNBUFFERED": "1",
        }
        passed_descriptors = [write_end]
        if role.listener is not None:
            environment[LISTENER_VARIABLE] = str(role.listener.fileno())
            passed_descriptors.append(role.listener.fileno())
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
            pass_fds=passed_descriptors,
        )
        os.close(write_end)
        progress_watch = role.progress_watch = ProgressWatch(
            read_end, role.process.pid, hung_s=role.hung_s, counts_work=role.listener is None
        )
        assert role.process.stdout is not None
        self._record_change(role)
        if (
            self._stop_event.is_set() or role.is_retired
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
                role.last_line = line.decode(errors="replace").rstrip()
                self._report(role.name, role.last_line)
        status = await role.process.wait()
        role.progress_watch = None
        progress_watch.close()
        self._record_change(role)
        return status

    def _record_change(self, changed_role: Role) -> None:
        changed_role.since_s = time.time()
        self.on_change(self.roles)

    async def _end_role(self, role: Role) -> None:
        process = role.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        wait_s = STOP_TIMEOUT_S + role.drain_s
        try:
            await asyncio.wait_for(process.wait(), wait_s)
        except TimeoutError:
            self._report(
                role.name, f"did not stop within {wait_s:.0f} s and was killed; its data is safe"
            )
            process.kill()


def _record_restart(role: Role, status: int, delay_s: float) -> tuple[float, str]:
    """Return a longer wait for a role that ends again and again, and what it said last."""
    restart = Restart(time.time(), role.hang_reason or f"ended with {_describe_exit(status)}")
    role.restart_count = role.restart_count + 1
    role.hang_reason = ""
    role.recent_restarts = [
        earlier for earlier in role.recent_restarts if restart.at_s - earlier.at_s < RECENT_S
    ] + [restart]
    recent_deaths = sum(
        restart.at_s - earlier.at_s < STORM_WINDOW_S for earlier in role.recent_restarts
    )
    if recent_deaths < STORM_DEATHS:
        return delay_s, ""
    delay_s = min(max(delay_s, BACKOFF_MIN_S * 2 ** (recent_deaths - 3)), BACKOFF_MAX_S)
    last_line_note = f"; it said last: {role.last_line}" if role.last_line else ""
    return delay_s, f" ({recent_deaths} times within {STORM_WINDOW_S:.0f} s{last_line_note})"


def _describe_exit(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
