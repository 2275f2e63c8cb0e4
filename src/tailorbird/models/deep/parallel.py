"""The shards of each batch on several processes of this machine, over gloo (NCCL where there are
GPUs), with the results of one.

Rows lie in files that all processes map; each computes its shards of a batch, all gather the
gradients and add them in the order of the shards. Ranks other than 0 keep nothing; what is trained
comes back by rank 0's checkpoint, from which a killed run goes on too.

The processes end with the one that started them (`member`), and all of them hold the lock of the
folder: a run that begins again begins when the last of those that were left behind is gone.

    job.json        what is asked for                 run.lock     held by whoever started the processes, and by each of them
    rows/, watched/     the rows of both parts        begin.npz    weights to begin with, where there are any
    progress        rows done and rows in all, as rank 0 last told them
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from tailorbird.errors import LockedError, TailorbirdError, UsageError
from tailorbird.lock import take
from tailorbird.models.deep.batches import Blocks, PartRows, write_blocks
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.loop import Peers, Run
from tailorbird.models.deep.model import Deep, fit_deep
from tailorbird.models.deep.parameters import settled

POLL_S = 0.05
# within which the processes of a run that was killed have seen it, also while they load torch
LEAVE_S = 30.0
LOCK, JOB, ROWS, WATCHED, BEGIN, PROGRESS = (
    "run.lock",
    "job.json",
    "rows",
    "watched",
    "begin.npz",
    "progress",
)

Told = Callable[[int, int], None]


class Job(msgspec.Struct, frozen=True):
    """`job.json` of the folder of a run."""

    architecture: str
    parameters: dict[str, Any]
    layout: Layout
    seed: int
    processes: int
    checkpoint_steps: int


class Group(Peers):
    """The processes of a run, met in a file."""

    def __init__(self, rank: int, count: int, meeting: Path) -> None:
        self.rank, self.count = rank, count
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, init_method=f"file://{meeting}", rank=rank, world_size=count
        )

    def gather(self, flat: Tensor) -> list[Tensor]:
        found = [torch.empty_like(flat) for _ in range(self.count)]
        dist.all_gather(found, flat)
        return found


def fit_parallel(
    folder: Path,
    architecture: str,
    parameters: Mapping[str, Any],
    layout: Layout,
    rows: Blocks,
    validation: Blocks,
    *,
    seed: int,
    processes: int,
    checkpoint_steps: int = 500,
    progress: Told | None = None,
    begin: Mapping[str, npt.NDArray] | None = None,
) -> Deep:
    """Train on several processes.

    Args:
        folder: of the run: its job, its checkpoint, and the rows, which are written there for all
            processes to map.
        processes: must divide `shards` of the parameters; the same shards and threads on one
        process give the same bits. progress, begin: see `fit_deep`.

    Raises:
        UsageError: the shards cannot be shared evenly, or there are GPUs, but fewer than processes.
        LockedError: processes of another run are still in the folder.
        TailorbirdError: a process ended with an error; the others were ended too.
    """
    _refuse(settled(architecture, parameters).shards, processes)
    job = Job(architecture, dict(parameters), layout, seed, processes, checkpoint_steps)
    with _alone(folder) as lock:
        _write(folder, job, rows, validation, begin)
        if processes > 1:
            _wait(_started(folder, processes, lock), folder, progress)
        return _fit(
            job, folder, Peers()
        )  # of several, it goes on from the checkpoint, in which nothing is left to do


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """The lock of a folder, which those who inherit its descriptor hold too."""

    def busy(holder: str) -> LockedError:
        fix = (
            f"wait until it ends; if process {holder} is gone, end those that were started with "
            "this folder (ps ax | grep deep.member)"
        )
        return LockedError(
            f"a training that process {holder} began is still at work here",
            where=str(folder),
            fix=fix,
        )

    until = time.monotonic() + LEAVE_S
    while True:
        try:
            lock = take(folder / LOCK, busy)
            break
        except LockedError:
            if time.monotonic() >= until:
                raise
            time.sleep(POLL_S)
    try:
        yield lock
    finally:
        os.close(lock)


def _write(
    folder: Path,
    job: Job,
    rows: Blocks,
    validation: Blocks,
    begin: Mapping[str, npt.NDArray] | None,
) -> None:
    for name, part in ((ROWS, rows), (WATCHED, validation)):
        shutil.rmtree(folder / name, ignore_errors=True)
        write_blocks(folder / name, part)
    for name in ("meeting", PROGRESS, BEGIN):
        (folder / name).unlink(missing_ok=True)
    if begin is not None:
        np.savez(folder / BEGIN, **begin)  # type: ignore[arg-type]
    (folder / JOB).write_bytes(msgspec.json.encode(job))


def _started(folder: Path, processes: int, lock: int) -> list[subprocess.Popen[bytes]]:
    started = []
    for rank in range(processes):
        command = [
            sys.executable,
            "-m",
            "tailorbird.models.deep.member",
            str(folder),
            str(rank),
            str(os.getpid()),
        ]
        with (folder / f"{rank}.log").open("wb") as log:
            started.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, pass_fds=(lock,))
            )
    return started


def _refuse(shards: int, processes: int) -> None:
    if processes < 1 or shards % processes:
        raise UsageError(
            f"{shards} shards cannot be shared by {processes} processes",
            fix="set shards to a multiple of them",
        )
    if torch.cuda.is_available() and processes > (count := torch.cuda.device_count()):
        raise UsageError(
            f"{processes} processes need as many GPUs, and there are {count}",
            fix=f"use at most {count}",
        )


def _wait(started: list[subprocess.Popen[bytes]], folder: Path, progress: Told | None) -> None:
    """Until all have ended; where one fails, the others would wait for it for ever."""
    try:
        while any(process.poll() is None for process in started):
            if failed := [rank for rank, process in enumerate(started) if process.poll()]:
                break
            if progress is not None and (folder / PROGRESS).exists():
                done, total = map(int, (folder / PROGRESS).read_text().split())
                progress(done, total)
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
        raise TailorbirdError(
            f"process {failed[0]} of the training ended: {last}",
            where=str(log),
            fix="start it again: it goes on",
        )


def _fit(job: Job, folder: Path, peers: Peers) -> Deep:
    rows, watched = PartRows.open(folder / ROWS), PartRows.open(folder / WATCHED)
    told = _to_file(folder / PROGRESS) if peers.rank == 0 else None
    run = Run(
        checkpoint=folder / "checkpoint",
        checkpoint_steps=job.checkpoint_steps,
        progress=told,
        peers=peers,
    )
    begin = None
    if (folder / BEGIN).exists():
        with np.load(folder / BEGIN, allow_pickle=False) as held:
            begin = dict(held)
    parameters = settled(job.architecture, job.parameters)
    return fit_deep(
        job.architecture, parameters, job.layout, rows, watched, seed=job.seed, run=run, begin=begin
    )


def _to_file(path: Path) -> Told:
    """Progress for the process that waits; a file is renamed into place, so that it is never half
    written.
    """
    part = path.with_suffix(".part")

    def told(done: int, total: int) -> None:
        part.write_text(f"{done} {total}")
        part.replace(path)

    return told


def take_part(folder: Path, rank: int) -> None:
    """What one of the processes does."""
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=Job)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    peers = Group(rank, job.processes, folder / "meeting")
    try:
        _fit(job, folder, peers)
    finally:
        dist.destroy_process_group()
