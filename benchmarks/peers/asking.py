"""Hands rows and questions to the peers, which run in processes of their own, and takes back what
they say and what it took.
"""

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
    """One fit of a peer, and what it is then asked.

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
class Said:
    """`item`: shape (questions, 10); `seconds_fit`, `seconds_ask`: CPU time of one thread."""

    item: npt.NDArray[np.int32]
    seconds_fit: float
    seconds_ask: float


def found(wanted: Sequence[str] = tuple(MODULES)) -> tuple[dict[str, str], dict[str, str]]:
    """Version of each wanted peer that loads; of each other one, why it does not."""
    python = interpreter()
    failed: dict[str, str] = {}
    if (python.parents[1] / FAILED).exists():
        failed = {
            name: why
            for name, why in json.loads((python.parents[1] / FAILED).read_text()).items()
            if name in wanted
        }
    versions: dict[str, str] = {}
    for name in map(name_of, requirements()):
        if name in failed or name not in wanted:
            continue
        told = (
            f"import {MODULES[name]}; from importlib.metadata import version; "
            f"print(version({name!r}))"
        )
        done = _run([str(python), "-c", told])
        if done.returncode:
            failed[name] = last_error(done.stderr)
        else:
            versions[name] = done.stdout.split()[-1]
    return versions, failed


def ask(folder: Path, jobs: Sequence[Job]) -> list[Said]:
    """Run jobs of one model in one process."""
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    run(HERE / "next_item.py", folder)
    said = []
    for job in jobs:
        with np.load(folder / f"{job.out}.npz") as read:
            said.append(
                Said(
                    read["item"].astype(np.int32),
                    float(read["seconds_fit"]),
                    float(read["seconds_ask"]),
                )
            )
    return said


def run(script: Path, folder: Path) -> None:
    """Run a script of the peers on one thread.

    Raises:
        RuntimeError: it failed; with the last line that it said.
    """
    done = _run([str(interpreter()), str(script), str(folder)])
    if done.returncode:
        raise RuntimeError(last_error(done.stderr))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    one = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
    )
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        return subprocess.run(command, capture_output=True, text=True, env=kept | one)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", f"error: {error}")
