"""Runs peers in processes of their own: hands over rows and questions, takes answers and times."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.install import FAILED, interpreter, last_error, name_of, requirements

HERE = Path(__file__).parent
MODULES = {
    "implicit": "implicit.als",
    "rectools": "rectools.models",
    "fuxictr": "fuxictr.pytorch.models",
}


@dataclass(frozen=True)
class Job:
    """One fit of a peer, and the questions it then answers.

    Attributes:
        learn, ask: names of parts, see `next_item`.
        out: name of the file that is written.
    """

    model: str
    variant: Mapping[str, Any]
    seed: int
    learn: str
    ask: tuple[str, ...]
    repeats: bool
    length: int
    out: str


@dataclass(frozen=True)
class PeerAnswer:
    """`item`: shape (questions, 10); `seconds_fit`, `seconds_ask`: CPU time of one thread."""

    item: npt.NDArray[np.int32]
    seconds_fit: float
    seconds_ask: float


def find_peers(names: Sequence[str] = tuple(MODULES)) -> tuple[dict[str, str], dict[str, str]]:
    """Return the version of each named peer that loads, and the reason for each that does not."""
    python = interpreter()
    failed: dict[str, str] = {}
    if (python.parents[1] / FAILED).exists():
        failed = {
            name: reason
            for name, reason in json.loads((python.parents[1] / FAILED).read_text()).items()
            if name in names
        }
    versions: dict[str, str] = {}
    for name in map(name_of, requirements()):
        if name in failed or name not in names:
            continue
        probe = (
            f"import {MODULES[name]}; from importlib.metadata import version; "
            f"print(version({name!r}))"
        )
        process = _run_single_threaded([str(python), "-c", probe])
        if process.returncode:
            failed[name] = last_error(process.stderr)
        else:
            versions[name] = process.stdout.split()[-1]
    return versions, failed


def run_jobs(folder: Path, jobs: Sequence[Job]) -> list[PeerAnswer]:
    """Run jobs of one model in one process."""
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    run_script(HERE / "next_item.py", folder)
    answers = []
    for job in jobs:
        with np.load(folder / f"{job.out}.npz") as arrays:
            answers.append(
                PeerAnswer(
                    arrays["item"].astype(np.int32),
                    float(arrays["seconds_fit"]),
                    float(arrays["seconds_ask"]),
                )
            )
    return answers


def run_script(script: Path, folder: Path, environment: str = "") -> str:
    """Run a script of the peers on one thread, in one of `install`'s environments.

    Return the last line that it prints.

    Raises:
        RuntimeError: it failed; with the last line of its output.
    """
    process = _run_single_threaded([str(interpreter(environment)), str(script), str(folder)])
    if process.returncode:
        raise RuntimeError(last_error(process.stderr))
    return process.stdout.strip().rpartition("\n")[2]


def _run_single_threaded(command: list[str]) -> subprocess.CompletedProcess[str]:
    thread_limits = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, env=environment | thread_limits
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", f"error: {error}")
