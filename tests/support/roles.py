"""A project run by `tailorbird up` as a user runs it, with processes that a test can kill."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.network.ports import free_port

from tailorbird.cli.init import init
from tailorbird.config import Project, open_project

ROLES = ("router", "worker", "lake", "serve", "trainer")  # all that `up` runs


def make_project(folder: Path) -> Project:
    init(folder, json=True)
    return open_project(folder)


class Up:
    """`tailorbird up` on a project, by default without the trainer, which takes long to start."""

    def __init__(
        self,
        project: Project,
        *,
        faults: str = "",
        train: bool = False,
        port: int = 0,
        options: Sequence[str] = (),
    ) -> None:
        self.project, self.port = project, port or free_port()
        self.log = project.root / "up.log"
        command = [
            sys.executable,
            "-m",
            "tailorbird",
            "-C",
            str(project.root),
            "up",
            "--port",
            str(self.port),
        ]
        if not train:
            command.append("--no-train")
        command += options
        environment = {**os.environ, **({"TAILORBIRD_FAULTS": faults} if faults else {})}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def wait(self, deadline_s: float = 60) -> "Up":
        until(self.answers, deadline_s, f"no answer on port {self.port}; see {self.log}")
        return self

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/readyz", timeout=2
            ) as response:
                return response.status == 200
        except OSError:
            return False

    def metrics(self) -> str:
        """Return the metrics of all servers."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/metrics", timeout=20
        ) as response:
            return response.read().decode()

    def pids(self, role: str) -> list[int]:
        """Return the processes of a role, those included that another `up` left behind.

        A number after the role picks a part: "worker 1".
        """
        name, _, part = role.partition(" ")
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                {b"run", name.encode(), os.fsencode(self.project.root)} <= set(arguments)
                and (folder / "stat").read_text().rpartition(") ")[2][0] != "Z"
                and (not part or b"--part\0" + part.encode() in b"\0".join(arguments))
            ):
                pids.append(int(folder.name))
        return sorted(pids)

    def pid(self, role: str) -> int | None:
        """Return the pid of a role's process; None if there is none.

        If there are several of a kind, it is any of them.
        """
        return next(iter(self.pids(role)), None)

    def kill(self, role: str) -> None:
        """Kill a process of a role with `kill -9`, and return once another one is in its place."""
        until(lambda: bool(self.pids(role)), 60, f"{role} does not run; see {self.log}")
        pids_before = self.pids(role)
        os.kill(pids_before[0], signal.SIGKILL)
        until(
            lambda: bool(set(self.pids(role)) - set(pids_before)),
            60,
            f"{role} was not started again; see {self.log}",
        )

    def kill_all(self) -> None:
        """End `up` and every process of its roles at once, as a power cut would."""
        self.process.kill()
        self.process.wait()
        for role in ROLES:
            for pid in self.pids(role):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        until(lambda: not any(self.pids(role) for role in ROLES), 60, "a process cannot be killed")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


def until(
    condition: Callable[[], bool], deadline_s: float, failure_message: str | Callable[[], str]
) -> None:
    """Poll for a condition."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, (
            failure_message if isinstance(failure_message, str) else failure_message()
        )
        time.sleep(0.02)
