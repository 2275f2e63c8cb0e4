"""Run fits in this process or in several, caching each in the study's folder.

A fit that finished before a run was killed is not repeated. A fit is identified by architecture,
settings, split and seed, and returns NDCG@10 of each held-out request. With one worker, fits run
here one after the other. With more, each process opens the splits itself, fits with one thread, and
exits with this one.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import StorageError
from tailorbird.models.space import Value
from tailorbird.ranking.own_models import models_file, use_models_file
from tailorbird.training.fit.resume import load_or_make_arrays
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tuning.architectures import FitRequest, find_architecture
from tailorbird.training.tuning.splits import Split

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FitSpec:
    """Identifies a fit."""

    architecture: str
    settings: Mapping[str, Value]
    split: int
    seed: int

    @property
    def name(self) -> str:
        return msgspec.json.encode(
            [self.architecture, sorted(self.settings.items()), self.split, self.seed]
        ).decode()


@dataclass(frozen=True)
class FitResult:
    """NDCG@10 of each held-out request, overall and of the long tail, and the fit's duration.

    NaN where a request has no relevant item.
    """

    quality: Floats
    tail: Floats
    seconds: float

    @property
    def mean(self) -> float:
        return float(np.nanmean(self.quality))


class FitExecutor(Protocol):
    """Runs fits and returns futures of their results."""

    @property
    def workers(self) -> int: ...

    def submit(self, fit: FitSpec) -> "Future[FitResult]": ...


def split_name(column_set: str, number: int) -> str:
    """Return the name under which a folder stores a split."""
    return f"split {column_set} {number}"


@dataclass
class FitRunner:
    """Runs fits in a folder, keeping opened splits in memory."""

    folder: Path
    train: TrainSettings
    threads: int
    splits: dict[str, Split] = field(default_factory=dict)

    def split(self, column_set: str, number: int) -> Split:
        name = split_name(column_set, number)
        if name not in self.splits:
            self.splits[name] = Split.from_arrays(
                load_or_make_arrays(self.folder, name, _raise_missing_rows)
            )
        return self.splits[name]

    def run(self, fit: FitSpec) -> FitResult:
        """Run a fit, or return its cached result."""

        def run_fit() -> Mapping[str, npt.NDArray]:
            started_at = time.monotonic()
            architecture = find_architecture(fit.architecture)
            split = self.split(architecture.column_set, fit.split)
            value = architecture.fit(
                split, FitRequest(fit.settings, fit.seed, self.train, self.threads)
            )
            return {
                "quality": split.quality(value),
                "tail": split.tail_quality(value),
                "seconds": np.array(time.monotonic() - started_at),
            }

        cached = load_or_make_arrays(self.folder, fit.name, run_fit)
        return FitResult(cached["quality"], cached["tail"], float(cached["seconds"]))


def _raise_missing_rows() -> Mapping[str, npt.NDArray]:
    raise StorageError(
        "the rows of a tuning are gone from its folder", fix="the same command makes them again"
    )


@dataclass(frozen=True)
class _InProcess:
    runner: FitRunner
    workers: int = 1

    def submit(self, fit: FitSpec) -> "Future[FitResult]":
        future: Future[FitResult] = Future()
        try:
            future.set_result(self.runner.run(fit))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class _ProcessPool:
    pool: ProcessPoolExecutor
    workers: int

    def submit(self, fit: FitSpec) -> "Future[FitResult]":
        return self.pool.submit(_run_in_worker, fit)


@contextmanager
def open_executor(folder: Path, train: TrainSettings, workers: int) -> Iterator[FitExecutor]:
    """Open an executor with the given number of worker processes.

    Raises:
        StorageError: a process died, for example out of memory; finished fits are kept.
    """
    if workers == 1:
        yield _InProcess(FitRunner(folder, train, 0))
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(folder, train, models_file()),
    )
    try:
        yield _ProcessPool(pool, workers)
        # All fits are done, so the processes exit at once and release shared resources before this
        # process exits.
        pool.shutdown()
    except BrokenProcessPool:
        fix = "the same command goes on; with fewer --workers it needs less memory"
        raise StorageError("a process that fitted models died", fix=fix) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_worker: dict[str, FitRunner] = {}  # set in worker processes only


def _start_worker(folder: Path, train: TrainSettings, own_models: Path | None) -> None:
    use_models_file(own_models)
    _worker["bench"] = FitRunner(folder, train, 1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent dies; a pool's process would otherwise wait for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run_in_worker(fit: FitSpec) -> FitResult:
    return _worker["bench"].run(fit)
