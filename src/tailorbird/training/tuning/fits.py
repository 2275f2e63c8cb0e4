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
from tailorbird.training.fit.resume import load_or_compute_arrays
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tuning.architectures import FitRequest, find_architecture
from tailorbird.training.tuning.splits import Split

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FitSpec:
    """Identifies a fit."""

    architecture: str
    settings: Mapping[str, Value]
    split_index: int
    seed: int

    @property
    def name(self) -> str:
        return msgspec.json.encode(
            [self.architecture, sorted(self.settings.items()), self.split_index, self.seed]
        ).decode()


@dataclass(frozen=True)
class FitResult:
    """NDCG@10 of each held-out request, overall and of the long tail, and the fit's duration.

    NaN where a request has no relevant item.
    """

    ndcg: Floats
    long_tail_ndcg: Floats
    seconds: float

    @property
    def mean_ndcg(self) -> float:
        return float(np.nanmean(self.ndcg))


class FitExecutor(Protocol):
    """Runs fits and returns futures of their results."""

    @property
    def workers(self) -> int: ...

    def submit(self, fit_spec: FitSpec) -> "Future[FitResult]": ...


def split_name(column_set: str, split_index: int) -> str:
    """Return the name under which a folder stores a split."""
    return f"split {column_set} {split_index}"


@dataclass
class FitRunner:
    """Runs fits in a folder, keeping opened splits in memory."""

    folder: Path
    train_settings: TrainSettings
    threads: int
    split_by_name: dict[str, Split] = field(default_factory=dict)

    def load_split(self, column_set: str, split_index: int) -> Split:
        array_name = split_name(column_set, split_index)
        if array_name not in self.split_by_name:
            self.split_by_name[array_name] = Split.from_arrays(
                load_or_compute_arrays(self.folder, array_name, _raise_missing_rows)
            )
        return self.split_by_name[array_name]

    def run(self, fit_spec: FitSpec) -> FitResult:
        """Run a fit, or return its cached result."""

        def compute_arrays() -> Mapping[str, npt.NDArray]:
            started_at = time.monotonic()
            architecture = find_architecture(fit_spec.architecture)
            split = self.load_split(architecture.column_set, fit_spec.split_index)
            scores = architecture.fit_and_predict(
                split,
                FitRequest(fit_spec.settings, fit_spec.seed, self.train_settings, self.threads),
            )
            return {
                "quality": split.measure_ndcg(scores),
                "tail": split.measure_long_tail_ndcg(scores),
                "seconds": np.array(time.monotonic() - started_at),
            }

        cached_arrays = load_or_compute_arrays(self.folder, fit_spec.name, compute_arrays)
        return FitResult(
            cached_arrays["quality"], cached_arrays["tail"], float(cached_arrays["seconds"])
        )


def _raise_missing_rows() -> Mapping[str, npt.NDArray]:
    raise StorageError(
        "the rows of a tuning are gone from its folder", fix="the same command makes them again"
    )


@dataclass(frozen=True)
class _InProcessExecutor:
    runner: FitRunner
    workers: int = 1

    def submit(self, fit_spec: FitSpec) -> "Future[FitResult]":
        future: Future[FitResult] = Future()
        try:
            future.set_result(self.runner.run(fit_spec))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class _PoolExecutor:
    pool: ProcessPoolExecutor
    workers: int

    def submit(self, fit_spec: FitSpec) -> "Future[FitResult]":
        return self.pool.submit(_run_in_worker, fit_spec)


@contextmanager
def open_executor(
    folder: Path, train_settings: TrainSettings, workers: int
) -> Iterator[FitExecutor]:
    """Open an executor with the given number of worker processes.

    Raises:
        StorageError: a process died, for example out of memory; finished fits are kept.
    """
    if workers == 1:
        yield _InProcessExecutor(FitRunner(folder, train_settings, 0))
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(folder, train_settings, models_file()),
    )
    try:
        yield _PoolExecutor(pool, workers)
        # All fits are done, so the processes exit at once and release shared resources before this
        # process exits.
        pool.shutdown()
    except BrokenProcessPool:
        fix = "the same command goes on; with fewer --workers it needs less memory"
        raise StorageError("a process that fitted models died", fix=fix) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_worker_state: dict[str, FitRunner] = {}  # set in worker processes only


def _start_worker(
    folder: Path, train_settings: TrainSettings, own_models_file: Path | None
) -> None:
    use_models_file(own_models_file)
    _worker_state["runner"] = FitRunner(folder, train_settings, 1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent dies; a pool's process would otherwise wait for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run_in_worker(fit_spec: FitSpec) -> FitResult:
    return _worker_state["runner"].run(fit_spec)
