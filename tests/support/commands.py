"""The real command line in processes of its own, and a small shop that was simulated, imported and
trained.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

EXAMPLE_USER = "u000001"


def environment(**overrides: str) -> dict[str, str]:
    """Return the environment without the settings of another project."""
    inherited_variables = {
        name: value for name, value in os.environ.items() if not name.startswith("TAILORBIRD_")
    }
    return {**inherited_variables, "COLUMNS": "200", **overrides}


class Forks:
    """The program that loads what commands load, and forks each command of a process of tests."""

    def __init__(self) -> None:
        self._connection, child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = [sys.executable, "-m", "tests.support.programs.command_forks"]
        with child_socket:
            self._process = subprocess.Popen(
                [*program, str(child_socket.fileno())],
                cwd=Path(__file__).parents[2],
                env=environment(),
                pass_fds=[child_socket.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._process.wait(60)

    def run(
        self, command: list[str], stdin: str, cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m tailorbird` with its words to its end."""
        request = {"words": command[3:], "cwd": str(cwd.absolute()), "env": env}
        with (
            TemporaryFile("w+") as stdin_file,
            TemporaryFile("w+") as stdout_file,
            TemporaryFile("w+") as stderr_file,
        ):
            stdin_file.write(stdin)
            stdin_file.seek(0)
            fds = [stdin_file.fileno(), stdout_file.fileno(), stderr_file.fileno()]
            socket.send_fds(self._connection, [json.dumps(request).encode()], fds)
            child = json.loads(self._connection.recv(64))
            self._connection.settimeout(timeout)
            try:
                status = json.loads(self._connection.recv(64))
            except TimeoutError:
                os.kill(child, signal.SIGKILL)
                status = None
            self._connection.settimeout(None)
            if status is None:
                self._connection.recv(64)
                raise subprocess.TimeoutExpired(command, timeout)
            stdout_file.seek(0)
            stderr_file.seek(0)
            return subprocess.CompletedProcess(
                command, status, stdout_file.read(), stderr_file.read()
            )


@cache
def open_forks(_process: int) -> Forks:
    """Return the program of a process, which ends with it."""
    return Forks()


def tailorbird(
    *arguments: object,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    stdin: str = "",
    timeout: float = 1_200,
    fork: bool = not os.environ.get("NIGHTLY"),
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in a process of its own. It loads its modules itself only in
    `make nightly`, where `fork` is false, and where there is no Linux.
    """
    command = [sys.executable, "-m", "tailorbird", *(str(word) for word in arguments)]
    if fork and sys.platform == "linux":
        full_environment = environment(**(env or {}))
        return open_forks(os.getpid()).run(
            command, stdin, cwd or Path.cwd(), full_environment, timeout
        )
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
        input=stdin,
    )


def run_each(
    commands: Sequence[Sequence[str]], *, cwd: Path
) -> list[subprocess.CompletedProcess[str]]:
    """Run commands one after another; what is returned has their own arguments alone."""
    results = []
    for arguments in commands:
        completed = tailorbird(*arguments, cwd=cwd)
        results.append(
            subprocess.CompletedProcess(
                list(arguments), completed.returncode, completed.stdout, completed.stderr
            )
        )
    return results


def must(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command that must succeed, and return its output."""
    completed = tailorbird(*arguments, cwd=cwd, env=env)
    assert completed.returncode == 0, f"{arguments}: {completed.stdout}\n{completed.stderr}"
    return completed.stdout


def must_json(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> Any:
    """Run a command that must succeed, and return its JSON object."""
    return json.loads(must(*arguments, "--json", cwd=cwd, env=env))


def assert_refused(
    completed: subprocess.CompletedProcess[str], *expected: str, status: int | None = None
) -> None:
    """Assert that a command said exactly one sentence on stderr, perhaps with a remedy, and no
    traceback.
    """
    lines = [line for line in completed.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert "Traceback" not in completed.stderr + completed.stdout, completed.stderr
    assert completed.returncode not in (0, None), completed.stdout
    assert status is None or completed.returncode == status, completed.stderr
    assert len(errors) == 1, completed.stderr
    assert all(line.startswith(("error: ", "  fix: ")) for line in lines), completed.stderr
    for text in expected:
        assert text in completed.stderr, completed.stderr


def with_experiment(slots: str) -> str:
    """Return the template's slots with its commented-out experiment enabled."""
    return slots.replace("# from tailorbird.experiments", "from tailorbird.experiments").replace(
        "# experiment=", "experiment="
    )


def make_shop(folder: Path) -> Path:
    """Create a project with six days of history, a live model, and the experiment of slots.py."""
    must("init", folder)
    slots = folder / "slots.py"
    slots.write_text(with_experiment(slots.read_text()))
    must(
        "-C",
        folder,
        "simulate",
        "--days",
        6,
        "--users",
        300,
        "--items",
        120,
        "--out",
        folder / "history.jsonl",
    )
    must("-C", folder, "import", "tailorbird", folder / "history.jsonl")
    version = must_json("-C", folder, "train", "--quick")["version"]
    must(
        "-C",
        folder,
        "models",
        "promote",
        version,
        "--why",
        "small on purpose, so the gate may not like it",
    )
    return folder


def make_small_shop(folder: Path) -> Path:
    """Create a project with five days of a simulated shop in its lake."""
    must("init", folder)
    must(
        "-C",
        folder,
        "simulate",
        "--days",
        5,
        "--users",
        500,
        "--items",
        120,
        "--out",
        folder / "history.jsonl",
    )
    must("-C", folder, "import", "tailorbird", folder / "history.jsonl")
    return folder
