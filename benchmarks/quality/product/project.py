"""Run the commands that a user runs: init, import, train. No file of the project is edited."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

PROJECT_NAME = "site"


def make_project(
    folder: Path, files: Path | None, simulate: Callable[[Path], None] | None = None
) -> dict[str, Any]:
    """Make a project from files and import them, by the commands that `init` prints as next.

    Without files, `simulate` writes those that the step of this name would write.

    Returns: the report of each command, the step that trains, and the project's folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = folder / PROJECT_NAME
    source = [] if files is None else ["--from", str(files)]
    init_report = run_command(["tailorbird", "init", str(root), *source, "--json"])
    steps = [shlex.split(step) for step in init_report["report"]["next"]]
    reports = {"init": init_report}
    train_step = next(train_step for train_step, step in enumerate(steps) if "train" in step)
    for step in steps[:train_step]:
        name = _command_name(step)
        if name == "simulate" and simulate is not None:
            simulate(Path(step[-1]))
        else:
            reports[name] = run_command([*step, "--json"] if name == "import" else step)
    return {"steps": reports, "train": steps[train_step], "root": str(root)}


def train(
    project_facts: dict[str, Any], root: Path, seed: int, extra: Sequence[str] = ()
) -> dict[str, Any]:
    """Train in a copy of the project at `root`, by `init`'s step without its budget, with a seed.

    A training that fails has `failed`, its message: what serves then is what served before it.
    """
    step = [
        root.as_posix() if part == project_facts["root"] else part
        for part in project_facts["train"]
    ]
    if "--budget" in step:
        del step[step.index("--budget") : step.index("--budget") + 2]
    return run_command([*step, "--seed", str(seed), "--json", *extra], may_fail=True)


def _command_name(step: Sequence[str]) -> str:
    """Return the command's name of a step, such as `import` of `tailorbird -C site import …`."""
    return step[3] if step[1] == "-C" else step[1]


def run_command(step: Sequence[str], *, may_fail: bool = False) -> dict[str, Any]:
    """Run a step; return its JSON report if it has one, its wall seconds and peak memory.

    Raises:
        SystemExit: the command failed and may not; shows its output.
    """
    command = [sys.executable, "-m", *step]
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        text, errors = _text(out), _text(err)
    seconds = round(time.monotonic() - started, 1)
    report = {"command": shlex.join(step), "seconds": seconds, "peak_mb": usage.ru_maxrss >> 10}
    if process.returncode:
        message = f"ended with {process.returncode}: {(errors or text)[-4_000:]}"
        if not may_fail:
            raise SystemExit(f"{shlex.join(step)}\n{message}")
        return {**report, "failed": message}
    return {**report, "report": json.loads(text)} if "--json" in step else report


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def copy_project(source: Path, target: Path) -> None:
    """Copy a project on which no process works, without locks."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock", "run"))


def load_or_make(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the object that `make` returns, read from the JSON file at `path` if it exists."""
    if not path.exists():
        report = make()
        partial_path = path.with_suffix(".part")
        partial_path.write_text(json.dumps(report, indent=1))
        partial_path.rename(path)
    return json.loads(path.read_text())
