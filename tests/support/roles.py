"""A project run by `tailorbird up` as a user runs it, with processes that a test can kill."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
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

    def __init__(self, project: Project, *, faults: str = "", train: bool = False) -> None:
        self.project, self.port = project, free_port()
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

    def pid(self, role: str) -> int | None:
        """Return the pid of a role's process, found among the children of `up`; None if there is
        none.

        If there are several of a kind, it is any of them; a number after the role picks a part:
        "worker 1".
        """
        name, _, part = role.partition(" ")
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except (OSError, IndexError, ValueError):
                continue
            if (
                parent == self.process.pid
                and b"run" in words
                and name.encode() in words
                and (not part or b"--part\0" + part.encode() in b"\0".join(words))
            ):
                return int(folder.name)
        return None

    def kill(self, role: str) -> None:
        """Kill a role with `kill -9`, and return once another process has taken its place."""
        until(lambda: self.pid(role) is not None, 60, f"{role} does not run; see {self.log}")
        victim = self.pid(role)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        until(
            lambda: self.pid(role) not in (None, victim),
            60,
            f"{role} was not started again; see {self.log}",
        )

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


def until(
    condition: Callable[[], bool], deadline_s: float, otherwise: str | Callable[[], str]
) -> None:
    """Poll for a condition."""
    give_up = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(0.02)
