"""The real command line in a process of its own, and a small shop that was simulated, imported and
trained.
"""

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
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("TAILORBIRD_")
    }
    return {**inherited, "COLUMNS": "200", **overrides}


class Forks:
    """The program that loads what commands load, and forks each command of a process of tests."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = [sys.executable, "-m", "tests.support.programs.command_forks"]
        with theirs:
            subprocess.Popen(
                [*program, str(theirs.fileno())],
                cwd=Path(__file__).parents[2],
                env=environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def run(
        self, command: list[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m tailorbird` with its words to its end."""
        request = {"words": command[3:], "cwd": str(cwd.absolute()), "env": env}
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
            fds = [out.fileno(), err.fileno()]
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
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, status, out.read(), err.read())


@cache
def forks(_process: int) -> Forks:
    """Return the program of a process, which ends with it."""
    return Forks()


def tailorbird(
    *words: object,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 1_200,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in a process of its own. Only in `make nightly`, and where there
    is no Linux, does it load its modules itself.
    """
    command = [sys.executable, "-m", "tailorbird", *(str(word) for word in words)]
    if sys.platform == "linux" and not os.environ.get("TAILORBIRD_NIGHTLY"):
        whole = environment(**(env or {}))
        return forks(os.getpid()).run(command, cwd or Path.cwd(), whole, timeout)
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


_EACH = """
import json, os, runpy, sys
import tailorbird.cli.main, tailorbird.config, tailorbird.features  # once for all
for number, words in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[2]}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = ["tailorbird", *words]
        runpy.run_module("tailorbird", run_name="__main__")
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(f"{sys.argv[2]}/{number}.status", "w") as file:
        file.write(str(status))
"""


def each(
    commands: Sequence[Sequence[str]], folder: Path, *, cwd: Path
) -> list[subprocess.CompletedProcess[str]]:
    """Run commands one after another, each in a process of its own that need not load what all of
    them load; `folder` is empty.
    """
    program = [
        sys.executable,
        "-c",
        _EACH,
        json.dumps([list(words) for words in commands]),
        str(folder),
    ]
    subprocess.run(
        program, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, timeout=1_200, check=True
    )
    results = []
    for number, words in enumerate(commands):
        status, out, err = (
            (folder / f"{number}.{name}").read_text() for name in ("status", "out", "err")
        )
        results.append(subprocess.CompletedProcess(list(words), int(status), out, err))
    return results


def must(*words: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command that must succeed, and return its output."""
    done = tailorbird(*words, cwd=cwd, env=env)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout


def must_json(*words: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Any:
    """Run a command that must succeed, and return its JSON object."""
    return json.loads(must(*words, "--json", cwd=cwd, env=env))


def refused(
    done: subprocess.CompletedProcess[str], *expected: str, status: int | None = None
) -> None:
    """Assert that a command said exactly one sentence on stderr, perhaps with a remedy, and no
    traceback.
    """
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    assert done.returncode not in (0, None), done.stdout
    assert status is None or done.returncode == status, done.stderr
    assert len(errors) == 1, done.stderr
    assert all(line.startswith(("error: ", "  fix: ")) for line in lines), done.stderr
    for text in expected:
        assert text in done.stderr, done.stderr


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


def small_shop(folder: Path) -> Path:
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
