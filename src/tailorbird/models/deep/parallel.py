"""The shards of each batch on several processes of this machine, over gloo (NCCL where there are GPUs), with the results of one.

Rows lie in files that all processes map; each computes its shards of a batch, all gather the gradients and add them in the order of
the shards. Ranks other than 0 keep nothing; what is trained comes back by rank 0's checkpoint, from which a killed run goes on too.

python -m tailorbird.models.deep.parallel JOB RANK      one of the processes, which `fit_parallel` starts
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.models.deep.batches import PartRows
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.loop import Peers, Run
from tailorbird.models.deep.model import Deep, fit_deep
from tailorbird.models.deep.parameters import settled

POLL_S = 0.05


class Job(msgspec.Struct, frozen=True):
    """`job.json` of the folder of a run."""

    architecture: str
    parameters: dict[str, Any]
    layout: Layout
    rows: str
    validation: str
    seed: int
    processes: int
    checkpoint_steps: int


class Group(Peers):
    """The processes of a run, met in a file."""

    def __init__(self, rank: int, count: int, meeting: Path) -> None:
        self.rank, self.count = rank, count
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=count)

    def gather(self, flat: Tensor) -> list[Tensor]:
        found = [torch.empty_like(flat) for _ in range(self.count)]
        dist.all_gather(found, flat)
        return found


def fit_parallel(
    folder: Path,
    architecture: str,
    parameters: Mapping[str, Any],
    layout: Layout,
    rows: Path,
    validation: Path,
    *,
    seed: int,
    processes: int,
    checkpoint_steps: int = 500,
) -> Deep:
    """Train on several processes.

    Args:
        folder: of the run: its job and checkpoint.
        rows, validation: folders that `write_parts` made.
        processes: must divide `shards` of the parameters; the same shards on one process give the same bits.

    Raises:
        UsageError: the shards cannot be shared evenly.
        TailorbirdError: a process ended with an error; the others were ended too.
    """
    chosen = settled(architecture, parameters)
    if processes < 1 or chosen.shards % processes:
        raise UsageError(f"{chosen.shards} shards cannot be shared by {processes} processes", fix="set shards to a multiple of them")
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    job = Job(architecture, dict(parameters), layout, str(rows), str(validation), seed, processes, checkpoint_steps)
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    if processes == 1:
        return _fit(job, folder, Peers())
    command = [sys.executable, "-m", "tailorbird.models.deep.parallel", str(folder)]
    started = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.DEVNULL, stderr=(folder / f"{rank}.log").open("wb"))
        for rank in range(processes)
    ]
    _wait(started, folder)
    return _fit(job, folder, Peers())  # goes on from the checkpoint, in which nothing is left to do


def _wait(started: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Until all have ended; where one fails, the others would wait for it for ever."""
    try:
        while any(process.poll() is None for process in started):
            if failed := [rank for rank, process in enumerate(started) if process.poll()]:
                break
            time.sleep(POLL_S)
        failed = [rank for rank, process in enumerate(started) if process.poll()]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
    if failed:
        log = folder / f"{failed[0]}.log"
        last = (log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]
        raise TailorbirdError(f"process {failed[0]} of the training ended: {last}", where=str(log), fix="start it again: it goes on")


def _fit(job: Job, folder: Path, peers: Peers) -> Deep:
    rows, validation = PartRows.open(Path(job.rows)), PartRows.open(Path(job.validation))
    run = Run(checkpoint=folder / "checkpoint", checkpoint_steps=job.checkpoint_steps, peers=peers)
    return fit_deep(job.architecture, settled(job.architecture, job.parameters), job.layout, rows, validation, seed=job.seed, run=run)


def main(folder: Path, rank: int) -> None:
    """One of the processes."""
    job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    peers = Group(rank, job.processes, folder / "meeting")
    try:
        _fit(job, folder, peers)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
