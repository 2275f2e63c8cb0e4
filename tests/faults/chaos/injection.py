"""Runs a step of a role in a child watched by strace: killed, refused or stopped at its Nth call.

The parent imports everything once and never opens a lake, a store or a log itself. A child is a
fork of it, so that a fault costs a fraction of a second instead of a start of Python. The child's
acknowledgements come over a socket, whose `sendto` no fault touches: the messages received before
the child died are the ledger, and it stands outside.

strace counts by system call and by thread: "the 3rd fdatasync" is the first one that is any
thread's third.
"""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailorbird.errors import DamageError, StorageError

SYNCS = ("fsync", "fdatasync")
WRITES = (
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "ftruncate",
    "rename",
    "link",
    "unlink",
    "mkdir",
)
CHANGES = (*SYNCS, *WRITES)  # whatever changes a file, or makes it last
ACK = "sendto"
DEADLINE_S = 60

STRACE = shutil.which("strace")
WHY_NOT = (
    "faults are injected on Linux only"
    if sys.platform != "linux"
    else "no strace here (Debian: apt-get install strace)"
    if STRACE is None
    else "strace may not attach to a process here: be root"
    if os.geteuid() != 0
    else ""
)


@dataclass(frozen=True)
class Injection:
    """The fault at the `when`-th `call`, in strace's syntax.

    Such as `signal=KILL`, `signal=STOP`, `error=EIO` or `retval=24`.
    """

    call: str
    what: str
    when: str  # "3", or "3+" for it and all that follow

    def __str__(self) -> str:
        return f"{self.call} {self.when}: {self.what}"


@dataclass
class Outcome:
    """The end of a child, and its messages until then.

    Attributes:
        status: exit status, or minus the signal.
        told: its acknowledgements, in order.
        error: the reason, if it failed by itself.
        alarms: its critical log messages, or final error, about a corrupt file.
        calls: lines of the trace, if one was kept.
    """

    status: int
    reports: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    alarms: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Tell:
    """Sends a step's reports to the outer ledger; a report is durable once the call returns."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def __call__(self, **fields: Any) -> None:
        self._channel.send(json.dumps(fields).encode())


class _Alarm(logging.Handler):
    """Sends critical log messages to the outside."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__(logging.CRITICAL)
        self._channel = channel

    @classmethod
    def install(cls, channel: socket.socket) -> None:
        """Add the handler in a child, which has no other handlers."""
        logging.getLogger("tailorbird").addHandler(cls(channel))

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._channel.send(json.dumps({"alarm": record.getMessage()[:1_000]}).encode())


Step = Callable[[Tell], None]


class Child:
    """A fork that waits at a gate until it is watched, and then runs its step."""

    def __init__(self, step: Step, log: Path, deadline_s: int = DEADLINE_S) -> None:
        self._parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._parent_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sys.stdout.flush()
        sys.stderr.flush()
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            self._be_child(step, child_end, deadline_s)
        child_end.close()
        self._strace: subprocess.Popen | None = None

    def _be_child(self, step: Step, channel: socket.socket, deadline_s: int) -> None:
        status = 70
        try:
            self._parent_end.close()
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.alarm(deadline_s)
            channel.recv(1)
            _Alarm.install(channel)
            step(Tell(channel))
            status = 0
        except BaseException as error:
            traceback.print_exc()
            with suppress(OSError):
                channel.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
                if isinstance(error, DamageError | StorageError) and error.where:
                    channel.send(json.dumps({"alarm": str(error)}).encode())
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # no exit handlers: they are the parent's

    def watch(
        self, *injections: Injection, trace: Path | None = None, calls: tuple[str, ...] = ()
    ) -> None:
        """Attach strace, and return once it watches."""
        names = {injection.call for injection in injections} | set(calls)
        command = [
            STRACE or "strace",
            "-f",
            "-qq",
            "-y",
            "-s",
            "64",
            "-o",
            str(trace or "/dev/null"),
            "-e",
            f"trace={','.join(sorted(names))}",
        ]
        for fault in injections:
            command += ["-e", f"inject={fault.call}:{fault.what}:when={fault.when}"]
        self._strace = subprocess.Popen(
            [*command, "-p", str(self.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 10
        while _tracer(self.pid) == 0:
            if time.monotonic() > give_up or self._strace.poll() is not None:
                os.kill(self.pid, signal.SIGKILL)
                raise RuntimeError("strace did not attach")
            time.sleep(0.001)

    def go(self) -> None:
        self._parent_end.send(b"!")

    def stopped(self, trace: Path) -> bool:
        """Return True if every thread stands still, as strace wrote into `trace`.

        The state in /proc is the same during any traced call, so it cannot tell.
        """
        stopped = {
            line.split()[0]
            for line in trace.read_text(errors="replace").splitlines()
            if "stopped by SIGSTOP" in line
        }
        threads = {task.name for task in Path(f"/proc/{self.pid}/task").iterdir()}
        return bool(stopped) and threads <= stopped

    def ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def received(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that were not yet read."""
        while True:
            try:
                message = self._parent_end.recv(1 << 20, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionResetError):
                return
            if not message:
                return
            yield json.loads(message)

    def wait(self, trace: Path | None = None) -> Outcome:
        _, raw = os.waitpid(self.pid, 0)
        outcome = Outcome(os.waitstatus_to_exitcode(raw))
        if self._strace is not None:
            self._strace.wait(20)
        for message in self.received():
            if "error" in message:
                outcome.error = message["error"]
            elif "alarm" in message:
                outcome.alarms.append(message["alarm"])
            else:
                outcome.reports.append(message)
        self._parent_end.close()
        if trace is not None and trace.exists():
            outcome.calls = trace.read_text(errors="replace").splitlines()
        return outcome


def run(
    step: Step,
    log: Path,
    *injections: Injection,
    trace: Path | None = None,
    calls: tuple[str, ...] = (),
    deadline_s: int = DEADLINE_S,
) -> Outcome:
    """Run a step to its end in a child, whatever happens to it there."""
    child = Child(step, log, deadline_s)
    if injections or trace is not None:
        child.watch(*injections, trace=trace, calls=calls)
    child.go()
    return child.wait(trace)


@dataclass(frozen=True, order=True)
class Point:
    """A place for a fault: some thread's `number`-th `call`, and its undisturbed result."""

    call: str
    number: int
    result: int = 0


def points(
    step: Step, log: Path, trace: Path, folder: Path, calls: tuple[str, ...] = CHANGES
) -> list[Point]:
    """Return all points of an undisturbed step whose calls concern a file in a folder, or the
    ledger.
    """
    outcome = run(step, log, trace=trace, calls=(*calls, ACK))
    if outcome.status != 0:
        raise AssertionError(f"the step fails without a fault: {outcome.error}; see {log}")
    call_counts: Counter[tuple[str, str]] = Counter()
    points_by_call: dict[tuple[str, int], Point] = {}
    for line in outcome.calls:
        thread, _, call = line.partition(" ")
        name = call.strip().partition("(")[0]
        if name not in (*calls, ACK):
            continue
        call_counts[thread, name] += 1
        if name == ACK or str(folder) in call:
            returned = call.rpartition("= ")[2].split()
            result = int(returned[0]) if returned and returned[0].isdigit() else 0
            points_by_call.setdefault(
                (name, call_counts[thread, name]), Point(name, call_counts[thread, name], result)
            )
    return sorted(points_by_call.values())


def _tracer(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    return 0
