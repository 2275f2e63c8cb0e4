"""Train on several processes of this machine, over gloo (NCCL with GPUs), with the result of one.

Rows lie in files that all processes map. Each computes its shards of a batch; all gather the
gradients and add them in the order of the shards. Only rank 0 writes: the trained net comes back by
its checkpoint, from which a killed run resumes too.

The processes exit with the one that started them (`member`), and all of them hold the lock of the
folder: a new run waits until the last process of the old one is gone.

    job.json            the requested training
    run.lock            held by the starting process and its members
    rows/, watched/     training and validation rows
    begin.npz           initial weights, if any
    progress            rows done and total rows, as rank 0 last reported
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
from tailorbird.file_lock import acquire_lock
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.loop import Peers, RunOptions
from tailorbird.models.deep.model import DeepModel, fit_deep
from tailorbird.models.deep.parameters import resolve_parameters
from tailorbird.models.deep.rows import Blocks, PartRows, write_blocks

POLL_S = 0.05
# time within which the members of a killed run notice it, even while they load torch
EXIT_TIMEOUT_S = 30.0
LOCK_FILE = "run.lock"
JOB_FILE = "job.json"
ROWS_FOLDER = "rows"
VALIDATION_FOLDER = "watched"
INITIAL_WEIGHTS_FILE = "begin.npz"
PROGRESS_FILE = "progress"

ProgressCallback = Callable[[int, int], None]


class Job(msgspec.Struct, frozen=True):
    """`job.json` of a run's folder."""

    architecture: str
    parameters: dict[str, Any]
    layout: Layout
    seed: int
    processes: int
    checkpoint_steps: int


class ProcessGroup(Peers):
    """The processes of a run, which meet through a file."""

    def __init__(self, rank: int, count: int, meeting_file: Path) -> None:
        self.rank = rank
        self.count = count
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, init_method=f"file://{meeting_file}", rank=rank, world_size=count
        )

    def gather(self, flat_gradient: Tensor) -> list[Tensor]:
        gradients = [torch.empty_like(flat_gradient) for _ in range(self.count)]
        dist.all_gather(gradients, flat_gradient)
        return gradients


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
    progress: ProgressCallback | None = None,
    initial_weights: Mapping[str, npt.NDArray] | None = None,
) -> DeepModel:
    """Train on several processes.

    Args:
        folder: of the run, with its job, checkpoint, and the rows for all processes to map.
        processes: must divide `shards` of the parameters; the same shards and threads on one
            process give the same bits.
        progress, initial_weights: see `fit_deep`.

    Raises:
        UsageError: the shards do not divide evenly, or there are fewer GPUs than processes.
        LockedError: another run still uses the folder.
        TailorbirdError: a process failed; the others were stopped too.
    """
    _check_processes(resolve_parameters(architecture, parameters).shards, processes)
    job = Job(architecture, dict(parameters), layout, seed, processes, checkpoint_steps)
    with _lock_folder(folder) as lock_descriptor:
        _write_job(folder, job, rows, validation, initial_weights)
        if processes > 1:
            _wait_for_all(_start_processes(folder, processes, lock_descriptor), folder, progress)
        return _fit_job(
            job, folder, Peers()
        )  # after several processes, this only loads their finished checkpoint


@contextmanager
def _lock_folder(folder: Path) -> Iterator[int]:
    """Hold the lock of a folder; child processes inherit its descriptor."""

    def build_lock_error(holder: str) -> LockedError:
        fix = (
            f"wait until it ends; if process {holder} is gone, end those that were started with "
            "this folder (ps ax | grep deep.member)"
        )
        return LockedError(
            f"a training that process {holder} began is still at work here",
            where=str(folder),
            fix=fix,
        )

    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while True:
        try:
            lock = acquire_lock(folder / LOCK_FILE, build_lock_error)
            break
        except LockedError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(POLL_S)
    try:
        yield lock
    finally:
        os.close(lock)


def _write_job(
    folder: Path,
    job: Job,
    rows: Blocks,
    validation: Blocks,
    initial_weights: Mapping[str, npt.NDArray] | None,
) -> None:
    for name, part_rows in ((ROWS_FOLDER, rows), (VALIDATION_FOLDER, validation)):
        shutil.rmtree(folder / name, ignore_errors=True)
        write_blocks(folder / name, part_rows)
    for name in ("meeting", PROGRESS_FILE, INITIAL_WEIGHTS_FILE):
        (folder / name).unlink(missing_ok=True)
    if initial_weights is not None:
        np.savez(folder / INITIAL_WEIGHTS_FILE, **initial_weights)  # type: ignore[arg-type]
    (folder / JOB_FILE).write_bytes(msgspec.json.encode(job))


def _start_processes(
    folder: Path, processes: int, lock_descriptor: int
) -> list[subprocess.Popen[bytes]]:
    child_processes = []
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
            child_processes.append(
                subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=log, pass_fds=(lock_descriptor,)
                )
            )
    return child_processes


def _check_processes(shards: int, processes: int) -> None:
    if processes < 1 or shards % processes:
        raise UsageError(
            f"{shards} shards cannot be shared by {processes} processes",
            fix="set shards to a multiple of them",
        )
    if torch.cuda.is_available() and processes > (gpu_count := torch.cuda.device_count()):
        raise UsageError(
            f"{processes} processes need as many GPUs, and there are {gpu_count}",
            fix=f"use at most {gpu_count}",
        )


def _wait_for_all(
    child_processes: list[subprocess.Popen[bytes]], folder: Path, progress: ProgressCallback | None
) -> None:
    """Wait until all processes have ended; stop the others if one fails."""
    try:
        while any(process.poll() is None for process in child_processes):
            if failed_ranks := [
                rank for rank, process in enumerate(child_processes) if process.poll()
            ]:
                break
            if progress is not None and (folder / PROGRESS_FILE).exists():
                done, total = map(int, (folder / PROGRESS_FILE).read_text().split())
                progress(done, total)
            time.sleep(POLL_S)
        failed_ranks = [rank for rank, process in enumerate(child_processes) if process.poll()]
    finally:
        for process in child_processes:
            if process.poll() is None:
                process.kill()
            process.wait()
    if failed_ranks:
        log = folder / f"{failed_ranks[0]}.log"
        last_line = (log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]
        raise TailorbirdError(
            f"process {failed_ranks[0]} of the training ended: {last_line}",
            where=str(log),
            fix="start it again: it goes on",
        )


def _fit_job(job: Job, folder: Path, peers: Peers) -> DeepModel:
    rows = PartRows.open(folder / ROWS_FOLDER)
    validation = PartRows.open(folder / VALIDATION_FOLDER)
    report_progress = _build_progress_writer(folder / PROGRESS_FILE) if peers.rank == 0 else None
    run_options = RunOptions(
        checkpoint=folder / "checkpoint",
        checkpoint_steps=job.checkpoint_steps,
        progress=report_progress,
        peers=peers,
    )
    initial_weights = None
    if (folder / INITIAL_WEIGHTS_FILE).exists():
        with np.load(folder / INITIAL_WEIGHTS_FILE, allow_pickle=False) as archive:
            initial_weights = dict(archive)
    parameters = resolve_parameters(job.architecture, job.parameters)
    return fit_deep(
        job.architecture,
        parameters,
        job.layout,
        rows,
        validation,
        seed=job.seed,
        run_options=run_options,
        initial_weights=initial_weights,
    )


def _build_progress_writer(path: Path) -> ProgressCallback:
    """Return a callback that writes progress atomically for the waiting process."""
    temporary_path = path.with_suffix(".part")

    def write_progress(done: int, total: int) -> None:
        temporary_path.write_text(f"{done} {total}")
        temporary_path.replace(path)

    return write_progress


def run_member(folder: Path, rank: int) -> None:
    """Run one process of a training."""
    job = msgspec.json.decode((folder / JOB_FILE).read_bytes(), type=Job)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    peers = ProcessGroup(rank, job.processes, folder / "meeting")
    try:
        _fit_job(job, folder, peers)
    finally:
        dist.destroy_process_group()
